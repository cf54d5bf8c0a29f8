"""Snapshots of the machine as jobs.

Such a job does all of its work at one go, as it would be a command's: no other command runs meanwhile, and no other job ends, so that
none of them finds the machine half saved or half loaded.  Until its turn has come it can be cancelled.

Source: QEMU 10.0, migration/savevm.c, where the main loop does nothing else meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qemud._generated.types.job import JobType
from qemud.block.jobs.job import Job
from qemud.block.jobs.manager import jobs_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qemud.machine.services import Services


class SnapshotJob(Job):
    """See the module.  GenericError: the name is bad or taken."""

    def __init__(self, services: Services, job_id: str, work: Callable[[], Awaitable[None]]) -> None:
        super().__init__(jobs_of(services.block), job_id, auto_dismiss=False)
        loop = asyncio.get_running_loop()
        self._turn = services.turn
        self._work = work
        self._taken: asyncio.Future[None] = loop.create_future()
        self._unwanted: asyncio.Future[None] = loop.create_future()

    def start(self) -> None:
        """As in the base; nothing runs between the command that begins the job and the job."""
        super().start()
        self._take_turn()

    def _take_turn(self) -> None:
        """Be the command that runs, as soon as it can be."""
        turn = self._turn
        if self._unwanted.done():
            return
        if turn.taken:
            turn.call_when_free(self._take_turn)
        else:
            turn.taken = True
            self._taken.set_result(None)

    async def run(self) -> None:
        """As in the base."""
        await asyncio.wait((self._taken, self._unwanted), return_when=asyncio.FIRST_COMPLETED)
        if not self._taken.done():
            return
        try:
            if await self._take_lock():
                try:
                    self.set_remaining(1)
                    try:
                        await self._work()
                    finally:
                        self.advance(1)
                finally:
                    self.jobs.turn.release()
        finally:
            self._turn.release(_nobody)

    def on_cancel(self, *, force: bool) -> bool:
        """As in the base."""
        del force
        if not self._unwanted.done():
            self._unwanted.set_result(None)
        return True

    async def _take_lock(self) -> bool:
        """Be who changes jobs; False when the job is cancelled before."""
        lock = asyncio.ensure_future(self.jobs.turn.acquire())
        await asyncio.wait((lock, self._unwanted), return_when=asyncio.FIRST_COMPLETED)
        if not lock.done():
            lock.cancel()
            await asyncio.wait((lock,))
        return not lock.cancelled()


def _nobody() -> None:
    """Whose own turn it is not."""


class SnapshotSave(SnapshotJob):
    """`snapshot-save`."""

    type = JobType.SNAPSHOT_SAVE


class SnapshotLoad(SnapshotJob):
    """`snapshot-load`."""

    type = JobType.SNAPSHOT_LOAD


class SnapshotDelete(SnapshotJob):
    """`snapshot-delete`."""

    type = JobType.SNAPSHOT_DELETE
