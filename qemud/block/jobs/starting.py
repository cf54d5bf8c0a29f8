"""What the commands that begin jobs check, and what they make of their arguments.

Source of rules and texts: QEMU 10.0, blockdev.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_jobs import MirrorSyncMode
from qemud.block.jobs import chain
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.graph import Graph
    from qemud.block.jobs.manager import Jobs
    from qemud.block.jobs.mirror import MirrorSetup
    from qemud.block.node import BlockNode

_SECTOR = 512
_MAX_GRANULARITY = 64 << 20


def root_node(graph: Graph, name: str) -> BlockNode:
    """The node that a client means, which must be nobody's child.  GenericError."""
    node = graph.lookup_any(name)
    if any(hasattr(edge.user, "node_name") for edge in node.parents):
        raise GenericError("Need a root block node")
    return node


async def blockdev_mirror(jobs: Jobs, device: str, target: str, arguments: dict[str, Any]) -> None:
    """`blockdev-mirror`.  GenericError."""
    from qemud.block.jobs.mirror import MirrorSetup

    graph = jobs.graph
    setup = MirrorSetup(root_node(graph, device), graph.lookup_any(target))
    setup.zero_target = arguments["sync"] is MirrorSyncMode.FULL
    setup.filter_node_name = arguments.pop("filter_node_name")
    await mirror(jobs, setup, arguments)


async def mirror(jobs: Jobs, setup: MirrorSetup, arguments: dict[str, Any]) -> None:
    """What `blockdev-mirror` and `drive-mirror` have in common.  GenericError."""
    from qemud.block.jobs.mirror import can_replace, start_mirror

    graph = jobs.graph
    for name in (
        "job_id",
        "replaces",
        "speed",
        "granularity",
        "buf_size",
        "on_source_error",
        "on_target_error",
        "copy_mode",
        "auto_finalize",
        "auto_dismiss",
    ):
        setattr(setup, name, arguments[name])
    size = setup.granularity
    if size and not _SECTOR <= size <= _MAX_GRANULARITY:
        raise GenericError("Parameter 'granularity' expects a value in range [512B, 64MB]")
    if size & (size - 1):
        raise GenericError("Parameter 'granularity' expects a power of 2")
    source = setup.source
    graph.check_not_blocked(source)
    graph.check_not_blocked(setup.target)
    sync = arguments["sync"]
    if sync is MirrorSyncMode.TOP and chain.next_layer(source) is None:
        sync = MirrorSyncMode.FULL
    if setup.replaces is None:
        shown = source
        while shown.implicit and shown.filtered is not None:
            shown = shown.filtered
        if shown is not source:
            setup.replaces = shown.node_name
    if setup.replaces is not None:
        node = graph.find_node(setup.replaces)
        if node is None:
            raise GenericError(f"Failed to find node with node-name='{setup.replaces}'")
        graph.check_not_blocked(node)
        if not can_replace(source, node):
            raise GenericError(
                f"Cannot replace '{setup.replaces}' by a node mirrored from '{source.node_name}', because it cannot be "
                "guaranteed that doing so would not lead to an abrupt change of visible data"
            )
        if node.size != source.size:
            raise GenericError("cannot replace image with a mirror image of different size")
    if sync in {MirrorSyncMode.INCREMENTAL, MirrorSyncMode.BITMAP}:
        raise GenericError(f"Sync mode '{sync.value}' not supported")
    setup.only_new = sync is MirrorSyncMode.NONE
    if sync is MirrorSyncMode.TOP:
        setup.base = chain.next_layer(source)
    await start_mirror(jobs, setup)
