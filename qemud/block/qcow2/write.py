"""Requests that change the tables of a qcow2 image: first writes to a cluster, zeroes, discards, compressed clusters.

Each holds the clusters of the disk that it is about while it changes where they are (`RangeLocks`), so that two first writes to
one cluster do not both find it a place.  Data is written before the table in memory says where it is: who reads meanwhile sees
what was there before.

Source of rules: QEMU 10.0, block/qcow2-cluster.c.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qemud.block.buffers import ZERO_CHUNK, ZEROES, cut, total
from qemud.block.qcow2 import layout, subclusters
from qemud.block.qcow2.external import give_back, is_zero, zero_external
from qemud.block.qcow2.layout import ACTIVE_L2, COMPRESSED, COPIED, OFFSET, ZERO, sharp
from qemud.block.ranges import RangeLocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qemud.block.qcow2.image import Image


class Writer:
    """See the module."""

    def __init__(
        self, image: Image, read_range: Callable[[int, Sequence[memoryview]], Awaitable[None]]
    ) -> None:
        self.image = image
        self.read_range = read_range
        """As `Qcow2Requests.read_range`."""
        self._ranges = RangeLocks()
        self._tables = asyncio.Lock()
        self._packed_at = 0
        """Where in the file the next compressed cluster may begin; 0: at the beginning of a new cluster."""
        self._packing = asyncio.Lock()

    @property
    def has_backing(self) -> bool:
        """Whether anything is below what is not allocated."""
        return self.image.owner.backing is not None

    @property
    def busy(self) -> bool:
        """Whether any request is changing where clusters are."""
        return self._ranges.busy

    # Tables.

    async def load(self, offset: int) -> None:
        """Get the piece of an L2 table, if there is a table."""
        image = self.image
        mapping = image.mapping
        number = mapping.number(offset)
        place = mapping.table_offset(number)
        if place & (image.cluster_size - 1):
            raise image.corrupt(
                f"L2 table offset {sharp(place)} unaligned (L1 index: {sharp(mapping.l1_index(offset))})"
            )
        if place:
            await mapping.load(number)

    async def ensure_table(self, offset: int) -> None:
        """Have an L2 table for an offset of the disk that is nobody else's.  OSError."""
        mapping = self.image.mapping
        index = mapping.l1_index(offset)
        if mapping.l1[index] & COPIED:
            return
        async with self._tables:
            if not mapping.l1[index] & COPIED:
                await self._make_table(index, mapping.l1[index])

    async def _make_table(self, index: int, entry: int) -> None:
        image = self.image
        old = entry & OFFSET
        size = image.cluster_size
        if old & (size - 1):
            raise image.corrupt(f"L2 table offset {sharp(old)} unaligned (L1 index: {sharp(index)})")
        await image.before_allocating()
        place = await image.refcounts.allocate_exactly(1)
        try:
            image.guard(place, size)
            if old:
                # A table that a snapshot has too was written when the snapshot was made, and not changed since.
                table = memoryview(bytearray(size))
                await image.file.readv(old, [table])
                await image.file.writev(place, [table])
            else:
                # Even where the file ends before it: what refers to it may be on the disk before there is anything in it.
                await image.file.write_zeroes(place, size)
        except BaseException:
            image.drop(place, 1, "always")
            raise
        image.mapping.l1[index] = place | COPIED
        image.mapping.l1_changed.add(index)
        if old:
            image.unguard(old, 1)
            image.drop(old, 1)
        image.guard_also(place, 1, ACTIVE_L2)

    async def entries(self, offset: int, count: int) -> tuple[list[int], int]:
        """The table entries of a range, and how many they are: as many as one piece has.  The piece is in memory then."""
        image = self.image
        mapping = image.mapping
        await self.load(offset)
        count = min(count, mapping.entries_from(offset, 1 + (count - 1) * image.cluster_size))
        piece = mapping.pieces.get(mapping.number(offset))
        if piece is None:
            return [0] * count, count
        first = mapping.index(offset)
        return list(piece.entries[first : first + count]), count

    async def publish(self, offset: int, entries: Sequence[int], kind: str = "other") -> None:
        """Let clusters of the disk be elsewhere from now on, and drop what they had.  Their table is there."""
        image = self.image
        mapping = image.mapping
        piece = await mapping.load(mapping.number(offset))
        first = mapping.index(offset)
        for i, entry in enumerate(entries, first):
            old = piece.entries[i]
            if old != entry:
                piece.entries[i] = entry
                if old & COMPRESSED or (old & OFFSET and old & OFFSET != entry & OFFSET):
                    self._drop_entry(old, kind)
        piece.changed(first, len(entries))

    def _drop_entry(self, entry: int, kind: str) -> None:
        """What a table entry referred to is not needed by it any more."""
        image = self.image
        if image.external:
            return  # nobody else will get that place
        if entry & COMPRESSED:
            start, end = packed_range(entry, image.cluster_bits)
            first, last = start >> image.cluster_bits, (end - 1) >> image.cluster_bits
            image.drop(first << image.cluster_bits, last - first + 1, kind)
            self._packed_at = 0
            return
        place = entry & OFFSET
        if place & (image.cluster_size - 1):
            image.corrupt(f"Cannot free unaligned cluster {sharp(place)}", fatal=False)
        else:
            image.drop(place, 1, kind)

    # Data.

    async def write(self, offset: int, buffers: Sequence[memoryview], length: int) -> int:
        """Write data to clusters that have no place of their own; how much of it was written.  OSError."""
        size = self.image.cluster_size
        start = offset - offset % size
        end = -(-(offset + length) // size) * size
        async with self._ranges.hold(start, end):
            if self.image.header.extended:
                return await subclusters.write(self, offset, buffers, length)
            return await self._write(offset, buffers, length)

    async def _write(self, offset: int, buffers: Sequence[memoryview], length: int) -> int:
        image = self.image
        mapping = image.mapping
        while (found := mapping.find(offset, length)) is None:
            await self.load(offset)
        kind, place, count = found
        if kind == layout.INVALID:
            return 0  # the caller looks again, and tells
        if kind == layout.PLACED:
            # Somebody was faster.
            image.guard_data(place, count)
            await image.data.writev(place, cut(buffers, 0, count))
            return count
        await image.before_allocating()
        await self.ensure_table(offset)
        size = image.cluster_size
        inside = offset % size
        new = -1
        if kind == layout.ZEROES_PLACED:
            place -= inside
            clusters = -(-(inside + count) // size)
            fresh = False
        else:
            wanted = min(-(-(inside + count) // size), mapping.entries_from(offset, count))
            place, clusters = await image.allocate_data(offset - inside, wanted)
            new = place
            fresh = image.untouched_data(place)
        count = min(count, clusters * size - inside)
        clusters = -(-(inside + count) // size)
        try:
            image.guard_data(place, clusters * size)
            await self._write_clusters(offset, cut(buffers, 0, count), count, place, kind, fresh=fresh)
            image.data_first = True
            await self.publish(offset, [(place + i * size) | COPIED for i in range(clusters)])
        except BaseException:
            if new >= 0:
                image.give_up(new, clusters)
            raise
        return count

    async def _write_clusters(
        self, offset: int, buffers: Sequence[memoryview], count: int, place: int, kind: int, *, fresh: bool
    ) -> None:
        """Write data to new clusters, and around it what was there before."""
        image = self.image
        size = image.cluster_size
        head = offset % size
        tail = -(offset + count) % size
        zero = kind in {layout.ZEROES, layout.ZEROES_PLACED, layout.ZEROES_SHARED} or (
            kind == layout.UNALLOCATED and not self.has_backing
        )
        if zero and fresh:
            # Nobody has ever written there: beyond the end of the file everything is zero.
            await image.data.writev(place + head, buffers)
            return
        before, after = await self._around(offset, count, head, tail, zero=zero)
        parts = [part for part in (before, *buffers, after) if len(part)]
        await image.data.writev(place, parts)

    async def _around(
        self, offset: int, count: int, head: int, tail: int, *, zero: bool
    ) -> tuple[memoryview, memoryview]:
        if zero:
            return _zeroes(head), _zeroes(tail)
        before, after = memoryview(bytearray(head)), memoryview(bytearray(tail))
        if head:
            await self.read_range(offset - head, [before])
        if tail:
            await self.read_range(offset + count, [after])
        return before, after

    # Zeroes and discards: whole clusters.

    async def zero(self, offset: int, length: int, *, unmap: bool) -> int:
        """Let clusters read as zeroes, with `unmap` without a place; how many bytes that was done for.  OSError."""
        image = self.image
        size = image.cluster_size
        if image.header.extended:
            inside = offset % size
            if inside or length < size:
                return await self._zero_parts(offset, min(size - inside, length), unmap=unmap)
        async with self._ranges.hold(offset, offset + length):
            await self.ensure_table(offset)
            entries, count = await self.entries(offset, length // size)
            new = [self._zeroed(entry, keep=not unmap) for entry in entries]
            if image.external:
                await zero_external(image, offset, count * size, unmap=unmap)
            if new != entries:
                await self.publish(offset, new, "request")
                if image.external:
                    await give_back(image, offset, entries, new)
            return count * size

    def _zeroed(self, entry: int, *, keep: bool) -> int:
        if self.image.header.extended:
            return subclusters.zeroed(entry, keep=keep)
        return entry | ZERO if keep and not entry & COMPRESSED else ZERO

    async def _zero_parts(self, offset: int, length: int, *, unmap: bool) -> int:
        """As `zero`, for parts of one cluster."""
        image = self.image
        size = image.cluster_size
        inside = offset % size
        start = offset - inside
        async with self._ranges.hold(start, start + size):
            await self.ensure_table(offset)
            (entry, *_), _ = await self.entries(start, 1)
            if entry & COMPRESSED:
                return await subclusters.write(self, offset, [_zeroes(length)], length)
            if image.external:
                await zero_external(image, offset, length, unmap=unmap)
            bits = image.cluster_bits - subclusters.BITS
            new = subclusters.part_zeroed(entry, inside >> bits, (inside + length) >> bits)
            if new != entry:
                await self.publish(start, [new], "request")
            return length

    async def discard(self, offset: int, length: int, *, keep: bool) -> int:
        """Let clusters go, or with `keep` only what they hold; how many bytes that was done for.  OSError."""
        image = self.image
        mapping = image.mapping
        size = image.cluster_size
        async with self._ranges.hold(offset, offset + length):
            if not mapping.table_offset(mapping.number(offset)) and not self.has_backing:
                return min(length, mapping.table_end(offset) - offset)
            await self.load(offset)
            entries, count = await self.entries(offset, length // size)
            gone = self._zeroed(0, keep=False) if image.header.version >= 3 else 0
            new = []
            for entry in entries:
                if not entry & mapping.allocated and not self.has_backing:
                    new.append(entry)
                elif keep:
                    new.append(self._zeroed(entry, keep=True))
                else:
                    new.append(gone)
            if image.external:
                await zero_external(image, offset, count * size, unmap="request" in image.discards)
            if new != entries:
                await self.ensure_table(offset)
                await self.publish(offset, new, "request")
                if image.external:
                    await give_back(image, offset, entries, new)
            return count * size

    async def cut(self, offset: int, length: int) -> int:
        """Clusters beyond the new end of the disk: their entries are empty; how many bytes that was done for."""
        mapping = self.image.mapping
        size = self.image.cluster_size
        if not mapping.table_offset(mapping.number(offset)):
            return min(length, mapping.table_end(offset) - offset)
        entries, count = await self.entries(offset, length // size)
        if any(entries):
            await self.ensure_table(offset)
            await self.publish(offset, [0] * count, "always")
        return count * size

    async def place(self, offset: int, length: int) -> int:
        """Give clusters that have none a place; how many bytes that was done for.  Nothing else is under way.  OSError."""
        image = self.image
        size = image.cluster_size
        await image.before_allocating()
        await self.ensure_table(offset)
        entries, count = await self.entries(offset, length // size)
        if any(entries):
            if entries[0]:
                return size
            count = next(i for i, entry in enumerate(entries) if entry)
        place, count = await image.allocate_data(offset, count)
        image.guard_data(place, count * size)
        # What was in the file there must not be seen, unless it is all that there is to be seen.
        parts = image.header.extended
        old = not image.in_step and not parts and not await is_zero(image, place, count * size)
        hidden = ZERO if old and image.header.version >= 3 else 0
        if old and not hidden:
            await image.file.write_zeroes(place, count * size)
        if self.has_backing and image.header.version >= 3 and not parts:
            hidden = ZERO
        if parts and image.in_step:
            hidden = subclusters.ALL_PLACED
        await self.publish(offset, [(place + i * size) | COPIED | hidden for i in range(count)])
        return count * size

    # Compressed clusters.

    async def write_packed(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Write one cluster, compressed if that makes it smaller.  OSError."""
        from qemud.block.qcow2.compress import pack

        image = self.image
        size = image.cluster_size
        data = b"".join(buffers).ljust(size, b"\0")
        if not data.strip(b"\0") and not self.has_backing and image.header.version >= 3:
            await self.zero(offset, size, unmap=True)
            return
        packed = await pack(image.header, data)
        if packed is None:
            length = total(buffers)
            done = 0
            while done < length:
                done += await self.write(offset + done, cut(buffers, done, length), length - done)
            return
        async with self._ranges.hold(offset, offset + size):
            await image.before_allocating()
            await self.ensure_table(offset)
            place = await self._room_for(len(packed))
            sectors = (place + len(packed) - 1) // 512 - place // 512
            entry = COMPRESSED | place | sectors << (62 - (image.cluster_bits - 8))
            try:
                image.guard(place, len(packed))
                await image.file.writev(place, [memoryview(packed)])
                image.data_first = True
                await self.publish(offset, [entry])
            except BaseException:
                self._drop_entry(entry, "always")
                raise

    async def _room_for(self, length: int) -> int:
        """Where so many bytes can be; the clusters that they are in are used once more."""
        image = self.image
        refcounts, bits, size = image.refcounts, image.cluster_bits, image.cluster_size
        async with self._packing:
            place = self._packed_at
            if place:
                left = size - place % size
                usable = await refcounts.get(place >> bits) < refcounts.maximum and self._packed_at == place
                if usable and length > left:
                    following = place + left
                    usable = await refcounts.allocate_at(following, 1) == 1
                    if usable and self._packed_at != place:
                        image.drop(following, 1, "always")
                        usable = False
                if usable:
                    await refcounts.change(place - place % size, 1, 1)
                    self._move_on(place + length)
                    return place
            place, _ = await refcounts.allocate(1)
            self._move_on(place + length)
            return place

    def _move_on(self, end: int) -> None:
        # Table entries can say where data begins to the byte.
        self._packed_at = end if end % self.image.cluster_size else 0


def packed_range(entry: int, cluster_bits: int) -> tuple[int, int]:
    """Where in the file the data of a compressed cluster begins, and where its last sector ends."""
    shift = 62 - (cluster_bits - 8)
    start = entry & ((1 << shift) - 1)
    sectors = (entry >> shift & ((1 << (cluster_bits - 8)) - 1)) + 1
    return start, start - start % 512 + sectors * 512


def _zeroes(length: int) -> memoryview:
    if length <= ZERO_CHUNK:
        return memoryview(ZEROES)[:length]
    return memoryview(bytes(length))
