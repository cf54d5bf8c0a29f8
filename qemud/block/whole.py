"""One snapshot of several disks: inside of each image, by the same name.

    disks = choose(graph, ["disk0", "disk1"])       # or all of the machine's, with None
    check_all(graph, disks)
    if not await have(disks, "before"):
        await take_all(graph, disks, "before", …)

All of them are held meanwhile (`held`).  A disk may be behind filters: the snapshot is in the first node below that has some.

Source of rules and texts: QEMU 10.0, block/snapshot.c.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from qemud.block.edges import Role
from qemud.block.node import BlockNode
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from qemud._generated.types.block_info import SnapshotInfo
    from qemud.block.driver import StateWriter
    from qemud.block.graph import Graph

_CONTENT = Role.DATA | Role.METADATA | Role.FILTERED


class Disk(NamedTuple):
    """A disk by its top node; `included` says whether it has a part in snapshots, which those that cannot be written have not."""

    node: BlockNode
    included: bool


def choose(graph: Graph, names: Sequence[str] | None) -> list[Disk]:
    """The disks of those nodes, or all.  GenericError."""
    if names is None:
        return [Disk(node, included=_takes_part(node)) for node in roots(graph)]
    if not names:
        raise GenericError("At least one device is required for snapshot")
    found: dict[BlockNode, None] = {}
    for name in names:
        node = graph.find_node(name)
        if node is None:
            raise GenericError(f"No block device node '{name}'")
        found[node] = None
    return [Disk(node, included=True) for node in found]


def roots(graph: Graph) -> list[BlockNode]:
    """The nodes that drives and devices use, and then those of clients that nobody uses as a disk."""
    found: dict[BlockNode, None] = {}
    for backend in graph.backends:
        if backend.node is not None:
            found[backend.node] = None
    for node in graph.nodes.values():
        if node.monitor_owned:
            found[node] = None
    return list(found)


def _takes_part(node: BlockNode) -> bool:
    if not node.writable:
        return False
    return not node.parents or any(not isinstance(edge.user, BlockNode) for edge in node.parents)


def target(node: BlockNode) -> BlockNode | None:
    """The node that has the snapshots of a disk: itself, or what it filters; None where none could have them."""
    while node.writable:
        if node.has_snapshots:
            return node
        content = [edge for edge in node.edges.values() if edge.role & _CONTENT]
        if len(content) != 1 or not content[0].role & Role.PRIMARY:
            return None
        node = content[0].node
    return None


def target_of(node: BlockNode) -> BlockNode:
    """The same of a disk that can have them."""
    below = target(node)
    assert below is not None
    return below


async def snapshots(node: BlockNode) -> list[SnapshotInfo] | None:
    """The snapshots of a disk; None when it cannot have any."""
    below = target(node)
    return None if below is None else await below.snapshots() or []


def check_all(graph: Graph, disks: Sequence[Disk]) -> None:
    """Raise GenericError when one of them cannot have snapshots."""
    for node, included in disks:
        if included and target(node) is None:
            name = graph.device_or_node_name(node)
            raise GenericError(f"Device '{name}' is writable but does not support snapshots")


async def have(disks: Sequence[Disk], name: str) -> bool:
    """Whether all of them have a snapshot of that name."""
    for node, included in disks:
        if included and not any(each.name == name for each in await snapshots(node) or []):
            return False
    return True


def state_disk(disks: Sequence[Disk], name: str | None) -> BlockNode:
    """The disk for the state of the machine: the one named, or the first that can have it.  GenericError."""
    for node, included in disks:
        usable = included and target(node) is not None
        if name is None:
            if usable:
                return node
        elif node.node_name == name:
            if not usable:
                raise GenericError(f"vmstate block device '{name}' does not support snapshots")
            return node
    if name is None:
        raise GenericError("no block device can store vmstate for snapshot")
    raise GenericError(f"vmstate block device '{name}' does not exist")


@asynccontextmanager
async def held(graph: Graph) -> AsyncIterator[None]:
    """No request is in any node, and none will come, inside of this."""
    nodes = list(graph.nodes.values())
    for node in nodes:
        node.holds += 1
        node.drain_begin()
    try:
        for node in nodes:
            await node.until_idle()
        yield
    finally:
        for node in reversed(nodes):
            node.drain_end()
        for node in nodes:
            await graph.release(node)


# Inside of `held`.


async def take_all(  # noqa: PLR0917 - what a snapshot is
    graph: Graph,
    disks: Sequence[Disk],
    name: str,
    date_ns: int,
    vm_clock_ns: int,
    state: tuple[BlockNode, StateWriter],
) -> None:
    """Take the snapshot of all disks, one of them with the machine's state.  GenericError, and then of none."""
    taken: list[Disk] = []
    for node, included in disks:
        below = target(node)
        if not included or below is None:
            continue
        try:
            await below.take_snapshot(name, date_ns, vm_clock_ns, state[1] if node is state[0] else None)
        except (OSError, GenericError):
            await delete_all(graph, taken, name)
            raise GenericError(
                f"Could not create snapshot '{name}' on '{graph.device_or_node_name(node)}'"
            ) from None
        taken.append(Disk(node, included=True))


async def delete_all(graph: Graph, disks: Sequence[Disk], name: str) -> None:
    """Delete the snapshot of those disks that have it.  GenericError."""
    for node, included in disks:
        below = target(node)
        if not included or below is None:
            continue
        found = next((each for each in await below.snapshots() or [] if each.name == name), None)
        if found is None:
            continue
        async with below.drained():
            try:
                await below.delete_snapshot(found.id, found.name)
            except (OSError, GenericError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise GenericError(
                    f"Could not delete snapshot '{name}' on '{graph.device_or_node_name(node)}': {reason}"
                ) from None


async def check_apply(graph: Graph, disks: Sequence[Disk], name: str) -> None:
    """Raise GenericError when `apply_all` could not work, as far as that can be known before."""
    for node, included in disks:
        if included:
            await _on(graph, node, name, changing=False)


async def apply_all(graph: Graph, disks: Sequence[Disk], name: str) -> None:
    """Let all disks be what they were.  GenericError, and then some of them may be."""
    for node, included in disks:
        if included:
            await _on(graph, node, name, changing=True)
    for backend in graph.backends:
        for tell in tuple(backend.on_reverted):
            await tell()


async def _on(graph: Graph, node: BlockNode, name: str, *, changing: bool) -> None:
    below: Any = target(node)
    prefix = f"Could not load snapshot '{name}' on '{graph.device_or_node_name(node)}': "
    each: Any = node
    while True:
        if each.dirty_bitmaps or each.trackers:
            raise GenericError(f"{prefix}Device has active dirty bitmaps")
        try:
            graph.check_not_blocked(each, in_chain=True)
        except GenericError as error:
            # A job that copies it would know nothing of the change.
            raise GenericError(f"{prefix}{error}") from None
        if each is below:
            break
        each = next(edge.node for edge in each.edges.values() if edge.role & _CONTENT)
    try:
        await (below.apply_snapshot(name) if changing else below.check_snapshot(name))
    except OSError as error:
        raise GenericError(f"{prefix}Failed to load snapshot: {error.strerror}") from None
    except GenericError as error:
        raise GenericError(f"{prefix}Failed to load snapshot: {error}") from None
