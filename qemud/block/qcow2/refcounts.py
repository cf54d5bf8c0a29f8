"""How often each cluster of the file is used: reference counts, and the clusters that are free.

    offset, count = await refcounts.allocate(16)            # up to so many, one after the other
    offset = await refcounts.allocate_exactly(3)            # for tables
    await refcounts.change(offset, count, -1)

Blocks of counts are cached; whatever their width on disk, in memory they are integers of a machine's width.  What has
changed stays in memory until `Image.write_tables`.  Free clusters are looked for from where the last one was found, so
that a file is filled from its beginning.

Source: docs/interop/qcow2.txt of QEMU 10.0, "Host cluster management"; rules and texts as in block/qcow2-refcount.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Literal

from qemud.block.qcow2 import layout
from qemud.block.qcow2.layout import REFTABLE_OFFSET, sharp

if TYPE_CHECKING:
    from array import array
    from collections.abc import Awaitable, Callable

    from qemud.block.node import BlockNode

_CODES: dict[int, Literal["B", "H", "I", "Q"]] = {8: "B", 16: "H", 32: "I", 64: "Q"}


class Block:
    """A block of counts."""

    __slots__ = ("counts", "data", "dirty", "used", "writing")

    def __init__(self, data: bytearray, bits: int) -> None:
        self.data = data
        """The counts, each a machine's integer."""
        self.counts: memoryview[int] = memoryview(data).cast(_CODES[max(8, bits)])
        self.dirty = False
        self.used = True
        self.writing = False


