"""Backup: a copy of a disk as it was when the job began, while the guest goes on writing.

    job = await make_backup(jobs, BackupSetup(source, target, sync=MirrorSyncMode.FULL))
    job.start()

A filter above the source (`qemud.block.jobs.before`) copies what the guest is about to overwrite; the job copies the rest.  With
a bitmap, only what is dirty in it is copied, and the bitmap records anew from the beginning of the job on.

Source of rules and texts: QEMU 10.0, block/backup.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.block_copying import BitmapSyncMode, MirrorSyncMode
from qemud._generated.types.block_info import BlockdevOnError
from qemud._generated.types.job import JobType
from qemud.block import permission
from qemud.block.bitmaps import DEFAULT_CHECKS
from qemud.block.driver import Driver
from qemud.block.jobs.before import CopyBeforeWriteNode, cluster_size_for
from qemud.block.jobs.blockjob import BlockJob, drive_name
from qemud.block.jobs.copying import CHUNK, CopyError, Flights
from qemud.block.jobs.filters import pull_out, put_above
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.bitmaps import DirtyBitmap
    from qemud.block.jobs.manager import Group, Jobs
    from qemud.block.node import BlockNode


class BackupSetup:
    """What a backup is to do; names and defaults are those of `blockdev-backup`."""

    def __init__(self, source: BlockNode, target: BlockNode, sync: MirrorSyncMode) -> None:
        self.job_id: str | None = None
        self.source = source
        self.target = target
        self.sync = sync
        self.bitmap: DirtyBitmap | None = None
        self.bitmap_mode = BitmapSyncMode.ON_SUCCESS
        self.compress = False
        self.discard_source = False
        self.speed = 0
        self.on_source_error = BlockdevOnError.REPORT
        self.on_target_error = BlockdevOnError.REPORT
        self.filter_node_name: str | None = None
        self.auto_finalize = True
        self.auto_dismiss = True
        self.max_workers = 64
        self.max_chunk = 0
        self.min_cluster_size = 0


class Backup(BlockJob):
    """See the module."""

    type = JobType.BACKUP

    def __init__(self, jobs: Jobs, setup: BackupSetup, top: CopyBeforeWriteNode, group: Group | None) -> None:
        super().__init__(
            jobs,
            setup.job_id,
            top,
            group=group,
            auto_finalize=setup.auto_finalize,
            auto_dismiss=setup.auto_dismiss,
        )
        self.setup = setup
        self.filter: CopyBeforeWriteNode | None = top
        self.copier = top.copier
        self.trouble: OSError | None = None
        self._flights: Flights | None = None

    # As `Job`.

    @property
    def requests(self) -> int:
        """As in the base."""
        return 0 if self._flights is None else self._flights.count

    async def on_pause(self) -> None:
        """As in the base."""
        if self._flights is not None:
            await self._flights.all_landed()

    async def run(self) -> None:
        """As in the base."""
        setup, copier = self.setup, self.copier
        copier.copied = self._copied
        todo = copier.todo
        if setup.sync is MirrorSyncMode.BITMAP:
            assert setup.bitmap is not None
            todo.clear()
            todo.merge(setup.bitmap)
        self._remaining()
        if setup.sync is MirrorSyncMode.TOP:
            await self._only_top()
        if setup.sync is MirrorSyncMode.NONE:
            while not self.is_cancelled:
                await self.wait()
            return
        size = CHUNK if not setup.max_chunk else min(CHUNK, setup.max_chunk)
        size = max(copier.cluster, size // copier.cluster * copier.cluster)
        self._flights = flights = Flights(copier.copy, self._failed, self.settled, size)
        flights.limit = min(flights.limit, setup.max_workers)
        try:
            await self._copy_all(flights)
        finally:
            await flights.all_landed()
            flights.close()
        if self.trouble is not None and not self.is_cancelled:
            raise self.trouble

    def _copied(self, length: int) -> None:
        """The filter or the job has copied so much."""
        self.advance(length)

    def _remaining(self) -> None:
        self.set_remaining(self.copier.todo.count)

    async def _only_top(self) -> None:
        """Do not copy what the image itself does not have."""
        source = self.setup.source.skip_filters()
        offset, size = 0, source.size
        while offset < size:
            await self.keep_speed()
            if self.is_cancelled:
                return
            extent = await source.block_status(offset, min(size - offset, 1 << 30))
            if not extent.allocated:
                unit = self.copier.cluster
                end = offset + extent.length
                start = -(-offset // unit) * unit
                stop = size if end >= size else end // unit * unit
                if start < stop:
                    self.copier.todo.reset(start, stop - start)
                    self._remaining()
            offset += extent.length

    async def _copy_all(self, flights: Flights) -> None:
        todo = self.copier.todo
        position = 0
        while True:
            await self.keep_pace()
            if self.is_cancelled or self.trouble is not None:
                return
            if flights.full:
                await flights.some_landed()
                continue
            found = todo.next_extent(position, limit=max(flights.size, self.copier.stride))
            if found is None:
                if position and todo.next_dirty() is not None:
                    position = 0
                elif flights.count:
                    await flights.some_landed()
                    position = 0
                else:
                    return
                continue
            position = found[0] + found[1]
            # Claimed before the next piece is looked for.
            todo.reset(*found)
            self.limit.spend(found[1])
            flights.send(*found)

    def _failed(self, error: CopyError, end: int) -> None:
        del end  # what was not copied is dirty again
        policy = self.setup.on_source_error if error.read else self.setup.on_target_error
        if self.error_action(policy, error.error, read=error.read) == "report" and self.trouble is None:
            self.trouble = error.error

    # The end.

    async def commit(self) -> None:
        """As in the base: the bitmap is what has been written since."""
        bitmap = self.setup.bitmap
        if bitmap is not None:
            if self.setup.bitmap_mode is BitmapSyncMode.NEVER:
                bitmap.reclaim()
            else:
                bitmap.abdicate()

    async def abort(self) -> None:
        """As in the base: the bitmap is as if there had been no backup, unless it is always to be in step."""
        bitmap = self.setup.bitmap
        if bitmap is not None and bitmap.successor is not None:
            if self.setup.bitmap_mode is BitmapSyncMode.ALWAYS:
                bitmap.abdicate()
                bitmap.merge(self.copier.todo)
            else:
                bitmap.reclaim()

    async def clean(self) -> None:
        """As in the base: the filter is gone."""
        top, self.filter = self.filter, None
        await super().clean()
        if top is not None:
            await drop(top)


async def drop(top: CopyBeforeWriteNode) -> None:
    """Take a filter out of the graph, and let go of it."""
    top.holds += 1
    async with top.drained():
        top.stopped = True
        top.graph.refresh([top])
        pull_out(top)
    await top.graph.release(top)
    await top.graph.release(top)


async def make_backup(jobs: Jobs, setup: BackupSetup, group: Group | None = None) -> Backup:
    """Make a backup that is to be started; the source is drained until then.  GenericError, and then nothing has changed."""
    graph, source, target = jobs.graph, setup.source, setup.target
    if source is target:
        raise GenericError("Source and target cannot be the same")
    if setup.compress and not compresses(target):
        raise GenericError(f"Compression is not supported for this drive {drive_name(target)}")
    graph.check_not_blocked(source, in_chain=True)
    graph.check_not_blocked(target, in_chain=True)
    if not 1 <= setup.max_workers <= _INT_MAX:
        raise GenericError(f"max-workers must be between 1 and {_INT_MAX}")
    if setup.max_chunk < 0:
        raise GenericError("max-chunk must be zero (which means no limit) or positive")
    bitmap = setup.bitmap
    if bitmap is not None and setup.bitmap_mode is not BitmapSyncMode.NEVER:
        bitmap.check(DEFAULT_CHECKS)
    if source.size != target.size:
        raise GenericError("Source and target image have different sizes")
    cluster = await cluster_size_for(target, setup.min_cluster_size)
    if setup.max_chunk and setup.max_chunk < cluster:
        raise GenericError(
            f"Required max-chunk ({setup.max_chunk}) is less than backup cluster size ({cluster})"
        )
    if bitmap is not None:
        bitmap.begin_successor()
    top: CopyBeforeWriteNode | None = None
    job: Backup | None = None
    try:
        top = CopyBeforeWriteNode.make(source, target, setup.filter_node_name, cluster, setup)
        put_above(top, source)
        job = Backup(jobs, setup, top, group)
        job.use("main node", top, 0, permission.ALL)
        job.set_speed(setup.speed)
        job.use("target", target, 0, permission.ALL)
    except GenericError:
        if bitmap is not None and bitmap.successor is not None:
            bitmap.reclaim()
        if job is not None:
            await jobs.early_fail(job)
        elif top is not None:
            await drop(top)
        raise
    return job


def compresses(node: BlockNode) -> bool:
    """Whether an image can be written to compressed."""
    return type(node.skip_filters()).do_write_compressed is not Driver.do_write_compressed


_INT_MAX = (1 << 31) - 1
