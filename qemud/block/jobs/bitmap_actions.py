"""Dirty bitmaps as clients change them, by commands and in transactions.

Source of rules and texts: QEMU 10.0, block/monitor/bitmap-qmp-cmds.c and blockdev.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.block.bitmaps import (
    ALLOW_READ_ONLY,
    BUSY,
    DEFAULT_CHECKS,
    READ_ONLY,
    DirtyBitmap,
    add_bitmap,
    check_new_name,
    default_granularity,
    drop_bitmap,
)
from qemud.block.jobs.transaction import Action
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.graph import Graph
    from qemud.block.jobs.transaction import Context
    from qemud.block.node import BlockNode

_SMALLEST = 512


def find_bitmap(graph: Graph, node_name: str, name: str) -> tuple[BlockNode, DirtyBitmap]:
    """The bitmap that a client means, and its node.  GenericError."""
    try:
        node = graph.lookup_any(node_name)
    except GenericError:
        raise GenericError(f"Node '{node_name}' not found") from None
    bitmap = node.dirty_bitmaps.get(name)
    if bitmap is None or bitmap.name is None:
        raise GenericError(f"Dirty bitmap '{name}' not found")
    return node, bitmap


class AddBitmap(Action):
    """`block-dirty-bitmap-add`."""

    _made: tuple[BlockNode, DirtyBitmap] | None = None

    async def prepare(self) -> None:
        """As in the base."""
        data = self.data
        if not data.name:
            raise GenericError("Bitmap name cannot be empty")
        node = self.graph.lookup_any(data.node)
        size = data.granularity
        if size is None:
            size = await default_granularity(node)
        elif size < _SMALLEST or size & (size - 1):
            raise GenericError("Granularity must be power of 2 and at least 512")
        if data.persistent:
            _check_storable(node, data.name, size)
        check_new_name(node, data.name)
        bitmap = DirtyBitmap(node.size, size, data.name)
        bitmap.enabled = not data.disabled
        bitmap.persistent = data.persistent
        add_bitmap(node, bitmap)
        self._made = node, bitmap

    async def abort(self) -> None:
        """As in the base."""
        if self._made is not None:
            drop_bitmap(*self._made)


def _check_storable(node: BlockNode, name: str, granularity: int) -> None:
    from qemud.block.qcow2.node import Qcow2Node

    if not isinstance(node, Qcow2Node):
        shown = node.graph.device_or_node_name(node)
        raise GenericError(f"Can't store persistent bitmaps to {shown}: Operation not supported")
    from qemud.block.qcow2.bitmaps import check_new

    check_new(node, name, granularity)


class RemoveBitmap(Action):
    """`block-dirty-bitmap-remove`."""

    _found: tuple[BlockNode, DirtyBitmap] | None = None

    async def prepare(self) -> None:
        """As in the base: it is gone from the image, and nobody can use it."""
        node, bitmap = find_bitmap(self.graph, self.data.node, self.data.name)
        bitmap.check(BUSY | READ_ONLY)
        if bitmap.persistent:
            await _remove_stored(node, self.data.name)
        bitmap.skip_store = bitmap.in_use = True
        self._found = node, bitmap

    async def abort(self) -> None:
        """As in the base: it will be stored again."""
        if self._found is not None:
            bitmap = self._found[1]
            bitmap.skip_store = bitmap.in_use = False

    async def commit(self) -> None:
        """As in the base."""
        assert self._found is not None
        drop_bitmap(*self._found)


async def _remove_stored(node: BlockNode, name: str) -> None:
    from qemud.block.qcow2.node import Qcow2Node

    if isinstance(node, Qcow2Node):
        from qemud.block.qcow2.bitmaps import remove_bitmap

        try:
            await remove_bitmap(node, name)
        except OSError as error:
            raise GenericError(f"Failed to update bitmap extension: {error.strerror}") from None


class _Change(Action):
    """A change of a bitmap's content, which can be undone."""

    bitmap: DirtyBitmap
    _before: dict[int, int] | None = None

    def keep(self) -> None:
        """Remember what it was."""
        if self._before is None:
            self._before = self.bitmap.snapshot()

    async def abort(self) -> None:
        """As in the base."""
        if self._before is not None:
            self.bitmap.restore(self._before)


class ClearBitmap(_Change):
    """`block-dirty-bitmap-clear`."""

    async def prepare(self) -> None:
        """As in the base."""
        _, self.bitmap = find_bitmap(self.graph, self.data.node, self.data.name)
        self.bitmap.check(DEFAULT_CHECKS)
        self.keep()
        self.bitmap.clear()


class MergeBitmaps(_Change):
    """`block-dirty-bitmap-merge`."""

    async def prepare(self) -> None:
        """As in the base."""
        node, self.bitmap = find_bitmap(self.graph, self.data.node, self.data.target)
        for each in self.data.bitmaps:
            if isinstance(each, str):
                source = node.dirty_bitmaps.get(each)
                if source is None:
                    raise GenericError(f"Dirty bitmap '{each}' not found")
            else:
                _, source = find_bitmap(self.graph, each.node, each.name)
            self.bitmap.check(DEFAULT_CHECKS)
            source.check(ALLOW_READ_ONLY)
            if source.size != self.bitmap.size:
                raise GenericError(
                    f"Bitmaps are of different sizes (destination size is {self.bitmap.size}, source size is "
                    f"{source.size}) and can't be merged"
                )
            self.keep()
            self.bitmap.merge(source)


class EnableBitmap(Action):
    """`block-dirty-bitmap-enable`."""

    enabled = True
    _bitmap: DirtyBitmap | None = None
    _before = False

    async def prepare(self) -> None:
        """As in the base."""
        _, bitmap = find_bitmap(self.graph, self.data.node, self.data.name)
        bitmap.check(ALLOW_READ_ONLY)
        self._before, bitmap.enabled = bitmap.enabled, self.enabled
        self._bitmap = bitmap

    async def abort(self) -> None:
        """As in the base."""
        if self._bitmap is not None:
            self._bitmap.enabled = self._before


class DisableBitmap(EnableBitmap):
    """`block-dirty-bitmap-disable`."""

    enabled = False


async def alone(action: type[Action], context: Context, data: Any) -> None:
    """Do one action by itself, without holding anybody.  GenericError."""
    made = action(context, data)
    try:
        await made.prepare()
    except BaseException:
        await made.abort()
        raise
    await made.commit()
