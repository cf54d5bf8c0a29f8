"""What a mirror is to do, and the filter above its source, by which it knows what is written.

Source of rules: QEMU 10.0, block/mirror.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.block_info import BlockdevOnError
from qemud._generated.types.block_jobs import MirrorCopyMode
from qemud.block import permission
from qemud.block.buffers import total
from qemud.block.jobs.copying import bounce
from qemud.block.jobs.filters import JobFilter, driver_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qemud.block.bitmaps import DirtyBitmap
    from qemud.block.edges import Edge
    from qemud.block.jobs.mirror import Mirror
    from qemud.block.node import BlockNode


class MirrorSetup:
    """What a mirror is to do; names and defaults are those of `blockdev-mirror`."""

    def __init__(self, source: BlockNode, target: BlockNode) -> None:
        self.job_id: str | None = None
        self.source = source
        self.target = target
        self.replaces: str | None = None
        self.only_new = False
        """`sync=none`: copy nothing but what is written from now on."""
        self.base: BlockNode | None = None
        """Copy only what layers above this one have."""
        self.is_commit = False
        self.backing_mode = "leave"
        """What the copy's backing file is to be at the end: `leave` it, the `source`'s, or `open` what the image says."""
        self.zero_target = False
        self.speed = 0
        self.granularity = 0
        self.buf_size = 0
        self.on_source_error = BlockdevOnError.REPORT
        self.on_target_error = BlockdevOnError.REPORT
        self.unmap = True
        self.filter_node_name: str | None = None
        self.copy_mode = MirrorCopyMode.BACKGROUND
        self.auto_finalize = True
        self.auto_dismiss = True
        self.base_was_read_only = False


class MirrorFilter(JobFilter):
    """Above the source: knows what is written."""

    driver = driver_name("mirror_top")
    file_shown = "backing"
    job: Mirror | None = None
    bitmap: DirtyBitmap
    is_commit = False
    stopped = False
    """Nothing goes through it any more."""

    def child_permissions(self, edge: Edge, needs: int, shares: int) -> tuple[int, int]:
        """As in the base; a commit writes to backing files, so that nobody can rely on what they have."""
        if self.stopped:
            return 0, permission.ALL
        needs, shares = super().child_permissions(edge, needs, shares)
        if self.is_commit:
            needs &= ~permission.CONSISTENT_READ
            shares |= permission.WRITE
        return needs, shares

    @property
    def _copies_at_once(self) -> bool:
        job = self.job
        return (
            job is not None
            and job.copy_mode is MirrorCopyMode.WRITE_BLOCKING
            and job.trouble is None
            and not job.is_cancelled
        )

    async def _change(
        self,
        offset: int,
        length: int,
        here: Callable[[], Awaitable[None]],
        there: Callable[[BlockNode], Awaitable[None]] | None,
    ) -> None:
        """Change the source, and the copy or what is known to differ."""
        job = self.job
        if job is not None and self._copies_at_once:
            await job.write_both(offset, length, here, there)
            return
        try:
            await here()
        finally:
            # Even a write that failed may have changed something.
            self.bitmap.set(offset, length)
            if self.job is not None:
                self.job.actively_synced = False

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """As in the base."""
        if self._copies_at_once:
            # The guest may change its buffers meanwhile, and both are to have the same.
            buffers = [bounce(buffers)]
        await self._change(
            offset,
            total(buffers),
            lambda: self.file.writev(offset, buffers, fua=fua),
            lambda target: target.writev(offset, buffers, fua=fua),
        )

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """As in the base."""
        await self._change(
            offset,
            length,
            lambda: self.file.write_zeroes(offset, length, unmap=unmap),
            lambda target: target.write_zeroes(offset, length, unmap=unmap),
        )

    async def do_discard(self, offset: int, length: int) -> None:
        """As in the base."""
        # What is discarded may read as anything, but in both as the same.
        await self._change(offset, length, lambda: self.file.discard(offset, length), None)
