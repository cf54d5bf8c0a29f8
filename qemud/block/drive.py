"""Drives of the command line: `-drive`, in which an image, the drive it is in, and sometimes its device are one.

    drive = await open_drive(graph, {"file": "disk.qcow2", "if": "none", "id": "hd0"})
    drive.backend.name      -> "hd0"
    drive.device            -> None, or the options of the device that goes with it

Values are strings, as the command line has them.  Names that only `-drive` knows are turned into those of `blockdev-add`; what is
then left goes to the image.

Source of rules and texts: QEMU 10.0, blockdev.c (drive_new, blockdev_init).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.block_info import BlockdevOnError
from qemud._generated.types.block_options import BlockdevDetectZeroesOptions
from qemud.block import permission
from qemud.block.backend import BlockBackend
from qemud.block.driver import Flags
from qemud.block.image import nest, open_image
from qemud.block.stats import Interval
from qemud.block.throttle import Limits, limit
from qemud.qapi.runtime import qemuopts
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.block.graph import Graph
    from qemud.block.node import BlockNode

_UNITS = {
    "none": 0,
    "ide": 2,
    "scsi": 7,
    "floppy": 0,
    "pflash": 0,
    "mtd": 0,
    "sd": 0,
    "virtio": 0,
    "xen": 0,
}
"""Kinds of interfaces, and how many units a bus of each has; 0 for any number."""

_WITH_POLICY = frozenset(("ide", "scsi", "virtio", "none"))
_UNCLAIMED = frozenset(("none", "virtio"))
"""Interfaces whose drives may be left without a device: it is made for them, or somebody will add one."""

_RENAMED = {
    "iops": "throttling.iops-total",
    "iops_rd": "throttling.iops-read",
    "iops_wr": "throttling.iops-write",
    "bps": "throttling.bps-total",
    "bps_rd": "throttling.bps-read",
    "bps_wr": "throttling.bps-write",
    "iops_max": "throttling.iops-total-max",
    "iops_rd_max": "throttling.iops-read-max",
    "iops_wr_max": "throttling.iops-write-max",
    "bps_max": "throttling.bps-total-max",
    "bps_rd_max": "throttling.bps-read-max",
    "bps_wr_max": "throttling.bps-write-max",
    "iops_size": "throttling.iops-size",
    "group": "throttling.group",
    "readonly": "read-only",
}

_CACHE_MODES = {
    "none": ("on", "on", "off"),
    "off": ("on", "on", "off"),
    "directsync": ("off", "on", "off"),
    "writeback": ("on", "off", "off"),
    "unsafe": ("on", "off", "on"),
    "writethrough": ("off", "off", "off"),
}
"""`cache=`, as cache.writeback, cache.direct and cache.no-flush."""

_INTERVAL_LIMIT = (1 << 32) - 1


class Drive:
    """Where a `-drive` belongs: its interface, bus and unit, and the device that is made for it.

    `place` tells what stands in front of an error about it.
    """

    def __init__(
        self, backend: BlockBackend, interface: str, bus: int, unit: int, *, comes_with_device: bool = True
    ) -> None:
        self.backend = backend
        self.interface = interface
        self.bus = bus
        self.unit = unit
        self.place: Callable[[], str] = str
        self._comes_with_device = comes_with_device

    @property
    def device(self) -> dict[str, str] | None:
        """The options of the device that is made for it, for `device_add`."""
        if self.interface != "virtio" or not self._comes_with_device:
            return None
        return {"driver": "virtio-blk-pci", "drive": self.backend.name}


def find_drive(graph: Graph, interface: str, bus: int, unit: int) -> BlockBackend | None:
    """The backend of the `-drive` in that place, for boards that look for theirs."""
    for backend in graph.backends:
        drive = backend.legacy
        if drive is not None and (drive.interface, drive.bus, drive.unit) == (interface, bus, unit):
            return backend
    return None


def orphan(graph: Graph) -> tuple[Drive, str] | None:
    """A drive that the board has no place for, and what is wrong with it; None when all are well."""
    for backend in graph.backends:
        drive = backend.legacy
        if drive is not None and drive.interface not in _UNCLAIMED and backend.device is None:
            return (
                drive,
                f"machine type does not support if={drive.interface},bus={drive.bus},unit={drive.unit}",
            )
    return None


async def open_drive(
    graph: Graph,
    given: dict[str, str],
    *,
    snapshot: bool = False,
    default_interface: str = "virtio",
    warn: Callable[[str], None] = lambda _text: None,
) -> Drive:
    """Make a drive, and open its image if it has one.  GenericError; nothing is left then.  `warn` gets warnings."""
    options = _renamed(given)
    _apply_cache(options)
    media = options.pop("media", "disk")
    if media not in {"disk", "cdrom"}:
        raise GenericError(f"'{media}' invalid media")
    read_only = media == "cdrom" or _flag(options, "read-only", default=False)
    if read_only and _flag(options, "copy-on-read", default=False):
        warn("disabling copy-on-read on read-only drive")
    interface = options.pop("if", default_interface)
    if interface not in _UNITS:
        raise GenericError(f"unsupported bus type '{interface}'")
    bus, unit = _place(graph, options, interface)
    name = options.pop("id", None) or _name(interface, bus, unit, media)
    for policy in ("werror", "rerror"):
        if policy in options and interface not in _WITH_POLICY:
            raise GenericError(f"{policy} is not supported by this bus type")
    qemuopts.check_identifier(name)
    backend = await _make(graph, name, options, read_only=read_only, snapshot=snapshot)
    drive = backend.legacy = Drive(backend, interface, bus, unit)
    return drive


async def _make(
    graph: Graph, name: str, options: dict[str, str], *, read_only: bool, snapshot: bool
) -> BlockBackend:
    """The backend, and its medium."""
    filename = options.pop("file", "") or None
    snapshot = _flag(options, "snapshot", default=snapshot)
    writeback = _flag(options, "cache.writeback", default=True)
    account_invalid = _flag(options, "stats-account-invalid", default=True)
    account_failed = _flag(options, "stats-account-failed", default=True)
    intervals = _intervals(options)
    throttling = {key: options.pop(key) for key in list(options) if key.startswith("throttling.")}
    group, limits = _limits(throttling)
    copy_on_read = _flag(options, "copy-on-read", default=False)
    if "format" in options:
        if "driver" in options:
            raise GenericError("Cannot specify both 'driver' and 'format'")
        options["driver"] = options.pop("format")
    aio = options.pop("aio", "threads")
    if aio != "threads":
        raise GenericError("invalid aio option")
    detect_zeroes = options.pop("detect-zeroes", "off")
    if detect_zeroes not in {each.value for each in BlockdevDetectZeroesOptions}:
        raise GenericError(f"invalid parameter value: {detect_zeroes}")
    on_write_error = policy(options.pop("werror", "enospc"), read=False)
    on_read_error = policy(options.pop("rerror", "report"), read=True)
    check_name(graph, name)
    backend = BlockBackend(graph, name)
    try:
        flags = Flags(read_only=read_only, auto_read_only=True)
        if filename is not None or options.keys() - {"cache.direct", "cache.no-flush"}:
            # Whether anybody wants to write will be known when a device has the drive.
            backend.needs = permission.CONSISTENT_READ
            await _load(
                backend,
                filename,
                options,
                flags._replace(inactive=graph.incoming),
                snapshot=snapshot,
                copy_on_read=copy_on_read,
            )
            if backend.node is not None:
                # Unlike `blockdev-add`, this does not mind `unmap` where discards are ignored.
                backend.node.detect_zeroes = BlockdevDetectZeroesOptions(detect_zeroes)
        else:
            backend.root_flags = flags
        if limits:
            limit(backend, limits, group, name)
    except BaseException:
        await backend.close()
        raise
    backend.enable_write_cache = backend.chosen_write_cache = writeback
    backend.on_write_error, backend.on_read_error = on_write_error, on_read_error
    backend.stats.account_invalid, backend.stats.account_failed = account_invalid, account_failed
    backend.stats.intervals = [Interval(seconds) for seconds in intervals]
    return backend


async def _load(
    backend: BlockBackend,
    filename: str | None,
    options: dict[str, str],
    flags: Flags,
    *,
    snapshot: bool,
    copy_on_read: bool,
) -> None:
    graph = backend.graph
    node = await open_image(
        graph, filename, nest(options), flags=flags._replace(read_only=True) if snapshot else flags
    )
    try:
        if snapshot:
            from qemud.block.create import temporary_overlay

            node = await temporary_overlay(graph, node, flags._replace(inactive=node.inactive))
        if copy_on_read:
            node = await copying(graph, node)
        backend.insert(node)
    finally:
        await graph.release(node)


async def copying(graph: Graph, node: BlockNode) -> BlockNode:
    """Open a filter `copy-on-read` above a node, of which clients that ask for drives are not told; it holds the node from now on."""
    from qemud.qapi.runtime.check import parse_type

    try:
        made = await graph.open(
            parse_type("BlockdevOptions", {"driver": "copy-on-read", "file": node.node_name}),
            flags=node.flags,
        )
        made.implicit = True
        return made
    finally:
        await graph.release(node)


def check_name(graph: Graph, name: str) -> None:
    """Raise GenericError when a drive of that name cannot be."""
    if graph.backend_by_name(name) is not None:
        raise GenericError(f"Device with id '{name}' already exists")
    if graph.find_node(name) is not None:
        raise GenericError(f"Device name '{name}' conflicts with an existing node name")


# Reading the options.


def _renamed(given: dict[str, str]) -> dict[str, str]:
    options = dict(given)
    for old, new in _RENAMED.items():
        if old in options:
            if new in options:
                raise GenericError(f"'{new}' and its alias '{old}' can't be used at the same time")
            options[new] = options.pop(old)
    return options


def _apply_cache(options: dict[str, str]) -> None:
    mode = options.pop("cache", None)
    if mode is None:
        return
    if mode not in _CACHE_MODES:
        raise GenericError("invalid cache option")
    names = ("cache.writeback", "cache.direct", "cache.no-flush")
    for name, value in zip(names, _CACHE_MODES[mode], strict=True):
        options.setdefault(name, value)


def _flag(options: dict[str, str], name: str, *, default: bool) -> bool:
    return qemuopts.boolean(name, options.pop(name)) if name in options else default


def _number(
    options: dict[str, str], name: str, read: Callable[[str, str], int] = qemuopts.number
) -> int | None:
    return read(name, options.pop(name)) if name in options else None


def _place(graph: Graph, options: dict[str, str], interface: str) -> tuple[int, int]:
    """Bus and unit: those that are given, or the first that are free."""
    bus, unit, index = (_number(options, name) for name in ("bus", "unit", "index"))
    units = _UNITS[interface]
    if index is not None:
        if bus or unit is not None:
            raise GenericError("index cannot be used with bus and unit")
        bus, unit = divmod(index, units) if units else (0, index)
    bus = bus or 0
    if unit is None:
        bus, unit = free_place(graph, interface, bus)
    check_place(graph, interface, bus, unit, index=-1 if index is None else index)
    return bus, unit


def free_place(graph: Graph, interface: str, bus: int) -> tuple[int, int]:
    """The first bus and unit, from a bus on, where there is no drive."""
    units = _UNITS[interface]
    unit = 0
    while find_drive(graph, interface, bus, unit) is not None:
        unit += 1
        if units and unit >= units:
            bus, unit = bus + 1, 0
    return bus, unit


def check_place(graph: Graph, interface: str, bus: int, unit: int, *, index: int = -1) -> None:
    """Raise GenericError when no drive can have that place."""
    units = _UNITS[interface]
    if units and unit >= units:
        raise GenericError(f"unit {unit} too big (max is {units - 1})")
    if find_drive(graph, interface, bus, unit) is not None:
        raise GenericError(f"drive with bus={bus}, unit={unit} (index={index}) exists")


def _name(interface: str, bus: int, unit: int, media: str) -> str:
    medium = ("-cd" if media == "cdrom" else "-hd") if interface in {"ide", "scsi"} else ""
    return f"{interface}{bus if _UNITS[interface] else ''}{medium}{unit}"


def policy(text: str, *, read: bool) -> BlockdevOnError:
    """What is to become of errors, by its name.  GenericError: that is none for a drive."""
    if text not in {"ignore", "stop", "report"} and (read or text != "enospc"):
        raise GenericError(f"'{text}' invalid {'read' if read else 'write'} error action")
    return BlockdevOnError(text)


def _limits(given: dict[str, str]) -> tuple[str | None, Limits]:
    """The group and the limits in `throttling.*`.  GenericError."""
    prefix = "throttling."
    values = {key.removeprefix(prefix): text for key, text in given.items()}
    group = values.pop("group", None)
    known = Limits({}).values()
    numbers: dict[str, int] = {}
    for key, text in values.items():
        if key not in known:
            raise GenericError(f"Block format 'raw' does not support the option '{prefix}{key}'")
        numbers[key] = qemuopts.number(prefix + key, text)
    return group, Limits(numbers)


def _intervals(options: dict[str, str]) -> list[int]:
    prefix = "stats-intervals."
    given = {key.removeprefix(prefix): options.pop(key) for key in list(options) if key.startswith(prefix)}
    found: list[int] = []
    for key in sorted(given, key=lambda text: (len(text), text)):
        if key != str(len(found)):
            raise GenericError(f"Invalid option stats-intervals.{key}")
        text = given[key]
        if not text.isdecimal() or not 0 < int(text) <= _INTERVAL_LIMIT:
            raise GenericError(f"Invalid interval length: {text}")
        found.append(int(text))
    return found
