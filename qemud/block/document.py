"""Block nodes and drives as a document of the machine has them: what there is now, and drives made of that.

    found = Description(graph)
    found.blockdevs         # of BlockdevOptions: nodes that stand by themselves, each after what it is above
    found.drives            # of DriveConfiguration
    found.name_for(device)  # the name that the option `drive` of a device is to have, if it has a drive

    drive = await open_configured(graph, configuration)     # `-drive` in JSON

A node stands by itself when a client made it, when a device names it, or when more than one uses it; any other is part of the
definition of what uses it.  Its options are those that it was given, with what has changed since: its children, and what
`blockdev-reopen`, jobs and snapshots have made of its flags.  Flags that a node would inherit in the document are not repeated.

A disk that is no drive and was given limits, as `block_set_io_throttle` does it, becomes a drive, which can say them.

Nodes that jobs have put in are left out, as the jobs are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.types.block_drive import DriveConfiguration, DriveInterface
from qemud._generated.types.block_options import (
    BlockdevCacheOptions,
    BlockdevDetectZeroesOptions,
    BlockdevDiscardOptions,
    BlockdevDriver,
)
from qemud._generated.types.block_throttle import ThrottleLimits
from qemud.block import permission
from qemud.block.backend import BlockBackend
from qemud.block.create import temporary_overlay
from qemud.block.drive import Drive, check_name, check_place, copying, free_place, policy
from qemud.block.driver import Flags
from qemud.block.graph import MAX_NESTED, inherit
from qemud.block.stats import Interval
from qemud.block.throttle import Limits, limit
from qemud.qapi.runtime.check import parse_type, to_wire
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.qemuopts import check_identifier
from qemud.qom.values import attribute_of

if TYPE_CHECKING:
    from qemud.block.graph import Graph
    from qemud.block.node import BlockNode

_NAMELESS = "disk"
_GENERATED = "#"
"""What names begin with that no client can give."""


class Description:
    """The graph as it is now; see the module."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._names: dict[BlockNode, str] = {}  # of nodes that stand by themselves
        self._parts = {
            backend: _Parts(backend)
            for backend in graph.backends
            if backend.name or backend.device is not None
        }
        self._find_own()
        self._drive_names = {
            backend: self._drive_name(backend)
            for backend in self._parts
            if backend.name or backend.throttle is not None
        }
        self._order: list[BlockNode] = []
        for node in graph.nodes.values():
            if node in self._names:
                self._put_in_order(node)
        self.blockdevs = [
            parse_type("BlockdevOptions", self._definition(node, Flags())) for node in self._order
        ]
        self.drives = [
            self._drive(backend, name, self._parts[backend]) for backend, name in self._drive_names.items()
        ]

    def name_for(self, device: object) -> str | None:
        """What the backend of a device is named by: a drive, or the node in it; None when it is empty."""
        for backend, parts in self._parts.items():
            if backend.device is device:
                name = self._drive_names.get(backend)
                return name or (None if parts.node is None else self._names[parts.node])
        return None

    def has(self, device: object) -> bool:
        """Whether a device has a backend."""
        return any(backend.device is device for backend in self._parts)

    # Which nodes stand by themselves.

    def _find_own(self) -> None:
        own: set[BlockNode] = set()
        uses: dict[BlockNode, int] = {}
        waiting = [node for node in self._graph.nodes.values() if node.monitor_owned]
        own.update(waiting)
        for backend, parts in self._parts.items():
            node = parts.node
            if node is None:
                continue
            if backend.name:
                uses[node] = uses.get(node, 0) + 1
            else:
                own.add(node)
            waiting.append(node)
        seen: set[BlockNode] = set()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            for _, child, _ in _children(node):
                uses[child] = uses.get(child, 0) + 1
                waiting.append(child)
            bottom = self._bottom(node)
            if bottom is not None and bottom.node_name.startswith(_GENERATED):
                own.add(bottom)
        own.update(node for node, count in uses.items() if count > 1)
        heights: dict[BlockNode, int] = {}
        for node in list(seen):
            _cut_nests(node, own, heights)
        # In the order of the graph, so that names that are made up are the same each time.
        for node in self._graph.nodes.values():
            if node in own:
                self._names[node] = self._name(node)

    def _name(self, node: BlockNode) -> str:
        """A node's own name, or one like it that a client may give."""
        name = node.node_name
        if not name.startswith(_GENERATED):
            return name
        return self._unused(name.removeprefix(_GENERATED))

    def _drive_name(self, backend: BlockBackend) -> str:
        """The name of a drive; of what is to become one, that of the user's device, or one like it."""
        if backend.name:
            return backend.name
        # Behind PCI the disk is a part of what has the name.
        _, named, below = backend.device.path.partition("/peripheral/")
        return self._unused(below.partition("/")[0] if named else _NAMELESS)

    def _unused(self, base: str) -> str:
        """The name, or with a number behind it when something has it already."""
        made, number = base, 0
        while (
            made in self._graph.nodes
            or made in self._names.values()
            or self._graph.backend_by_name(made) is not None
        ):
            number += 1
            made = f"{base}-{number}"
        return made

    def _bottom(self, node: BlockNode) -> BlockNode | None:
        name = getattr(node.options, "bottom", None)
        return self._graph.find_node(name) if name is not None else None

    def _put_in_order(self, node: BlockNode) -> None:
        """A node, after all that it is above."""
        if node in self._order:
            return
        stack = [child for _, child, _ in _children(node)]
        while stack:
            below = stack.pop()
            if below in self._names:
                self._put_in_order(below)
            else:
                stack += [child for _, child, _ in _children(below)]
        self._order.append(node)

    # What they are.

    def _reference(self, node: BlockNode, inherited: Flags) -> Any:
        """A node as somebody who uses it has it: by name, or by its definition."""
        return self._names[node] if node in self._names else self._definition(node, inherited)

    def _definition(self, node: BlockNode, inherited: Flags) -> dict[str, Any]:
        """The options of a node, as JSON, where it has these flags by default."""
        given: dict[str, Any] = to_wire(node.options)
        options = {
            "driver": node.driver.value,
            **{name: value for name, value in given.items() if name not in _CHILDREN and name != "node-name"},
        }
        name = self._names.get(node, node.node_name)
        if not name.startswith(_GENERATED):
            options["node-name"] = name
        _tell_flags(options, node, inherited)
        bottom = self._bottom(node)
        if bottom is not None:
            options["bottom"] = self._names.get(bottom, bottom.node_name)
        for role, child, flags in _children(node):
            options[role] = self._reference(child, flags)
        if node.supports_backing and "backing" not in options:
            own = getattr(node.options, "backing", None)
            if own is None or own == "" or node.backing_filename is not None:
                options["backing"] = None
        return options

    def _drive(self, backend: BlockBackend, name: str, parts: _Parts) -> DriveConfiguration:
        place, node = backend.legacy, parts.node
        made = DriveConfiguration(
            id=name,
            if_=DriveInterface(place.interface) if place is not None else DriveInterface.NONE,
            bus=place.bus or None if place is not None else None,
            unit=place.unit if place is not None and place.interface != "none" else None,
            snapshot=parts.is_snapshot or None,
            copy_on_read=parts.is_copying or None,
            write_cache=None if backend.chosen_write_cache else False,
            werror=backend.on_write_error,
            rerror=backend.on_read_error,
            account_invalid=None if backend.stats.account_invalid else False,
            account_failed=None if backend.stats.account_failed else False,
            intervals=[interval.seconds for interval in backend.stats.intervals] or None,
        )
        if node is not None:
            made.medium = _typed_reference(self._reference(node, Flags()))
            # Elsewhere this is among the options of the node itself.
            top = parts.top
            if top is not node or _is_odd(node):
                made.detect_zeroes = _unless_off(top.detect_zeroes)
        else:
            flags = backend.root_flags
            made.read_only = flags.read_only or None
            made.discard = BlockdevDiscardOptions.UNMAP if flags.unmap else None
            if flags.direct or flags.no_flush:
                made.cache = BlockdevCacheOptions(direct=flags.direct, no_flush=flags.no_flush)
            made.detect_zeroes = BlockdevDetectZeroesOptions.ON if backend.detects_zeroes else None
        throttle: Any = backend.throttle
        if throttle is not None:
            made.limits = _limits(throttle.group.limits)
            made.group = throttle.group.name if throttle.group.name != name else None
        return made


