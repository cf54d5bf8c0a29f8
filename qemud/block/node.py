"""Block nodes: disks, files and formats as asynchronous nodes of a graph.

A node is one of: a *protocol* (`file`, `nbd`), which reaches data; a *format* (`raw`, `qcow2`), which finds a disk in the data of
its child `file`, and in what its child `backing` has below; a *filter* (`throttle`), which changes how its one child is used.
`qemud.block.graph` makes nodes and connects them; what uses them (devices, jobs, exports) does so through
`qemud.block.backend.BlockBackend`, or through an edge of its own.

    node = await graph.open(options)
    buffer = bytearray(4096)
    await node.readv(0, [memoryview(buffer)])
    await node.writev(4096, [memoryview(buffer)])
    await node.flush()

**Where.** Everything belongs to the event loop, except `read_now` and `write_now`.

**Errors.** A request that fails raises OSError with `errno`, which the guest or a job sees by its policy.  Configuration that
cannot be raises GenericError with QEMU's text.

**How to write a driver.** Subclass `BlockNode` with the class keyword `driver=` and override what applies of `do_open`, `do_close`,
`do_readv`, `do_writev`, `do_write_zeroes`, `do_discard`, `do_flush_to_os`, `do_flush_to_disk`, `do_block_status`, `do_truncate`,
`child_permissions`; add the driver to `qemud.block.drivers`.  The public methods, which the driver does not override, count
requests, check and align them, and keep to the options that every node has.

**Draining.** `async with node.drained():` means that no request is in the node and none will come: whoever uses the node, directly
or through nodes above, has been told to hold back (`User.drain_begin`) and what was on its way is done.  Everything that changes
edges of a node in use does so inside.

**At once.** `read_now` and `write_now` may be called on the machine thread.  They return False when the request cannot be
served without waiting, and whenever in doubt.  `Disk` (in backend.py) calls them holding the backend's `at_once` lock and
only while the backend is not drained; beginning a drain takes that lock.  So during such a call no edge below the
backend changes and no node below it is closed or reopened; requests of the loop on the same node go on, and a driver must read its own
tables in a way that bears this (under the GIL, single lookups in dicts are whole).

Source of rules and texts: QEMU 10.0, block.c and block/io.c.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_options import BlockdevDetectZeroesOptions
from qemud.block import permission
from qemud.block.buffers import ZERO_CHUNK, ZEROES, all_zero, clear, cut, total
from qemud.block.draining import DrainedNode
from qemud.block.driver import Extent, Flags, NodeInfo, unsupported
from qemud.block.edges import Edge, InFlight, Role, User
from qemud.block.ranges import RangeLocks
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud._generated.types.block_options import BlockdevOptions
    from qemud.block.bitmaps import DirtyBitmap
    from qemud.block.graph import Graph

__all__ = [
    "MAX_LENGTH",
    "BlockNode",
    "Edge",
    "Extent",
    "Flags",
    "InFlight",
    "NodeInfo",
    "Role",
    "User",
    "unsupported",
]

MAX_LENGTH = 0x7FFFFFFFFFFFFE00
"""How large a node can be, bytes: QEMU's BDRV_MAX_LENGTH without its alignment."""


