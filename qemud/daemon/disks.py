"""Disks of the command line: `-blockdev`, `-drive`, `-hda` and its kin, `-cdrom`, `-snapshot`.

    devices = await open_disks(services.block, line)

Nodes and drives are made in the order of the words; what a drive is connected by is left to the making of devices.  A drive in JSON,
which documents have, is described in full and comes with no device (`DriveConfiguration` of the schema).

Source of the order and of texts: QEMU 10.0, system/vl.c (configure_blockdev, drive_add).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.daemon.cmdline import UsageError, at, place_of, warner
from qemud.qapi.runtime.errors import GenericError, QmpError

if TYPE_CHECKING:
    from qemud._generated.types.block_drive import DriveConfiguration
    from qemud._generated.types.options import CommandLine
    from qemud.block.drive import Drive
    from qemud.block.graph import Graph

_HARD_DISKS = ("hda", "hdb", "hdc", "hdd")
_CDROM_INDEX = "2"


def wanted(line: CommandLine) -> bool:
    """Whether the command line has any disks."""
    return any(getattr(line, name) is not None for name in ("blockdev", "drive", "cdrom", *_HARD_DISKS))


async def open_disks(graph: Graph, line: CommandLine) -> list[tuple[str, dict[str, str]]]:
    """Make all nodes and drives.  Raises UsageError.

    Returns the devices that belong to drives: what to put before an error, and the arguments of `device_add`.
    """
    for text in line.blockdev or ():
        await _add_node(graph, text)
    devices: list[tuple[str, dict[str, str]]] = []
    for option, text, given in _drives(line):
        drive = await _open_drive(graph, option, text, given, snapshot=bool(line.snapshot))
        if drive.device is not None:
            devices.append((drive.place(), drive.device))
    return devices


def check_orphans(graph: Graph) -> None:
    """Raise UsageError when the board has no use for a drive."""
    from qemud.block.drive import orphan

    found = orphan(graph)
    if found is not None:
        drive, trouble = found
        raise UsageError(f"{drive.place()}{trouble}")


def _drives(line: CommandLine) -> list[tuple[str, str, dict[str, str] | DriveConfiguration]]:
    """All drives: their option, its argument, and the options of `-drive`, or what it says in JSON."""
    from qemud.qapi.runtime.qemuopts import parse

    found: list[tuple[str, str, dict[str, str] | DriveConfiguration]] = []
    for number, name in enumerate(_HARD_DISKS):
        file = getattr(line, name)
        if file is not None:
            found.append((name, file, {"media": "disk", "index": str(number), "file": file}))
    if line.cdrom is not None:
        found.append(("cdrom", line.cdrom, {"media": "cdrom", "index": _CDROM_INDEX, "file": line.cdrom}))
    names: set[str] = set()
    for text in line.drive or ():
        with at("drive", text):
            if text.startswith("{"):
                found.append(("drive", text, _configuration(text)))
                continue
            given = dict(parse(text, warn=warner("drive", text)))
            if "id" in given and given["id"] in names:
                raise GenericError(f"Duplicate ID '{given['id']}' for drive")
            names.add(given.get("id", ""))
            found.append(("drive", text, given))
    return found


async def _add_node(graph: Graph, text: str) -> None:
    from qemud.monitor.qmp.framing import parse_option
    from qemud.qapi.runtime.check import parse_type
    from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_type

    place = place_of("blockdev", text)
    try:
        if text.startswith("{"):
            options = parse_type("BlockdevOptions", parse_option(text))
        else:
            options = parse_keyval_type("BlockdevOptions", parse_keyval(text, "driver"))
        await graph.add(options)
    except QmpError as error:
        raise _explained(place, error) from None


def _configuration(text: str) -> DriveConfiguration:
    from qemud.monitor.qmp.framing import parse_option
    from qemud.qapi.runtime.check import parse_type

    found: DriveConfiguration = parse_type("DriveConfiguration", parse_option(text))
    return found


async def _open_drive(
    graph: Graph, option: str, text: str, given: dict[str, str] | DriveConfiguration, *, snapshot: bool
) -> Drive:
    try:
        if isinstance(given, dict):
            from qemud.block.drive import open_drive

            drive = await open_drive(graph, given, snapshot=snapshot, warn=warner(option, text))
        else:
            from qemud.block.document import open_configured

            drive = await open_configured(graph, given, snapshot=snapshot)
    except QmpError as error:
        raise _explained(place_of(option, text), error) from None
    drive.place = lambda: place_of(option, text)
    return drive


def _explained(place: str, error: QmpError) -> UsageError:
    hint = getattr(error, "hint", "")
    return UsageError(f"{place}{error}\n{hint}" if hint else f"{place}{error}")
