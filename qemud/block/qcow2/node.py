"""The block node of the format `qcow2`.  See the package for the rest.

Requests look up where their clusters are, and go to the file with what is there in one piece.  Writes to clusters that are
nobody else's go straight to their place; all others take the way of `write`, where the tables change.

**At once.**  `read_now` and `write_now` serve what the cached tables know and the nodes below can do without waiting.  The
loop may change tables during that: what was found stays what it was, since clusters are freed only while no such call is under way.

Source of rules and texts: QEMU 10.0, block/qcow2.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_options import BlockdevDriver
from qemud.block.buffers import clear, cut, total
from qemud.block.driver import unsupported
from qemud.block.edges import Role
from qemud.block.filename import absolute_name
from qemud.block.graph import inherit
from qemud.block.node import BlockNode, Extent, NodeInfo
from qemud.block.qcow2 import layout
from qemud.block.qcow2.bitmaps import (
    check_new,
    load_bitmaps,
    mark_in_use,
    remove_bitmap,
    store_bitmaps,
)
from qemud.block.qcow2.image import INACTIVE_L2, Image
from qemud.block.qcow2.layout import sharp
from qemud.block.qcow2.options import Settings
from qemud.block.qcow2.snapshots import create, delete, find, find_tables, read_snapshots
from qemud.block.qcow2.write import Writer
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.fields import UNSET

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from qemud.block.graph import Graph
    from qemud.block.node import Flags

_SECTOR = 512
_AT_ONCE_PIECES = 32
"""Requests in more pieces than this are not served at once."""
_CLEAR_LIMIT = 1 << 20


class Qcow2Node(BlockNode, driver=BlockdevDriver.QCOW2):
    """See the module."""

    supports_backing = True
    has_snapshots = True
    image: Image
    writer: Writer
    _settings: Settings
    _timer: asyncio.TimerHandle | None = None
    _ready = False
    """Whether everything is as it must be while the image is written to."""
    _getting_ready: asyncio.Lock

    @classmethod
    async def create(cls, graph: Graph, options: Any) -> None:
        """Make a new image."""
        from qemud.block.qcow2.create import create_image

        await create_image(graph, options)

    # Opening and closing.

    async def do_open(self) -> None:
        """Open the file, read the header and what it leads to, and open the backing file."""
        options = self.options
        await self.graph.open_child(self, "file", options.file, self.file_role)
        image = await Image.open(self, writable=not self.read_only)
        self.image = image
        image.read_only = self.read_only
        image.on_corruption = self._tell_corruption
        header = image.header
        self.size = header.size // _SECTOR * _SECTOR
        self.zero_alignment = self.discard_alignment = image.cluster_size
        self.backing_filename = header.backing_name
        self.backing_format = header.backing_format
        self._adopt(Settings(options, header, self.flags))
        self.writer = Writer(image, self.read_range)
        await self._open_backing(options.backing)
        await read_snapshots(image)
        try:
            await load_bitmaps(self)
        except OSError as error:
            raise GenericError(f"Can't update bitmap directory: {error.strerror}") from None
        self._getting_ready = asyncio.Lock()
        if not self.read_only:
            await self._get_ready_to_write()
        self._start_timer()

    async def _open_backing(self, given: Any) -> None:
        if given is UNSET:
            name = self.image.header.backing_name
            if not name or self.flags.no_backing:
                return
            from qemud.block.image import open_backing

            node = await open_backing(
                self.graph, self, name, self.backing_format, flags=inherit(self.flags, Role.COW)
            )
            node.inherits_from = self
            try:
                self.graph.add_child(self, "backing", node, self.backing_role)
            finally:
                await self.graph.release(node)
        elif given is not None and given != "":
            try:
                await self.graph.open_child(self, "backing", given, self.backing_role)
            except GenericError as error:
                raise GenericError(f"Could not open backing file: {error}") from None

    async def _get_ready_to_write(self) -> None:
        """Put right what the last user has left behind.  GenericError."""
        image = self.image
        header = image.header
        try:
            if INACTIVE_L2 in image.guarded:
                await find_tables(image)
            if image.bitmaps:
                await mark_in_use(image)
            if header.autoclear & ~layout.SUPPORTED_AUTOCLEAR or header.bitmaps_outdated:
                header.autoclear &= layout.SUPPORTED_AUTOCLEAR
                await image.write_header()
            if header.incompatible & layout.DIRTY:
                from qemud.block.qcow2.check import repair

                await repair(image)
        except OSError as error:
            raise GenericError(f"Could not repair dirty image: {error.strerror}") from None
        self._ready = True

    async def _check_writable_now(self) -> None:
        """Before the first change since the node has become writable.  OSError."""
        self._check_usable()
        if not self._ready:
            async with self._getting_ready:
                if not self._ready:
                    try:
                        await self._get_ready_to_write()
                    except GenericError as error:
                        sys.stderr.write(f"{error}\n")
                        raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    def _adopt(self, settings: Settings) -> None:
        self._settings = settings
        image = self.image
        image.mapping.configure(settings.entry_size, settings.l2_cache_size)
        image.refcounts.limit = settings.refcount_blocks
        image.lazy = settings.lazy
        image.guarded = settings.guarded
        image.forget_guarded()
        image.discards = settings.discards

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._settings.clean_interval:
            self._timer = asyncio.get_running_loop().call_later(self._settings.clean_interval, self._clean)

    def _clean(self) -> None:
        """Give back memory of tables that nobody needs."""
        self.image.mapping.drop_unused()
        self.image.refcounts.drop_unused()
        self._timer = asyncio.get_running_loop().call_later(self._settings.clean_interval, self._clean)

    async def do_close(self) -> None:
        """Write back what is in memory."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._marking is not None:
            await self._marking
        if self._ready and not self.image.unusable:
            await self._put_away()

    async def _put_away(self) -> None:
        """Write everything that is to be found when the image is opened again; what cannot be is told only."""
        try:
            await store_bitmaps(self)
        except (GenericError, OSError) as error:
            sys.stderr.write(
                f"Lost persistent bitmaps during inactivation of node '{self.node_name}': {error}\n"
            )
        try:
            await self.image.settle()
        except OSError as error:
            sys.stderr.write(f"Failed to flush the L2 block cache: {error.strerror}\n")

    async def prepare_reopen(self, options: Any, flags: Flags) -> Callable[[], None] | None:
        """Other settings of caches, discards and guards, or another way to use it."""
        image = self.image
        settings = Settings(options, image.header, flags)
        if not flags.read_only and image.header.incompatible & layout.CORRUPT:
            raise GenericError("qcow2: Image is corrupt; cannot be opened read/write")
        if self._ready:
            try:
                if flags.read_only:
                    await store_bitmaps(self)
                await image.settle()
                await image.flush_file()
            except OSError as error:
                raise GenericError(f"Failed to flush the L2 table cache: {error.strerror}") from None

        def commit() -> None:
            image.read_only = flags.read_only
            self._ready = self._ready and not flags.read_only
            for bitmap in self.dirty_bitmaps.values():
                if bitmap.persistent:
                    bitmap.read_only = flags.read_only
            self._adopt(settings)
            self._start_timer()

        return commit

    def _tell_corruption(self, text: str, fatal: bool, offset: int, size: int) -> None:
        from qemud._generated.events import block_core as events

        events.block_image_corrupted(
            self.graph.emit,
            device=self.graph.device_or_node_name(self) if self._has_drive() else "",
            node_name=self.node_name,
            msg=text,
            offset=offset if offset >= 0 else None,
            size=size if size >= 0 else None,
            fatal=fatal,
        )
        if fatal:
            task = asyncio.get_running_loop().create_task(self._mark_corrupt())
            self._marking = task

    _marking: asyncio.Task[None] | None = None

    async def _mark_corrupt(self) -> None:
        if self.image.header.version >= 3:
            try:
                await self.image.set_incompatible(layout.CORRUPT, on=True)
            except OSError:
                return  # there is nothing more that could be done

    def _has_drive(self) -> bool:
        return self.graph.device_or_node_name(self) != self.node_name

    def _check_usable(self) -> None:
        if self.image.unusable:
            raise OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM))

    # Reading.

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Look up, and read from where it is."""
        self._check_usable()
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
                    work.append(self.file.readv(place, part))
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
        if len(work) == 1:
            await work[0]
        elif work:
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
            (offset >> image.cluster_bits) & (image.cluster_size // 8 - 1),
        )
        where = f"(L2 offset: {sharp(table)}, L2 index: {sharp(index)})"
        if image.header.version < 3 and entry & layout.ZERO:
            return image.corrupt(f"Zero cluster entry found in pre-v3 image {where}")
        return image.corrupt(f"Cluster allocation offset {sharp(entry & layout.OFFSET)} unaligned {where}")

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
        await self._check_writable_now()
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
                if kind == layout.PLACED:
                    image.guard(place, count)
                    await self.file.writev(place, part)
                    position += count
                elif kind == layout.INVALID:
                    raise self.invalid(offset + position, place)
                else:
                    position += await self.writer.write(offset + position, part, count)
        finally:
            image.leave(ticket)
        if image.too_many_dropped:
            await self.do_flush_to_os()

    async def do_write_compressed(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Whole clusters, or up to the end of the disk."""
        await self._check_writable_now()
        image = self.image
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
        await self._check_writable_now()
        if self.image.header.version < 3:
            raise unsupported()
        unmap = unmap and not self._settings.discard_no_unref
        await self._by_tables(offset, length, lambda at, left: self.writer.zero(at, left, unmap=unmap))

    async def do_discard(self, offset: int, length: int) -> None:
        """Reads as zeroes then, and takes no place."""
        await self._check_writable_now()
        if self.image.header.version < 3 and self.backing is not None:
            raise unsupported()
        await self._by_tables(
            offset,
            length,
            lambda at, left: self.writer.discard(at, left, keep=self._settings.discard_no_unref),
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
        if image.too_many_dropped:
            await self.do_flush_to_os()

    async def do_flush_to_os(self) -> None:
        """Write changed tables."""
        image = self.image
        if image.unusable:
            return
        await image.write_tables()
        await image.free_dropped()

    # What is where.

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """As the tables say."""
        self._check_usable()
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
            file=self.file if placed else None,
        )

    async def do_truncate(self, size: int, *, preallocation: str, exact: bool, zeroes: bool) -> None:
        """Larger or smaller tables; what is new reads as zeroes."""
        del exact, zeroes
        from qemud.block.qcow2.resize import resize

        await self._check_writable_now()
        await resize(self, size, preallocation)
        self.set_size(size)

    async def get_info(self) -> NodeInfo:
        """Cluster size, and whether it was closed properly."""
        header = self.image.header
        return NodeInfo(
            cluster_size=self.image.cluster_size, is_dirty=bool(header.incompatible & layout.DIRTY)
        )

    async def image_specific(self) -> Any:
        """Version, features and bitmaps."""
        from qemud.block.qcow2.info import specific

        return specific(self.image)

    async def snapshots(self) -> list[Any] | None:
        """The snapshots inside."""
        from qemud.block.qcow2.info import snapshot_list

        return snapshot_list(self.image)

    async def take_snapshot(self, name: str, date_ns: int, vm_clock_ns: int) -> Any:
        """Take a snapshot inside."""
        from qemud.block.qcow2.info import snapshot_info

        await self._check_writable_now()
        made = await create(self.image, name, size=self.size, date_ns=date_ns, vm_clock_ns=vm_clock_ns)
        return snapshot_info(made)

    async def delete_snapshot(self, identifier: str, name: str) -> None:
        """Remove a snapshot from inside."""
        if self.read_only:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        await self._check_writable_now()
        snapshot = find(self.image, identifier, name)
        if snapshot is None:
            raise GenericError("Can't find the snapshot")
        await delete(self.image, snapshot)

    async def change_backing_file(self, name: str | None, format_name: str | None) -> None:
        """Write another name into the header."""
        await self._check_writable_now()
        image = self.image
        header = image.header
        raw = (name or "").encode()
        if len(raw) > layout.MAX_BACKING_NAME:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        before = header.backing_raw, header.format_raw
        header.backing_raw = raw or None
        header.format_raw = format_name.encode() if format_name else None
        try:
            await image.write_header()
        except OSError:
            header.backing_raw, header.format_raw = before
            raise
        self.backing_filename, self.backing_format = header.backing_name, header.backing_format

    def check_new_bitmap(self, name: str, granularity: int) -> None:
        """Raise GenericError when a bitmap could not be kept in the image."""
        check_new(self, name, granularity)

    async def remove_stored_bitmap(self, name: str) -> None:
        """Remove a bitmap from the image, if it is there.  OSError."""
        await self._check_writable_now()
        await remove_bitmap(self, name)

    # Names.

    def open_options(self) -> dict[str, Any]:
        """As in the base; the backing file only if it is not the one that the image names."""
        options: dict[str, Any] = {"driver": self.driver.value, "file": self.file.open_options()}
        own = None if self.backing_filename is None else absolute_name(self, self.backing_filename)
        backing = self.backing
        if own != (None if backing is None else backing.filename):
            options = {"backing": None if backing is None else backing.open_options(), **options}
        return options

    # At once, on the machine thread.

    def read_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """What the cached tables know, and the nodes below have at hand."""
        image = self.image
        length = total(buffers)
        if offset + length > self.size or image.unusable:
            return False
        image.at_once = True
        try:
            position = 0
            for _ in range(_AT_ONCE_PIECES):
                found = image.mapping.find(offset + position, length - position)
                if found is None:
                    return False
                kind, place, count = found
                part = buffers if count == length else cut(buffers, position, position + count)
                if kind in {layout.PLACED, layout.SHARED}:
                    if not self.file.read_now(place, part):
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
            image.at_once = False

    def write_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """What goes to clusters that are there already."""
        image = self.image
        length = total(buffers)
        if (
            image.unusable
            or not self._ready
            or not image.knows_guarded
            or not self.writable_now(offset, length)
        ):
            return False
        image.at_once = True
        try:
            position = 0
            for _ in range(_AT_ONCE_PIECES):
                found = image.mapping.find(offset + position, length - position)
                if found is None:
                    return False
                kind, place, count = found
                part = buffers if count == length else cut(buffers, position, position + count)
                if (
                    kind != layout.PLACED
                    or image.overlap(place, count) is not None
                    or not self.file.write_now(place, part)
                ):
                    return False
                position += count
                if position >= length:
                    self.wrote_now(offset + length)
                    return True
            return False
        finally:
            image.at_once = False


async def together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do several things at the same time; when one fails, still wait for the others, then raise its error."""
    for error in await asyncio.gather(*work, return_exceptions=True):
        if error is not None:
            raise error