class BlockNode(DrainedNode):
    """A node of the graph; see the module."""

    def __init__(self, graph: Graph, options: BlockdevOptions, node_name: str, flags: Flags) -> None:
        self.graph = graph
        self.options: Any = options
        """The typed struct of the driver, as it was given."""
        self.node_name = node_name
        self.flags = flags
        self.base_flags = flags
        """What the flags would be without the node's own options."""
        self.inherits_from: BlockNode | None = None
        """The parent in whose options this node was defined."""
        self.read_only = flags.read_only
        """Whether writing is impossible now; with auto-read-only this can change."""
        self.detect_zeroes = options.detect_zeroes or BlockdevDetectZeroesOptions.OFF
        self.size = 0
        """Bytes."""
        self.request_alignment = 1
        """What offsets and lengths of the driver's requests are multiples of; others are widened here."""
        self.zero_alignment = 1
        """What offsets and lengths of `do_write_zeroes` are multiples of; the rest is written."""
        self.discard_alignment = 1
        """What offsets and lengths of `do_discard` are multiples of; the rest is dropped."""
        self.max_transfer = 0
        """The largest request of the driver, bytes; 0 when there is no limit."""
        self.children: dict[str, BlockNode] = {}
        """By name: `file`, `backing`, `data-file`, `target`.  Changed by `Graph` only."""
        self.edges: dict[str, Edge] = {}
        """The same edges as `children`, with permissions."""
        self.parents: list[Edge] = []
        """The uses of this node."""
        self.monitor_owned = False
        """Made by a client, who is to remove it: it lives without users."""
        self.holds = 0
        """References that are neither edges nor the client's; see `Graph.release`."""
        self.cumulative = (0, permission.ALL)
        """What all users together need, and what all of them share."""
        self.trackers: list[Callable[[int, int], None]] = []
        """Called with offset and length of everything written, zeroed or discarded (dirty bitmaps); in the loop, after the
        fact and before the request's end.  While there are any, `write_now` must not be tried (`writable_now`)."""
        self.dirty_bitmaps: dict[str, DirtyBitmap] = {}
        """Bitmaps that clients know, by name; see `qemud.block.bitmaps`."""
        self.blockers: dict[object, str] = {}
        """Operations that must not begin now, by who says so, with the reason for a client."""
        self.write_threshold = 0
        """A write beyond this offset sends BLOCK_WRITE_THRESHOLD, once; 0: none."""
        self.highest_write = 0
        """Where the highest write so far ended, bytes."""
        self.opened = False
        self._requests = InFlight()
        self._ranges = RangeLocks()
        self._written = 0
        self._flushed = 0

    # Its place in the graph.

    @property
    def file(self) -> BlockNode:
        """The child `file`."""
        return self.children["file"]

    @property
    def backing(self) -> BlockNode | None:
        """The child `backing`, if there is one."""
        return self.children.get("backing")

    def skip_filters(self) -> BlockNode:
        """The first node that is no filter, from this one down."""
        node = self
        while (below := node.filtered) is not None:
            node = below
        return node

    @property
    def cow_child(self) -> BlockNode | None:
        """The next layer down: the backing file of this layer, filters skipped above it."""
        return self.skip_filters().backing

    def set_size(self, size: int) -> None:
        """The node has this size from now on; its users are told."""
        if size != self.size:
            self.size = size
            for bitmap in self.dirty_bitmaps.values():
                bitmap.truncate(size)
            for edge in list(self.parents):
                edge.user.child_resized(edge)

    # Opening and closing, by the graph.

    async def open(self) -> None:
        """Open the children and what the node is about.  GenericError: it cannot be."""
        await self.do_open()
        self.opened = True

    async def close(self) -> None:
        """Write back what there is and let go of everything; the node is not used any more."""
        if self.opened:
            self.opened = False
            try:
                if not self.read_only:
                    await self.flush()
            except OSError:
                pass  # what was to be kept has been flushed by whoever wanted it kept
            finally:
                await self.do_close()
        for name in list(self.edges):
            await self.graph.detach(self.edges[name])

    # Requests.

    async def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers with the bytes from `offset` on; what is beyond the end reads as zeroes."""
        length = total(buffers)
        _check_range(offset, length)
        requests = self._requests
        requests.count += 1
        try:
            if offset + length > self.size:
                inside = max(0, self.size - offset)
                for rest in cut(buffers, inside, length):
                    clear(rest)
                if not inside:
                    return
                # Up to the alignment the driver may be asked beyond the end.
                buffers = cut(buffers, 0, inside)
                length = inside
            align = self.request_alignment
            if align > 1 and (offset % align or length % align):
                head, tail = offset % align, -(offset + length) % align
                buffers = [memoryview(bytearray(head)), *buffers, memoryview(bytearray(tail))]
                offset, length = offset - head, length + head + tail
                buffers = [buffer for buffer in buffers if len(buffer)]
            limit = self.max_transfer
            if limit and length > limit:
                for start in range(0, length, limit):
                    await self.do_readv(offset + start, cut(buffers, start, min(start + limit, length)))
            else:
                await self.do_readv(offset, buffers)
        finally:
            requests.leave()

    async def writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool = False) -> None:
        """Write the buffers from `offset` on; with `fua` they are stable at the end.

        A write beyond the end makes a protocol's node larger.
        """
        length = total(buffers)
        _check_range(offset, length)
        self._check_writable()
        if not length:
            return
        if self.detect_zeroes is not BlockdevDetectZeroesOptions.OFF and all_zero(buffers):
            unmap = self.detect_zeroes is BlockdevDetectZeroesOptions.UNMAP
            await self.write_zeroes(offset, length, unmap=unmap, fua=fua)
            return
        requests = self._requests
        requests.count += 1
        try:
            align = self.request_alignment
            if align > 1:
                async with self._ranges.hold(offset - offset % align, offset + length + align):
                    await self._write_aligned(offset, buffers, length, fua=fua)
            else:
                await self._write_split(offset, buffers, length, fua=fua)
            await self._after_write(offset, length, fua=fua and not self.supports_fua)
        finally:
            requests.leave()

    async def write_compressed(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """As `writev`, compressed; for formats that can.  ENOTSUP where it cannot be."""
        length = total(buffers)
        _check_range(offset, length)
        self._check_writable()
        self._requests.count += 1
        try:
            await self.do_write_compressed(offset, buffers)
            await self._after_write(offset, length, fua=False)
        finally:
            self._requests.leave()

    async def write_zeroes(
        self, offset: int, length: int, *, unmap: bool = False, fua: bool = False, fallback: bool = True
    ) -> None:
        """Make the range read as zeroes; with `unmap` its space may be given back.

        Without `fallback` it raises ENOTSUP where zeroes would have to be written as data.
        """
        _check_range(offset, length)
        self._check_writable()
        if not length:
            return
        unmap = unmap and self.flags.unmap
        self._requests.count += 1
        try:
            align = max(self.zero_alignment, self.request_alignment)
            start, end = -(-offset // align) * align, (offset + length) // align * align
            if start >= end:
                await self._write_zero_data(offset, length, fallback=fallback)
            else:
                if offset < start:
                    await self._write_zero_data(offset, start - offset, fallback=fallback)
                async with self._ranges.hold(start, end, wanted=self.request_alignment > 1):
                    try:
                        await self.do_write_zeroes(start, end - start, unmap=unmap)
                        done = True
                    except OSError as error:
                        if error.errno not in _UNSUPPORTED:
                            raise
                        done = False
                if not done:
                    await self._write_zero_data(start, end - start, fallback=fallback)
                if end < offset + length:
                    await self._write_zero_data(end, offset + length - end, fallback=fallback)
            await self._after_write(offset, length, fua=fua)
        finally:
            self._requests.leave()

    async def discard(self, offset: int, length: int) -> None:
        """The range is not needed any more: it may read as anything.  A hint, kept only with `discard=unmap`."""
        _check_range(offset, length)
        self._check_writable()
        if not self.flags.unmap or not length:
            return
        align = max(self.discard_alignment, self.request_alignment)
        start, end = -(-offset // align) * align, (offset + length) // align * align
        if start >= end:
            return
        self._requests.count += 1
        try:
            # Trackers first: what the driver has thrown away must be known as changed even if it then fails.
            self._written += 1
            for track in self.trackers:
                track(start, end - start)
            async with self._ranges.hold(start, end, wanted=self.request_alignment > 1):
                await self.do_discard(start, end - start)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        finally:
            self._requests.leave()

    async def flush(self) -> None:
        """Make everything written so far stable, here and in all nodes below that are written to."""
        self._requests.count += 1
        try:
            written = self._written
            if self.writable:
                await self.do_flush_to_os()
                if not self.flags.no_flush and self._flushed < written:
                    await self.do_flush_to_disk()
                    self._flushed = max(self._flushed, written)
            for edge in list(self.edges.values()):
                if edge.needs & (permission.WRITE | permission.WRITE_UNCHANGED) and not edge.node.read_only:
                    await edge.node.flush()
        finally:
            self._requests.leave()

    async def block_status(self, offset: int, length: int) -> Extent:
        """What is known of this layer from `offset` on, about `length` bytes at most; never more than is the same.

        `qemud.block.status` looks through the layers below.
        """
        _check_range(offset, length)
        if offset >= self.size or not length:
            return Extent(0, data=False, zero=False, allocated=False)
        length = min(length, self.size - offset)
        self._requests.count += 1
        try:
            align = self.request_alignment
            head = offset % align
            extent = await self.do_block_status(
                offset - head, min(-(-(head + length) // align) * align, self.size - offset + head)
            )
        finally:
            self._requests.leave()
        usable = min(extent.length - head, length)
        mapped = None if extent.map_offset is None else extent.map_offset + head
        return extent._replace(length=usable, map_offset=mapped)

    async def truncate(
        self, size: int, *, preallocation: str = "off", exact: bool = True, zeroes: bool = False
    ) -> None:
        """Make the node this large, bytes; what is new reads as zeroes with `zeroes`.

        `preallocation` is off, metadata, falloc or full.  GenericError with QEMU's text, or OSError.
        """
        if size < 0:
            raise GenericError("Image size cannot be negative")
        if size > MAX_LENGTH:
            raise GenericError("Required too big image size, it must be not greater than 9223372035781033984")
        if self.read_only:
            raise GenericError("Image is read-only")
        self._check_writable()
        self._requests.count += 1
        try:
            async with self._ranges.hold(min(size, self.size), MAX_LENGTH):
                await self.do_truncate(size, preallocation=preallocation, exact=exact, zeroes=zeroes)
                self._written += 1
        finally:
            self._requests.leave()

    # At once, on the machine thread.

    def writable_now(self, offset: int, length: int) -> bool:
        """Whether nothing but the driver is concerned by a write: no trackers, thresholds, detection, growth, alignment."""
        return (
            not self.trackers
            and not self.write_threshold
            and self.writable
            and offset + length <= self.size
            and self.detect_zeroes is BlockdevDetectZeroesOptions.OFF
            and not self._ranges.busy
        )

    def wrote_now(self, end: int) -> None:
        """`write_now` has written up to `end`: for flushes, and for what counts the highest write."""
        self._written += 1
        self.highest_write = max(self.highest_write, end)

    # Inside.

    def _check_writable(self) -> None:
        if self.flags.inactive:
            raise OSError(errno.EPERM, f"Node '{self.node_name}' is inactive")
        if self.read_only:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    async def _write_aligned(
        self, offset: int, buffers: Sequence[memoryview], length: int, *, fua: bool
    ) -> None:
        """Write any range to a driver that takes multiples only: what is around it is read first.  The range is held."""
        align = self.request_alignment
        head, tail = offset % align, -(offset + length) % align
        if not head and not tail:
            await self._write_split(offset, buffers, length, fua=fua)
            return
        before, after = memoryview(bytearray(align)), memoryview(bytearray(align))
        first, last = offset - head, offset + length + tail - align
        if head:
            await self._read_block(first, before)
        if tail:
            await self._read_block(last, after)
        parts = [before[:head], *buffers, after[align - tail :] if tail else after[:0]]
        await self._write_split(first, [part for part in parts if len(part)], head + length + tail, fua=fua)

    async def _read_block(self, offset: int, buffer: memoryview) -> None:
        if offset < self.size:
            await self.do_readv(offset, [buffer])

    async def _write_split(
        self, offset: int, buffers: Sequence[memoryview], length: int, *, fua: bool
    ) -> None:
        limit = self.max_transfer
        if limit and length > limit:
            for start in range(0, length, limit):
                await self.do_writev(offset + start, cut(buffers, start, min(start + limit, length)), fua=fua)
        else:
            await self.do_writev(offset, buffers, fua=fua)

    async def _write_zero_data(self, offset: int, length: int, *, fallback: bool) -> None:
        if not fallback:
            raise unsupported()
        align = self.request_alignment
        for start in range(offset, offset + length, ZERO_CHUNK):
            count = min(ZERO_CHUNK, offset + length - start)
            data = [memoryview(ZEROES)[:count]]
            if align > 1:
                async with self._ranges.hold(start - start % align, start + count + align):
                    await self._write_aligned(start, data, count, fua=False)
            else:
                await self._write_split(start, data, count, fua=False)

    async def _after_write(self, offset: int, length: int, *, fua: bool) -> None:
        self._written += 1
        end = offset + length
        if end > self.size:
            self.set_size(end)
        self.highest_write = max(self.highest_write, end)
        for track in self.trackers:
            track(offset, length)
        if self.write_threshold and end > self.write_threshold:
            self._threshold_exceeded(end)
        if fua:
            await self.flush()

    def _threshold_exceeded(self, end: int) -> None:
        threshold, self.write_threshold = self.write_threshold, 0
        self.graph.write_threshold_exceeded(self, end - threshold, threshold)


_UNSUPPORTED = frozenset((errno.ENOTSUP, errno.EOPNOTSUPP))


def _check_range(offset: int, length: int) -> None:
    if offset < 0 or length < 0 or offset + length > MAX_LENGTH:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
