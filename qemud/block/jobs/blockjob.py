"""Jobs that use block nodes: which, how fast, and what becomes of errors.

    job = Mirror(jobs, job_id, node, ...)
    job.use("source", node, needs=permission.CONSISTENT_READ, shares=permission.ALL)
    job.start()

A node that a job uses is blocked for other operations of clients until the job lets go of it.

Source of rules and texts: QEMU 10.0, blockjob.c.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_info import BlockDeviceIoStatus, BlockdevOnError
from qemud._generated.types.job import JobVerb
from qemud.block.jobs.job import Job
from qemud.block.jobs.ratelimit import RateLimit
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from qemud._generated.types.block_jobs import BlockJobInfo
    from qemud.block.edges import Edge
    from qemud.block.jobs.manager import Group, Jobs
    from qemud.block.node import BlockNode

SLICE = 0.1
"""How long a job works without waiting, at most, seconds."""


def drive_name(node: BlockNode) -> str:
    """The drive whose medium a node is; empty when there is none."""
    for edge in node.parents:
        name: str = getattr(edge.user, "name", "")
        if name and edge.name == "root":
            return name
    return ""


class BlockJob(Job):
    """See the module."""

    def __init__(
        self,
        jobs: Jobs,
        job_id: str | None,
        node: BlockNode,
        *,
        group: Group | None = None,
        auto_finalize: bool = True,
        auto_dismiss: bool = True,
    ) -> None:
        super().__init__(
            jobs,
            drive_name(node) if job_id is None else job_id,
            group=group,
            auto_finalize=auto_finalize,
            auto_dismiss=auto_dismiss,
        )
        self.graph = jobs.graph
        self.iostatus = BlockDeviceIoStatus.OK
        self.limit = RateLimit()
        self.own_drains = 0
        self._rested = 0.0
        self._uses: list[Edge] = []

    # Nodes.

    def use(self, name: str, node: BlockNode, needs: int, shares: int) -> None:
        """Use a node until `let_go`.  GenericError: others use it in a way that conflicts."""
        self._uses.append(self.graph.attach(self, node, needs=needs, shares=shares, name=name))
        node.blockers[self] = f"block device is in use by block job: {self.type.value}"

    def has(self, node: BlockNode) -> bool:
        """As in the base."""
        return any(edge.node is node for edge in self._uses)

    def let_go_later(self) -> list[BlockNode]:
        """Use no node any more, in this turn of the loop; the nodes are held, and to be released by who calls."""
        nodes = []
        while self._uses:
            edge = self._uses.pop()
            edge.node.blockers.pop(self, None)
            edge.node.holds += 1
            nodes.append(edge.node)
            self.graph.cut(edge)
        return nodes

    async def let_go(self) -> None:
        """Use no node any more."""
        for node in self.let_go_later():
            await self.graph.release(node)

    async def clean(self) -> None:
        """As in the base: no node is used any more."""
        await self.let_go()

    @asynccontextmanager
    async def own_drain(self, node: BlockNode) -> AsyncIterator[None]:
        """Drain a node in `run`: the job itself has nothing under way, and is not waited for."""
        await self.begin_own_drain(node)
        try:
            yield
        finally:
            self.end_own_drain(node)

    async def begin_own_drain(self, node: BlockNode) -> None:
        """See `own_drain`."""
        self.own_drains += 1
        self.settled()
        try:
            await node.begin_drain()
        except BaseException:
            self.own_drains -= 1
            raise

    def end_own_drain(self, node: BlockNode) -> None:
        """See `own_drain`."""
        node.end_drain()
        self.own_drains -= 1

    # As `User` of nodes.

    @property
    def in_flight(self) -> int:
        """As in the base, but that a job in its own drain sends nothing."""
        return self.requests if self.own_drains and not self.over else super().in_flight

    def description(self) -> str:
        """For error messages."""
        return f"{self.type.value} job '{self.id}'"

    def users(self) -> Sequence[Edge]:
        """Nobody is above a job."""
        return ()

    def drain_begin(self) -> None:
        """Hold, for a change of the graph."""
        self.pause()

    def drain_end(self) -> None:
        """Go on."""
        self.resume()

    def child_resized(self, edge: Edge) -> None:
        """Jobs do not allow it."""
        del edge

    # Speed.

    @property
    def speed(self) -> int:
        """Bytes in a second; 0: as fast as can be."""
        return self.limit.speed

    def set_speed(self, speed: int) -> None:
        """`block-job-set-speed`.  GenericError."""
        self.check_verb(JobVerb.SET_SPEED)
        if speed < 0:
            raise GenericError("Parameter 'speed' expects a non-negative value")
        before = self.speed
        self.limit.set_speed(speed)
        if (not speed or speed > before) and self._timer is not None:
            self.enter()

    async def keep_speed(self) -> None:
        """In `run`: wait as long as the speed wants, once at least; a pause point."""
        while True:
            delay = self.limit.delay()
            await self.sleep(delay)
            if not delay or self.is_cancelled:
                return

    async def keep_pace(self) -> None:
        """As `keep_speed`, but where there is no limit it waits now and then only; a pause point."""
        now = time.monotonic()
        if self.limit.speed or now - self._rested >= SLICE:
            await self.keep_speed()
            self._rested = time.monotonic()
        else:
            await self.pause_point()

    # Errors.

    def error_action(self, policy: BlockdevOnError, error: OSError, *, read: bool) -> str:
        """What is to become of an error: `report`, `ignore`, or `stop`, and then the job is paused.  Clients are told."""
        from qemud._generated.events import block_jobs as events
        from qemud._generated.types.block_core import BlockErrorAction, IoOperationType

        if policy in {BlockdevOnError.ENOSPC, BlockdevOnError.AUTO}:
            action = BlockErrorAction.STOP if error.errno == errno.ENOSPC else BlockErrorAction.REPORT
        else:
            action = BlockErrorAction(policy.value)
        events.block_job_error(
            self.graph.emit,
            device=self.id,
            operation=IoOperationType.READ if read else IoOperationType.WRITE,
            action=action,
        )
        if action is BlockErrorAction.STOP:
            if not self.user_paused:
                self.pause()
                self.user_paused = True
            if self.iostatus is BlockDeviceIoStatus.OK:
                nospace = error.errno == errno.ENOSPC
                self.iostatus = BlockDeviceIoStatus.NOSPACE if nospace else BlockDeviceIoStatus.FAILED
        value: str = action.value
        return value

    def on_user_resume(self) -> None:
        """What went wrong is tried again."""
        self.iostatus = BlockDeviceIoStatus.OK

    # What clients are told.

    def tell(self, what: str) -> None:
        """As in the base."""
        from qemud._generated.events import block_jobs as events

        emit = self.graph.emit
        if what == "pending":
            events.block_job_pending(emit, type=self.type, id=self.id)
            return
        common: dict[str, Any] = {
            "type": self.type,
            "device": self.id,
            "len": self.total,
            "offset": self.progress,
            "speed": self.speed,
        }
        if what == "ready":
            events.block_job_ready(emit, **common)
        elif what == "cancelled":
            events.block_job_cancelled(emit, **common)
        else:
            events.block_job_completed(emit, **common, error=self.error if self.failed else None)

    def block_info(self) -> BlockJobInfo:
        """For query-block-jobs."""
        from qemud._generated.types.block_jobs import BlockJobInfo

        leaf = next(each for each in BlockJobInfo.__subclasses__() if each.type is self.type)
        return leaf(
            device=self.id,
            len=self.total,
            offset=self.progress,
            busy=self.busy,
            paused=self.pause_count > 0,
            speed=self.speed,
            io_status=self.iostatus,
            ready=self.is_ready,
            status=self.status,
            auto_finalize=self.auto_finalize,
            auto_dismiss=self.auto_dismiss,
            error=self.error if self.failed else None,
            **self.info_details(),
        )

    def info_details(self) -> dict[str, Any]:
        """What jobs of this type tell besides."""
        return {}


def error_of(number: int) -> OSError:
    """An error by its number."""
    return OSError(number, os.strerror(number))
