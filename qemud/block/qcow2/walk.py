"""Going through everything that a table refers to: for snapshots, checks and repairs.

The image is drained and settled (`Image.settle`): tables on disk are what is in memory.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qemud.block.pool import pool
from qemud.block.qcow2.layout import ACTIVE_L2, COMPRESSED, COPIED, OFFSET, sharp
from qemud.block.qcow2.mapping import decode_table, encode_table
from qemud.block.qcow2.write import packed_range

if TYPE_CHECKING:
    from array import array
    from collections.abc import AsyncIterator, Iterable, Iterator

    from qemud.block.qcow2.image import Image

_SLICE = 4096
"""How many entries are looked at without a pause."""


async def read_table(image: Image, offset: int, entries: int) -> array[int]:
    """A table of 64-bit entries from the file.  OSError."""
    data = bytearray(entries * 8)
    if data:
        await image.file.readv(offset, [memoryview(data)])
    return decode_table(data)


async def read_entries(image: Image, table: int) -> array[int]:
    """The entries of an L2 table in the file, without the maps of parts.  OSError."""
    entries = await read_table(image, table, image.cluster_size // 8)
    return entries[::2] if image.header.extended else entries


async def referenced(image: Image, l1: Iterable[int]) -> AsyncIterator[tuple[int, int]]:
    """Everything that an L1 table refers to, directly or by its L2 tables: offset and how many clusters.  OSError."""
    size = image.cluster_size
    for index, entry in enumerate(l1):
        table = entry & OFFSET
        if not table:
            continue
        if table % size:
            raise image.corrupt(f"L2 table offset {sharp(table)} unaligned (L1 index: {sharp(index)})")
        yield table, 1
        if image.external:
            continue  # only tables are counted
        entries = await read_entries(image, table)
        # There can be hundreds of thousands of entries: not in the event loop.
        runs, wrong = await pool.run(_all_runs, image.cluster_bits, entries)
        for run in runs:
            yield run
        if wrong >= 0:
            raise image.corrupt(
                f"Cluster allocation offset {sharp(entries[wrong] & OFFSET)} unaligned "
                f"(L2 offset: {sharp(table)}, L2 index: {sharp(wrong)})"
            )


def _all_runs(bits: int, entries: array[int]) -> tuple[list[tuple[int, int]], int]:
    """What the entries of an L2 table refer to, and the first that makes no sense, or -1."""
    runs: list[tuple[int, int]] = []
    try:
        runs.extend(_runs(bits, entries))
    except _UnalignedError as error:
        return runs, error.index
    return runs, -1


class _UnalignedError(Exception):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index


def _runs(bits: int, entries: array[int]) -> Iterator[tuple[int, int]]:
    """Clusters that follow each other together."""
    size = 1 << bits
    start = end = 0
    for index, entry in enumerate(entries):
        if not entry:
            continue
        if entry & COMPRESSED:
            first, last = packed_range(entry, bits)
            yield first >> bits << bits, (last - 1 >> bits) - (first >> bits) + 1
            continue
        place = entry & OFFSET
        if place % size:
            raise _UnalignedError(index)
        if not place:
            continue
        if place != end:
            if end > start:
                yield start, (end - start) >> bits
            start = end = place
        end += size
    if end > start:
        yield start, (end - start) >> bits


async def mark_copied(image: Image) -> None:
    """Let the active tables say rightly which clusters are referred to once.  Writes them to the file.  OSError."""
    mapping, refcounts, bits = image.mapping, image.refcounts, image.cluster_bits
    for index, entry in enumerate(mapping.l1):
        table = entry & OFFSET
        if not table:
            continue
        right = table | (COPIED if await refcounts.get(table >> bits) == 1 else 0)
        if right != entry:
            mapping.l1[index] = right
            mapping.l1_changed.add(index)
        entries = await read_table(image, table, image.cluster_size // 8)
        if await _mark_entries(image, entries):
            image.guard(table, image.cluster_size, allowed=ACTIVE_L2)
            await image.file.writev(table, [memoryview(encode_table(entries))])
            mapping.forget(index)


async def _mark_entries(image: Image, entries: array[int]) -> bool:
    """Let the entries of an L2 table say rightly what is referred to once; whether any has changed."""
    refcounts, bits = image.refcounts, image.cluster_bits
    changed = False
    index, counts = -1, None
    step = image.header.entry_size // 8
    for i in range(0, len(entries), step):
        entry = entries[i]
        if not i % _SLICE:
            # Others get their turn in a long table, and may need the place of this block of counts.
            await asyncio.sleep(0)
            index = -1
        place = entry & OFFSET
        if entry & COMPRESSED or not place:
            continue
        number, first = divmod(place >> bits, refcounts.per_block)
        if number != index:
            block = await refcounts.load(number)
            index, counts = number, None if block is None else block.counts
        once = image.external or (counts is not None and counts[first] == 1)
        if once != bool(entry & COPIED):
            entries[i] = entry ^ COPIED
            changed = True
    return changed
