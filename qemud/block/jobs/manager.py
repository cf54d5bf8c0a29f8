"""All jobs of a graph, and the groups in which jobs complete together.

    jobs = jobs_of(graph)
    async with jobs.turn:
        job = ...                  # made and started, or found by `jobs.find` and asked for something
    await jobs.close()             # cancels all

A job alone is a group of one.  When all jobs of a group have done their work they wait for `job-finalize`, or not, and then have their
effects one after another; when one fails, all are undone.

Source of rules and texts: QEMU 10.0, job.c.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qemud._generated.types.job import JobStatus, JobVerb
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.graph import Graph
    from qemud.block.jobs.job import Job
    from qemud.block.node import BlockNode

_REST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")


class Group:
    """Jobs that complete together."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.aborting = False


def jobs_of(graph: Graph) -> Jobs:
    """The jobs of a graph."""
    if graph.jobs is None:
        graph.jobs = Jobs(graph)
    found: Jobs = graph.jobs
    return found


class Jobs:
    """See the module."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.all: list[Job] = []
        """The newest first."""
        self.turn = asyncio.Lock()
        """Held by who changes jobs, or the graph for them."""

    def check_id(self, job_id: str) -> None:
        """Raise GenericError when a job cannot have that name."""
        if not (job_id[:1].isalpha() and job_id.isascii() and _REST.issuperset(job_id)):
            raise GenericError(f"Invalid job ID '{job_id}'")
        if self.get(job_id) is not None:
            raise GenericError(f"Job ID '{job_id}' already in use")

    def get(self, job_id: str) -> Job | None:
        """The job of that name."""
        return next((job for job in self.all if job.id == job_id), None)

    def find(self, job_id: str) -> Job:
        """The job of that name.  GenericError."""
        job = self.get(job_id)
        if job is None:
            raise GenericError("Job not found")
        return job

    def add(self, job: Job, group: Group | None) -> None:
        """Have a new job."""
        self.all.insert(0, job)
        job.group = group or Group()
        job.group.jobs.insert(0, job)

    async def close(self) -> None:
        """Cancel all jobs, and wait until they are gone."""
        while self.all:
            job = self.all[0]
            async with self.turn:
                if job in self.all:
                    await self.cancel_and_wait(job)

    async def cancel_on(self, node: BlockNode) -> None:
        """Begin to end, as cancelled by a client, all jobs that use a node: the drive goes with its device."""
        async with self.turn:
            for job in list(self.all):
                if job.has(node) and not job.cancelled and not job.over:
                    await self._cancel(job, force=False)

    # What clients ask for.  Whoever calls has the turn.

    async def cancel(self, job: Job, *, force: bool) -> None:
        """End a job, or begin to.  GenericError: its status does not allow it."""
        job.check_verb(JobVerb.CANCEL)
        await self._cancel(job, force=force)

    async def finalize(self, job: Job) -> None:
        """`job-finalize`.  GenericError."""
        job.check_verb(JobVerb.FINALIZE)
        await self._finalize(job)

    def dismiss(self, job: Job) -> None:
        """`job-dismiss`.  GenericError."""
        job.check_verb(JobVerb.DISMISS)
        self._dismiss(job)

    async def cancel_and_wait(self, job: Job) -> None:
        """End a job by force, and wait until all has been undone."""
        await self._cancel(job, force=True)
        await job.until_over()
        if not job.is_completed:
            await self._work_over(job)
        if job.status is JobStatus.CONCLUDED:
            self._dismiss(job)

    async def early_fail(self, job: Job) -> None:
        """A job that was made cannot be started after all."""
        await job.clean()
        self._dismiss(job)

    # Its course.

    async def finished(self, job: Job) -> None:
        """`run` of a job has returned."""
        if not job.is_completed:
            await self._work_over(job)

    async def _cancel(self, job: Job, *, force: bool) -> None:
        if job.status is JobStatus.CONCLUDED:
            self._dismiss(job)
            return
        job.cancel_soon(force=force)
        if not job.started:
            job.end()
            await self._work_over(job)
        elif job.over:
            if job.is_cancelled and job.is_completed:
                await self._abort_group(job)
        else:
            job.enter()

    async def _work_over(self, job: Job) -> None:
        job.settle_result()
        if job.failed:
            await self._abort_group(job)
            return
        job.become(JobStatus.WAITING)
        group = job.group
        assert group is not None
        if not all(each.is_completed for each in group.jobs):
            return
        for each in list(group.jobs):
            each.become(JobStatus.PENDING)
            if not each.auto_finalize:
                each.tell("pending")
        if all(each.auto_finalize for each in group.jobs):
            await self._finalize(job)

    async def _finalize(self, job: Job) -> None:
        group = job.group
        assert group is not None
        for each in list(group.jobs):
            try:
                if not each.failed:
                    await each.prepare()
            except (OSError, GenericError) as error:
                each.fail(error)
                each.settle_result()
            if each.failed:
                await self._abort_group(each)
                return
        for each in list(group.jobs):
            await self._end(each)

    async def _abort_group(self, job: Job) -> None:
        group = job.group
        assert group is not None
        if group.aborting:
            return
        group.aborting = True
        for each in group.jobs:
            if each is not job:
                each.cancel_soon(force=True)
        while group.jobs:
            each = group.jobs[0]
            if not each.is_completed:
                if each.started:
                    each.enter()
                    await each.until_over()
                each.settle_result()
            await self._end(each)

    async def _end(self, job: Job) -> None:
        """Let a job have its effects, or undo it, and conclude it."""
        job.settle_result()
        if job.failed:
            await job.abort()
        else:
            await job.commit()
        await job.clean()
        if job.started:
            job.tell("cancelled" if job.is_cancelled else "completed")
        self._leave_group(job)
        job.become(JobStatus.CONCLUDED)
        if job.auto_dismiss or not job.started:
            self._dismiss(job)

    def _leave_group(self, job: Job) -> None:
        if job.group is not None:
            job.group.jobs.remove(job)
            job.group = None

    def _dismiss(self, job: Job) -> None:
        self._leave_group(job)
        job.become(JobStatus.NULL)
        self.all.remove(job)
