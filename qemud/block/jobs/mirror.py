"""Mirror: a copy of a disk that is kept the same while the guest writes, and takes the disk's place in the end.

    job = await start_mirror(jobs, MirrorSetup(source, target))         # mirror_start.py

A filter above the source knows what is written.  The job copies what is dirty in its bitmap, again and again, until nothing is: then
it is *ready*.  `job-complete` lets everybody who uses the source use the copy; `block-job-cancel` leaves the copy
as it is.  With `write-blocking`, the filter writes to both, so that nothing gets dirty any more.

An *active commit* is the same with a copy that is a backing file of the source.

Source of rules and texts: QEMU 10.0, block/mirror.c.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_info import BlockDeviceIoStatus
from qemud._generated.types.block_jobs import MirrorCopyMode
from qemud._generated.types.job import JobType
from qemud.block.backend import BlockBackend
from qemud.block.jobs import chain
from qemud.block.jobs.blockjob import SLICE, BlockJob
from qemud.block.jobs.copying import CHUNK, IN_FLIGHT, LARGEST_STRIDE, CopyError, Flights
from qemud.block.jobs.filters import pull_out
from qemud.block.jobs.mirror_end import replace, set_backing
from qemud.block.ranges import RangeLocks
from qemud.block.reopen import set_read_only
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qemud.block.jobs.manager import Jobs
    from qemud.block.jobs.mirror_filter import MirrorFilter, MirrorSetup
    from qemud.block.node import BlockNode

DEFAULT_BUFFER = 16 << 20
LAST_STRETCH = 16 << 20
"""How much may be left to copy when the guest is held to complete a mirror, bytes."""


class Mirror(BlockJob):
    """See the module."""

    type = JobType.MIRROR

    def __init__(self, jobs: Jobs, setup: MirrorSetup, top: MirrorFilter) -> None:
        super().__init__(
            jobs,
            setup.job_id,
            top,
            auto_finalize=setup.auto_finalize,
            auto_dismiss=setup.auto_dismiss,
        )
        self.setup = setup
        self.filter = top
        self.bitmap = top.bitmap
        self.target = BlockBackend(self.graph)
        self.copy_mode = setup.copy_mode
        self.actively_synced = False
        self.should_complete = False
        self.to_replace: BlockNode | None = None
        self.trouble: OSError | None = None
        """What has gone wrong for good."""
        self._flights: Flights | None = None
        self._active_bytes = 0
        self._ranges = RangeLocks()
        self._unit = self.bitmap.granularity
        self._position = 0
        self._stride = 0
        self._drained: BlockNode | None = None
        self._finished = False

    @property
    def target_node(self) -> BlockNode:
        """The copy."""
        node = self.target.node
        assert node is not None
        return node

    # As `Job`.

    @property
    def requests(self) -> int:
        """As in the base."""
        return 0 if self._flights is None else self._flights.count

    async def on_pause(self) -> None:
        """As in the base."""
        if self._flights is not None:
            await self._flights.all_landed()

    def on_cancel(self, *, force: bool) -> bool:
        """A mirror that is ready can end well."""
        return force or not self.is_ready

    def on_complete(self) -> None:
        """As in the base."""
        if not self.should_complete:
            name = self.setup.replaces
            if name is not None:
                node = self.graph.find_node(name)
                if node is None:
                    raise GenericError(f"Node name '{name}' not found")
                node.blockers[self.bitmap] = "block device is in use by block-job-complete"
                node.holds += 1
                self.to_replace = node
            self.should_complete = True
        if not self.paused:
            self.enter()

    def change(self, copy_mode: MirrorCopyMode) -> None:
        """`block-job-change`.  GenericError."""
        if copy_mode is self.copy_mode:
            return
        if copy_mode is not MirrorCopyMode.WRITE_BLOCKING:
            raise GenericError(f"Change to copy mode '{copy_mode.value}' is not implemented")
        self.copy_mode = copy_mode
        if self.is_ready and not self.requests and not self.bitmap.count:
            self.actively_synced = True

    def info_details(self) -> dict[str, Any]:
        """As in the base."""
        return {"actively_synced": self.actively_synced}

    # Work.

    async def run(self) -> None:
        """As in the base."""
        source, target = self.filter.file, self.target_node
        done = False
        try:
            if self.is_cancelled:
                return
            await self._check_sizes(source, target)
            if not source.size:
                self.become_ready()
                self.actively_synced = True
                while not (self.cancelled or self.should_complete):
                    await self.wait()
                return
            self._flights = flights = Flights(
                self._copy, self._copy_failed, self.settled, await self._choose_unit(target)
            )
            try:
                if not self.setup.only_new:
                    await self._find_dirty(source)
                if not self.is_cancelled:
                    # Only now may the filter write to the copy.
                    self.filter.job = self
                    done = await self._work(source, flights)
            finally:
                await flights.all_landed()
                flights.close()
        finally:
            self._drained = source
            if not done:
                await self.begin_own_drain(source)

    async def _check_sizes(self, source: BlockNode, target: BlockNode) -> None:
        if self.setup.is_commit:
            if source.size > target.size:
                await target.truncate(source.size, exact=False)
        elif source.size != target.size:
            raise GenericError("Source and target image have different sizes")

    async def _choose_unit(self, target: BlockNode) -> int:
        """In what pieces to copy, bytes: whole clusters where the copy could not fill the rest from a backing file."""
        known = await target.get_info()
        if (
            known is not None
            and known.cluster_size > self._unit
            and target.skip_filters().backing_filename is not None
            and chain.next_layer(target) is None
        ):
            self._unit = known.cluster_size
        size = self.setup.buf_size or DEFAULT_BUFFER
        chunk = min(CHUNK, max(size // IN_FLIGHT, self._unit))
        return max(self._unit, chunk // self._unit * self._unit)

    async def _find_dirty(self, source: BlockNode) -> None:
        """Before the first pass: zero the copy, if that is cheap, and find what there is to copy."""
        size = source.size
        if self.setup.zero_target and not await self._zero_target(size):
            self.bitmap.set(0, size)
            return
        base_overlay = chain.overlay_of(source, self.setup.base)
        offset = 0
        while offset < size:
            await self.keep_pace()
            if self.is_cancelled:
                return
            extent = await chain.status_above(
                source, base_overlay, offset, min(size - offset, 1 << 30), include_base=True
            )
            if extent.allocated:
                self.bitmap.set(offset, extent.length)
            offset += extent.length

    async def _zero_target(self, size: int) -> bool:
        """Whether the copy is all zeroes now: only if that gives its space back."""
        if not self.target_node.flags.unmap:
            return False
        step = 1 << 30
        for offset in range(0, size, step):
            await self.keep_pace()
            if self.is_cancelled:
                return True
            length = min(step, size - offset)
            try:
                await self.target_node.write_zeroes(offset, length, unmap=self.setup.unmap, fallback=False)
            except OSError:
                return False
            self.advance(length)
        return True

    async def _work(self, source: BlockNode, flights: Flights) -> bool:
        """Copy until the end is wanted and reached: then the source stays drained, and this is True."""
        last = time.monotonic()
        while True:
            if self.trouble is not None:
                raise self.trouble
            await self.pause_point()
            if self.is_cancelled:
                return False
            count = self.bitmap.count
            self.set_remaining(flights.bytes + count + self._active_bytes)
            if time.monotonic() - last < SLICE and self.iostatus is BlockDeviceIoStatus.OK:
                if flights.full or (not count and flights.count):
                    await flights.some_landed()
                    continue
                if count:
                    self._send(flights)
            finish = False
            if self.is_ready and (self.should_complete or self.cancelled) and count <= LAST_STRETCH:
                # A guest that writes all the time would never be caught up with: hold it for the rest.
                await self.begin_own_drain(source)
                while self.bitmap.count and self.trouble is None and self.iostatus is BlockDeviceIoStatus.OK:
                    self._send(flights)
                    await flights.some_landed()
                await flights.all_landed()
                if not self.bitmap.count and await self._flush():
                    return True
                self.end_own_drain(source)
                continue
            if not flights.count and not self.bitmap.count:
                if not self.is_ready:
                    if not await self._flush():
                        continue
                    self.become_ready()
                if self.copy_mode is MirrorCopyMode.WRITE_BLOCKING:
                    self.actively_synced = True
                finish = self.should_complete or self.cancelled
            count = self.bitmap.count
            if finish and not count:
                # The guest may have written meanwhile: look again when it cannot.
                await self.begin_own_drain(source)
                if not self.bitmap.count and await self._flush():
                    return True
                self.end_own_drain(source)
                continue
            if not self.is_ready or finish:
                await self.keep_pace()
            elif not flights.count and not count:
                await self.sleep(SLICE)
            last = time.monotonic()

    async def _flush(self) -> bool:
        try:
            await self.target_node.flush()
        except OSError as error:
            if self._error(error, read=False) == "report":
                self.trouble = error
            return False
        return True

    def _error(self, error: OSError, *, read: bool) -> str:
        """What is to become of an error."""
        self.actively_synced = False
        policy = self.setup.on_source_error if read else self.setup.on_target_error
        return self.error_action(policy, error, read=read)

    def _send(self, flights: Flights) -> None:
        """Begin to copy what is dirty, as much as may be under way at a time."""
        size = self.filter.file.size
        while not flights.full:
            stride = max(self._stride, flights.size)
            found = self.bitmap.next_extent(self._position, limit=stride)
            if found is None:
                if not self._position:
                    return
                self._position = 0
                continue
            start, end = found[0] // self._unit * self._unit, found[0] + found[1]
            end = min(-(-end // self._unit) * self._unit, start + stride, size)
            self._position = end if end < size else 0
            # Before anything is read: what the guest writes from now on is to be copied once more.
            self.bitmap.reset(start, end - start)
            self.limit.spend(end - start)
            flights.send(start, end - start)
            if self.limit.speed:
                return

    async def _copy(self, offset: int, length: int, view: memoryview) -> None:
        """Copy a range that was dirty.  CopyError."""
        async with self._ranges.hold(offset, offset + length):
            empty = await self._copy_range(offset, length, view)
        # Where there is nothing but zeroes, larger steps are taken.
        self._stride = min(2 * max(self._stride, len(view)), LARGEST_STRIDE) if empty else 0

    def _copy_failed(self, error: CopyError, end: int) -> None:
        self.bitmap.set(error.offset, end - error.offset)
        if self._error(error.error, read=error.read) == "report" and self.trouble is None:
            self.trouble = error.error

    async def _copy_range(self, offset: int, length: int, view: memoryview) -> bool:
        """Copy a range, in as many pieces as it has kinds of data; whether there were only zeroes.  CopyError."""
        empty = True
        source, target = self.filter.file, self.target_node
        position, end = offset, offset + length
        read = True
        try:
            while position < end:
                read = True
                extent = await chain.status_above(source, None, position, end - position)
                count = self._whole_units(position, extent.length, end)
                if extent.zero and count <= extent.length:
                    read = False
                    await target.write_zeroes(position, count, unmap=self.setup.unmap)
                else:
                    empty = False
                    count = min(count, len(view))
                    piece = [view[:count]]
                    await source.readv(position, piece)
                    read = False
                    await target.writev(position, piece)
                position += count
                self.advance(count)
        except OSError as error:
            raise CopyError(error, position, read=read) from None
        return empty

    def _whole_units(self, position: int, length: int, end: int) -> int:
        """So much of a range as keeps to the units of the bitmap; at least one of them."""
        unit = self._unit
        whole = length if position + length >= end else (position + length) // unit * unit - position
        return whole if whole > 0 else min(unit, end - position)

    async def write_both(
        self,
        offset: int,
        length: int,
        here: Callable[[], Awaitable[None]],
        there: Callable[[BlockNode], Awaitable[None]] | None,
    ) -> None:
        """A write of the guest, to the source and to the copy; what is being copied there is waited for.

        Without `there`, the copy is given what the source has afterwards.
        """
        unit = self.bitmap.granularity
        start, end = offset // unit * unit, -(-(offset + length) // unit) * unit
        async with self._ranges.hold(start, end):
            self._active_bytes += length
            try:
                await here()
                await self._write_copy(offset, length, there)
            except OSError:
                self.bitmap.set(offset, length)
                raise
            finally:
                self._active_bytes -= length

    async def _write_copy(
        self, offset: int, length: int, there: Callable[[BlockNode], Awaitable[None]] | None
    ) -> None:
        """The copy's half of a write of the guest, which is told of the other half only."""
        unit = self.bitmap.granularity
        self.total += length
        try:
            if there is None:
                await self._copy_range(offset, length, memoryview(bytearray(min(length, CHUNK))))
            else:
                await there(self.target_node)
                self.advance(length)
        except (OSError, CopyError) as error:
            reason = error.error if isinstance(error, CopyError) else error
            self.bitmap.set(offset, length)
            if self._error(reason, read=False) == "report" and self.trouble is None:
                self.trouble = reason
            return
        # Units that are covered in full are the same now; others that were dirty still are.
        inner, outer = -(-offset // unit) * unit, (offset + length) // unit * unit
        if inner < outer:
            self.bitmap.reset(inner, outer - inner)

    # The end.

    async def prepare(self) -> None:
        """As in the base."""
        await self._finish(aborting=False)

    async def abort(self) -> None:
        """As in the base."""
        await self._finish(aborting=True)

    async def _finish(self, *, aborting: bool) -> None:
        """Put the copy in its place, or not, and the graph in order.  GenericError: it could not be put there."""
        if self._finished:
            return
        self._finished = True
        graph, top = self.graph, self.filter
        source, target = top.file, self.target_node
        held = [source, top, target]
        for node in held:
            node.holds += 1
        trouble: GenericError | None = None
        # Nobody else needs to write to the copy any more, which might not be possible in its new place.
        await self.target.close()
        async with top.drained(), target.drained():
            top.stopped = True
            graph.refresh([top])
            if not aborting:
                try:
                    await set_backing(self, target)
                    if self.should_complete:
                        await replace(self, target)
                except GenericError as error:
                    trouble = error
            if self.to_replace is not None:
                self.to_replace.blockers.pop(self.bitmap, None)
                held.append(self.to_replace)
            held += self.let_go_later()
            top.job = None
            pull_out(top)
            if aborting and self.setup.base_was_read_only and not target.read_only:
                with contextlib.suppress(GenericError):
                    await set_read_only(graph, target, read_only=True)
        if self._drained is not None:
            self.end_own_drain(self._drained)
            self._drained = None
        for node in held:
            await graph.release(node)
        if trouble is not None:
            raise trouble


class ActiveCommit(Mirror):
    """See the module."""

    type = JobType.COMMIT

    def info_details(self) -> dict[str, Any]:
        """Nothing besides."""
        return {}
