"""The commands of `block-changes.json` and `transaction.json`.

Source of rules: QEMU 10.0, blockdev.c and block/monitor/bitmap-qmp-cmds.c.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from qemud._generated.commands.block_changes import BlockChangesCommands
from qemud._generated.commands.transaction import TransactionCommands
from qemud.block.jobs.handlers import JobsRoom
from qemud.block.jobs.transaction import Action, Context, carry_out, transact

if TYPE_CHECKING:
    from qemud._generated.types.block_changes import BlockDirtyBitmapSha256, DriveBackup, DriveMirror
    from qemud._generated.types.block_create import BlockdevCreateOptions
    from qemud._generated.types.transaction import TransactionAction, TransactionProperties


class BlockChangesHandlers(JobsRoom, BlockChangesCommands):
    """Handlers of `block-changes.json`."""

    async def blockdev_create(self, *, job_id: str, options: BlockdevCreateOptions) -> None:
        """`blockdev-create`."""
        from qemud.block.create import check_driver
        from qemud.block.jobs.create import Create

        check_driver(options)
        async with self._jobs.turn:
            Create(self._jobs, job_id, options).start()

    async def drive_mirror(self, arg: DriveMirror) -> None:
        """`drive-mirror`."""
        from qemud.block.jobs.starting import drive_mirror

        async with self._jobs.turn:
            await drive_mirror(self._jobs, arg)

    async def drive_backup(self, arg: DriveBackup) -> None:
        """`drive-backup`."""
        from qemud.block.jobs.backup_actions import DriveBackupAction

        await self._do(DriveBackupAction, arg)

    async def _do(self, action: type[Action], data: Any) -> None:
        """A transaction of one action."""
        async with self._jobs.turn:
            await carry_out(self._graph, [action(Context(self._jobs), data)])

    # Bitmaps.

    async def _bitmap(self, action: str, **data: Any) -> None:
        from qemud.block.jobs import bitmap_actions

        async with self._jobs.turn:
            context = Context(self._jobs)
            await bitmap_actions.alone(getattr(bitmap_actions, action), context, SimpleNamespace(**data))

    async def block_dirty_bitmap_add(
        self, *, node: str, name: str, granularity: int | None, persistent: bool, disabled: bool
    ) -> None:
        """`block-dirty-bitmap-add`."""
        await self._bitmap(
            "AddBitmap",
            node=node,
            name=name,
            granularity=granularity,
            persistent=persistent,
            disabled=disabled,
        )

    async def block_dirty_bitmap_remove(self, *, node: str, name: str) -> None:
        """`block-dirty-bitmap-remove`."""
        await self._bitmap("RemoveBitmap", node=node, name=name)

    async def block_dirty_bitmap_clear(self, *, node: str, name: str) -> None:
        """`block-dirty-bitmap-clear`."""
        await self._bitmap("ClearBitmap", node=node, name=name)

    async def block_dirty_bitmap_enable(self, *, node: str, name: str) -> None:
        """`block-dirty-bitmap-enable`."""
        await self._bitmap("EnableBitmap", node=node, name=name)

    async def block_dirty_bitmap_disable(self, *, node: str, name: str) -> None:
        """`block-dirty-bitmap-disable`."""
        await self._bitmap("DisableBitmap", node=node, name=name)

    async def block_dirty_bitmap_merge(self, *, node: str, target: str, bitmaps: list[Any]) -> None:
        """`block-dirty-bitmap-merge`."""
        await self._bitmap("MergeBitmaps", node=node, target=target, bitmaps=bitmaps)

    async def x_debug_block_dirty_bitmap_sha256(self, *, node: str, name: str) -> BlockDirtyBitmapSha256:
        """`x-debug-block-dirty-bitmap-sha256`."""
        from qemud._generated.types.block_changes import BlockDirtyBitmapSha256
        from qemud.block.jobs.bitmap_actions import find_bitmap

        return BlockDirtyBitmapSha256(sha256=find_bitmap(self._graph, node, name)[1].sha256())

    # Snapshots and chains.

    async def blockdev_snapshot_sync(self, **data: Any) -> None:
        """`blockdev-snapshot-sync`."""
        from qemud.block.jobs.snapshots import SnapshotSyncAction

        await self._do(SnapshotSyncAction, SimpleNamespace(**data))

    async def blockdev_snapshot(self, *, node: str, overlay: str) -> None:
        """`blockdev-snapshot`."""
        from qemud.block.jobs.snapshots import SnapshotAction

        await self._do(SnapshotAction, SimpleNamespace(node=node, overlay=overlay))

    async def change_backing_file(self, *, device: str, image_node_name: str, backing_file: str) -> None:
        """`change-backing-file`."""
        from qemud.block.jobs.starting import change_backing_file

        async with self._jobs.turn:
            await change_backing_file(self._graph, device, image_node_name, backing_file)


class TransactionHandlers(JobsRoom, TransactionCommands):
    """Handlers of `transaction.json`."""

    async def transaction(
        self, *, actions: list[TransactionAction], properties: TransactionProperties | None
    ) -> None:
        """`transaction`."""
        jobs = self._jobs
        grouped = properties is not None and properties.completion_mode.value == "grouped"
        async with jobs.turn:
            await transact(jobs, actions, grouped=grouped, clock=self._now)

    async def _now(self) -> int:
        vm = self._services.vm
        now: int = await vm.mailboxes.call(vm.clock.now)
        return now