class _Parts:
    """What is in a backend: the node that clients know, and what `-drive` has put above it."""

    def __init__(self, backend: BlockBackend) -> None:
        self.is_copying = self.is_snapshot = False
        self.top: Any = _shown(backend.node)
        node: BlockNode | None = self.top
        if backend.name and node is not None:
            if node.implicit and node.driver is BlockdevDriver.COPY_ON_READ:
                self.is_copying = True
                node = _shown(node.file)
            if node is not None and node.is_temporary:
                self.is_snapshot = True
                node = _shown(node.backing)
        self.node = node


_DEEPEST = MAX_NESTED // 4
"""How many definitions are within each other at most: a document is to be read by people, and opened."""

_CHILDREN = ("file", "backing", "image")
"""Members of BlockdevOptions that are nodes."""


def _shown(node: BlockNode | None) -> BlockNode | None:
    """The node, or what is below it where a job has put it in."""
    while node is not None and _is_jobs(node):
        node = node.filtered
    return node


def _is_jobs(node: BlockNode) -> bool:
    """Whether a job has put a node in: it is of no driver that a client could ask for."""
    driver: object = node.driver
    return not isinstance(driver, BlockdevDriver)


def _children(node: BlockNode) -> list[tuple[str, BlockNode, Flags]]:
    """The children that options can name: what they are called, and the flags that they inherit there."""
    found = []
    for name, edge in node.edges.items():
        child = _shown(edge.node) if name in _CHILDREN and hasattr(node.options, name) else None
        if child is not None:
            found.append((name, child, inherit(node.flags, edge.role)))
    return found


