"""The commands of `block-core.json` and `job.json`.

Source of rules and texts: QEMU 10.0, blockdev.c and block/qapi.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud._generated.commands.block_core import BlockCoreCommands
from qemud._generated.commands.job import JobCommands
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.block_info import BlockDeviceInfo, BlockInfo
    from qemud._generated.types.block_options import BlockdevOptions
    from qemud._generated.types.job import JobInfo
    from qemud.block.graph import Graph


class Services(Protocol):
    """What these handlers need of the process."""

    @property
    def block(self) -> Graph:
        """The graph of block nodes, made when it is asked for."""

    @property
    def has_block(self) -> bool:
        """Whether it has been made."""


class BlockCoreHandlers(BlockCoreCommands):
    """Handlers of `block-core.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @property
    def _graph(self) -> Graph:
        return self._services.block

    async def query_block(self) -> list[BlockInfo]:
        """`query-block`."""
        return []

    async def query_named_block_nodes(self, *, flat: bool) -> list[BlockDeviceInfo]:
        """`query-named-block-nodes`."""
        del flat  # nothing lies below nothing
        return []

    async def blockdev_add(self, arg: BlockdevOptions) -> None:
        """`blockdev-add`."""
        if arg.node_name is None:
            raise GenericError("'node-name' must be specified for the root node")
        node = await self._graph.open(arg)
        node.monitor_owned = True
        await self._graph.release(node)

    async def blockdev_del(self, *, node_name: str) -> None:
        """`blockdev-del`."""
        await self._graph.remove(node_name)

    async def block_set_write_threshold(self, *, node_name: str, write_threshold: int) -> None:
        """`block-set-write-threshold`."""
        node = self._graph.find_node(node_name)
        if node is None:
            raise GenericError(f"Device '{node_name}' not found")
        node.write_threshold = write_threshold


class JobHandlers(JobCommands):
    """Handlers of `job.json`."""

    def __init__(self, services: object) -> None:
        del services

    async def query_jobs(self) -> list[JobInfo]:
        """`query-jobs`."""
        return []
