"""The block node of the format `qcow2`: how it is opened, closed and reopened, and what is told of it.

See the package for the rest.

Source of rules and texts: QEMU 10.0, block/qcow2.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_options import BlockdevDriver
from qemud.block.bitmaps import drop_bitmap
from qemud.block.driver import unsupported
from qemud.block.edges import Role
from qemud.block.filename import absolute_name
from qemud.block.graph import inherit
from qemud.block.node import NodeInfo
from qemud.block.qcow2 import layout, subclusters, vmstate
from qemud.block.qcow2.bitmaps import (
    check_new,
    load_bitmaps,
    mark_in_use,
    read_directory,
    remove_bitmap,
    store_bitmaps,
)
from qemud.block.qcow2.external import check_present, check_unchanged, open_data_file
from qemud.block.qcow2.image import Image
from qemud.block.qcow2.layout import INACTIVE_L2
from qemud.block.qcow2.options import Settings
from qemud.block.qcow2.requests import Qcow2Requests
from qemud.block.qcow2.snapshots import (
    apply,
    check_l1,
    create,
    delete,
    find,
    find_tables,
    read_snapshots,
)
from qemud.block.qcow2.write import Writer
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.fields import UNSET

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.block.driver import StateReader, StateWriter
    from qemud.block.graph import Graph
    from qemud.block.node import Flags
    from qemud.block.qcow2.snapshots import Snapshot

_SECTOR = 512


class Qcow2Node(Qcow2Requests, driver=BlockdevDriver.QCOW2):
    """See the module."""

    supports_backing = True
    has_snapshots = True
    _timer: asyncio.TimerHandle | None = None

    makes_images = True

    @classmethod
    async def create(cls, graph: Graph, options: Any) -> None:
        """Make a new image."""
        from qemud.block.qcow2.create import create_image

        await create_image(graph, options)

    # Opening and closing.

    async def do_open(self) -> None:
        """Open the file, read the header and what it leads to, and open the backing file."""
        try:
            await self._open()
        except BaseException:
            await self._until_marked()
            raise

    async def _open(self) -> None:
        await self.graph.open_child(self, "file", self.options.file, self.file_role)
        await self._read_image()
        await open_data_file(self, self.options.data_file)
        await self._open_backing(self.options.backing)
        await self._read_rest()
        self._start_timer()

    async def _read_image(self) -> None:
        """Read what the image is.  GenericError."""
        image = await Image.open(self, writable=not self.read_only)
        self.image = image
        image.read_only = not self.writable
        image.on_corruption = self._tell_corruption
        header = image.header
        self.set_size(header.size // _SECTOR * _SECTOR)
        self.discard_alignment = image.cluster_size
        self.zero_alignment = image.cluster_size >> (subclusters.BITS if header.extended else 0)
        self.backing_filename = header.backing_name
        self.backing_format = header.backing_format
        self._adopt(Settings(self.options, header, self.flags))
        self.writer = Writer(image, self.read_range)
        self.getting_ready = asyncio.Lock()

    async def _read_rest(self) -> None:
        """Read what else is in it, and make it ready to be written to.  GenericError."""
        await read_snapshots(self.image)
        if self.inactive:
            # Another process may be writing; bitmaps are read when it has done with it.
            with contextlib.suppress(GenericError):
                self.image.bitmaps = await read_directory(self.image, self.size)
            return
        try:
            await load_bitmaps(self)
        except OSError as error:
            raise GenericError(f"Can't update bitmap directory: {error.strerror}") from None
        if not self.read_only:
            await self.get_ready_to_write()

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

    async def get_ready_to_write(self) -> None:
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
        self.ready = True

    def _adopt(self, settings: Settings) -> None:
        self.settings = settings
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
        if self.settings.clean_interval:
            self._timer = asyncio.get_running_loop().call_later(self.settings.clean_interval, self._clean)

    def _clean(self) -> None:
        """Give back memory of tables that nobody needs."""
        self.image.mapping.drop_unused()
        self.image.refcounts.drop_unused()
        self._timer = asyncio.get_running_loop().call_later(self.settings.clean_interval, self._clean)

    async def do_close(self) -> None:
        """Write back what is in memory."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.ready and not self.image.unusable:
            await self._put_away()
        await self._until_marked()

    # Handing it over.

    async def do_inactivate(self) -> None:
        """Write everything, and forget the bitmaps, which are in the image then."""
        self.check_usable()
        kept = [each for each in self.dirty_bitmaps.values() if each.persistent]
        if any(each.busy for each in kept):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if self.ready:
            try:
                await store_bitmaps(self)
            except (GenericError, OSError) as error:
                sys.stderr.write(
                    f"Cannot store persistent bitmaps for inactivation of node '{self.node_name}': {error}\n"
                )
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
            try:
                await self.image.settle()
                await self.image.flush_file()
                await self.do_flush_to_disk()
            except OSError:
                # The image says that its bitmaps are right, which they will not be for long.
                self.ready = False
                with contextlib.suppress(OSError):
                    if self.image.bitmaps:
                        await mark_in_use(self.image)
                    self.ready = True
                raise
            self.ready = False
        for bitmap in kept:
            drop_bitmap(self, bitmap)
        self.image.read_only = True

    async def do_activate(self) -> None:
        """Read all of it again: the other process may have changed everything."""
        before = self.image, self.writer, self.settings, self.size
        names = self.backing_filename, self.backing_format
        bitmaps = set(self.dirty_bitmaps.values())
        try:
            await self._read_image()
            check_present(self)
            await self._read_rest()
        except GenericError as error:
            for bitmap in [each for each in self.dirty_bitmaps.values() if each not in bitmaps]:
                drop_bitmap(self, bitmap)
            self.image, self.writer, self.settings, size = before
            self.backing_filename, self.backing_format = names
            self.set_size(size)
            self.ready = False
            raise GenericError(f"Could not reopen qcow2 layer: {error}") from None

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
        check_unchanged(self, options.data_file)
        settings = Settings(options, image.header, flags)
        if not flags.read_only and image.header.incompatible & layout.CORRUPT:
            raise GenericError("qcow2: Image is corrupt; cannot be opened read/write")
        if self.ready:
            try:
                if flags.read_only:
                    await store_bitmaps(self)
                await image.settle()
                await image.flush_file()
            except OSError as error:
                raise GenericError(f"Failed to flush the L2 table cache: {error.strerror}") from None

        def commit() -> None:
            image.read_only = not self.writable
            self.ready = self.ready and not flags.read_only
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

    async def _until_marked(self) -> None:
        """The image says that it is corrupt, if it was found to be so just now."""
        if self._marking is not None:
            await self._marking

    async def _mark_corrupt(self) -> None:
        if self.image.header.version >= 3:
            try:
                await self.image.set_incompatible(layout.CORRUPT, on=True)
            except OSError:
                return  # there is nothing more that could be done

    def _has_drive(self) -> bool:
        return self.graph.device_or_node_name(self) != self.node_name

    async def do_truncate(self, size: int, *, preallocation: str, exact: bool, zeroes: bool) -> None:
        """Larger or smaller tables; what is new reads as zeroes."""
        del zeroes
        from qemud.block.qcow2.resize import resize

        await self.check_writable_now()
        await resize(self, size, preallocation, exact=exact)
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
        """The snapshots inside; there can be none where data is in a file of its own."""
        from qemud.block.qcow2.info import snapshot_list

        if self.image.external:
            return None
        return snapshot_list(self.image)

    async def take_snapshot(
        self, name: str, date_ns: int, vm_clock_ns: int, state: StateWriter | None = None
    ) -> Any:
        """Take a snapshot inside."""
        from qemud.block.qcow2.info import snapshot_info

        if self.image.external:
            raise unsupported()
        await self.check_writable_now()
        assert state is None or isinstance(state, vmstate.StateWriter)
        made = await create(
            self.image, name, size=self.size, date_ns=date_ns, vm_clock_ns=vm_clock_ns, state=state
        )
        return snapshot_info(made)

    async def check_snapshot(self, name: str) -> None:
        """Look at its table."""
        snapshot = self._snapshot(name)
        check_l1(self.image, snapshot)
        size = snapshot.disk_size
        if size != self.size and self.image.header.version < 3:
            raise GenericError("Can't resize a v2 image which has snapshots")
        if size % _SECTOR or vmstate.first_table(self.image, size) * 8 > layout.MAX_L1_BYTES:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    async def apply_snapshot(self, name: str) -> None:
        """Give the disk the size of the snapshot, and its tables."""
        await self.check_writable_now()
        snapshot = self._snapshot(name)
        check_l1(self.image, snapshot)
        if snapshot.disk_size != self.size:
            await self.truncate(snapshot.disk_size)
        await apply(self.image, snapshot)

    def _snapshot(self, name: str) -> Snapshot:
        if self.image.external:
            raise unsupported()
        snapshot = find(self.image, None, name)
        if snapshot is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return snapshot

    async def state_writer(self) -> StateWriter:
        """Into clusters of its own."""
        await self.check_writable_now()
        return vmstate.StateWriter(self.image)

    async def state_reader(self, name: str) -> StateReader:
        """By the snapshot's table."""
        self.check_usable()
        snapshot = self._snapshot(name)
        check_l1(self.image, snapshot)
        return await vmstate.StateReader.open(self.image, snapshot)

    async def delete_snapshot(self, identifier: str, name: str) -> None:
        """Remove a snapshot from inside."""
        if self.image.external:
            raise unsupported()
        if self.read_only:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        await self.check_writable_now()
        snapshot = find(self.image, identifier, name)
        if snapshot is None:
            raise GenericError("Can't find the snapshot")
        await delete(self.image, snapshot)

    async def change_backing_file(self, name: str | None, format_name: str | None) -> None:
        """Write another name into the header."""
        await self.check_writable_now()
        image = self.image
        header = image.header
        raw = (name or "").encode()
        # The data file alone would not be what the guest sees any more.
        if len(raw) > layout.MAX_BACKING_NAME or (raw and image.in_step):
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
        await remove_bitmap(self, name)

    # Names.

    def open_options(self) -> dict[str, Any]:
        """As in the base; the backing file only if it is not the one that the image names."""
        options: dict[str, Any] = {"driver": self.driver.value, "file": self.file.open_options()}
        if self.image.external:
            options["data-file"] = self.data.open_options()
        own = None if self.backing_filename is None else absolute_name(self, self.backing_filename)
        backing = self.backing
        if own != (None if backing is None else backing.filename):
            options = {"backing": None if backing is None else backing.open_options(), **options}
        return options
