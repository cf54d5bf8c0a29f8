"""The commands of `block-core.json` and of what it includes.

Source of rules and texts: QEMU 10.0, blockdev.c, block/qapi.c and block/qapi-system.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud._generated.commands.block_core import BlockCoreCommands
from qemud._generated.commands.block_graph import BlockGraphCommands
from qemud._generated.commands.block_info import BlockInfoCommands
from qemud._generated.commands.block_stats import BlockStatsCommands
from qemud._generated.commands.block_throttle import BlockThrottleCommands
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.block_graph import XDbgBlockGraph
    from qemud._generated.types.block_info import BlockDeviceInfo, BlockInfo
    from qemud._generated.types.block_options import BlockdevOptions
    from qemud._generated.types.block_stats import BlockStats
    from qemud._generated.types.block_throttle import BlockIOThrottle
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

    async def blockdev_add(self, arg: BlockdevOptions) -> None:
        """`blockdev-add`."""
        await self._graph.add(arg)

    async def blockdev_del(self, *, node_name: str) -> None:
        """`blockdev-del`."""
        await self._graph.remove(node_name)

    async def blockdev_set_active(self, *, node_name: str | None, active: bool) -> None:
        """`blockdev-set-active`."""
        from qemud.block import activity

        graph = self._graph
        if node_name is None:
            await (graph.activate_all() if active else graph.inactivate_all())
            return
        node = graph.find_node(node_name)
        if node is None:
            raise GenericError(f"Failed to find node with node-name='{node_name}'")
        await (activity.activate(graph, node) if active else activity.inactivate(graph, node))

    async def blockdev_reopen(self, *, options: list[BlockdevOptions]) -> None:
        """`blockdev-reopen`."""
        from qemud.block.reopen import reopen

        await reopen(self._graph, options)

    async def block_resize(self, *, device: str | None, node_name: str | None, size: int) -> None:
        """`block_resize`."""
        node = self._graph.lookup(device, node_name)
        if size < 0:
            raise GenericError("Parameter 'size' expects a >0 size")
        await self._graph.resize(node, size)

    async def block_set_write_threshold(self, *, node_name: str, write_threshold: int) -> None:
        """`block-set-write-threshold`."""
        node = self._graph.find_node(node_name)
        if node is None:
            raise GenericError(f"Device '{node_name}' not found")
        node.write_threshold = write_threshold


class BlockInfoHandlers(BlockInfoCommands):
    """Handlers of `block-info.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def query_block(self) -> list[BlockInfo]:
        """`query-block`."""
        if not self._services.has_block:
            return []
        from qemud.block.info import drive_info, told_of

        return [await drive_info(backend) for backend in list(told_of(self._services.block))]

    async def query_named_block_nodes(self, *, flat: bool) -> list[BlockDeviceInfo]:
        """`query-named-block-nodes`."""
        if not self._services.has_block:
            return []
        from qemud.block.info import node_info

        # The newest first, as in QEMU.
        return [
            await node_info(node, flat=flat) for node in reversed(list(self._services.block.nodes.values()))
        ]


class BlockStatsHandlers(BlockStatsCommands):
    """Handlers of `block-stats.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def query_blockstats(self, *, query_nodes: bool) -> list[BlockStats]:
        """`query-blockstats`."""
        if not self._services.has_block:
            return []
        from qemud.block.info import drive_stats, node_stats, told_of

        graph = self._services.block
        if query_nodes:
            return [node_stats(node) for node in graph.nodes.values()]
        return [drive_stats(backend) for backend in told_of(graph)]

    async def block_latency_histogram_set(
        self,
        *,
        id: str,  # noqa: A002 - wire name
        boundaries: list[int] | None,
        boundaries_read: list[int] | None,
        boundaries_write: list[int] | None,
        boundaries_flush: list[int] | None,
    ) -> None:
        """`block-latency-histogram-set`."""
        from qemud.block.media import find_backend
        from qemud.block.stats import FLUSH, READ, WRITE, Histogram

        histograms = find_backend(self._services.block, None, id).stats.histograms
        given = {READ: boundaries_read, WRITE: boundaries_write, FLUSH: boundaries_flush}
        if boundaries is None and all(each is None for each in given.values()):
            for kind in given:
                histograms[kind] = None
            return
        for kind, own in given.items():
            chosen = own if own is not None else boundaries
            if chosen is None:
                continue
            if not chosen or any(low >= high for low, high in zip([0, *chosen], chosen, strict=False)):
                raise GenericError(f"Device '{id}' set {_NAMES[kind]} boundaries fail")
            histograms[kind] = Histogram(chosen)


_NAMES = ("read", "write", "flush")


class BlockThrottleHandlers(BlockThrottleCommands):
    """Handlers of `block-throttle.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def block_set_io_throttle(self, arg: BlockIOThrottle) -> None:
        """`block_set_io_throttle`."""
        import msgspec

        from qemud.block.media import find_backend
        from qemud.block.throttle import limit, limits_from_old_names

        backend = find_backend(self._services.block, arg.device, arg.id)
        if backend.node is None:
            raise GenericError("Device has no medium")
        limits = limits_from_old_names(msgspec.structs.asdict(arg))
        limit(backend, limits, arg.group, arg.device or arg.id or "")


class BlockGraphHandlers(BlockGraphCommands):
    """Handlers of `block-graph.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def x_debug_query_block_graph(self) -> XDbgBlockGraph:
        """`x-debug-query-block-graph`."""
        from qemud.block.info import block_graph

        return block_graph(self._services.block)
