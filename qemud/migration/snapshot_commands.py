"""The commands of `vm-snapshot.json`.

Source of rules: QEMU 10.0, migration/savevm.c and block/monitor/block-hmp-cmds.c (hmp_info_snapshots).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.commands.vm_snapshot import VmSnapshotCommands
from qemud._generated.types.vm_snapshot import MachineSnapshots, PartialSnapshots

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qemud.machine.services import Services
    from qemud.migration.jobs import SnapshotJob


class VmSnapshotHandlers(VmSnapshotCommands):
    """Handlers of `vm-snapshot.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    # Snapshots, as jobs.

    async def _start(self, kind: type[SnapshotJob], job_id: str, work: Callable[[], Awaitable[None]]) -> None:
        from qemud.block.jobs.manager import jobs_of

        async with jobs_of(self._services.block).turn:
            kind(self._services, job_id, work).start()

    async def snapshot_save(self, *, job_id: str, tag: str, vmstate: str, devices: list[str]) -> None:
        """`snapshot-save`."""
        from qemud.migration import jobs, whole

        await self._start(
            jobs.SnapshotSave,
            job_id,
            lambda: whole.save(self._services, tag, vmstate=vmstate, devices=devices),
        )

    async def snapshot_load(self, *, job_id: str, tag: str, vmstate: str, devices: list[str]) -> None:
        """`snapshot-load`."""
        from qemud.migration import jobs, whole

        await self._start(
            jobs.SnapshotLoad,
            job_id,
            lambda: whole.load(self._services, tag, vmstate=vmstate, devices=devices),
        )

    async def snapshot_delete(self, *, job_id: str, tag: str, devices: list[str]) -> None:
        """`snapshot-delete`."""
        from qemud.migration import jobs, whole

        await self._start(
            jobs.SnapshotDelete, job_id, lambda: whole.delete(self._services, tag, devices=devices)
        )

    # Snapshots of all disks, for people.

    async def x_savevm(self, *, tag: str | None) -> None:
        """`x-savevm`."""
        from qemud.block.jobs.manager import jobs_of
        from qemud.migration import whole

        async with jobs_of(self._services.block).turn:
            await whole.save(self._services, tag, overwrite=True)

    async def x_loadvm(self, *, tag: str) -> None:
        """`x-loadvm`."""
        from qemud.block.jobs.manager import jobs_of
        from qemud.migration import whole

        async with jobs_of(self._services.block).turn:
            await whole.load(self._services, tag)

    async def x_delvm(self, *, tag: str) -> None:
        """`x-delvm`."""
        from qemud.block.jobs.manager import jobs_of
        from qemud.migration import whole

        async with jobs_of(self._services.block).turn:
            await whole.delete(self._services, tag)

    async def x_query_snapshots(self) -> MachineSnapshots:
        """`x-query-snapshots`."""
        from qemud.block import whole as disks_of

        graph = self._services.block
        disks = disks_of.choose(graph, None)
        top = disks_of.state_disk(disks, None)
        listed = await disks_of.snapshots(top) or []
        common = [each for each in listed if await disks_of.have(disks, each.name)]
        names = {each.name for each in common}
        partial = []
        for disk in disks:
            left = [each for each in await disks_of.snapshots(disk.node) or [] if each.name not in names]
            if left:
                name = graph.device_or_node_name(disk.node)
                device = "" if name == disk.node.node_name else name
                partial.append(PartialSnapshots(device=device, snapshots=left))
        return MachineSnapshots(common=common, partial=partial)
