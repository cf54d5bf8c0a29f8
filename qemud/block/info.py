"""What is told of drives, nodes and images, and their counters: the answers of `query-block` and its kin.

Source of what is told: QEMU 10.0, block/qapi.c.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_graph import (
    BlockPermission,
    XDbgBlockGraph,
    XDbgBlockGraphEdge,
    XDbgBlockGraphNode,
    XDbgBlockGraphNodeType,
)
from qemud._generated.types.block_info import BlockdevCacheInfo, BlockDeviceInfo, BlockInfo, ImageInfo
from qemud._generated.types.block_stats import (
    BlockDeviceStats,
    BlockDeviceTimedStats,
    BlockLatencyHistogramInfo,
    BlockStats,
)
from qemud.block.edges import Role
from qemud.block.stats import FLUSH, READ, UNMAP, WRITE, Histogram, Interval

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemud.block.backend import BlockBackend
    from qemud.block.graph import Graph
    from qemud.block.node import BlockNode


def told_of(graph: Graph) -> Iterable[BlockBackend]:
    """The backends that clients are told of: what has a name, or belongs to a device."""
    return (each for each in graph.backends if each.name or each.device is not None)


async def drive_info(backend: BlockBackend) -> BlockInfo:
    """A drive for `query-block`."""
    medium, node = backend.medium, visible(backend.node)
    return BlockInfo(
        device=backend.name,
        qdev=backend.device_id or None,
        type="unknown",
        removable=backend.device is None or medium is not None,
        locked=medium is not None and medium.medium_locked,
        inserted=None if node is None else await node_info(node, backend),
        tray_open=None if medium is None else medium.tray_open,
        io_status=backend.iostatus if backend.counts_iostatus else None,
    )


async def node_info(
    node: BlockNode, backend: BlockBackend | None = None, *, flat: bool = False
) -> BlockDeviceInfo:
    """A node, as the medium of a drive or by itself."""
    image = await image_info(node, flat=flat, skip=backend is not None)
    depth, below = 0, image.backing_image
    while below is not None:
        depth, below = depth + 1, below.backing_image
    cow = node.backing
    info = BlockDeviceInfo(
        file=node.filename,
        node_name=node.node_name,
        ro=node.read_only,
        drv=node.driver.value,
        backing_file=None if cow is None else cow.filename,
        backing_file_depth=depth,
        active=not node.inactive,
        encrypted=node.encrypted,
        detect_zeroes=node.detect_zeroes,
        bps=0,
        bps_rd=0,
        bps_wr=0,
        iops=0,
        iops_rd=0,
        iops_wr=0,
        image=image,
        cache=BlockdevCacheInfo(
            writeback=True if backend is None else backend.enable_write_cache,
            direct=node.flags.direct,
            no_flush=node.flags.no_flush,
        ),
        write_threshold=node.write_threshold,
        dirty_bitmaps=[bitmap.info() for bitmap in reversed(node.dirty_bitmaps.values())] or None,
    )
    if backend is not None and backend.throttle is not None:
        backend.throttle.tell(info)
    return info


async def image_info(node: BlockNode, *, flat: bool = False, skip: bool = False) -> ImageInfo:
    """The image that a node is, with its backing files unless `flat`; `skip` leaves out filters nobody has asked for."""
    known = await node.get_info()
    backing = None
    if not flat:
        below = node.filtered or node.backing
        if skip:
            below = visible(below)
        if below is not None:
            backing = await image_info(below, skip=skip)
    full = None
    if node.backing_filename is not None:
        from qemud.block.filename import absolute_name

        full = absolute_name(node, node.backing_filename)
    return ImageInfo(
        filename=node.filename,
        format=node.driver.value,
        virtual_size=node.size,
        actual_size=await node.allocated_size(),
        dirty_flag=None if known is None else known.is_dirty,
        cluster_size=(known.cluster_size or None) if known is not None else None,
        encrypted=True if node.encrypted else None,
        backing_filename=node.backing_filename,
        full_backing_filename=full,
        backing_filename_format=node.backing_format,
        snapshots=await node.snapshots() or None,
        format_specific=await node.image_specific(),
        backing_image=backing,
    )


def visible(node: BlockNode | None) -> BlockNode | None:
    """The first node from this one down that a client knows of: jobs insert filters of their own."""
    while node is not None and node.implicit and node.filtered is not None:
        node = node.filtered
    return node


# Counters.


def drive_stats(backend: BlockBackend) -> BlockStats:
    """A drive for `query-blockstats`."""
    stats = node_stats(visible(backend.node), below_drive=True)
    stats.device = backend.name
    stats.qdev = backend.device_id or None
    counted = backend.stats
    into = stats.stats
    for name, kind in (("rd", READ), ("wr", WRITE), ("flush", FLUSH), ("unmap", UNMAP)):
        if kind != FLUSH:
            setattr(into, f"{name}_bytes", counted.bytes[kind])
            setattr(into, f"{name}_merged", counted.merged[kind])
        setattr(into, f"{name}_operations", counted.operations[kind])
        setattr(into, f"{name}_total_time_ns", counted.total_ns[kind])
        setattr(into, f"failed_{name}_operations", counted.failed[kind])
        setattr(into, f"invalid_{name}_operations", counted.invalid[kind])
    if counted.last_access:
        into.idle_time_ns = time.monotonic_ns() - counted.last_access
    into.account_invalid = counted.account_invalid
    into.account_failed = counted.account_failed
    into.timed_stats = [_timed(interval) for interval in counted.intervals]
    into.rd_latency_histogram = _histogram(counted.histograms[READ])
    into.wr_latency_histogram = _histogram(counted.histograms[WRITE])
    into.flush_latency_histogram = _histogram(counted.histograms[FLUSH])
    return stats


def node_stats(node: BlockNode | None, *, below_drive: bool = False) -> BlockStats:
    """A node for `query-blockstats`, with what is below it."""
    stats = BlockStats(stats=BlockDeviceStats(**_NOTHING, timed_stats=[]))
    if node is None:
        return stats
    stats.node_name = node.node_name
    stats.stats.wr_highest_offset = node.highest_write
    stats.driver_specific = node.stats_specific()
    data = _data_child(node)
    if data is not None:
        stats.parent = node_stats(visible(data) if below_drive else data, below_drive=below_drive)
    if below_drive:
        below = node.filtered or node.backing
        if below is not None:
            stats.backing = node_stats(visible(below), below_drive=True)
    return stats


def _data_child(node: BlockNode) -> BlockNode | None:
    """The one node that the node's data is in."""
    edges = list(node.edges.values())
    for edge in edges:
        if edge.role & Role.PRIMARY and edge.role & (Role.DATA | Role.FILTERED):
            return edge.node
    found = [edge.node for edge in edges if edge.role & Role.DATA]
    return found[0] if len(found) == 1 else None


