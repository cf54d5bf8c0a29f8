"""Snapshots inside of images, and the commands for them.

    taken = await take_snapshot(graph, "hd0", "before", vm_clock_ns)    # GenericError with QEMU's text
    await delete_snapshot(graph, "hd0", None, "before")

Source of rules and texts: QEMU 10.0, blockdev.c and block/snapshot.c.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from qemud._generated.commands.block_internal import BlockInternalCommands
from qemud.block.node import BlockNode
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.block_info import SnapshotInfo
    from qemud.block.graph import Graph


class Services(Protocol):
    """What these handlers need of the process."""

    @property
    def block(self) -> Graph:
        """The graph of block nodes."""

    @property
    def vm(self) -> Any:
        """The machine."""


class BlockInternalHandlers(BlockInternalCommands):
    """Handlers of `block-internal.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def blockdev_snapshot_internal_sync(self, *, device: str, name: str) -> None:
        """`blockdev-snapshot-internal-sync`."""
        vm = self._services.vm
        now = await vm.mailboxes.call(vm.clock.now)
        await take_snapshot(self._services.block, device, name, now)

    async def blockdev_snapshot_delete_internal_sync(
        self,
        *,
        device: str,
        id: str | None,  # noqa: A002 - wire name
        name: str | None,
    ) -> SnapshotInfo:
        """`blockdev-snapshot-delete-internal-sync`."""
        return await delete_snapshot(self._services.block, device, id, name)


def root_node(graph: Graph, device: str) -> BlockNode:
    """The node that a client means, if it is the top of its disk.  GenericError."""
    node = graph.lookup_any(device)
    if any(isinstance(edge.user, BlockNode) for edge in node.parents):
        raise GenericError("Need a root block node")
    return node


async def _snapshots(node: BlockNode) -> list[SnapshotInfo]:
    """The snapshots inside.  GenericError: there cannot be any."""
    found: list[SnapshotInfo] | None = await node.snapshots()
    if found is None:
        raise GenericError("Failed to get a snapshot list: Operation not supported")
    return found


async def take_snapshot(graph: Graph, device: str, name: str, vm_clock_ns: int) -> SnapshotInfo:
    """Take a snapshot of a disk.  GenericError."""
    node = root_node(graph, device)
    async with node.drained():
        graph.check_not_blocked(node)
        if node.read_only:
            raise GenericError(f"Device '{device}' is read only")
        if not node.has_snapshots or node.inactive:
            raise GenericError(
                f"Block format '{node.driver.value}' used by device '{device}' does not support internal snapshots"
            )
        if not name:
            raise GenericError("Name is empty")
        if any(each.name == name for each in await _snapshots(node)):
            raise GenericError(f"Snapshot with name '{name}' already exists on device '{device}'")
        try:
            taken: SnapshotInfo = await node.take_snapshot(name, time.time_ns(), vm_clock_ns)
        except OSError as error:
            raise GenericError(
                f"Failed to create snapshot '{name}' on device '{device}': {error.strerror}"
            ) from None
        return taken


async def delete_snapshot(
    graph: Graph, device: str, identifier: str | None, name: str | None
) -> SnapshotInfo:
    """Remove a snapshot from an image; what it was.  GenericError."""
    node = root_node(graph, device)
    if identifier is None and name is None:
        raise GenericError("Name or id must be provided")
    graph.check_not_blocked(node)
    async with node.drained():
        for each in await _snapshots(node):
            if identifier in {None, each.id} and name in {None, each.name}:
                break
        else:
            raise GenericError(
                f"Snapshot with id '{identifier or 'null'}' and name '{name or 'null'}' "
                f"does not exist on device '{device}'"
            )
        try:
            await node.delete_snapshot(each.id, each.name)
        except OSError as error:
            raise GenericError(f"Failed to free the cluster and L1 table: {error.strerror}") from None
        return each
