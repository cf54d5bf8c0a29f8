"""Copy before write: what is about to be overwritten is copied first, so that the copy has a disk as it was.

`Copier` knows what is still to be copied, and copies it, for the guest's writes and for a backup; `CopyBeforeWriteNode` is the filter through
which the guest writes.  No piece is copied twice at a time: who comes second waits.

Source of rules: QEMU 10.0, block/copy-before-write.c and block/block-copy.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud.block import permission
from qemud.block.bitmaps import DirtyBitmap
from qemud.block.buffers import total
from qemud.block.edges import Role
from qemud.block.jobs import chain
from qemud.block.jobs.copying import CHUNK, LARGEST_STRIDE, CopyError
from qemud.block.jobs.filters import FilterOptions, JobFilter, driver_name
from qemud.block.ranges import RangeLocks
from qemud.block.shape import InactiveChildError
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud.block.edges import Edge
    from qemud.block.node import BlockNode

SMALLEST_CLUSTER = 65536


class How(Protocol):
    """What a backup wants."""

    compress: bool
    discard_source: bool


async def cluster_size_for(target: BlockNode, smallest: int = 0) -> int:
    """In what units to copy, bytes: whole clusters of the target, so that it does not read what it has not got."""
    known = await target.get_info()
    return max(SMALLEST_CLUSTER, smallest, 0 if known is None else known.cluster_size)


class Copier:
    """See the module."""

    def __init__(self, source: BlockNode, target: BlockNode, cluster: int, *, compress: bool = False) -> None:
        self.source = source
        self.target = target
        self.cluster = cluster
        self.compress = compress
        self.discard_source = False
        self.todo = DirtyBitmap(source.size, cluster)
        self.todo.set(0, source.size)
        self.copied: Callable[[int], None] = lambda _length: None
        self.stride = 0
        """How large a step is worth to be tried next, bytes."""
        self._ranges = RangeLocks()

    async def before_write(self, offset: int, length: int) -> None:
        """Nobody needs what is at a range any more when this returns.  OSError: it could not be copied."""
        unit = self.cluster
        start = offset // unit * unit
        end = min(-(-(offset + length) // unit) * unit, self.source.size)
        while True:
            found = self.todo.next_extent(start, end, limit=CHUNK // unit * unit or unit)
            if found is None:
                break
            self.todo.reset(*found)
            try:
                await self.copy(*found, memoryview(bytearray(found[1])))
            except CopyError as error:
                raise error.error from None
        # What others are copying just now.
        async with self._ranges.hold(start, end, wanted=self._ranges.busy):
            again = self.todo.next_dirty(start, end) is not None
        if again:
            # They could not.
            await self.before_write(offset, length)

    async def copy(self, offset: int, length: int, view: memoryview) -> None:
        """Copy a range that was dirty and is not any more, by a buffer of whole clusters.  CopyError, and then the rest is dirty again."""
        empty = True
        position, end = offset, offset + length
        source, target = self.source, self.target
        read = True
        try:
            async with self._ranges.hold(offset, end):
                while position < end:
                    read = True
                    extent = await chain.status_above(source, None, position, end - position)
                    count = self._whole(extent.length, end - position)
                    if extent.zero and count <= extent.length:
                        read = False
                        await target.write_zeroes(position, count, unmap=True)
                    else:
                        empty = False
                        count = min(count, len(view))
                        piece = [view[:count]]
                        await source.readv(position, piece)
                        read = False
                        if self.compress:
                            await self._write_compressed(position, view[:count])
                        else:
                            await target.writev(position, piece)
                    if self.discard_source:
                        await source.discard(position, count)
                    position += count
                    self.copied(-(-count // self.cluster) * self.cluster)
        except OSError as error:
            self.todo.set(position, end - position)
            raise CopyError(error, position, read=read) from None
        # Where there is nothing but zeroes, larger steps are taken.
        self.stride = min(2 * max(self.stride, len(view)), LARGEST_STRIDE) if empty else 0

    def _whole(self, length: int, wanted: int) -> int:
        """So much of a range as is whole clusters; at least one of them."""
        if length >= wanted:
            return wanted
        return length // self.cluster * self.cluster or min(self.cluster, wanted)

    async def _write_compressed(self, offset: int, view: memoryview) -> None:
        """A cluster at a time, as formats take it."""
        unit = self.cluster
        for start in range(0, len(view), unit):
            await self.target.write_compressed(offset + start, [view[start : start + unit]])


class CopyBeforeWriteNode(JobFilter):
    """See the module."""

    driver = driver_name("copy-before-write")
    copier: Copier
    stopped = False

    @classmethod
    def make(
        cls, source: BlockNode, target: BlockNode, name: str | None, cluster: int, how: How
    ) -> CopyBeforeWriteNode:
        """A filter that nobody uses yet; held.  GenericError."""
        graph = source.graph
        try:
            node = graph.make_filter(cls, source, name, FilterOptions())
        except InactiveChildError as error:
            raise GenericError(f"Could not create node: {error}") from None
        assert isinstance(node, cls)
        try:
            node.copier = Copier(source, target, cluster, compress=how.compress)
            node.copier.discard_source = how.discard_source
            graph.add_child(node, "target", target, Role.DATA)
        except BaseException as error:
            node.implicit = True
            graph.nodes.pop(node.node_name)
            graph.cut(node.edges["file"])
            if isinstance(error, InactiveChildError):
                raise GenericError(f"Could not create node: {error}") from None
            raise
        return node

    def child_permissions(self, edge: Edge, needs: int, shares: int) -> tuple[int, int]:
        """As in the base for the source, which is read besides; the target is written to."""
        if self.stopped:
            return 0, permission.ALL
        if edge.name == "target":
            return permission.WRITE, permission.ALL & ~permission.RESIZE
        needs, shares = super().child_permissions(edge, needs, shares)
        if self.parents:
            if needs & permission.WRITE:
                needs |= permission.CONSISTENT_READ
            shares &= ~(permission.WRITE | permission.RESIZE)
        return needs, shares

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """As in the base."""
        await self._before(offset, total(buffers))
        await super().do_writev(offset, buffers, fua=fua)

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """As in the base."""
        await self._before(offset, length)
        await super().do_write_zeroes(offset, length, unmap=unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        """As in the base."""
        await self._before(offset, length)
        await super().do_discard(offset, length)

    async def _before(self, offset: int, length: int) -> None:
        await self.copier.before_write(offset, length)
