"""What `-device help`, `-device TYPE,help`, `-object help` and `-object TYPE,help` print: the schema's words on types.

    device_help("loader,help")    lines such as "  addr=<uint64>          - where in physical memory… (default: 0)"
    device_help("loader,addr=0")  None: nobody asked for help

The shape is QEMU's, so that scripts which read it can read ours.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.qemuopts import HELP, split
from qemud.qom.types import types

if TYPE_CHECKING:
    from qemud.qom.properties import Property

_COLUMN = 24
CATEGORIES = (
    "Controller/Bridge/Hub",
    "USB",
    "Storage",
    "Network",
    "Input",
    "Display",
    "Sound",
    "Misc",
    "Watchdog",
)
"""In which devices are listed, under QEMU's names and in its order; each type's entry names one."""


def device_help(text: str) -> str | None:
    """What `-device text` should print, if it asks for help.  Raises DeviceNotFound or GenericError for no type of device."""
    typename, wanted = asked(text, "driver")
    if typename in HELP:
        return _devices()
    if not wanted:
        return None
    typename = types.resolve(typename)
    types.check_device(typename)
    return options_of(typename)


def _devices() -> str:
    from qemud._generated.enums import ENUMS

    sections: dict[str, list[str]] = {title: [] for title in CATEGORIES}
    for entry in sorted(types, key=lambda entry: entry.name):
        if entry.user_creatable and not entry.abstract:
            bus = getattr(types.find(entry.name), "bus_type", None)
            description = ENUMS["DeviceDriver"].get(entry.name)
            sections[entry.category].append(
                f'name "{entry.name}"'
                + (f", bus {bus}" if bus else "")
                + (f', alias "{entry.alias}"' if entry.alias else "")
                + (f', desc "{description}"' if description else "")
            )
    return "\n".join(
        "".join(f"{line}\n" for line in [f"{title} devices:", *lines])
        for title, lines in sections.items()
        if lines
    )


def object_help(text: str) -> str | None:
    """What `-object text` should print, if it asks for help.  Raises GenericError for no type that users can make."""
    typename, wanted = asked(text, "qom-type")
    creatable = sorted(
        entry.name
        for entry in types
        if entry.location and not entry.abstract and types.is_a(entry.name, "user-creatable")
    )
    if typename in HELP:
        return "\n".join(["List of user creatable objects:", *(f"  {name}" for name in creatable)]) + "\n"
    if not wanted:
        return None
    if typename not in creatable:
        raise GenericError(f"Parameter 'qom-type' does not accept value '{typename}'")
    return options_of(typename)


def asked(text: str, implied: str) -> tuple[str, bool]:
    """The type in the text of an option, and whether one of the other words in it asks for help."""
    if text.startswith("{"):
        return "", False
    first, *rest = split(text) or [""]
    return first.removeprefix(f"{implied}="), any(part in HELP for part in rest)


def options_of(typename: str) -> str:
    """The properties of a type that can be given."""
    lines = sorted(_line(typename, given) for given in types.properties(typename) if given.writable)
    if not lines:
        return f"There are no options for {typename}.\n"
    return "\n".join([f"{typename} options:", *lines]) + "\n"


def _line(typename: str, given: Property) -> str:
    line = f"  {given.name}=<{given.qom_type(device=types.is_a(typename, 'device'))}>"
    shown = given.has_default and given.default is not None
    if given.description or shown:
        line = f"{line:<{_COLUMN}} - {given.description}"
    if shown:
        match given.default:
            case bool():
                value = "on" if given.default else "off"
            case str():
                value = given.default
            case _:
                value = json.dumps(given.default)
        line += f" (default: {value})"
    return line
