"""Guest memory to a stream and back: only what is there, and exactly that."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.machine.backends import MappedBlock
from qemud.machine.memory import RamBlock, Section, SectionKind
from qemud.migration import memory
from qemud.migration.stream import PIECE, Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Kept:
    """A state in memory: `qemud.block.driver.StateWriter` and `StateReader`."""

    def __init__(self) -> None:
        self.data = b""

    @property
    def size(self) -> int:
        return len(self.data)

    async def append(self, views: Sequence[memoryview]) -> None:
        self.data += b"".join(views)

    async def abort(self) -> None:
        self.data = b""

    async def readv(self, position: int, views: Sequence[memoryview]) -> None:
        for view in views:
            part = self.data[position : position + len(view)]
            view[:] = part.ljust(len(view), b"\0")
            position += len(view)


def section(block: RamBlock, *, offset: int = 0, size: int | None = None) -> Section:
    return Section(
        "ram",
        0x8000_0000,
        block.size - offset if size is None else size,
        SectionKind.RAM,
        block=block,
        block_offset=offset,
    )


def content(place: Section) -> bytes:
    return place.view(place.base, place.size).tobytes()


def there_and_back(sections: list[Section], change: list[Section]) -> list[Run]:
    """Save `sections`, load into `change`; the runs."""

    async def test() -> list[Run]:
        kept = Kept()
        runs = await memory.find_runs(sections)
        await memory.write(kept, b"beginning", sections, runs)
        await memory.read(kept, len(b"beginning"), change, runs)
        return runs

    return asyncio.run(test())


@given(
    before=st.dictionaries(st.integers(0, 79), st.integers(1, 255), max_size=8),
    after=st.dictionaries(st.integers(0, 79), st.integers(1, 255), max_size=8),
    size=st.integers(70 * 4096, 80 * 4096),
)
def test_memory_is_what_it_was(before: dict[int, int], after: dict[int, int], size: int) -> None:
    size = size // 4096 * 4096
    one, two = RamBlock("one", 96 * 4096), RamBlock("two", 96 * 4096)
    try:
        # The block goes on behind the region: that is nobody's business.
        two.view[8 * 4096 + size :] = b"\xee" * (88 * 4096 - size)
        for block, pages in ((one, before), (two, after)):
            for page, value in pages.items():
                block.view[(8 + page) * 4096 + 5] = value
        rest = two.view[8 * 4096 + size :].tobytes()
        source, target = section(one, offset=8 * 4096, size=size), section(two, offset=8 * 4096, size=size)
        runs = there_and_back([source], [target])
        assert content(target) == content(source)
        assert two.view[8 * 4096 + size :].tobytes() == rest
        wanted = {page * 4096 // PIECE for page in before if page * 4096 < size}
        assert {run.first + i for run in runs for i in range(run.pieces)} == wanted
    finally:
        one.close()
        two.close()


def allocated(block: RamBlock) -> int:
    return os.fstat(block.fd).st_blocks * 512


def test_memory_that_nobody_has_used_stays_so() -> None:
    """Neither saving nor loading takes any of the host's, and what is zero then is given back."""
    one, two = RamBlock("one", 1 << 30), RamBlock("two", 1 << 30)
    try:
        one.view[5 << 20] = 1
        two.view[700 << 20 : 701 << 20] = b"x" * (1 << 20)
        runs = there_and_back([section(one)], [section(two)])
        assert runs == [Run(0, 1, (5 << 20) // PIECE)]
        assert allocated(one) <= PIECE
        assert allocated(two) <= PIECE
        assert two.view[5 << 20] == 1
        assert two.view[700 << 20] == 0
    finally:
        one.close()
        two.close()


@pytest.mark.parametrize("share", [True, False])
def test_memory_in_a_file(tmp_path: Path, share: bool) -> None:
    """Private memory is not what its file has."""
    path = tmp_path / "ram"
    path.write_bytes(b"file" * (4 * PIECE // 4))
    block = MappedBlock("ram", 4 * PIECE, os.open(path, os.O_RDWR), share=share)
    fresh = RamBlock("fresh", 4 * PIECE)
    try:
        block.view[PIECE : 2 * PIECE] = bytes(PIECE)
        block.view[3 * PIECE] = 1
        runs = there_and_back([section(block)], [section(fresh)])
        assert runs == [Run(0, 1, 0), Run(0, 2, 2)]
        assert content(section(fresh)) == content(section(block))
        fresh.view[:] = bytes(4 * PIECE)
        fresh.view[PIECE] = 7
        there_and_back([section(fresh)], [section(block)])
        assert content(section(block)) == content(section(fresh))
        assert (path.read_bytes() == content(section(block))) == share
    finally:
        block.close()
        fresh.close()


def test_several_regions() -> None:
    blocks = [RamBlock(str(i), size) for i, size in enumerate((4096, 3 * PIECE, PIECE + 4096))]
    fresh = [RamBlock(str(i), block.size) for i, block in enumerate(blocks)]
    try:
        blocks[0].view[4095] = 1
        blocks[1].view[:] = b"y" * (3 * PIECE)
        blocks[2].view[PIECE + 4095] = 3
        runs = there_and_back([section(block) for block in blocks], [section(block) for block in fresh])
        assert runs == [Run(0, 1, 0), Run(1, 3, 0), Run(2, 1, 1)]
        assert [block.view.tobytes() for block in fresh] == [block.view.tobytes() for block in blocks]
    finally:
        for block in (*blocks, *fresh):
            block.close()
