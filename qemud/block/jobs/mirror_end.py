"""How a mirror ends well: the copy gets the backing file that it is to have, and takes the place of the disk.

    await set_backing(job, target)
    await replace(job, target)              # after job-complete

Both change the graph, which has to be drained.

Source of rules and texts: QEMU 10.0, block/mirror.c.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from qemud.block.edges import Role
from qemud.block.jobs.filters import job_edges
from qemud.block.reopen import set_read_only
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.jobs.mirror import Mirror
    from qemud.block.node import BlockNode


async def set_backing(job: Mirror, target: BlockNode) -> None:
    """Give the copy the backing file that it is to have.  GenericError: it cannot be opened."""
    graph, setup = job.graph, job.setup
    layer = target.skip_filters()
    if setup.backing_mode == "source":
        backing = job.filter.file if setup.only_new else setup.base
        if layer.backing is not backing:
            if "backing" in layer.edges:
                await graph.detach(layer.edges["backing"])
            if backing is not None:
                graph.add_child(layer, "backing", backing, Role.COW)
    elif setup.backing_mode == "open" and layer.backing_filename is not None and layer.backing is None:
        from qemud.block.image import open_backing

        backing = await open_backing(
            graph,
            layer,
            layer.backing_filename,
            layer.backing_format,
            flags=layer.flags._replace(read_only=True),
        )
        graph.add_child(layer, "backing", backing, Role.COW)
        await graph.release(backing)


async def replace(job: Mirror, target: BlockNode) -> None:
    """Let everybody use the copy.  GenericError: it would have other data than what it is to replace."""
    graph, source = job.graph, job.filter.file
    old = job.to_replace or source
    if old.read_only != target.read_only:
        with contextlib.suppress(GenericError):
            await set_read_only(graph, target, read_only=old.read_only)
    async with old.drained():
        if not can_replace(source, old):
            raise GenericError(
                f"Can no longer replace '{old.node_name}' by '{target.node_name}', because it can no longer be guaranteed "
                "that doing so would not lead to an abrupt change of visible data"
            )
        graph.replace(old, target, keep=job_edges(old))


def can_replace(top: BlockNode, node: BlockNode) -> bool:
    """Whether a node has the same data as one above it, so that a copy of that can take its place."""
    each: BlockNode | None = top
    while each is not None:
        if each is node:
            return True
        each = each.filtered
    return False
