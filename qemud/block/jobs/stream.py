"""Stream: copy into an image what it has of the images below it, so that these are not needed any more.

    await start_stream(jobs, StreamSetup(node, base=...))

A filter above the image keeps the guest's writes and the job's apart: while a piece is being filled in, nobody writes to it.

Source of rules and texts: QEMU 10.0, block/stream.c.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from qemud._generated.types.block_info import BlockdevOnError
from qemud._generated.types.job import JobType
from qemud.block import permission
from qemud.block.buffers import total
from qemud.block.jobs import chain
from qemud.block.jobs.changes import format_of, set_backing
from qemud.block.jobs.copying import CopyError
from qemud.block.jobs.filters import FilterOptions, JobFilter, driver_name, pull_out, put_above
from qemud.block.jobs.sweep import Sweep
from qemud.block.ranges import RangeLocks
from qemud.block.reopen import set_read_only
from qemud.block.shape import InactiveChildError
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud.block.edges import Edge
    from qemud.block.jobs.manager import Jobs
    from qemud.block.node import BlockNode


class StreamSetup:
    """What a stream is to do; names and defaults are those of `block-stream`."""

    def __init__(self, node: BlockNode) -> None:
        self.job_id: str | None = None
        self.node = node
        self.base: BlockNode | None = None
        """What stays the backing file, with what is below it."""
        self.bottom: BlockNode | None = None
        """Or the last image that is copied from."""
        self.backing_file: str | None = None
        self.backing_mask_protocol = False
        self.speed = 0
        self.on_error = BlockdevOnError.REPORT
        self.filter_node_name: str | None = None
        self.auto_finalize = True
        self.auto_dismiss = True


class StreamFilter(JobFilter):
    """Above the image: nobody writes to what is being filled in."""

    driver = driver_name("copy-on-read")
    stopped = False

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.locks = RangeLocks()

    def child_permissions(self, edge: Edge, needs: int, shares: int) -> tuple[int, int]:
        """As in the base; what is filled in changes nothing that anybody sees."""
        needs, shares = super().child_permissions(edge, needs, shares)
        return needs | (0 if self.stopped or self.inactive else permission.WRITE_UNCHANGED), shares

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """As in the base."""
        async with self.locks.hold(offset, offset + total(buffers)):
            await super().do_writev(offset, buffers, fua=fua)

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """As in the base."""
        async with self.locks.hold(offset, offset + length):
            await super().do_write_zeroes(offset, length, unmap=unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        """As in the base."""
        async with self.locks.hold(offset, offset + length):
            await super().do_discard(offset, length)


class Stream(Sweep):
    """See the module."""

    type = JobType.STREAM
    keeps_ignored = True

    def __init__(
        self,
        jobs: Jobs,
        setup: StreamSetup,
        top: StreamFilter,
        base_overlay: BlockNode,
        above_base: BlockNode,
    ) -> None:
        super().__init__(
            jobs, setup.job_id, top, auto_finalize=setup.auto_finalize, auto_dismiss=setup.auto_dismiss
        )
        self.setup = setup
        self.on_error = setup.on_error
        self.filter: StreamFilter | None = top
        self.locks = top.locks
        self.base_overlay = base_overlay
        self.above_base = above_base
        self.was_read_only = False

    @property
    def layer(self) -> BlockNode:
        """The image that is filled."""
        return self.setup.node.skip_filters()

    async def run(self) -> None:
        """As in the base."""
        if self.layer is not self.base_overlay:
            await self.sweep(self.setup.node.size)

    async def look(self, offset: int, length: int) -> tuple[int, bool]:
        """As in the base."""
        extent = await self.layer.block_status(offset, length)
        if extent.allocated:
            return extent.length, False
        extent = await chain.status_above(
            self._below, self.base_overlay, offset, extent.length, include_base=True
        )
        # Beyond the end of what is below nothing is to be copied.
        return extent.length or length, bool(extent.length) and extent.allocated

    @property
    def _below(self) -> BlockNode:
        below = self.layer.backing
        assert below is not None
        return below

    async def copy(self, offset: int, length: int, view: memoryview) -> None:
        """As in the base."""
        position, end = offset, offset + length
        read = True
        async with self.locks.hold(offset, end):
            try:
                while position < end:
                    read = True
                    # The guest may have written here since `look`.
                    mine = await self.layer.block_status(position, end - position)
                    count = mine.length or end - position
                    if not mine.allocated:
                        extent = await chain.status_above(self._below, None, position, count)
                        count = extent.length or count
                        if extent.length and not extent.zero:
                            await self._below.readv(position, [view[:count]])
                            read = False
                            await self._fill(position, view[:count])
                        else:
                            read = False
                            await self._fill_zeroes(position, count, view)
                    position += count
            except OSError as error:
                raise CopyError(error, position, read=read) from None

    async def _fill(self, offset: int, view: memoryview) -> None:
        # Past what counts writes and marks bitmaps dirty: nothing changes for who reads.
        await self.layer.do_writev(offset, [view], fua=False)
        self.layer.wrote_now(offset + len(view))

    async def _fill_zeroes(self, offset: int, length: int, view: memoryview) -> None:
        # What is below may be divided more finely than the layer, which takes zeroes in units of its own.
        align = self.layer.zero_alignment
        head = min(length, -offset % align)
        whole = (length - head) // align * align
        for start, count in ((0, head), (head + whole, length - head - whole)):
            if count:
                view[:count] = bytes(count)
                await self._fill(offset + start, view[:count])
        if whole:
            await self._zero(offset + head, whole, view)

    async def _zero(self, offset: int, length: int, view: memoryview) -> None:
        try:
            await self.layer.do_write_zeroes(offset, length, unmap=False)
            self.layer.wrote_now(offset + length)
        except OSError:
            view[:length] = bytes(length)
            await self._fill(offset, view[:length])

    # The end.

    async def prepare(self) -> None:
        """As in the base: the images below are not used any more."""
        await self._drop_filter()
        layer, setup = self.layer, self.setup
        old = layer.backing
        if old is None:
            return
        old.holds += 1
        try:
            async with layer.drained(), old.drained():
                base = chain.below(self.above_base)
                shown = None if base is None else base.skip_filters()
                await set_backing(layer, base)
                name = None if shown is None else setup.backing_file or shown.filename
                await layer.change_backing_file(
                    name, format_of(shown, mask_protocol=setup.backing_mask_protocol)
                )
        finally:
            await self.graph.release(old)

    async def clean(self) -> None:
        """As in the base."""
        await self._drop_filter()
        await super().clean()
        if self.was_read_only:
            with contextlib.suppress(GenericError):
                await set_read_only(self.graph, self.setup.node, read_only=True)

    async def _drop_filter(self) -> None:
        top, self.filter = self.filter, None
        if top is not None:
            await drop_filter(top)


async def drop_filter(top: StreamFilter) -> None:
    """Take the filter out of the way of all but the job."""
    top.holds += 1
    async with top.drained():
        top.stopped = True
        top.graph.refresh([top])
        pull_out(top)
    await top.graph.release(top)


async def start_stream(jobs: Jobs, setup: StreamSetup) -> None:
    """Make a stream and start it.  GenericError: it cannot be, and nothing has changed."""
    graph, node = jobs.graph, setup.node
    if setup.bottom is not None:
        base_overlay = above_base = setup.bottom
    else:
        found = chain.overlay_of(node, setup.base)
        if found is None:
            assert setup.base is not None
            raise GenericError(f"'{setup.base.node_name}' is not in the backing chain of '{node.node_name}'")
        base_overlay = above_base = found
        above = above_base.backing
        while above is not None and above is not setup.base:
            above_base, above = above, above.filtered
    was_read_only = node.read_only
    if was_read_only:
        await set_read_only(graph, node, read_only=False)
    job: Stream | None = None
    top: StreamFilter | None = None
    try:
        try:
            made = graph.make_filter(StreamFilter, node, setup.filter_node_name, FilterOptions())
        except InactiveChildError as error:
            raise GenericError(f"Could not create node: {error}") from None
        assert isinstance(made, StreamFilter)
        top = made
        async with node.drained():
            put_above(top, node)
            job = Stream(jobs, setup, top, base_overlay, above_base)
            _attach(job, top)
    except GenericError:
        if job is not None:
            await jobs.early_fail(job)
        elif top is not None:
            await drop_filter(top)
        if top is not None:
            await graph.release(top)
        if was_read_only:
            with contextlib.suppress(GenericError):
                await set_read_only(graph, node, read_only=True)
        raise
    job.was_read_only = was_read_only
    await graph.release(top)
    job.start()


def _attach(job: Stream, top: StreamFilter) -> None:
    """Let the job have its nodes.  GenericError."""
    basic = permission.CONSISTENT_READ | permission.WRITE_UNCHANGED
    job.use("main node", top, permission.CONSISTENT_READ, permission.ALL)
    job.set_speed(job.setup.speed)
    job.use("active node", job.setup.node, 0, basic | permission.WRITE)
    base = chain.below(job.above_base)
    node = chain.below(job.setup.node)
    while node is not None and node is not base:
        job.use("intermediate node", node, 0, basic)
        node = chain.below(node)
