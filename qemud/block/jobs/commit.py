"""Commit: write what an image and those below it have into one further down, so that they are not needed any more.

    await start_commit(jobs, CommitSetup(active, top=..., base=...))

This is for images that nobody writes to: where the guest does, it is an active commit, a kind of mirror (`mirror`).

Source of rules and texts: QEMU 10.0, block/commit.c.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from qemud._generated.types.block_info import BlockdevOnError
from qemud._generated.types.job import JobType
from qemud.block import permission
from qemud.block.backend import BlockBackend
from qemud.block.jobs import chain
from qemud.block.jobs.changes import format_of
from qemud.block.jobs.copying import CopyError
from qemud.block.jobs.filters import FilterOptions, JobFilter, driver_name, job_edges, pull_out, put_above
from qemud.block.jobs.sweep import Sweep
from qemud.block.node import BlockNode
from qemud.block.reopen import set_read_only
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.edges import Edge
    from qemud.block.jobs.manager import Jobs


class CommitSetup:
    """What a commit is to do; names and defaults are those of `block-commit`."""

    def __init__(self, active: BlockNode, top: BlockNode, base: BlockNode) -> None:
        self.job_id: str | None = None
        self.active = active
        self.top = top
        self.base = base
        self.backing_file: str | None = None
        self.backing_mask_protocol = False
        self.speed = 0
        self.on_error = BlockdevOnError.REPORT
        self.filter_node_name: str | None = None
        self.auto_finalize = True
        self.auto_dismiss = True


class CommitFilter(JobFilter):
    """Above the images that are merged: who reads through it does not rely on what each of them has."""

    driver = driver_name("commit_top")
    file_shown = "backing"

    def child_permissions(self, edge: Edge, needs: int, shares: int) -> tuple[int, int]:
        """Nothing is needed of the images below."""
        del edge, needs, shares
        return 0, permission.ALL


class Commit(Sweep):
    """See the module."""

    type = JobType.COMMIT

    def __init__(self, jobs: Jobs, setup: CommitSetup) -> None:
        super().__init__(
            jobs,
            setup.job_id,
            setup.active,
            auto_finalize=setup.auto_finalize,
            auto_dismiss=setup.auto_dismiss,
        )
        self.setup = setup
        self.on_error = setup.on_error
        self.filter: CommitFilter | None = None
        self.base = BlockBackend(self.graph)
        self.was_read_only = False
        self.base_overlay = chain.overlay_of(setup.top, setup.base)

    async def run(self) -> None:
        """As in the base."""
        top, base = self.setup.top, self.setup.base
        if base.size < top.size:
            await base.truncate(top.size, exact=False)
        await self.sweep(top.size)

    async def look(self, offset: int, length: int) -> tuple[int, bool]:
        """As in the base."""
        extent = await chain.status_above(
            self.setup.top, self.base_overlay, offset, length, include_base=True
        )
        return extent.length, extent.allocated

    async def copy(self, offset: int, length: int, view: memoryview) -> None:
        """As in the base."""
        position, end = offset, offset + length
        read = True
        top, base = self.setup.top, self.setup.base
        try:
            while position < end:
                read = True
                extent = await chain.status_above(
                    top, self.base_overlay, position, end - position, include_base=True
                )
                count = extent.length
                if extent.zero:
                    read = False
                    await base.write_zeroes(position, count, unmap=True)
                else:
                    await top.readv(position, [view[:count]])
                    read = False
                    await base.writev(position, [view[:count]])
                position += count
        except OSError as error:
            raise CopyError(error, position, read=read) from None

    # The end.

    async def prepare(self) -> None:
        """As in the base: who uses the top uses the base."""
        graph, setup, top = self.graph, self.setup, self.filter
        assert top is not None
        base = setup.base
        # Nobody writes to the base any more.
        await self.base.close()
        base.holds += 1
        try:
            async with top.drained(), base.drained():
                name = setup.backing_file or base.filename
                fmt = format_of(base, mask_protocol=setup.backing_mask_protocol)
                for edge in top.parents:
                    if edge.name == "backing" and isinstance(edge.user, BlockNode):
                        await _rename_backing(edge.user, name, fmt)
                nodes = self.let_go_later()
                graph.replace(top, base, keep=job_edges(top))
                self.filter = None
            for node in [*nodes, top]:
                await graph.release(node)
        finally:
            await graph.release(base)

    async def abort(self) -> None:
        """As in the base: everything is as it was, but for what has been written to the base."""
        await self.base.close()
        top, self.filter = self.filter, None
        if top is None:
            return
        nodes = self.let_go_later()
        async with top.drained():
            pull_out(top)
        for node in [*nodes, top]:
            await self.graph.release(node)

    async def clean(self) -> None:
        """As in the base."""
        await super().clean()
        if self.was_read_only:
            with contextlib.suppress(GenericError):
                await set_read_only(self.graph, self.setup.base, read_only=True)


async def _rename_backing(node: BlockNode, name: str, format_name: str | None) -> None:
    """Write another backing file into an image, which may be open for reading only.  OSError, GenericError."""
    was_read_only = node.read_only
    if was_read_only:
        await set_read_only(node.graph, node, read_only=False)
    try:
        await node.change_backing_file(name, format_name)
    finally:
        if was_read_only:
            with contextlib.suppress(GenericError):
                await set_read_only(node.graph, node, read_only=True)


async def start_commit(jobs: Jobs, setup: CommitSetup) -> None:
    """Make a commit and start it.  GenericError: it cannot be, and nothing has changed."""
    graph, top, base = jobs.graph, setup.top, setup.base
    if top.skip_filters() is base.skip_filters():
        raise GenericError("Invalid files for merge: top and base are the same")
    job = Commit(jobs, setup)
    try:
        job.use("main node", setup.active, 0, permission.ALL)
        job.set_speed(setup.speed)
        if base.read_only:
            await set_read_only(graph, base, read_only=False)
            job.was_read_only = True
        made = graph.make_filter(CommitFilter, top, setup.filter_node_name, FilterOptions())
        assert isinstance(made, CommitFilter)
        job.filter = made
        async with top.drained():
            put_above(made, top)
            _attach(job)
    except GenericError:
        await job.abort()
        await jobs.early_fail(job)
        raise
    job.start()


def _attach(job: Commit) -> None:
    """Let the job have its nodes.  GenericError."""
    setup = job.setup
    unchanged, read, write = permission.WRITE_UNCHANGED, permission.CONSISTENT_READ, permission.WRITE
    filtered = None if job.base_overlay is None else job.base_overlay.backing
    shares = unchanged | write
    for node in chain.chain(setup.top):
        if node is setup.base:
            break
        if node is filtered:
            shares |= read
        job.use("intermediate node", node, 0, shares)
    job.use("base", setup.base, 0, permission.ALL)
    needs = read | write | (permission.RESIZE if setup.base.size < setup.top.size else 0)
    job.base.set_permissions(needs, read | unchanged)
    job.base.insert(setup.base)