_NOTHING: dict[str, Any] = {
    name: False if name.startswith("account_") else 0
    for name in BlockDeviceStats.__struct_fields__
    if name not in {"idle_time_ns", "timed_stats"} and not name.endswith("_histogram")
}


def _histogram(histogram: Histogram | None) -> BlockLatencyHistogramInfo | None:
    if histogram is None:
        return None
    return BlockLatencyHistogramInfo(boundaries=list(histogram.boundaries), bins=list(histogram.bins))


def _timed(interval: Interval) -> BlockDeviceTimedStats:
    values: dict[str, Any] = {"interval_length": interval.seconds}
    for name, kind in (("rd", READ), ("wr", WRITE), ("flush", FLUSH)):
        smallest, largest, average = interval.latencies(kind)
        values[f"min_{name}_latency_ns"] = smallest
        values[f"max_{name}_latency_ns"] = largest
        values[f"avg_{name}_latency_ns"] = average
        if kind != FLUSH:
            values[f"avg_{name}_queue_depth"] = interval.queue_depth(kind)
    for name in ("min", "max", "avg"):
        values[f"{name}_zone_append_latency_ns"] = 0
    return BlockDeviceTimedStats(**values, avg_zone_append_queue_depth=0.0)


# The graph itself.


def block_graph(graph: Graph) -> XDbgBlockGraph:
    """Everything in the graph for `x-debug-query-block-graph`: backends, who else uses nodes, and nodes."""
    numbers: dict[int, int] = {}
    found = XDbgBlockGraph(nodes=[], edges=[])

    def add(part: object, kind: XDbgBlockGraphNodeType, name: str) -> None:
        numbers[id(part)] = len(numbers) + 1
        found.nodes.append(XDbgBlockGraphNode(id=numbers[id(part)], type=kind, name=name))

    for backend in graph.backends:
        add(backend, XDbgBlockGraphNodeType.BLOCK_BACKEND, backend.name or backend.device_id)
    nodes = list(graph.nodes.values())
    others = {id(edge.user): edge.user for node in nodes for edge in node.parents}
    for node in nodes:
        others.pop(id(node), None)
    for key, user in others.items():
        if key not in numbers:
            add(user, XDbgBlockGraphNodeType.BLOCK_JOB, str(getattr(user, "id", user.description())))
    for node in nodes:
        add(node, XDbgBlockGraphNodeType.BLOCK_DRIVER, node.node_name)
    for node in nodes:
        found.edges += [
            XDbgBlockGraphEdge(
                parent=numbers[id(edge.user)],
                child=numbers[id(node)],
                name=edge.name,
                perm=_permissions(edge.needs),
                shared_perm=_permissions(edge.shares),
            )
            for edge in node.parents
            if id(edge.user) in numbers
        ]
    return found


def _permissions(bits: int) -> list[BlockPermission]:
    # The last first, as in QEMU.
    return [each for number, each in enumerate(BlockPermission) if bits >> number & 1][::-1]
