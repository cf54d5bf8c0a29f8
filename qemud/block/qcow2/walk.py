"""Going through everything that a table refers to: for snapshots, checks and repairs.

The image is drained and settled (`Image.settle`): tables on disk are what is in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.block.qcow2.image import ACTIVE_L2
from qemud.block.qcow2.layout import COMPRESSED, COPIED, OFFSET, sharp
from qemud.block.qcow2.mapping import decode_table, encode_table
from qemud.block.qcow2.write import packed_range

if TYPE_CHECKING:
    from array import array
    from collections.abc import AsyncIterator, Iterable, Iterator

    from qemud.block.qcow2.image import Image


async def read_table(image: Image, offset: int, entries: int) -> array[int]:
    """A table of 64-bit entries from the file.  OSError."""
    data = bytearray(entries * 8)
    if data:
        await image.file.readv(offset, [memoryview(data)])
    return decode_table(data)


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
        for run in _runs(image, table, await read_table(image, table, size // 8)):
            yield run


def _runs(image: Image, table: int, entries: array[int]) -> Iterator[tuple[int, int]]:
    """What the entries of an L2 table refer to, clusters that follow each other together."""
    size, bits = image.cluster_size, image.cluster_bits
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
            raise image.corrupt(
                f"Cluster allocation offset {sharp(place)} unaligned (L2 offset: {sharp(table)}, L2 index: {sharp(index)})"
            )
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
    mapping.pieces.clear()
    for index, entry in enumerate(mapping.l1):
        table = entry & OFFSET
        if not table:
            continue
        right = table | (COPIED if await refcounts.get(table >> bits) == 1 else 0)
        if right != entry:
            mapping.l1[index] = right
            mapping.l1_changed.add(index)
        entries = await read_table(image, table, image.cluster_size // 8)
        changed = False
        for i, each in enumerate(entries):
            if each & COMPRESSED or not each & OFFSET:
                continue
            once = await refcounts.get((each & OFFSET) >> bits) == 1
            if once != bool(each & COPIED):
                entries[i] = each ^ COPIED
                changed = True
        if changed:
            image.guard(table, image.cluster_size, allowed=ACTIVE_L2)
            await image.file.writev(table, [memoryview(encode_table(entries))])
