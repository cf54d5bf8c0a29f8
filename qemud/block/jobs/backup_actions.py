"""Backups as actions of transactions: made when all is prepared, and begun when nothing has failed.

Source of rules and texts: QEMU 10.0, blockdev.c (blockdev_backup_action, drive_backup_action).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.block_changes import NewImageMode
from qemud._generated.types.block_copying import MirrorSyncMode
from qemud.block.image import open_image
from qemud.block.jobs.changes import set_backing
from qemud.block.jobs.images import create_image
from qemud.block.jobs.starting import backup
from qemud.block.jobs.transaction import Action

if TYPE_CHECKING:
    from qemud.block.jobs.backup import Backup
    from qemud.block.node import BlockNode


class _BackupAction(Action):
    _job: Backup | None = None
    _source: BlockNode | None = None

    async def _hold(self, source: BlockNode) -> None:
        await source.begin_drain()
        self._source = source

    async def _make(self, source: BlockNode, target: BlockNode) -> None:
        self._job = await backup(self.context.jobs, self.data, source, target, self.context.group)

    async def commit(self) -> None:
        """As in the base."""
        assert self._job is not None
        self._job.start()

    async def abort(self) -> None:
        """As in the base."""
        if self._job is not None:
            await self.context.jobs.cancel_and_wait(self._job)

    async def clean(self) -> None:
        """As in the base."""
        if self._source is not None:
            self._source.end_drain()


class BlockdevBackupAction(_BackupAction):
    """`blockdev-backup`."""

    async def prepare(self) -> None:
        """As in the base."""
        source = self.graph.lookup_any(self.data.device)
        target = self.graph.lookup_any(self.data.target)
        await self._hold(source)
        await self._make(source, target)


class DriveBackupAction(_BackupAction):
    """`drive-backup`."""

    async def prepare(self) -> None:
        """As in the base."""
        graph, data = self.graph, self.data
        source = graph.lookup_any(data.device)
        await self._hold(source)
        format_name = data.format
        if format_name is None and data.mode is not NewImageMode.EXISTING:
            format_name = source.driver.value
        graph.check_not_blocked(source, in_chain=True)
        backing = None
        if data.sync is MirrorSyncMode.TOP:
            backing = source.cow_child
            if backing is None:
                data.sync = MirrorSyncMode.FULL
        elif data.sync is MirrorSyncMode.NONE:
            backing = source
        if data.mode is not NewImageMode.EXISTING:
            shown = backing
            while shown is not None and shown.implicit and shown.filtered is not None:
                shown = shown.filtered
            await create_image(
                graph,
                data.target,
                format_name,
                source.size,
                backing=None if shown is None else shown.filename,
                backing_format=None if shown is None else shown.driver.value,
            )
        options = {"discard": "unmap", "detect-zeroes": "unmap"}
        if format_name is not None:
            options["driver"] = format_name
        flags = source.flags._replace(
            read_only=False, auto_read_only=False, no_backing=data.sync is MirrorSyncMode.NONE
        )
        target = await open_image(graph, data.target, options, flags=flags)
        try:
            if data.sync is MirrorSyncMode.NONE:
                await set_backing(target, source)
            await self._make(source, target)
        finally:
            await graph.release(target)
