"""Other options for open nodes: `blockdev-reopen`, and what changes between reading and writing (`set_read_only`).

All nodes of a request are reopened, or none.  Everything that can fail comes first: drivers make ready, then flags and children are
as they will be and permissions are checked, and only then drivers are told to go over.

Nodes whose definition was nested in that of a node that is reopened inherit its new flags, and are reopened with it.

Source of rules and texts: QEMU 10.0, block.c (bdrv_reopen_*).
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_options import BlockdevDetectZeroesOptions
from qemud.block.graph import apply_options, inherit
from qemud.block.shape import check_child
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud._generated.types.block_options import BlockdevOptions
    from qemud.block.driver import Flags
    from qemud.block.edges import Edge
    from qemud.block.graph import Graph
    from qemud.block.node import BlockNode

_CHILDREN = ("backing", "file")


class _Change:
    """What one node is to become, and what it was."""

    def __init__(self, node: BlockNode, options: Any, flags: Flags, base: Flags) -> None:
        self.node = node
        self.options = options
        self.flags = flags
        self.base = base
        self.before = node.options, node.flags, node.base_flags, node.read_only, node.detect_zeroes
        self.commit: Callable[[], None] | None = None
        self.children: list[tuple[str, BlockNode | None]] = []

    def apply(self) -> None:
        """Let the node have its new flags."""
        node = self.node
        node.options, node.base_flags = self.options, self.base
        # Images may have been handed over since this was begun.
        node.flags = self.flags._replace(inactive=node.inactive)
        node.read_only = self.flags.read_only
        node.detect_zeroes = self.options.detect_zeroes or BlockdevDetectZeroesOptions.OFF

    def undo(self) -> None:
        """Let it have those that it had."""
        node = self.node
        inactive = node.inactive
        node.options, node.flags, node.base_flags, node.read_only, node.detect_zeroes = self.before
        node.flags = node.flags._replace(inactive=inactive)


async def reopen(graph: Graph, requested: Sequence[BlockdevOptions]) -> None:
    """Give nodes other options, all or none.  GenericError."""
    changes: dict[str, _Change] = {}
    for options in requested:
        if options.node_name is None:
            raise GenericError("node-name not specified")
        node = graph.find_node(options.node_name)
        if node is None:
            raise GenericError(f"Failed to find node with node-name='{options.node_name}'")
        _queue(changes, node, options, node.base_flags)
    await _carry_out(graph, list(changes.values()))


async def set_read_only(graph: Graph, node: BlockNode, read_only: bool) -> None:
    """Open a node, and what was defined with it, for reading only or for writing too.  GenericError."""
    if node.flags.read_only == read_only:
        return
    import msgspec

    # Children stay as they are, whatever jobs and snapshots have made of them since the options were given.
    kept: dict[str, str | None] = {}
    for name in (*_CHILDREN, "data_file"):
        given = getattr(node.options, name, _NOT_ONE)
        if given is not _NOT_ONE and (name == "backing" or isinstance(given, str)):
            child = node.children.get(name.replace("_", "-"))
            kept[name] = None if child is None else child.node_name
    options = msgspec.structs.replace(node.options, read_only=read_only, **kept)
    changes: dict[str, _Change] = {}
    _queue(changes, node, options, node.base_flags)
    await _carry_out(graph, list(changes.values()))


_NOT_ONE = object()


def _queue(changes: dict[str, _Change], node: BlockNode, options: Any, base: Flags) -> None:
    """Note what a node is to become, and what that means for those defined with it."""
    if options.driver is not node.driver:
        raise GenericError("Cannot change the option 'driver'")
    _check_activity(node, options.active)
    flags = apply_options(base, options)._replace(inactive=node.inactive)
    change = changes[node.node_name] = _Change(node, options, flags, base)
    for name, edge in node.edges.items():
        given = getattr(options, name.replace("-", "_"), None)
        child = edge.node
        if child.inherits_from is not node:
            continue
        nested = given if given is not None and not isinstance(given, str) and _is_definition(given) else None
        _queue(changes, child, nested or child.options, inherit(flags, edge.role))
    del change


def _check_activity(node: BlockNode, given: bool | None) -> None:
    """Raise GenericError when a node would become active, or inactive, by this way."""
    before = node.options.active
    if given is None and before is not None:
        raise GenericError("Option 'active' cannot be reset to its default value")
    if given is not before and given is node.inactive:
        raise GenericError("Cannot change the option 'active'")


def _is_definition(given: object) -> bool:
    return hasattr(given, "driver")


def _children(graph: Graph, change: _Change) -> None:
    """Find out which children are to be others.  GenericError."""
    node = change.node
    for name in _CHILDREN:
        given = getattr(change.options, name, None)
        old = node.children.get(name)
        if name == "backing" and node.supports_backing and old is not None and _absent(given):
            raise GenericError(f"backing is missing for '{node.node_name}'")
        if not isinstance(given, str):
            if name == "backing" and given is None and old is not None:
                change.children.append((name, None))
            continue
        new = None if name == "backing" and not given else graph.lookup(None, given)
        if new is old:
            continue
        below = old
        while below is not None and below.implicit:
            below = below.filtered
        if old is not None and new is below:
            continue
        if old is not None and old.implicit:
            raise GenericError(f"Cannot replace implicit {name} child of {node.node_name}")
        if node.is_filter and old is None:
            raise GenericError(
                f"'{node.node_name}' is a {node.driver.value} filter node that does not support a {name} child"
            )
        if new is not None:
            check_child(node, name, new)
        change.children.append((name, new))


def _absent(given: object) -> bool:
    from qemud.qapi.runtime.fields import UNSET

    return given is UNSET


async def _carry_out(graph: Graph, changes: list[_Change]) -> None:
    async with AsyncExitStack() as drained:
        for change in changes:
            await drained.enter_async_context(change.node.drained())
        for change in changes:
            if not change.before[1].read_only and change.flags.read_only:
                # What was written must have arrived before nobody is allowed to write it any more.
                try:
                    await change.node.flush()
                except OSError as error:
                    raise GenericError(f"Error flushing drive: {error.strerror}") from None
        prepared: list[_Change] = []
        try:
            for change in changes:
                prepared.append(change)
                change.commit = await change.node.prepare_reopen(change.options, change.flags)
                _children(graph, change)
            gone = _switch(graph, changes)
        except BaseException:
            for change in reversed(prepared):
                await change.node.abort_reopen()
            raise
        for change in changes:
            if change.commit is not None:
                change.commit()
            for name, new in change.children:
                if new is not None:
                    change.node.child_resized(change.node.edges[name])
    for node in gone:
        await graph.release(node)


def _switch(graph: Graph, changes: list[_Change]) -> list[BlockNode]:
    """Let everything be as it will be, at once, and check it.  GenericError, and then all is as before.

    Returns nodes that are children no longer, held.
    """
    undo: list[Callable[[], None]] = []
    gone: list[BlockNode] = []
    try:
        for change in changes:
            undo.append(change.undo)
            change.apply()
        for change in changes:
            for name, new in change.children:
                old = change.node.children.get(name)
                if old is not None:
                    old.holds += 1
                    gone.append(old)
                undo.append(_replace_child(graph, change.node, name, new))
        graph.refresh([change.node for change in changes] + gone, reopening=True)
    except GenericError:
        for step in reversed(undo):
            step()
        for node in gone:
            node.holds -= 1
        graph.refresh([change.node for change in changes], loosen=True)
        raise
    return gone


def _replace_child(graph: Graph, node: BlockNode, name: str, new: BlockNode | None) -> Callable[[], None]:
    """Let a child be another, unchecked; returns what undoes it."""
    edge: Edge | None = node.edges.get(name)
    if edge is None:
        assert new is not None
        made = graph.link(node, name, new, node.backing_role if name == "backing" else node.file_role)
        return lambda: graph.unlink(made)
    if new is None:
        removed = edge
        graph.unlink(removed)
        return lambda: graph.relink(removed)
    old = edge.node
    graph.repoint(edge, new)
    moved = edge
    return lambda: graph.repoint(moved, old)
