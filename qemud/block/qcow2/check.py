"""Checking and repairing the reference counts of a qcow2 image, as an image that was not closed needs it.

    found = await count_references(image)
    await repair(image)                 # counts, and marks of clusters that are referred to once

Source of rules: QEMU 10.0, block/qcow2-refcount.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
from array import array
from typing import TYPE_CHECKING

from qemud.block.qcow2 import layout
from qemud.block.qcow2.layout import REFTABLE_OFFSET
from qemud.block.qcow2.walk import mark_copied, read_table, referenced

if TYPE_CHECKING:
    from qemud.block.qcow2.image import Image
    from qemud.block.qcow2.refcounts import Block

_CHUNK = 1 << 12


class Counts:
    """Numbers by cluster, of which most are zero."""

    def __init__(self) -> None:
        self.chunks: dict[int, array[int]] = {}

    def add(self, first: int, count: int) -> None:
        """Count clusters once more."""
        for cluster in range(first, first + count):
            index, i = divmod(cluster, _CHUNK)
            chunk = self.chunks.get(index)
            if chunk is None:
                chunk = self.chunks[index] = array("Q", bytes(8 * _CHUNK))
            chunk[i] += 1

    def get(self, cluster: int) -> int:
        """How often a cluster was counted."""
        chunk = self.chunks.get(cluster // _CHUNK)
        return 0 if chunk is None else chunk[cluster % _CHUNK]

    def clusters(self) -> list[tuple[int, int]]:
        """Those that were counted, with how often."""
        return [
            (index * _CHUNK + i, count)
            for index, chunk in sorted(self.chunks.items())
            for i, count in enumerate(chunk)
            if count
        ]


async def count_references(image: Image) -> Counts:
    """How often each cluster of the file is referred to.  OSError: tables that make no sense."""
    header, bits = image.header, image.cluster_bits
    counts = Counts()

    def add(offset: int, size: int) -> None:
        if size:
            counts.add(offset >> bits, -(-(offset + size) >> bits) - (offset >> bits))

    add(0, image.cluster_size)
    add(header.l1_offset, header.l1_size * 8)
    add(header.reftable_offset, header.reftable_clusters << bits)
    add(header.snapshots_offset, image.snapshot_table_size)
    for entry in image.refcounts.table:
        offset = entry & REFTABLE_OFFSET
        if offset % image.cluster_size:
            raise _broken()
        add(offset, image.cluster_size if offset else 0)
    async for offset, clusters in referenced(image, image.mapping.l1):
        counts.add(offset >> bits, clusters)
    for snapshot in image.snapshots:
        if snapshot.l1_size > layout.MAX_L1_BYTES // 8 or snapshot.l1_offset % image.cluster_size:
            raise _broken()
        add(snapshot.l1_offset, snapshot.l1_size * 8)
        table = await read_table(image, snapshot.l1_offset, snapshot.l1_size)
        async for offset, clusters in referenced(image, table):
            counts.add(offset >> bits, clusters)
    if header.bitmaps is not None:
        from qemud.block.qcow2.bitmaps import places

        async for offset, size in places(image):
            add(offset, size)
    return counts


async def repair(image: Image) -> None:
    """Let counts be what they should be, in the image at the end; it is not dirty then.  OSError."""
    wanted = await count_references(image)
    refcounts = image.refcounts
    for index in range(len(refcounts.table)):
        block = await refcounts.load(index)
        if block is None:
            continue
        block.writing = True  # it stays in memory
        try:
            await _correct(block, index * refcounts.per_block, wanted, refcounts.maximum)
        finally:
            block.writing = False
    for cluster, count in wanted.clusters():
        missing = count - await refcounts.get(cluster)
        if missing:
            await refcounts.change(cluster << image.cluster_bits, 1, missing)
    refcounts.next_free = 0
    await image.write_tables(everything=True)
    await mark_copied(image)
    await image.settle()


async def _correct(block: Block, first: int, wanted: Counts, maximum: int) -> None:
    """Let the counts of a block be what they should be."""
    for i in range(len(block.counts)):
        if not i % _CHUNK:
            await asyncio.sleep(0)
        count = wanted.get(first + i)
        if block.counts[i] != count:
            if count > maximum:
                raise _broken()
            block.counts[i] = count
            block.dirty = True


def _broken() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))
