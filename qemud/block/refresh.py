"""Bringing permissions into line: what nodes need of those below, when their users need something else.

Source of rules and texts: QEMU 10.0, block.c (bdrv_refresh_perms and what it calls).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.block import permission
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemud.block.edges import Edge
    from qemud.block.node import BlockNode


def refresh(nodes: Iterable[BlockNode], *, loosen: bool = False, reopening: bool = False) -> None:
    """As `Graph.refresh`."""
    saved: list[tuple[Edge, int, int]] = []
    prepared: list[tuple[BlockNode, int, int]] = []
    try:
        for node in _top_down(nodes):
            needs, shares = _combined(node)
            _check_node(node, needs, reopening=reopening)
            prepared.append((node, needs, shares))
            node.prepare_permissions(needs, shares)
            for edge in node.edges.values():
                saved.append((edge, edge.needs, edge.shares))
                edge.needs, edge.shares = node.child_permissions(edge, needs, shares)
    except GenericError:
        for edge, needs, shares in reversed(saved):
            edge.needs, edge.shares = needs, shares
        for node, _, _ in reversed(prepared):
            node.abort_permissions()
        if not loosen:
            raise
        return
    for node, needs, shares in prepared:
        node.cumulative = needs, shares
        node.commit_permissions(needs, shares)


def _top_down(nodes: Iterable[BlockNode]) -> list[BlockNode]:
    """These nodes and all below them, parents before children."""
    order: list[BlockNode] = []
    seen: set[int] = set()

    def visit(node: BlockNode) -> None:
        if id(node) not in seen:
            seen.add(id(node))
            for child in node.children.values():
                visit(child)
            order.append(node)

    for node in nodes:
        visit(node)
    order.reverse()
    return order


def _combined(node: BlockNode) -> tuple[int, int]:
    """What all users of a node together need, and what all share.  GenericError when two of them conflict."""
    needs, shares = 0, permission.ALL
    for edge in node.parents:
        needs |= edge.needs
        shares &= edge.shares
    if needs & ~shares:
        for one in node.parents:
            for other in node.parents:
                if one is not other and other.needs & ~one.shares:
                    name = node.node_name
                    raise GenericError(
                        f"Permission conflict on node '{name}': permissions '{permission.names(other.needs & ~one.shares)}' "
                        f"are both required by {other.user.description()} (uses node '{name}' as '{other.name}' child) and "
                        f"unshared by {one.user.description()} (uses node '{name}' as '{one.name}' child)."
                    )
    return needs, shares


def _check_node(node: BlockNode, needs: int, *, reopening: bool) -> None:
    """Raise GenericError when the node cannot be what its users need."""
    if needs & (permission.WRITE | permission.WRITE_UNCHANGED) and (node.flags.read_only or node.inactive):
        if reopening and not node.inactive:
            raise GenericError(f"Read-only block node '{node.node_name}' cannot support read-write users")
        raise GenericError("Block node is read-only")
    if needs & permission.WRITE and not needs & permission.RESIZE and node.size % node.request_alignment:
        raise GenericError(
            "Cannot get 'write' permission without 'resize': "
            "Image size is not a multiple of request alignment"
        )
