"""A program that writes to an image until it is killed: `python -m tests.block.qcow2.load IMAGE SEED`.

It prints a line after each step that is done.  `steps` is the same for everybody who knows the seed.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import TYPE_CHECKING

from qemud.block.graph import Graph
from tests.block.qcow2.tools import open_qcow2

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 2 << 20
BLOCK = 2048


def steps(seed: int) -> Iterator[tuple[str, int, bytes]]:
    """What is done: its kind, where, and what data is there then."""
    rng = random.Random(seed)
    while True:
        kind = rng.choices(("write", "zero", "discard", "flush"), (8, 1, 1, 2))[0]
        count = rng.choice((1, 1, 2, 9))
        place = rng.randrange(SIZE // BLOCK - count) * BLOCK
        data = rng.randbytes(count * BLOCK) if kind == "write" else bytes(count * BLOCK)
        yield kind, place, b"" if kind == "flush" else data


async def main(path: str, seed: int) -> None:
    """Do steps without end."""
    graph = Graph(lambda _name, _data: None)
    node = await open_qcow2(graph, path)
    for number, (kind, place, data) in enumerate(steps(seed)):
        if kind == "write":
            await node.writev(place, [memoryview(data)])
        elif kind == "zero":
            await node.write_zeroes(place, len(data), unmap=True)
        elif kind == "discard":
            await node.discard(place, len(data))
        else:
            await node.flush()
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