def _tell_flags(options: dict[str, Any], node: BlockNode, inherited: Flags) -> None:
    """Let the options say what the node does not inherit."""
    flags = node.flags
    for name in ("read_only", "auto_read_only", "force_share"):
        value, option = getattr(flags, name), name.replace("_", "-")
        if option in options or value != getattr(inherited, name):
            options[option] = value
    if "active" in options or flags.inactive != inherited.inactive:
        options["active"] = not flags.inactive
    if "discard" in options or flags.unmap != inherited.unmap:
        options["discard"] = "unmap" if flags.unmap else "ignore"
    if "cache" in options or (flags.direct, flags.no_flush) != (inherited.direct, inherited.no_flush):
        options["cache"] = {"direct": flags.direct, "no-flush": flags.no_flush}
    if "detect-zeroes" in options or node.detect_zeroes is not BlockdevDetectZeroesOptions.OFF:
        options["detect-zeroes"] = "on" if _is_odd(node) else node.detect_zeroes.value


def _is_odd(node: BlockNode) -> bool:
    """Whether zeroes are to be unmapped where discards are ignored, which only `-drive` can say."""
    return node.detect_zeroes is BlockdevDetectZeroesOptions.UNMAP and not node.flags.unmap


def _unless_off(choice: BlockdevDetectZeroesOptions) -> BlockdevDetectZeroesOptions | None:
    return None if choice is BlockdevDetectZeroesOptions.OFF else choice


def _typed_reference(reference: Any) -> Any:
    return reference if isinstance(reference, str) else parse_type("BlockdevOptions", reference)


def _limits(limits: Limits) -> ThrottleLimits:
    """The limits that there are."""
    return ThrottleLimits(
        **{
            attribute_of(ThrottleLimits, name): value
            for name, value in limits.values().items()
            if value != (1 if name.endswith("-length") else 0)
        }
    )


def _cut_nests(node: BlockNode, own: set[BlockNode], heights: dict[BlockNode, int]) -> int:
    """Let nodes stand by themselves where definitions would be nested too deeply; how deep that of `node` is."""
    if node not in heights:
        below = [_cut_nests(child, own, heights) for _, child, _ in _children(node)]
        heights[node] = 1 + max(below, default=0)
        if heights[node] == _DEEPEST:
            own.add(node)
    return 0 if node in own else heights[node]


# And back.


async def open_configured(graph: Graph, given: DriveConfiguration, *, snapshot: bool = False) -> Drive:
    """Make a drive with what is in it.  GenericError; nothing is left then.  `snapshot` is the option of that name."""
    on_write_error = policy(given.werror.value, read=False)
    on_read_error = policy(given.rerror.value, read=True)
    interface = given.if_.value
    bus, unit = given.bus or 0, given.unit
    if unit is None:
        bus, unit = free_place(graph, interface, bus)
    check_place(graph, interface, bus, unit)
    check_identifier(given.id)
    check_name(graph, given.id)
    if 0 in (given.intervals or ()):
        raise GenericError("Invalid interval length: 0")
    limits = _limits_of(given.limits)
    backend = BlockBackend(graph, given.id)
    try:
        if given.medium is not None:
            backend.needs = permission.CONSISTENT_READ
            await _load(backend, given, snapshot=snapshot if given.snapshot is None else given.snapshot)
        else:
            cache = given.cache
            backend.root_flags = Flags(
                read_only=bool(given.read_only),
                auto_read_only=True,
                unmap=given.discard is BlockdevDiscardOptions.UNMAP,
                direct=cache is not None and cache.direct,
                no_flush=cache is not None and cache.no_flush,
            )
            backend.detects_zeroes = given.detect_zeroes not in {None, BlockdevDetectZeroesOptions.OFF}
        if limits:
            limit(backend, limits, given.group, given.id)
    except BaseException:
        await backend.close()
        raise
    backend.enable_write_cache = backend.chosen_write_cache = given.write_cache is not False
    backend.on_write_error, backend.on_read_error = on_write_error, on_read_error
    stats = backend.stats
    stats.account_invalid = given.account_invalid is not False
    stats.account_failed = given.account_failed is not False
    stats.intervals = [Interval(seconds) for seconds in given.intervals or ()]
    drive = backend.legacy = Drive(backend, interface, bus, unit, comes_with_device=False)
    return drive


async def _load(backend: BlockBackend, given: DriveConfiguration, *, snapshot: bool) -> None:
    graph = backend.graph
    assert given.medium is not None
    node = await graph.open_reference(given.medium, flags=Flags(inactive=graph.incoming))
    try:
        if snapshot:
            node = await temporary_overlay(graph, node, Flags(inactive=node.inactive))
        if given.copy_on_read:
            node = await copying(graph, node)
        if given.detect_zeroes is not None:
            node.detect_zeroes = given.detect_zeroes
        backend.insert(node)
    finally:
        await graph.release(node)


def _limits_of(given: ThrottleLimits | None) -> Limits:
    """GenericError: they contradict."""
    return Limits({} if given is None else to_wire(given))