class Refcounts:
    """See the module."""

    def __init__(self, owner: BlockNode, cluster_bits: int, order: int, table: array[int]) -> None:
        self.table = table
        """Where the blocks are.  Longer than what is on disk after it has grown: see `new_table`."""
        self.changed: set[int] = set()
        """Entries of the table that differ from what is on disk."""
        self.new_table: tuple[int, int] | None = None
        """Offset and clusters of the place to which the table is to move."""
        self.blocks: dict[int, Block] = {}
        self.make_room: Callable[[], Awaitable[None]] | None = None
        self.limit = 4
        """How many blocks may be in memory."""
        self.bits = 1 << order
        self.maximum = (1 << self.bits) - 1
        self.per_block = (8 << cluster_bits) // self.bits
        self.next_free = 0
        """No cluster before this one is free."""
        self.lock = asyncio.Lock()
        self.corrupt: Callable[[str], OSError] = _corrupt
        """Tells that the image is corrupt, and makes the error to raise."""
        self.on_block: Callable[[int], None] = lambda _offset: None
        """Called with the place of a new block."""
        self._owner = owner
        self._cluster_bits = cluster_bits
        self._cluster_size = 1 << cluster_bits
        self._width = max(1, self.bits // 8)

    # Blocks.

    async def load(self, index: int) -> Block | None:
        """The block with this index of the table; None when there is none.  OSError."""
        block = self.blocks.get(index)
        if block is not None:
            block.used = True
            return block
        while True:
            if index >= len(self.table):
                return None
            offset = self.table[index] & REFTABLE_OFFSET
            if not offset:
                return None
            if offset % self._cluster_size:
                raise self.corrupt(
                    f"Refblock offset {sharp(offset)} unaligned (reftable index: {sharp(index)})"
                )
            if len(self.blocks) >= self.limit:
                await self._shrink()
            data = bytearray(self._cluster_size)
            await self._owner.file.readv(offset, [memoryview(data)])
            block = self.blocks.get(index)  # somebody else may have been faster
            if block is None:
                if self.table[index] & REFTABLE_OFFSET != offset:
                    continue
                block = self.blocks[index] = Block(unpack(data, self.bits), self.bits)
            block.used = True
            return block

    async def _shrink(self) -> None:
        if not self._drop_one() and self.make_room is not None:
            await self.make_room()
            self._drop_one()

    def _drop_one(self) -> bool:
        clean = [index for index, each in self.blocks.items() if not each.dirty and not each.writing]
        if not clean:
            return False
        victim = next((index for index in clean if not self.blocks[index].used), clean[0])
        for each in self.blocks.values():
            each.used = False
        del self.blocks[victim]
        return True

    def drop_unused(self) -> None:
        """Forget clean blocks that have not been used since the last time."""
        for index, each in list(self.blocks.items()):
            if not each.used and not each.dirty and not each.writing:
                del self.blocks[index]
            each.used = False

    def pack(self, block: Block) -> bytes:
        """A block as it is on disk."""
        return pack(block.data, self.bits)

    # Counts.

    async def get(self, cluster: int) -> int:
        """How often a cluster is used.  OSError."""
        block = await self.load(cluster // self.per_block)
        return 0 if block is None else block.counts[cluster % self.per_block]

    async def change(self, offset: int, clusters: int, delta: int) -> None:
        """Add to the counts of clusters.  OSError, and then some may have been changed: at worst they are never free."""
        cluster = offset >> self._cluster_bits
        end = cluster + clusters
        while cluster < end:
            index, first = divmod(cluster, self.per_block)
            stop = min(self.per_block, first + end - cluster)
            block = await self.load(index)
            if block is None:
                if delta < 0:
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
                async with self.lock:
                    block = await self._make_block(index)
            counts = block.counts
            values = [count + delta for count in counts[first:stop]]
            if min(values) < 0 or max(values) > self.maximum:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            for i, value in enumerate(values, first):
                counts[i] = value
                if not value:
                    self.next_free = min(self.next_free, index * self.per_block + i)
            block.dirty = True
            cluster += stop - first

    # Allocation.

    async def allocate(self, clusters: int) -> tuple[int, int]:
        """Free clusters one after the other, now used once: where they begin, and how many, up to `clusters`.  OSError."""
        async with self.lock:
            while True:
                start = self.next_free
                index, first = divmod(start, self.per_block)
                block = await self.load(index)
                if block is None:
                    block = await self._make_block(index)
                    continue
                found = self._first_free(block, first)
                if found < 0:
                    self.next_free = (index + 1) * self.per_block
                    continue
                count = self._free_run(block, found, clusters)
                self._use(block, found, count)
                start = index * self.per_block + found
                self.next_free = start + count
                offset = start << self._cluster_bits
                self._check_offset(offset + (count << self._cluster_bits))
                return offset, count

    async def allocate_exactly(self, clusters: int) -> int:
        """So many free clusters one after the other, now used once: where they begin.  OSError."""
        async with self.lock:
            return await self._allocate_exactly(clusters)

    async def allocate_at(self, offset: int, clusters: int) -> int:
        """As many of these clusters as are free, from the first on, now used once: how many they were.  OSError."""
        async with self.lock:
            cluster = offset >> self._cluster_bits
            index, first = divmod(cluster, self.per_block)
            block = await self.load(index) or await self._make_block(index)
            count = self._free_run(block, first, min(clusters, self.per_block - first))
            if count:
                self._use(block, first, count)
            return count

    async def _allocate_exactly(self, clusters: int) -> int:
        start = position = self.next_free
        while position - start < clusters:
            index, first = divmod(position, self.per_block)
            block = await self.load(index)
            if block is None:
                # Made now, it lies at the beginning of what it is about, and a run goes on behind it.
                before = self.new_table
                block = await self._make_block(index)
                if self.new_table is not before:
                    # The longer table has taken clusters that seemed free.
                    start = position = self.next_free
                    continue
            wanted = clusters - (position - start)
            count = self._free_run(block, first, min(wanted, self.per_block - first))
            position += count
            if count < wanted and first + count < self.per_block:
                free = self._first_free(block, first + count)
                position = (index + 1) * self.per_block if free < 0 else index * self.per_block + free
                start = position
        self._check_offset(position << self._cluster_bits)
        cluster = start
        while cluster < position:
            index, first = divmod(cluster, self.per_block)
            block = await self.load(index)
            assert block is not None
            count = min(position - cluster, self.per_block - first)
            self._use(block, first, count)
            cluster += count
        if start == self.next_free:
            self.next_free = position
        return start << self._cluster_bits

    def _check_offset(self, end: int) -> None:
        if end > layout.MAX_CLUSTER_OFFSET:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    def _first_free(self, block: Block, first: int) -> int:
        """The first free cluster of a block from `first` on; -1 when there is none."""
        data, width = block.data, self._width
        zero = bytes(width)
        position = data.find(zero, first * width)
        while position >= 0 and position % width:
            position = data.find(zero, position - position % width + width)
        return position // width if position >= 0 else -1

    def _free_run(self, block: Block, first: int, limit: int) -> int:
        """How many clusters are free from `first` on, up to `limit`."""
        width = self._width
        part = block.data[first * width : (first + limit) * width]
        return (len(part) - len(part.lstrip(b"\0"))) // width

    def _use(self, block: Block, first: int, count: int) -> None:
        counts = block.counts
        for i in range(first, first + count):
            counts[i] = 1
        block.dirty = True
        block.used = True

    async def _make_block(self, index: int) -> Block:
        """A block where there was none; it lies in the first of the clusters that it is about.  Locked."""
        block = await self.load(index)
        if block is not None:
            return block
        if len(self.blocks) >= self.limit:
            await self._shrink()
        offset = index * self.per_block << self._cluster_bits
        if not offset:
            raise self.corrupt("Preventing invalid allocation of refcount block at offset 0")
        self._check_offset(offset)
        if index >= len(self.table):
            await self._grow_table(index)
        block = self.blocks.get(index)
        if block is None:  # unless the new table itself has needed it
            block = self.blocks[index] = Block(bytearray(self.per_block * self._width), self.bits)
            block.counts[0] = 1
            block.dirty = True
            self.table[index] = offset
            self.changed.add(index)
            self.on_block(offset)
        return block

    async def _grow_table(self, index: int) -> None:
        """Make the table long enough for a block of that index, and find it a place."""
        per_cluster = self._cluster_size // 8
        wanted = index + 1 + (index + 1) // 2
        clusters = -(-wanted // per_cluster) + 1
        if clusters << self._cluster_bits > layout.MAX_REFTABLE_BYTES:
            clusters = layout.MAX_REFTABLE_BYTES >> self._cluster_bits
            if index >= clusters * per_cluster:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self.table.extend([0] * (clusters * per_cluster - len(self.table)))
        old, self.new_table = self.new_table, None
        if old is not None:
            # It has never been written there.
            await self.change(old[0], old[1], -1)
        self.new_table = await self._allocate_exactly(clusters), clusters


def unpack(data: bytes | bytearray, bits: int) -> bytearray:
    """Counts as they are on disk, as a machine's integers."""
    if bits >= 8:
        into = bytearray(data)
        _swap(into, bits // 8)
        return into
    return bytearray(b"".join(map(_spread(bits).__getitem__, data)))


def pack(data: bytes | bytearray, bits: int) -> bytes:
    """The opposite of `unpack`."""
    if bits >= 8:
        into = bytearray(data)
        _swap(into, bits // 8)
        return bytes(into)
    per_byte = 8 // bits
    packed = bytearray(len(data) // per_byte)
    for place in range(per_byte):
        part = data[place::per_byte]
        shifted = part.translate(_shift(place * bits, bits))
        packed = bytearray(
            (int.from_bytes(packed, "little") | int.from_bytes(shifted, "little")).to_bytes(
                len(packed), "little"
            )
        )
    return bytes(packed)


@cache
def _spread(bits: int) -> list[bytes]:
    mask = (1 << bits) - 1
    return [bytes(byte >> place & mask for place in range(0, 8, bits)) for byte in range(256)]


@cache
def _shift(by: int, bits: int) -> bytes:
    mask = (1 << bits) - 1
    return bytes((value & mask) << by for value in range(256))


def _swap(data: bytearray, width: int) -> None:
    """Between the order of bytes on disk and the machine's."""
    if width > 1 and sys.byteorder == "little":
        copy = bytes(data)
        for place in range(width):
            data[place::width] = copy[width - 1 - place :: width]


def _corrupt(text: str) -> OSError:
    return OSError(errno.EIO, text)
