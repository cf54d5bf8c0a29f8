"""How mirrors and active commits begin: the filter, the nodes that the job has, and what is undone when it cannot be.

Source of rules and texts: QEMU 10.0, block/mirror.c (mirror_start_job).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.block import permission
from qemud.block.bitmaps import DirtyBitmap, default_granularity
from qemud.block.jobs import chain
from qemud.block.jobs.filters import FilterOptions, pull_out, put_above
from qemud.block.jobs.mirror import ActiveCommit, Mirror
from qemud.block.jobs.mirror_filter import MirrorFilter
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.jobs.manager import Jobs
    from qemud.block.jobs.mirror_filter import MirrorSetup


async def start_mirror(jobs: Jobs, setup: MirrorSetup) -> Mirror:
    """Make a mirror and start it.  GenericError: it cannot be, and nothing has changed."""
    graph, source, target = jobs.graph, setup.source, setup.target
    granularity = setup.granularity or await default_granularity(target)
    if setup.buf_size < 0:
        raise GenericError("Invalid parameter 'buf-size'")
    if source.skip_filters() is target.skip_filters():
        raise GenericError("Can't mirror node into itself")
    top = graph.make_filter(MirrorFilter, source, setup.filter_node_name, FilterOptions())
    assert isinstance(top, MirrorFilter)
    top.bitmap = DirtyBitmap(source.size, granularity)
    top.bitmap.enabled = False  # the filter itself sees to it
    top.dirty_bitmaps[""] = top.bitmap  # clients are told of it, although it has no name
    top.is_commit = setup.is_commit = chain.contains(source, target)
    job: Mirror | None = None
    async with source.drained():
        try:
            put_above(top, source)
            job = (ActiveCommit if setup.is_commit else Mirror)(jobs, setup, top)
            _attach(job)
        except GenericError:
            if job is not None:
                await job.target.close()
                await jobs.early_fail(job)
            top.stopped = True
            graph.refresh([top])
            pull_out(top)
            await graph.release(top)
            raise
    await graph.release(top)
    job.start()
    return job


def _attach(job: Mirror) -> None:
    """Let the job have its nodes.  GenericError."""
    setup, source, target = job.setup, job.setup.source, job.setup.target
    unchanged, read, write = permission.WRITE_UNCHANGED, permission.CONSISTENT_READ, permission.WRITE
    job.use("main node", job.filter, read, read | unchanged | write)
    job.set_speed(setup.speed)
    needs, shares = write, unchanged
    if setup.is_commit:
        if target.size < source.size:
            needs |= permission.RESIZE
        shares |= read | write
    elif chain.contains(source, target.skip_filters()):
        raise GenericError("Cannot mirror to a filter on top of a node in the source's backing chain")
    job.target.set_permissions(needs, shares)
    job.target.insert(target)
    # It may be the disk of the process that the machine goes to: it is handed over with the machine, while the job is at rest.
    job.target.bears_inactive = not setup.is_commit
    job.use("source", source, 0, unchanged | write | read)
    job.use("target", target, 0, permission.ALL)
    if setup.is_commit:
        over = chain.overlay_of(source, target)
        filtered = None if over is None else over.backing
        shares = unchanged | write
        node = chain.below(source)
        while node is not None and node is not target:
            if node is filtered:
                shares |= read
            job.use("intermediate node", node, 0, shares)
            node = chain.below(node)
