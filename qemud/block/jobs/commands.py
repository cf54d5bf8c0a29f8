"""The commands of `job.json`, `block-jobs.json` and `block-copying.json`.

Source of rules and texts: QEMU 10.0, job-qmp.c and blockdev.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.commands.block_copying import BlockCopyingCommands
from qemud._generated.commands.block_jobs import BlockJobsCommands
from qemud._generated.commands.job import JobCommands
from qemud._generated.types.job import JobVerb
from qemud.block.jobs.blockjob import BlockJob
from qemud.block.jobs.handlers import JobsRoom
from qemud.qapi.runtime.errors import DeviceNotActive, GenericError

if TYPE_CHECKING:
    from qemud._generated.types.block_copying import BlockdevBackup
    from qemud._generated.types.block_jobs import BlockJobChangeOptions, BlockJobInfo
    from qemud._generated.types.job import JobInfo


class JobHandlers(JobsRoom, JobCommands):
    """Handlers of `job.json`."""

    async def query_jobs(self) -> list[JobInfo]:
        """`query-jobs`."""
        if not self._services.has_block:
            return []
        async with self._jobs.turn:
            return [job.info() for job in self._jobs.all]

    async def job_pause(self, *, id: str) -> None:  # noqa: A002 - wire name
        """`job-pause`."""
        async with self._jobs.turn:
            self._jobs.find(id).user_pause()

    async def job_resume(self, *, id: str) -> None:  # noqa: A002 - wire name
        """`job-resume`."""
        async with self._jobs.turn:
            self._jobs.find(id).user_resume()

    async def job_cancel(self, *, id: str) -> None:  # noqa: A002 - wire name
        """`job-cancel`."""
        async with self._jobs.turn:
            await self._jobs.cancel(self._jobs.find(id), force=True)

    async def job_complete(self, *, id: str) -> None:  # noqa: A002 - wire name
        """`job-complete`."""
        async with self._jobs.turn:
            self._jobs.find(id).complete()

    async def job_dismiss(self, *, id: str) -> None:  # noqa: A002 - wire name
        """`job-dismiss`."""
        async with self._jobs.turn:
            self._jobs.dismiss(self._jobs.find(id))

    async def job_finalize(self, *, id: str) -> None:  # noqa: A002 - wire name
        """`job-finalize`."""
        async with self._jobs.turn:
            await self._jobs.finalize(self._jobs.find(id))


class BlockJobsHandlers(JobsRoom, BlockJobsCommands):
    """Handlers of `block-jobs.json`."""

    def _find(self, name: str) -> BlockJob:
        job = self._jobs.get(name)
        if not isinstance(job, BlockJob):
            raise DeviceNotActive(f"Block job '{name}' not found")
        return job

    async def query_block_jobs(self) -> list[BlockJobInfo]:
        """`query-block-jobs`."""
        if not self._services.has_block:
            return []
        async with self._jobs.turn:
            return [job.block_info() for job in self._jobs.all if isinstance(job, BlockJob)]

    async def block_job_set_speed(self, *, device: str, speed: int) -> None:
        """`block-job-set-speed`."""
        async with self._jobs.turn:
            self._find(device).set_speed(speed)

    async def block_job_cancel(self, *, device: str, force: bool) -> None:
        """`block-job-cancel`."""
        async with self._jobs.turn:
            job = self._find(device)
            if job.user_paused and not force:
                raise GenericError(f"The block job for device '{device}' is currently paused")
            await self._jobs.cancel(job, force=force)

    async def block_job_pause(self, *, device: str) -> None:
        """`block-job-pause`."""
        async with self._jobs.turn:
            self._find(device).user_pause()

    async def block_job_resume(self, *, device: str) -> None:
        """`block-job-resume`."""
        async with self._jobs.turn:
            self._find(device).user_resume()

    async def block_job_complete(self, *, device: str) -> None:
        """`block-job-complete`."""
        async with self._jobs.turn:
            self._find(device).complete()

    async def block_job_dismiss(self, *, id: str) -> None:  # noqa: A002 - wire name
        """`block-job-dismiss`."""
        async with self._jobs.turn:
            self._jobs.dismiss(self._find(id))

    async def block_job_finalize(self, *, id: str) -> None:  # noqa: A002 - wire name
        """`block-job-finalize`."""
        async with self._jobs.turn:
            await self._jobs.finalize(self._find(id))

    async def block_job_change(self, arg: BlockJobChangeOptions) -> None:
        """`block-job-change`."""
        from qemud._generated.types.block_jobs import BlockJobChangeOptionsMirror_
        from qemud.block.jobs.mirror import ActiveCommit, Mirror

        async with self._jobs.turn:
            job = self._find(arg.id)
            job.check_verb(JobVerb.CHANGE)
            if not isinstance(job, Mirror) or isinstance(job, ActiveCommit):
                raise GenericError("Job type does not support change")
            if not isinstance(arg, BlockJobChangeOptionsMirror_):
                raise GenericError("Parameter 'type' expects 'mirror'")
            job.change(arg.copy_mode)


class BlockCopyingHandlers(JobsRoom, BlockCopyingCommands):
    """Handlers of `block-copying.json`."""

    async def blockdev_mirror(self, *, device: str, target: str, **arguments: Any) -> None:
        """`blockdev-mirror`."""
        from qemud.block.jobs.starting import blockdev_mirror

        async with self._jobs.turn:
            await blockdev_mirror(self._jobs, device, target, arguments)

    async def block_stream(self, *, device: str, **arguments: Any) -> None:
        """`block-stream`."""
        from qemud.block.jobs.starting import block_stream

        async with self._jobs.turn:
            await block_stream(self._jobs, device, arguments)

    async def block_commit(self, *, device: str, **arguments: Any) -> None:
        """`block-commit`."""
        from qemud.block.jobs.starting import block_commit

        async with self._jobs.turn:
            await block_commit(self._jobs, device, arguments)

    async def blockdev_backup(self, arg: BlockdevBackup) -> None:
        """`blockdev-backup`."""
        from qemud.block.jobs.backup_actions import BlockdevBackupAction
        from qemud.block.jobs.transaction import Context, carry_out

        async with self._jobs.turn:
            await carry_out(self._graph, [BlockdevBackupAction(Context(self._jobs), arg)])
