"""The guest's memory, to a stream and back: in place, by the block layer, while the machine stands still.

Nothing else may touch the memory meanwhile: the machine is stopped, its disks are held, and its thread is frozen.

A host keeps files of memory with holes, where nobody has written; reading a hole would fill it.  So it is asked where there is
anything before that is looked at.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from qemud.block.driver import STATE_UNIT
from qemud.block.pool import pool
from qemud.migration.stream import PIECE, Run, run_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qemud.block.driver import StateReader, StateWriter
    from qemud.machine.memory import RamBlock, Section

_ZEROS = bytes(PIECE)
_BATCH = 2 * STATE_UNIT
"""Bytes that are written or read together."""


async def find_runs(sections: Sequence[Section]) -> list[Run]:
    """Which pieces of these regions are not all zeros."""
    found: list[Run] = []
    for number, section in enumerate(sections):
        found += await pool.run(_runs, number, section)
    return found


def _runs(number: int, section: Section) -> list[Run]:
    """Worker thread."""
    found: list[Run] = []
    first = after = -1
    for piece in pieces_with_data(section):
        if _is_zero(view_of(section, piece)):
            continue
        if piece != after:
            if after > first:
                found.append(Run(number, after - first, first))
            first = piece
        after = piece + 1
    if after > first:
        found.append(Run(number, after - first, first))
    return found


def pieces_with_data(section: Section) -> Iterator[int]:
    """The pieces in which there may be something."""
    following = 0
    for start, end in _data(section, 0, section.size):
        for piece in range(max(following, start // PIECE), -(-end // PIECE)):
            yield piece
            following = piece + 1


def _has_holes(block: RamBlock) -> bool:
    return block.fd >= 0 and block.plain and block.shared


def has_holes(section: Section) -> bool:
    """Whether it is known where in a region there is nothing."""
    assert section.block is not None
    return _has_holes(section.block)


def _data(section: Section, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a range of a region in which there may be something."""
    block, base = section.block, section.block_offset
    assert block is not None
    if not _has_holes(block):
        yield start, end
        return
    try:
        # Not the block's own descriptor: the machine moves its position when a reset loads a kernel.
        fd = os.open(f"/proc/self/fd/{block.fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield start, end
        return
    try:
        for begin, after in _stretches(fd, base + start, base + end):
            yield begin - base, after - base
    finally:
        os.close(fd)


def _stretches(fd: int, position: int, limit: int) -> Iterator[tuple[int, int]]:
    """The parts of a range of a file that are no holes."""
    while position < limit:
        try:
            begin = os.lseek(fd, position, os.SEEK_DATA)
            after = os.lseek(fd, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a file system that does not know
                yield position, limit
            return
        if begin >= limit:
            return
        yield begin, min(after, limit)
        position = after


def view_of(section: Section, piece: int) -> memoryview:
    """A piece of a region, in place."""
    start = piece * PIECE
    return section.view(section.base + start, min(PIECE, section.size - start))


def _is_zero(view: memoryview) -> bool:
    # Most pieces show it at once.
    return not view[0] and not view[len(view) // 2] and view.tobytes() == _ZEROS[: len(view)]


def _views(sections: Sequence[Section], runs: Sequence[Run]) -> Iterator[memoryview]:
    """The memory of the runs, in place."""
    for run in runs:
        section = sections[run.region]
        start = run.first * PIECE
        yield section.view(section.base + start, run_bytes(run, section.size))


async def write(
    writer: StateWriter, beginning: bytes, sections: Sequence[Section], runs: Sequence[Run]
) -> None:
    """Write a stream.  OSError."""
    waiting: list[memoryview] = []
    room = _BATCH
    for whole in (memoryview(beginning), *_views(sections, runs)):
        view = whole
        while len(view):
            part, view = view[:room], view[room:]
            waiting.append(part)
            room -= len(part)
            if not room:
                await writer.append(waiting)
                waiting, room = [], _BATCH
    if waiting:
        await writer.append(waiting)


async def read(reader: StateReader, position: int, sections: Sequence[Section], runs: Sequence[Run]) -> None:
    """Fill memory from a stream whose pieces begin at `position`; what is in no run becomes zero.  OSError."""
    for number, section in enumerate(sections):
        await pool.run(_clear_others, section, [run for run in runs if run.region == number])
    for whole in _views(sections, runs):
        view = whole
        while len(view):
            part, view = view[:_BATCH], view[_BATCH:]
            await reader.readv(position, [part])
            position += len(part)


async def clear(sections: Sequence[Section]) -> None:
    """Make all of the memory zero."""
    for section in sections:
        await pool.run(_clear_others, section, [])


def _clear_others(section: Section, runs: Sequence[Run]) -> None:
    """Worker thread: make everything zero that is in no run."""
    start = 0
    for run in (*runs, Run(0, 0, -(-section.size // PIECE))):
        end = min(run.first * PIECE, section.size)
        for begin, after in list(_data(section, start, end)) if end > start else ():
            clear_range(section, begin, after)
        start = end + run_bytes(run, section.size) if run.pieces else section.size


def clear_range(section: Section, start: int, end: int) -> None:
    """Worker thread: make that range of a region zero."""
    block, base = section.block, section.block_offset
    assert block is not None
    if _has_holes(block):
        try:
            block.discard(base + start, end - start)
        except OSError:
            pass  # not a file that can have holes
        else:
            return
    for at in range(start, end, PIECE):
        view = section.view(section.base + at, min(PIECE, end - at))
        if not _is_zero(view):
            view[:] = _ZEROS[: len(view)]
