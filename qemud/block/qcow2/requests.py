"""Requests to a qcow2 image: where things are, and the way there.

Requests look up where their clusters are, and go to the file with what is there in one piece.  Writes to clusters that are
nobody else's go straight to their place; all others take the way of `write`, where the tables change.

**At once.**  `read_now` and `write_now` serve what the cached tables know and the nodes below can do without waiting.  The
loop may change tables during that: what was found stays what it was, since clusters are freed only while no such call is under way.

Source of rules and texts: QEMU 10.0, block/qcow2.c.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any

from qemud.block.buffers import clear, cut, total
from qemud.block.driver import unsupported
from qemud.block.node import BlockNode, Extent
from qemud.block.qcow2 import layout
from qemud.block.qcow2.image import Image, together
from qemud.block.qcow2.layout import sharp
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Sequence

    from qemud.block.qcow2.options import Settings
    from qemud.block.qcow2.write import Writer

_AT_ONCE_PIECES = 32
"""Requests in more pieces than this are not served at once."""
_CLEAR_LIMIT = 1 << 20


class Qcow2Requests(BlockNode):
    """What a node of the format does with requests; `Qcow2Node` is the rest of it."""

    image: Image
    writer: Writer
    settings: Settings
    ready = False
    """Whether everything is as it must be while the image is written to."""
    getting_ready: asyncio.Lock
    data_child = "file"
    """The name of the child that data is in."""

    @property
    def data(self) -> BlockNode:
        """What data is in."""
        return self.children[self.data_child]

    async def get_ready_to_write(self) -> None:
        """Put right what the last user has left behind.  GenericError."""
        self.ready = True

    def check_usable(self) -> None:
        """Raise OSError when the image was found to be corrupt."""
        if self.image.unusable:
            raise OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM))

    async def check_writable_now(self) -> None:
        """Before the first change since the node has become writable.  OSError."""
        self.check_usable()
        if self.inactive:
            raise OSError(errno.EPERM, f"Node '{self.node_name}' is inactive")
        if not self.ready:
            async with self.getting_ready:
                if not self.ready:
                    try:
                        await self.get_ready_to_write()
                    except GenericError as error:
                        sys.stderr.write(f"{error}\n")
                        raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    # Reading.

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Look up, and read from where it is."""
        self.check_usable()
        image = self.image
        ticket = image.enter()
        try:
            await self.read_range(offset, buffers)
        finally:
            image.leave(ticket)

    async def read_range(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """As `do_readv`, inside of a request."""
        mapping = self.image.mapping
        length = total(buffers)
        position = 0
        work: list[Coroutine[Any, Any, None]] = []
        try:
            while position < length:
                found = mapping.find(offset + position, length - position)
                if found is None:
                    await self.load(offset + position)
                    continue
                kind, place, count = found
                part = buffers if count == length else cut(buffers, position, position + count)
                if kind in {layout.PLACED, layout.SHARED}:
                    work.append(self.data.readv(place, part))
                elif kind == layout.PACKED:
                    work.append(self._read_packed(place, offset + position, part))
                elif kind == layout.UNALLOCATED and (backing := self.backing) is not None:
                    work.append(backing.readv(offset + position, part))
                elif kind == layout.INVALID:
                    raise self.invalid(offset + position, place)  # noqa: TRY301 - as any error of a request
                else:
                    for buffer in part:
                        clear(buffer)
                position += count
        except BaseException:
            for each in work:
                each.close()
            raise
        if work:
            await together(work)

    async def load(self, offset: int) -> None:
        """Get the piece of a table that an offset of the disk needs.  OSError."""
        image = self.image
        mapping = image.mapping
        number = mapping.number(offset)
        place = mapping.table_offset(number)
        if place & (image.cluster_size - 1):
            raise image.corrupt(
                f"L2 table offset {sharp(place)} unaligned (L1 index: {sharp(mapping.l1_index(offset))})"
            )
        await mapping.load(number)

    def invalid(self, offset: int, entry: int) -> OSError:
        """An entry that makes no sense: tell; the error for the request."""
        image = self.image
        mapping = image.mapping
        table, index = (
            mapping.table_offset(mapping.number(offset)),
            (offset >> image.cluster_bits) & (image.cluster_size // image.header.entry_size - 1),
        )
        where = f"(L2 offset: {sharp(table)}, L2 index: {sharp(index)})"
        if image.external and entry & layout.COMPRESSED:
            return image.corrupt(f"Compressed cluster entry found in image with external data file {where}")
        if image.header.version < 3 and entry & layout.ZERO:
            return image.corrupt(f"Zero cluster entry found in pre-v3 image {where}")
        place = entry & layout.OFFSET
        position = offset - offset % image.cluster_size
        if image.external and not place % image.cluster_size and place != position:
            return image.corrupt(
                f"External data file host cluster offset {sharp(place)} does not match guest cluster offset: "
                f"{sharp(position)}, L2 index: {sharp(index)})"
            )
        if image.header.extended and not place % image.cluster_size:
            return image.corrupt(f"Invalid cluster entry found {where}")
        return image.corrupt(f"Cluster allocation offset {sharp(place)} unaligned {where}")

    async def _read_packed(self, entry: int, offset: int, buffers: Sequence[memoryview]) -> None:
        from qemud.block.qcow2.compress import read_packed

        image = self.image
        data = await read_packed(self.file, image.header, entry)
        inside = offset & (image.cluster_size - 1)
        for buffer in buffers:
            buffer[:] = data[inside : inside + len(buffer)]
            inside += len(buffer)

    # Writing.

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """In place where that can be, else by the tables."""
        del fua
        await self.check_writable_now()
        image = self.image
        mapping = image.mapping
        length = total(buffers)
        ticket = image.enter()
        try:
            position = 0
            while position < length:
                found = mapping.find(offset + position, length - position)
                if found is None:
                    await self.load(offset + position)
                    continue
                kind, place, count = found
                part = buffers if count == length else cut(buffers, position, position + count)
                if kind == layout.PLACED and not image.in_step:
                    image.guard_data(place, count)
                    await self.data.writev(place, part)
                    position += count
                elif kind == layout.INVALID:
                    raise self.invalid(offset + position, place)
                else:
                    position += await self.writer.write(offset + position, part, count)
        finally:
            image.leave(ticket)
        if image.dropped.too_many:
            await self.do_flush_to_os()

    async def do_write_compressed(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Whole clusters, or up to the end of the disk."""
        await self.check_writable_now()
        image = self.image
        if image.external:
            raise unsupported()
        length = total(buffers)
        if offset % image.cluster_size or (length % image.cluster_size and offset + length != self.size):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        ticket = image.enter()
        try:
            for start in range(0, length, image.cluster_size):
                part = cut(buffers, start, min(length, start + image.cluster_size))
                await self.writer.write_packed(offset + start, part)
        finally:
            image.leave(ticket)

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """By the flag in the tables; version 2 has none."""
        await self.check_writable_now()
        if self.image.header.version < 3:
            raise unsupported()
        unmap = unmap and not self.settings.discard_no_unref
        await self._by_tables(offset, length, lambda at, left: self.writer.zero(at, left, unmap=unmap))

    async def do_discard(self, offset: int, length: int) -> None:
        """Reads as zeroes then, and takes no place."""
        await self.check_writable_now()
        if self.image.header.version < 3 and self.backing is not None:
            raise unsupported()
        await self._by_tables(
            offset,
            length,
            lambda at, left: self.writer.discard(at, left, keep=self.settings.discard_no_unref),
        )

    async def _by_tables(
        self, offset: int, length: int, step: Callable[[int, int], Coroutine[Any, Any, int]]
    ) -> None:
        image = self.image
        ticket = image.enter()
        try:
            position = 0
            while position < length:
                position += await step(offset + position, length - position)
        finally:
            image.leave(ticket)
        if image.dropped.too_many:
            await self.do_flush_to_os()

    async def do_flush_to_os(self) -> None:
        """Write changed tables."""
        image = self.image
        if image.unusable:
            return
        await image.write_tables()
        await image.free_dropped()

    async def do_flush_to_disk(self) -> None:
        """The data file too, whether or not anybody above says now that it is written to."""
        if self.image.external and not self.data.read_only:
            await self.data.flush()

    # What is where.

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """As the tables say."""
        self.check_usable()
        mapping = self.image.mapping
        while (found := mapping.find(offset, length)) is None:
            await self.load(offset)
        kind, place, count = found
        if kind == layout.INVALID:
            raise self.invalid(offset, place)
        if kind == layout.UNALLOCATED:
            return Extent(count, data=False, zero=False, allocated=False)
        if kind == layout.PACKED:
            return Extent(count, data=True, zero=False, allocated=True)
        zero = kind not in {layout.PLACED, layout.SHARED}
        placed = kind != layout.ZEROES
        return Extent(
            count,
            data=not zero,
            zero=zero,
            allocated=True,
            map_offset=place if placed else None,
            file=self.data if placed else None,
        )

    # At once, on the machine thread.

    def read_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """What the cached tables know, and the nodes below have at hand."""
        image = self.image
        length = total(buffers)
        if offset + length > self.size or image.unusable:
            return False
        image.dropped.at_once = True
        try:
            position = 0
            for _ in range(_AT_ONCE_PIECES):
                found = image.mapping.find(offset + position, length - position)
                if found is None:
                    return False
                kind, place, count = found
                part = buffers if count == length else cut(buffers, position, position + count)
                if kind in {layout.PLACED, layout.SHARED}:
                    if not self.data.read_now(place, part):
                        return False
                elif kind == layout.UNALLOCATED and (backing := self.backing) is not None:
                    if not backing.read_now(offset + position, part):
                        return False
                elif kind in {layout.PACKED, layout.INVALID} or count > _CLEAR_LIMIT:
                    return False
                else:
                    for buffer in part:
                        clear(buffer)
                position += count
                if position >= length:
                    return True
            return False
        finally:
            image.dropped.at_once = False

    def write_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """What goes to clusters that are there already."""
        image = self.image
        length = total(buffers)
        if (
            image.unusable
            or not self.ready
            or not image.knows_guarded
            or not self.writable_now(offset, length)
        ):
            return False
        image.dropped.at_once = True
        image.writes_at_once += 1
        try:
            if image.in_step and self.writer.busy:
                return False
            position = 0
            for _ in range(_AT_ONCE_PIECES):
                found = image.mapping.find(offset + position, length - position)
                if found is None:
                    return False
                kind, place, count = found
                part = buffers if count == length else cut(buffers, position, position + count)
                if (
                    kind != layout.PLACED
                    or (not image.external and image.overlap(place, count) is not None)
                    or not self.data.write_now(place, part)
                ):
                    return False
                position += count
                if position >= length:
                    self.wrote_now(offset + length)
                    return True
            return False
        finally:
            image.writes_at_once += 1
            image.dropped.at_once = False
