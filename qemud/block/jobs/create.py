"""Create: new images, as jobs that a client dismisses when it has seen how they ended.

Source: QEMU 10.0, block/create.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.types.job import JobType
from qemud.block.create import create
from qemud.block.jobs.job import Job

if TYPE_CHECKING:
    from qemud.block.jobs.manager import Jobs


class Create(Job):
    """See the module."""

    type = JobType.CREATE

    def __init__(self, jobs: Jobs, job_id: str, options: Any) -> None:
        super().__init__(jobs, job_id, auto_dismiss=False)
        self.options = options

    async def run(self) -> None:
        """As in the base."""
        self.set_remaining(1)
        try:
            await create(self.jobs.graph, self.options)
        finally:
            self.advance(1)
