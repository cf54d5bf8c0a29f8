"""Filters: nodes that change how the one node below them is used.

`FilterNode` hands everything on, and is what filters begin with.  `ThrottleNode` keeps requests within the limits of a group;
`CopyOnReadNode` writes what was read from a backing file into the image above it, so that it is read from there the next time.

Source of rules and texts: QEMU 10.0, block/throttle.c and block/copy-on-read.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_options import BlockdevDriver
from qemud.block import permission
from qemud.block.buffers import total
from qemud.block.node import BlockNode, Edge, Extent, Role
from qemud.block.ranges import RangeLocks
from qemud.block.throttle import Limiter, find_group
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud.block.node import Flags


class FilterNode(BlockNode):
    """Hands everything on."""

    is_filter = True
    file_role = Role.FILTERED | Role.PRIMARY

    async def do_open(self) -> None:
        """Open the node below, and be as large."""
        await self.graph.open_child(self, "file", self.options.file, self.file_role)
        below = self.file
        self.request_alignment = below.request_alignment
        self.supports_fua = below.supports_fua
        self.size = below.size

    async def prepare_reopen(self, options: Any, flags: Flags) -> Callable[[], None] | None:
        """The flags may change, and the node below."""
        del options, flags
        return None

    def child_resized(self, edge: Edge) -> None:
        """Be as large as the node below."""
        if edge.role & Role.FILTERED:
            self.set_size(edge.node.size)

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Hand it on."""
        await self.file.readv(offset, buffers)

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """Hand it on."""
        await self.file.writev(offset, buffers, fua=fua)

    async def do_write_compressed(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Hand it on."""
        await self.file.write_compressed(offset, buffers)

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Hand it on."""
        await self.file.write_zeroes(offset, length, unmap=unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        """Hand it on."""
        await self.file.discard(offset, length)

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """What is below."""
        return await self.file.block_status(offset, length)

    async def do_truncate(self, size: int, *, preallocation: str, exact: bool, zeroes: bool) -> None:
        """Hand it on."""
        await self.file.truncate(size, preallocation=preallocation, exact=exact, zeroes=zeroes)
        self.set_size(self.file.size)


class ThrottleNode(FilterNode, driver=BlockdevDriver.THROTTLE):
    """The filter `throttle`."""

    _limiter: Limiter | None = None

    async def do_open(self) -> None:
        """Open the node below, and join the group, which must be there."""
        await super().do_open()
        self._limiter = _join(self.options.throttle_group)

    async def do_close(self) -> None:
        """Leave the group."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.close()

    async def prepare_reopen(self, options: Any, flags: Flags) -> Callable[[], None] | None:
        """Perhaps another group."""
        del flags
        assert self._limiter is not None
        if options.throttle_group == self._limiter.group.name:
            return None
        joined = self._joined = _join(options.throttle_group)

        def commit() -> None:
            before, self._limiter, self._joined = self._limiter, joined, None
            if self.quiesced:
                joined.suspend()
            if before is not None:
                before.close()

        return commit

    _joined: Limiter | None = None

    async def abort_reopen(self) -> None:
        """Leave the other group."""
        joined, self._joined = self._joined, None
        if joined is not None:
            joined.close()

    def on_drain(self, *, begin: bool) -> None:
        """Let go of everything that waits."""
        if self._limiter is not None:
            if begin:
                self._limiter.suspend()
            else:
                self._limiter.resume()

    async def _wait(self, length: int, *, write: bool) -> None:
        if self._limiter is not None:
            await self._limiter.wait(length, write=write)

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """When the limits allow it."""
        await self._wait(total(buffers), write=False)
        await super().do_readv(offset, buffers)

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """When the limits allow it."""
        await self._wait(total(buffers), write=True)
        await super().do_writev(offset, buffers, fua=fua)

    async def do_write_compressed(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """When the limits allow it."""
        await self._wait(total(buffers), write=True)
        await super().do_write_compressed(offset, buffers)

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """When the limits allow it."""
        await self._wait(length, write=True)
        await super().do_write_zeroes(offset, length, unmap=unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        """When the limits allow it."""
        await self._wait(length, write=True)
        await super().do_discard(offset, length)

    def open_options(self) -> dict[str, Any]:
        """As in the base, with the group."""
        return {
            "driver": "throttle",
            "throttle-group": self.options.throttle_group,
            "file": self.file.open_options(),
        }


def _join(name: str) -> Limiter:
    group = find_group(name)
    if group is None:
        raise GenericError(f"Throttle group '{name}' does not exist")
    return Limiter(group)


class CopyOnReadNode(FilterNode, driver=BlockdevDriver.COPY_ON_READ):
    """The filter `copy-on-read`."""

    _bottom: BlockNode | None = None

    async def do_open(self) -> None:
        """Find the lowest image whose data is copied, if one is named."""
        await super().do_open()
        self._copying = RangeLocks()
        name = self.options.bottom
        if name is not None:
            bottom = self.graph.find_node(name)
            if bottom is None:
                raise GenericError(f"Bottom node '{name}' not found")
            if bottom.is_filter:
                raise GenericError(f"Bottom node '{name}' is a filter")
            bottom.holds += 1
            self._bottom = bottom

    async def do_close(self) -> None:
        """Let go of that."""
        bottom, self._bottom = self._bottom, None
        if bottom is not None:
            await self.graph.release(bottom)

    def child_permissions(self, edge: Edge, needs: int, shares: int) -> tuple[int, int]:
        """As in the base; what is copied is written without changing anything that is seen."""
        needs, shares = super().child_permissions(edge, needs, shares)
        copied = 0 if self.inactive else permission.WRITE_UNCHANGED
        return needs | copied, shares | permission.WRITE_UNCHANGED

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Read, and copy what the image itself does not have."""
        length = total(buffers)
        if self.inactive or await self._is_there(offset, length):
            await self.file.readv(offset, buffers)
            return
        info = await self.file.get_info()
        unit = (info.cluster_size if info is not None else 0) or self.file.request_alignment
        start, end = offset // unit * unit, -(-(offset + length) // unit) * unit
        # Writes keep out meanwhile, or what was read before them would be written after them.
        async with self._copying.hold(start, end):
            await self._copy(start, min(end, self.size))
        await self.file.readv(offset, buffers)

    async def _is_there(self, offset: int, length: int) -> bool:
        while length:
            extent = await self.file.block_status(offset, length)
            if not extent.allocated or not extent.length:
                return False
            offset, length = offset + extent.length, length - extent.length
        return True

    async def _copy(self, start: int, end: int) -> None:
        from qemud.block.jobs.chain import status_above

        node = self.file
        layer = node.skip_filters()
        while start < end:
            own = await node.block_status(start, min(end - start, _PIECE))
            if not own.length:
                return
            if not own.allocated and layer.cow_child is not None:
                below = await status_above(layer.cow_child, self._below_bottom(), start, own.length)
                if not below.length:
                    below = Extent(own.length, data=False, zero=True, allocated=False)
                own = own._replace(length=min(own.length, below.length))
                if below.zero and (below.allocated or self._bottom is None):
                    await node.write_zeroes(start, own.length)
                elif below.allocated:
                    data = [memoryview(bytearray(own.length))]
                    await node.readv(start, data)
                    await node.writev(start, data)
            start += own.length

    def _below_bottom(self) -> BlockNode | None:
        """The first image whose data is not copied."""
        return None if self._bottom is None else self._bottom.cow_child

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """Not while the range is being copied."""
        async with self._copying.hold(offset, offset + total(buffers)):
            await super().do_writev(offset, buffers, fua=fua)

    async def do_write_compressed(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Not while the range is being copied."""
        async with self._copying.hold(offset, offset + total(buffers)):
            await super().do_write_compressed(offset, buffers)

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Not while the range is being copied."""
        async with self._copying.hold(offset, offset + length):
            await super().do_write_zeroes(offset, length, unmap=unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        """Not while the range is being copied."""
        async with self._copying.hold(offset, offset + length):
            await super().do_discard(offset, length)


_PIECE = 1 << 20
"""How much is copied at a time, bytes."""
