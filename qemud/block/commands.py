"""The commands of `block-core.json` and `job.json`: what there is, which is nothing so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.commands.block_core import BlockCoreCommands
from qemud._generated.commands.job import JobCommands

if TYPE_CHECKING:
    from qemud._generated.types.block_core import BlockDeviceInfo, BlockInfo
    from qemud._generated.types.job import JobInfo


class BlockCoreHandlers(BlockCoreCommands):
    """Handlers of `block-core.json`."""

    def __init__(self, services: object) -> None:
        del services

    async def query_block(self) -> list[BlockInfo]:
        """`query-block`."""
        return []

    async def query_named_block_nodes(self, *, flat: bool) -> list[BlockDeviceInfo]:
        """`query-named-block-nodes`."""
        del flat  # nothing lies below nothing
        return []


class JobHandlers(JobCommands):
    """Handlers of `job.json`."""

    def __init__(self, services: object) -> None:
        del services

    async def query_jobs(self) -> list[JobInfo]:
        """`query-jobs`."""
        return []
