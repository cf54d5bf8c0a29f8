"""What every job does: states, pauses, progress, and what becomes of it at its end.

A subclass has `run`, which works and now and then comes to a *pause point* (`sleep`, `wait`, `pause_point`): there the job can be held, by a
client or while nodes that it uses are drained.  When `run` is over, `prepare` and then `commit` let its effects come, or `abort`
undoes it; `clean` follows either.  `qemud.block.jobs.manager` calls these, for all jobs of a group.

    class Copy(Job):
        type = JobType.BACKUP

        async def run(self) -> None:
            while work:
                await self.sleep(0)
                if self.is_cancelled:
                    return
                ...

`run`, `prepare` raise OSError or GenericError, which is what the job failed of.

**Time.** `busy` says whether code of the job may run without another pause point.  A job that is not busy is held at once, in the call
of `pause`, and goes on in the call of `resume`: clients see the states in the same order as they would with coroutines that are
entered directly.

Source of rules and texts: QEMU 10.0, job.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.job import JobInfo, JobStatus, JobVerb
from qemud.block.jobs.states import COMPLETED, READY, TRANSITIONS, VERBS
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.job import JobType
    from qemud.block.jobs.manager import Group, Jobs
    from qemud.block.node import BlockNode


class Job:
    """See the module.  GenericError: the name is bad or taken."""

    type: ClassVar[JobType]

    def __init__(
        self,
        jobs: Jobs,
        job_id: str,
        *,
        group: Group | None = None,
        auto_finalize: bool = True,
        auto_dismiss: bool = True,
    ) -> None:
        jobs.check_id(job_id)
        self.jobs = jobs
        self.id = job_id
        self.auto_finalize = auto_finalize
        self.auto_dismiss = auto_dismiss
        self.status = JobStatus.UNDEFINED
        self.busy = False
        self.paused = True
        self.pause_count = 1
        self.user_paused = False
        self.cancelled = False
        self.force_cancelled = False
        self.failed = False
        self.error: str | None = None
        self.progress = 0
        self.total = 0
        self.started = False
        self.over = False
        """`run` has returned, or will never be called."""
        self._ended = asyncio.Event()
        self.group: Group | None = None
        self._held_status = JobStatus.RUNNING
        self._wake: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle_waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self.become(JobStatus.CREATED)
        jobs.add(self, group)

    # What subclasses have.

    async def run(self) -> None:
        """Do the work."""
        raise NotImplementedError

    async def prepare(self) -> None:
        """The work is done, and so is that of the other jobs of the group: do what can still fail."""

    async def commit(self) -> None:
        """Nothing has failed."""

    async def abort(self) -> None:
        """Something has failed, or the job was cancelled; maybe before it was started."""

    async def clean(self) -> None:
        """Let go of everything; after `commit` or `abort`."""

    def has(self, _node: BlockNode) -> bool:
        """Whether the job uses a node."""
        return False

    async def on_pause(self) -> None:
        """The job is about to be held: wait for what is under way."""

    def on_cancel(self, *, force: bool) -> bool:
        """The job is being cancelled; returns whether by force, which it is where nothing else is possible."""
        del force
        return True

    def on_complete(self) -> None:
        """`job-complete`.  GenericError."""
        raise GenericError(f"The active block job '{self.id}' cannot be completed")

    def on_user_resume(self) -> None:
        """A client lets it go on."""

    def tell(self, what: str) -> None:
        """Send the event for `ready`, `pending`, `completed` or `cancelled`."""

    @property
    def requests(self) -> int:
        """How many requests are under way besides what `busy` says."""
        return 0

    # States.

    def become(self, status: JobStatus) -> None:
        """Have another status, and tell clients."""
        before = self.status
        assert status in TRANSITIONS[before], (before, status)
        self.status = status
        if status is not before:
            from qemud._generated.events import job as events

            events.job_status_change(self.jobs.graph.emit, id=self.id, status=status)

    def check_verb(self, verb: JobVerb) -> None:
        """Raise GenericError when the status does not allow it."""
        if self.status not in VERBS[verb]:
            raise GenericError(
                f"Job '{self.id}' in state '{self.status.value}' cannot accept command verb '{verb.value}'"
            )

    @property
    def is_ready(self) -> bool:
        """Whether it could be completed."""
        return self.status in READY

    @property
    def is_completed(self) -> bool:
        """Whether the work is over."""
        return self.status in COMPLETED

    @property
    def is_cancelled(self) -> bool:
        """Whether it is to end as soon as possible."""
        return self.force_cancelled

    def become_ready(self) -> None:
        """In `run`: the job could be completed now."""
        self.become(JobStatus.READY)
        self.tell("ready")

    def settle_result(self) -> None:
        """Take note of being cancelled; abort if anything is wrong."""
        if not self.failed and self.is_cancelled:
            self.fail(OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))
        if self.failed:
            self.become(JobStatus.ABORTING)

    def fail(self, error: Exception) -> None:
        """The job has failed of this."""
        self.failed = True
        if self.error is None:
            self.error = error.strerror if isinstance(error, OSError) and error.strerror else str(error)

    def info(self) -> JobInfo:
        """For query-jobs."""
        return JobInfo(
            id=self.id,
            type=self.type,
            status=self.status,
            current_progress=self.progress,
            total_progress=self.total,
            error=self.error,
        )

    # Progress.

    def advance(self, count: int) -> None:
        """So much more is done."""
        self.progress += count

    def set_remaining(self, count: int) -> None:
        """So much is left to do."""
        self.total = self.progress + count

    # From outside.

    def start(self) -> None:
        """Begin; held at once while a node that it uses is drained."""
        assert not self.started
        self.started = True
        self.pause_count -= 1
        self.paused = False
        self.busy = True
        self.become(JobStatus.RUNNING)
        if self.pause_count:
            self._hold()
            self.busy = False
            self._wake = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._main(), name=f"job {self.id}")

    def pause(self) -> None:
        """Hold it, at once or at the next pause point, until as many `resume`."""
        self.pause_count += 1
        if self._is_waiting and not self.paused and not self.is_cancelled:
            self._hold()

    def resume(self) -> None:
        """The end of `pause`."""
        assert self.pause_count > 0
        self.pause_count -= 1
        if not self.pause_count and self.paused:
            self.enter()

    def enter(self) -> None:
        """Let it go on from where it waits."""
        if not self._is_waiting:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.busy = True
        if self.paused:
            self.paused = False
            self.become(self._held_status)
        assert self._wake is not None
        self._wake.set_result(None)

    @property
    def _is_waiting(self) -> bool:
        return self._wake is not None and not self._wake.done() and not self.busy

    def _hold(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._held_status = self.status
        self.become(JobStatus.STANDBY if self.status is JobStatus.READY else JobStatus.PAUSED)
        self.paused = True

    def user_pause(self) -> None:
        """`job-pause`.  GenericError."""
        self.check_verb(JobVerb.PAUSE)
        if self.user_paused:
            raise GenericError("Job is already paused")
        self.user_paused = True
        self.pause()

    def user_resume(self) -> None:
        """`job-resume`.  GenericError."""
        if not self.user_paused or self.pause_count <= 0:
            raise GenericError("Can't resume a job that was not paused")
        self.check_verb(JobVerb.RESUME)
        self.on_user_resume()
        self.user_paused = False
        self.resume()

    def cancel_soon(self, *, force: bool) -> None:
        """Note that it is cancelled; whoever calls lets it go on."""
        force = self.on_cancel(force=force)
        if self.user_paused:
            self.on_user_resume()
            self.user_paused = False
            self.pause_count -= 1
        if force or not self.over:
            self.cancelled = True
            self.force_cancelled |= force

    def complete(self) -> None:
        """`job-complete`.  GenericError."""
        self.check_verb(JobVerb.COMPLETE)
        if self.cancelled:
            raise GenericError(f"The active block job '{self.id}' cannot be completed")
        self.on_complete()

    # In `run`.

    async def pause_point(self) -> None:
        """Be held here, if that is wanted."""
        if not self.pause_count or self.is_cancelled:
            return
        await self.on_pause()
        if self.pause_count and not self.is_cancelled:
            self._hold()
            await self._doze(None)

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or until `enter`; a pause point."""
        if self.is_cancelled:
            return
        if not self.pause_count:
            await self._doze(seconds)
        await self.pause_point()

    async def wait(self) -> None:
        """Wait until `enter`; a pause point."""
        if self.is_cancelled:
            return
        if not self.pause_count:
            await self._doze(None)
        await self.pause_point()

    async def _doze(self, seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        if seconds is not None:
            self._timer = loop.call_later(seconds, self.enter)
        self.busy = False
        self.settled()
        await self._wake
        self._wake = None

    async def _main(self) -> None:
        """The task."""
        try:
            if self._wake is not None:
                await self._wake
                self._wake = None
            await self.pause_point()
            await self.run()
        except (OSError, GenericError) as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not leave the graph as it is
            self.fail(error)
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"job '{self.id}' failed", "exception": error}
            )
        self.end()
        async with self.jobs.turn:
            await self.jobs.finished(self)

    def end(self) -> None:
        """`run` has returned, or will never be called."""
        self.over = True
        self.busy = False
        self._ended.set()
        self.settled()

    # As `User` of nodes, and for who waits.

    @property
    def in_flight(self) -> int:
        """Requests under way; a busy job counts as one, as it may begin some without another pause point."""
        if self.over:
            return 0
        return self.requests + (1 if self.busy else 0)

    def settled(self) -> None:
        """Something is not under way any more: tell who waits in `idle`."""
        if self._idle_waiters and not self.in_flight:
            waiters, self._idle_waiters = self._idle_waiters, []
            for future in waiters:
                if not future.done():
                    future.set_result(None)

    async def idle(self) -> None:
        """Until nothing is under way."""
        while self.in_flight:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle_waiters.append(future)
            await future

    async def until_over(self) -> None:
        """Until `run` has returned."""
        await self._ended.wait()
