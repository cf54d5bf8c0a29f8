"""Nodes of every kind, held to a row of bytes: whatever is asked of them, they read as they should."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.block.graph import Graph
from tests.block.support import image, read, typed, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.block.node import BlockNode

SIZE = 64 << 10
OFFSET = 3 << 9  # of windows into a file

STACKS: dict[str, Callable[[str], dict[str, Any]]] = {
    "file": lambda name: {"driver": "file", "filename": name},
    "raw": lambda name: {"driver": "raw", "file": {"driver": "file", "filename": name}},
    "direct": lambda name: {
        "driver": "raw",
        "cache": {"direct": True},
        "file": {"driver": "file", "filename": name},
    },
    "zeroes detected": lambda name: {
        "driver": "raw",
        "detect-zeroes": "unmap",
        "discard": "unmap",
        "file": {"driver": "file", "filename": name},
    },
    "window": lambda name: {
        "driver": "raw",
        "offset": OFFSET,
        "size": SIZE,
        "discard": "unmap",
        "file": {"driver": "file", "filename": name},
    },
    "window of windows": lambda name: {
        "driver": "raw",
        "size": SIZE,
        "file": {"driver": "raw", "offset": OFFSET, "file": {"driver": "file", "filename": name}},
    },
}

ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(0, 9000)).map(
    lambda given: (given[0], min(given[1], SIZE - given[0]))
)
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["read", "write", "write now", "read now", "zeroes", "unmap", "discard", "flush", "status"]
        ),
        ranges,
        st.sampled_from([b"\0", b"a", b"xyz"]),
        st.integers(1, 4),
    ),
    max_size=25,
)


def pieces(data: bytearray, count: int) -> list[memoryview]:
    """The same bytes as several buffers."""
    view, size = memoryview(data), -(-len(data) // count) or 1
    return [view[start : start + size] for start in range(0, len(data), size)]


async def follow(node: BlockNode, model: bytearray, todo: list[Any]) -> None:
    """Do to a node what is done to its model."""
    for what, (offset, length), pattern, count in todo:
        data = bytearray((pattern * length)[:length])
        if what == "read":
            await node.readv(offset, pieces(data, count))
            assert data == model[offset : offset + length]
        elif what == "read now":
            if length and node.read_now(offset, pieces(data, count)):
                assert data == model[offset : offset + length]
        elif what == "write":
            await node.writev(offset, pieces(data, count), fua=count == 1)
            model[offset : offset + length] = data
        elif what == "write now":
            if length and node.write_now(offset, pieces(data, count)):
                model[offset : offset + length] = data
        elif what in {"zeroes", "unmap"}:
            await node.write_zeroes(offset, length, unmap=what == "unmap")
            model[offset : offset + length] = bytes(length)
        elif what == "discard":
            await node.discard(offset, length)
            now = await read(node, offset, length)
            # A discarded byte may have any value, the neighbours of the range have not changed.
            model[offset : offset + length] = now
        elif what == "flush":
            await node.flush()
        elif length:
            extent = await node.block_status(offset, length)
            assert 0 < extent.length <= length
            if extent.zero:
                assert not any(model[offset : offset + extent.length])
        assert await read(node, 0, SIZE) == model


@pytest.mark.parametrize("stack", STACKS)
@settings(max_examples=25)
@given(todo=steps, first=st.sampled_from([b"\0", b"old"]))
def test_a_node_is_a_row_of_bytes(stack: str, todo: list[Any], first: bytes):
    async def run(folder: str) -> None:
        whole = bytearray((first * 2 * SIZE)[: SIZE + OFFSET + 512])
        windowed = "window" in stack
        if not windowed:
            del whole[SIZE:]
        name = image(Path(folder), bytes(whole))
        graph = Graph(lambda _name, _data: None)
        node = await graph.open(typed(**STACKS[stack](name)))
        begin = OFFSET if windowed else 0
        model = whole[begin : begin + SIZE]
        user = Writer()
        edge = graph.attach(user, node, needs=3, shares=15)
        try:
            await follow(node, model, todo)
        finally:
            await graph.detach(edge)
            await graph.release(node)
        whole[begin : begin + SIZE] = model
        assert Path(name).read_bytes() == whole

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))


class Writer:
    """Somebody who uses a node."""

    in_flight = 0

    def description(self) -> str:
        return "a test"

    def drain_begin(self) -> None:
        pass

    def drain_end(self) -> None:
        pass

    async def idle(self) -> None:
        pass

    def users(self) -> list[Any]:
        return []

    def child_resized(self, edge: object) -> None:
        pass


def test_reads_beyond_the_end_are_zeroes_and_writes_make_a_file_longer(tmp_path: Path):
    async def run() -> None:
        graph = Graph(lambda _name, _data: None)
        node = await graph.open(typed(driver="file", filename=image(tmp_path, b"a" * 700)))
        assert node.size == 1024
        assert await read(node, 600, 600) == b"a" * 100 + bytes(500)
        assert await read(node, 5000, 100) == bytes(100)
        await write(node, 5000, b"end")
        assert node.size == 5003
        await node.write_zeroes(6000, 100)
        assert node.size == 6100
        await graph.release(node)
        assert (tmp_path / "disk.img").read_bytes() == (
            b"a" * 700 + bytes(4300) + b"end" + bytes(997) + bytes(100)
        )

    asyncio.run(run())
