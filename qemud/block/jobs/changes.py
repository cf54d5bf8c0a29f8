"""Changes of chains that jobs and snapshots make: another backing file, in the graph and in the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.block.edges import Role
from qemud.block.filters import FilterNode
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.node import BlockNode


async def set_backing(node: BlockNode, backing: BlockNode | None) -> None:
    """Give a node another backing file, or none; both are drained.  GenericError, and then nothing has changed."""
    graph = node.graph
    if backing is not None and not node.supports_backing and not isinstance(node, FilterNode):
        raise GenericError(
            f"Driver '{node.driver.value}' of node '{node.node_name}' does not support backing files"
        )
    edge = node.edges.get("backing")
    if edge is None:
        if backing is not None:
            graph.add_child(node, "backing", backing, Role.COW)
    elif backing is None:
        await graph.detach(edge)
    elif edge.node is not backing:
        old = edge.node
        old.holds += 1
        try:
            graph.move([edge], backing)
        finally:
            await graph.release(old)


def format_of(node: BlockNode | None, *, mask_protocol: bool) -> str | None:
    """What an image says of the format of its backing file; with `mask_protocol`, raw for what is none."""
    if node is None:
        return None
    return "raw" if mask_protocol and node.is_protocol else node.driver.value
