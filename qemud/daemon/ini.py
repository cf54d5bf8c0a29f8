"""Configuration files of `-readconfig`, and `-writeconfig`, which writes them.

    [chardev "c0"]
      backend = "socket"
      path = "/run/c0"

    for name, text, place in read("machine.cfg"):  ...      # "chardev", "backend=socket,path=/run/c0,id=c0", "machine.cfg:1: "
    text = written(occurrences(words))

A group is an option with parameters of its own, under QEMU's name for the group (`GROUPS`); a group with an id is one with `id=`.
QEMU's format ends there: what has no group it neither reads nor writes.  Here any other option is a group of its own name, with
its argument as the key `argument`, so that a whole command line can be written and read again.

A value has no double quote and no end of a line in it; the format has no way to write one.  Keys are read with or without space
around the equals sign, and nothing may follow a value.

Source: QEMU 10.0, util/qemu-config.c (format, texts).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qemud.daemon.cmdline import OPTIONS, READ_LATER, FromFile, UsageError
from qemud.qapi.runtime import qemuopts
from qemud.qapi.runtime.document import read_bounded
from qemud.qapi.runtime.errors import QmpError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qemud.daemon.cmdline import Occurrence

GROUPS = {
    "accel": ("accel", "accel"),
    "action": ("action", ""),
    "add-fd": ("add-fd", ""),
    "audiodev": ("audiodev", "driver"),
    "boot-opts": ("boot", "order"),
    "chardev": ("chardev", "backend"),
    "device": ("device", "driver"),
    "display": ("display", "type"),
    "drive": ("drive", ""),
    "fw_cfg": ("fw_cfg", "name"),
    "global": ("global", ""),
    "icount": ("icount", "shift"),
    "machine": ("machine", "type"),
    "memory": ("m", "size"),
    "mon": ("mon", "chardev"),
    "msg": ("msg", ""),
    "name": ("name", "guest"),
    "net": ("net", "type"),
    "netdev": ("netdev", "type"),
    "nic": ("nic", "type"),
    "object": ("object", "qom-type"),
    "overcommit": ("overcommit", ""),
    "rtc": ("rtc", ""),
    "smp-opts": ("smp", "cpus"),
    "trace": ("trace", "enable"),
}
"""Groups of parameters: the option each is, and the key that a first parameter without one has."""

_GROUP_OF = {option: group for group, (option, _) in GROUPS.items()}
_NOT_HERE = frozenset(("config", "readconfig", "writeconfig", "help", "h", "version"))
_ARGUMENT = "argument"
_OTHERWISE_IN_JSON = frozenset(("drive",))
"""Options whose argument in JSON has other members than their keys."""
_NESTED = frozenset(("blockdev", "netdev"))
"""Options whose keys may be paths, such as `file.filename`."""
_HEAD = re.compile(r'\[([^\s"\]]+)(?:\s+"([^"]+)")?\]\s*')
_PAIR = re.compile(r'\s*([^\s="]+)\s*=\s*"([^"]*)"\s*')
_KEY = re.compile(r'[^\s=",]+')
_LONGEST_FILE = 1 << 20


class _Group:
    """One group of a file: where it begins, its name and its keys."""

    def __init__(self, place: str, name: str, id_: str | None) -> None:
        self.place = place
        self.name = name
        self.values: dict[str, str] = {} if id_ is None else {"id": id_}


def read(path: str) -> Iterator[Occurrence]:
    """The options that a file stands for, each with its argument and what to put before an error.  Raises UsageError."""
    for group in _groups(path, _content(path)):
        yield _occurrence(group)


def _content(path: str) -> str:
    try:
        data = read_bounded(path, _LONGEST_FILE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"-readconfig {path}: Could not open '{path}': {reason}") from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}:{data[: error.start].count(10) + 1}: not valid UTF-8") from None


def _groups(path: str, text: str) -> Iterator[_Group]:
    group: _Group | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        place = f"{path}:{number}: "
        if head := _HEAD.fullmatch(line):
            if group is not None:
                yield group
            group = _Group(place, head[1], head[2])
        elif pair := _PAIR.fullmatch(line):
            if group is None:
                raise UsageError(f"{place}no group defined")
            group.values[pair[1]] = pair[2]
        else:
            raise UsageError(f"{place}parse error")
    if group is not None:
        yield group


def _occurrence(group: _Group) -> Occurrence:
    """The option that a group is."""
    values = group.values
    name = GROUPS[group.name][0] if group.name in GROUPS else group.name
    option = OPTIONS.get(name)
    if option is None or option.alias or name in _NOT_HERE:
        raise UsageError(f"{group.place}There is no option group '{group.name}'")
    if option.read is None:
        if values:
            raise UsageError(f"{group.place}Invalid parameter '{next(iter(values))}'")
        return name, None, group.place
    if _ARGUMENT in values and len(values) == 1:
        return _from_file(name, values[_ARGUMENT], group)
    if group.name not in GROUPS:
        strange = next((key for key in values if key != _ARGUMENT), None)
        wrong = f"Invalid parameter '{strange}'" if strange else f"Parameter '{_ARGUMENT}' is missing"
        raise UsageError(f"{group.place}{wrong}")
    for key in values:
        if not _KEY.fullmatch(key):
            raise UsageError(f"{group.place}Invalid parameter '{key}'")
    return _from_file(name, joined(values), group)


def _from_file(name: str, text: str, group: _Group) -> Occurrence:
    return name, FromFile(text, lambda: group.place) if name in READ_LATER else text, group.place


def joined(values: dict[str, str]) -> str:
    """Keys and values as one argument."""
    return ",".join(f"{key}={value.replace(',', ',,')}" for key, value in values.items())


def written(given: Iterable[Occurrence]) -> str:
    """A file that stands for these options.  Raises UsageError for what the format cannot hold."""
    parts = ["# qemud config file\n"]
    for name, text, _ in _networks_in_order(given):
        target = OPTIONS[name].alias or name
        if target in _NOT_HERE:
            continue
        if target == "blockdev" and text is not None:
            text = _without_json(target, text)  # noqa: PLW2901 - the same in other words
        values = None if text is None else _values(target, text)
        group = target if values is None else _GROUP_OF[target]
        if values is None:
            values = {} if text is None else {_ARGUMENT: text}
        id_ = values.pop("id", None) if values.get("id") else None
        lines = [f'\n[{group} "{id_}"]' if id_ is not None else f"\n[{group}]"]
        for key, value in values.items():
            if '"' in value or "\n" in value:
                raise UsageError(
                    f"-writeconfig: the argument of -{name} has a double quote or an end of a line in it, "
                    "which the format cannot hold"
                )
            lines.append(f'  {key} = "{value}"')
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def _networks_in_order(given: Iterable[Occurrence]) -> list[Occurrence]:
    """The same with networks as they are made: in the order of their syntaxes, which they may change here."""
    ordered = list(given)
    places = [index for index, (name, _, _) in enumerate(ordered) if name == "netdev"]
    for index, network in zip(places, sorted((ordered[index] for index in places), key=_rank), strict=True):
        ordered[index] = network
    return ordered


def _rank(network: Occurrence) -> int:
    from qemud.monitor.qmp.framing import parse_option
    from qemud.net.options import NESTED, is_nested

    text = network[1] or ""
    if text.startswith("{"):
        return 0 if parse_option(text).get("type") in NESTED else 1
    return 0 if is_nested(text) else 2


def _without_json(name: str, text: str) -> str:
    """An argument in JSON as keys and values, if it can be."""
    values = _from_json(name, text) if text.startswith("{") else None
    return text if values is None else joined(values)


def _values(name: str, text: str) -> dict[str, str] | None:
    """An argument as keys and values; None when it cannot be taken apart without loss."""
    if name not in _GROUP_OF:
        return None
    if name == "global":
        return _global(text)
    if text.startswith("{"):
        return None if name in _OTHERWISE_IN_JSON else _from_json(name, text)
    implied = GROUPS[_GROUP_OF[name]][1]
    try:
        values = qemuopts.parse(text, implied=implied or None)
    except QmpError:
        return None
    whole = len(values) == len(qemuopts.split(text)) and list(values) != [_ARGUMENT]
    if not whole or not all(map(_KEY.fullmatch, values)) or '"' in values.get("id", ""):
        return None
    return values


def _global(text: str) -> dict[str, str] | None:
    driver, dot, rest = text.partition(".")
    name, equals, value = rest.partition("=")
    if dot and equals and "=" not in driver and "," not in driver + name:
        return {"driver": driver, "property": name, "value": value}
    return dict(qemuopts.parse(text))


def _from_json(name: str, text: str) -> dict[str, str] | None:
    """An argument in JSON as keys and values, where all of its values can be texts."""
    from qemud.monitor.qmp.framing import parse_option

    members = parse_option(text)
    if name not in _NESTED and any(isinstance(value, dict | list) for value in members.values()):
        return None
    return _flat(members)


def _flat(members: dict[str, Any], prefix: str = "") -> dict[str, str] | None:
    values: dict[str, str] = {}
    for key, value in members.items():
        if isinstance(value, dict | list) and value and "." not in key:
            inner = _flat(
                value if isinstance(value, dict) else {str(index): each for index, each in enumerate(value)},
                f"{prefix}{key}.",
            )
            if inner is None:
                return None
            values.update(inner)
        elif isinstance(value, bool):
            values[prefix + key] = "on" if value else "off"
        elif isinstance(value, str | int) and _KEY.fullmatch(key):
            values[prefix + key] = str(value)
        else:
            return None
    return values
