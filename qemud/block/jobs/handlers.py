"""What all handlers of commands about jobs have: the graph of block nodes, and the jobs on it.

class JobHandlers(JobsRoom, JobCommands):
async def job_pause(self, *, id: str) -> None:
async with self._jobs.turn:
self._jobs.find(id).user_pause()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from qemud.block.jobs.manager import jobs_of

if TYPE_CHECKING:
    from qemud.block.graph import Graph
    from qemud.block.jobs.manager import Jobs


class Services(Protocol):
    """What these handlers need of the process."""

    @property
    def block(self) -> Graph:
        """The graph of block nodes, made when it is asked for."""

    @property
    def has_block(self) -> bool:
        """Whether it has been made."""

    @property
    def vm(self) -> Any:
        """The machine."""


class JobsRoom:
    """See the module."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @property
    def _graph(self) -> Graph:
        return self._services.block

    @property
    def _jobs(self) -> Jobs:
        return jobs_of(self._graph)
