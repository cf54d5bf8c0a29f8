"""Snapshots: an image that takes what is written from now on, above a disk that stays as it is; or inside of an image.

Source of rules and texts: QEMU 10.0, blockdev.c (external_snapshot_action, internal_snapshot_action).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from qemud._generated.types.block_changes import NewImageMode
from qemud.block import permission
from qemud.block.activity import inactivate
from qemud.block.edges import Role
from qemud.block.image import open_image
from qemud.block.jobs.filters import put_above
from qemud.block.jobs.images import create_image
from qemud.block.jobs.transaction import Action
from qemud.block.reopen import set_read_only
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.node import BlockNode


class _External(Action):
    """What both ways to put an image above a disk have in common."""

    _old: BlockNode | None = None
    _new: BlockNode | None = None
    _above = False

    def _find(self) -> BlockNode:
        """The disk.  GenericError."""
        raise NotImplementedError

    async def _open(self, old: BlockNode) -> BlockNode:
        """The image, held.  GenericError."""
        raise NotImplementedError

    async def prepare(self) -> None:
        """As in the base: the image is above the disk."""
        graph = self.graph
        old = self._find()
        old.holds += 1
        self._old = old
        await old.begin_drain()
        graph.check_not_blocked(old)
        if not old.read_only:
            try:
                await old.flush()
            except OSError as error:
                raise GenericError(
                    f"Write to node '{graph.device_or_node_name(old)}' failed: {error.strerror}"
                ) from None
        self._new = new = await self._open(old)
        if new.cumulative[0] & permission.CONSISTENT_READ:
            raise GenericError("The overlay is already in use")
        if new.is_filter:
            raise GenericError("Filters cannot be used as overlays")
        if new.backing is not None:
            raise GenericError("The overlay already has a backing image")
        if not new.supports_backing:
            raise GenericError("The overlay does not support backing images")
        if old.inactive and not new.inactive:
            # A machine that was migrated to a file may still get a layer above its disks.
            await inactivate(graph, new)
        edge = graph.link(new, "backing", old, Role.COW)
        try:
            put_above(new, old)
        except BaseException:
            graph.unlink(edge)
            raise
        self._above = True

    async def commit(self) -> None:
        """As in the base: nobody writes to the disk any more."""
        assert self._old is not None
        # It need not work: the file may be on a medium that cannot be reopened.
        with contextlib.suppress(GenericError):
            await set_read_only(self.graph, self._old, read_only=True)

    async def abort(self) -> None:
        """As in the base."""
        old, new = self._old, self._new
        if old is not None and new is not None and self._above:
            async with new.drained():
                edge = new.edges["backing"]
                self.graph.replace(new, old)
                await self.graph.detach(edge)

    async def clean(self) -> None:
        """As in the base."""
        if self._old is not None:
            self._old.end_drain()
            await self.graph.release(self._old)
        if self._new is not None:
            await self.graph.release(self._new)


class SnapshotAction(_External):
    """`blockdev-snapshot`."""

    def _find(self) -> BlockNode:
        return self.graph.lookup_any(self.data.node)

    async def _open(self, old: BlockNode) -> BlockNode:
        del old
        try:
            return await self.graph.open_reference(self.data.overlay)
        except GenericError:
            raise GenericError(
                f"Cannot find device='{self.data.overlay}' nor node-name='{self.data.overlay}'"
            ) from None


class SnapshotSyncAction(_External):
    """`blockdev-snapshot-sync`."""

    def _find(self) -> BlockNode:
        return self.graph.lookup(self.data.device, self.data.node_name)

    async def _open(self, old: BlockNode) -> BlockNode:
        graph, data = self.graph, self.data
        name = data.snapshot_node_name
        if data.node_name is not None and name is None:
            raise GenericError("New overlay node-name missing")
        if name is not None and (
            graph.find_node(name) is not None or graph.backend_by_name(name) is not None
        ):
            raise GenericError("New overlay node-name already in use")
        if data.mode is not NewImageMode.EXISTING:
            await create_image(
                graph,
                data.snapshot_file,
                data.format,
                old.size,
                backing=old.filename,
                backing_format=old.driver.value,
            )
        options = {"driver": data.format} | ({} if name is None else {"node-name": name})
        flags = old.flags._replace(no_backing=True, auto_read_only=False)
        return await open_image(graph, data.snapshot_file, options, flags=flags)


class InternalSnapshotAction(Action):
    """`blockdev-snapshot-internal-sync`."""

    _made: tuple[BlockNode, str, str] | None = None
    _drained: BlockNode | None = None

    async def prepare(self) -> None:
        """As in the base."""
        from qemud.block.internal import root_node, take_snapshot

        node = root_node(self.graph, self.data.device)
        await node.begin_drain()
        self._drained = node
        clock = self.context.clock
        now = 0 if clock is None else await clock()
        taken = await take_snapshot(self.graph, self.data.device, self.data.name, now)
        self._made = node, taken.id, taken.name

    async def abort(self) -> None:
        """As in the base."""
        if self._made is not None:
            node, identifier, name = self._made
            with contextlib.suppress(GenericError, OSError):
                await node.delete_snapshot(identifier, name)

    async def clean(self) -> None:
        """As in the base."""
        if self._drained is not None:
            self._drained.end_drain()
