"""The machine as one document: `--config FILE`, `qemud config check FILE` and `qemud config schema`.

A document is a `Configuration` of the schema, in TOML if the file's name ends so, else in JSON:

    paused = true
    machine = { type = "virt", memory = { size = 268435456 } }
    serial = ["chardev:console"]
    chardevs = [{ id = "console", backend = { type = "pty", data = {} } }]

It is checked as QMP's arguments are, and then stands for options of the command line, most of them with an argument in JSON; so a
document and a command line cannot mean different things.  Options may stand beside it: a monitor more, `-pidfile`.  `query-config`
(`qemud.daemon.config_query`) is the way back.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from qemud.daemon.cmdline import READ_LATER, FromFile, UsageError
from qemud.daemon.ini import joined
from qemud.logs import report, tell
from qemud.qapi.runtime.document import Document, DocumentError, read_document
from qemud.qapi.runtime.errors import QmpError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.daemon.cmdline import Occurrence

CONFIGURATION = "Configuration"
USAGE = "usage: qemud config check FILE\n       qemud config schema\n"

# Members whose value is an option's keys and values, and members that are lists of an option's arguments in JSON.
_KEYED = {"name": "name", "action": "action", "rtc": "rtc"}
_LISTS_OF_KEYED = {"globals": "global", "monitors": "mon", "fw-cfg": "fw_cfg"}
_LISTS_OF_JSON = {
    "objects": "object",
    "chardevs": "chardev",
    "blockdevs": "blockdev",
    "drives": "drive",
    "netdevs": "netdev",
    "devices": "device",
}


def read(path: str) -> Iterator[Occurrence]:
    """The options that a document stands for.  UsageError: it cannot be read, or is no `Configuration`."""
    try:
        document = read_document(path)
        _check(document)
    except DocumentError as error:
        raise UsageError(str(error)) from None
    yield "nodefaults", None, ""
    yield "display", "none", ""
    for name, text, place in _options(document.value):
        if text is not None and name in READ_LATER:
            text = FromFile(text, partial(_place, document, place))  # noqa: PLW2901 - the same text
        yield name, text, f"{path}: -{name} {text}: "


def _place(document: Document, place: tuple[str | int, ...]) -> str:
    return str(document.error(place, ""))


def _check(document: Document) -> None:
    """Hold a document to the schema.  What is wrong with a device is told in `device_add`'s words, as in every other way in."""
    try:
        document.typed(CONFIGURATION)
    except DocumentError as error:
        devices = document.value.get("devices") if isinstance(document.value, dict) else None
        for index, device in enumerate(devices if isinstance(devices, list) else ()):
            if f"'devices[{index}]." in str(error) and isinstance(device, dict):
                _check_device(document, ("devices", index), device)
        raise


def _check_device(document: Document, place: tuple[str | int, ...], device: dict[str, Any]) -> None:
    from qemud.qom.creation import NOT_PROPERTIES, check_driver, check_property
    from qemud.qom.types import types

    driver = device.get("driver")
    if not isinstance(driver, str):
        return
    driver = types.resolve(driver)
    where: tuple[str | int, ...] = (*place, "driver")
    try:
        check_driver(driver)
        for name in device:
            if name not in NOT_PROPERTIES:
                where = (*place, name)
                check_property(driver, name)
    except QmpError as error:
        raise document.error(where, str(error)) from None


def _options(value: dict[str, Any]) -> Iterator[tuple[str, str | None, tuple[str | int, ...]]]:
    """Options, their arguments, and where in the document they stand."""
    for member, option in _KEYED.items():
        if member in value:
            yield option, joined(_texts(value[member])), (member,)
    for member in ("uuid", "cpu"):
        if member in value:
            yield member, value[member], (member,)
    if "accel" in value:
        yield "accel", joined({"accel": "tcg", **_texts(value["accel"])}), ("accel",)
    if "machine" in value:
        yield "machine", json.dumps(value["machine"]), ("machine",)
    for member, option in _LISTS_OF_KEYED.items():
        for index, each in enumerate(value.get(member, ())):
            yield option, joined(_texts(each)), (member, index)
    for member, option in _LISTS_OF_JSON.items():
        for index, each in enumerate(value.get(member, ())):
            yield option, json.dumps(each), (member, index)
    for index, text in enumerate(value.get("serial", ())):
        yield "serial", text, ("serial", index)
    if value.get("paused"):
        yield "S", None, ()


def _texts(value: dict[str, Any]) -> dict[str, str]:
    """Members as the command line has them; all of them are texts, numbers and booleans."""
    return {
        key: ("on" if each else "off") if isinstance(each, bool) else str(each) for key, each in value.items()
    }


def main(words: list[str]) -> int:
    """`qemud config …`; the result is the exit status."""
    try:
        match words:
            case ["schema"]:
                tell(json.dumps(schema(), indent=2) + "\n")
            case ["check", path]:
                check(read_document(path))
                tell(f"{path}: good\n")
            case _:
                report(USAGE.rstrip("\n"))
                return 2
    except (DocumentError, UsageError) as error:
        report(str(error))
        return 1
    return 0


def schema() -> dict[str, Any]:
    """The JSON Schema of a document, with the types that it needs."""
    from importlib.resources import files

    from qemud.qapi.targets import DEFAULT_TARGET

    text = files("qemud._generated").joinpath(f"json-schema-{DEFAULT_TARGET}.json").read_text("utf-8")
    whole = json.loads(text)
    needed: dict[str, Any] = {}
    wanted = [CONFIGURATION]
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed[name] = whole["$defs"][name]
            wanted += _references(needed[name])
    return {
        "$schema": whole["$schema"],
        "title": "A machine of qemud",
        "$ref": f"#/$defs/{CONFIGURATION}",
        "$defs": dict(sorted(needed.items())),
    }


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref":
                yield each.removeprefix("#/$defs/")
            else:
                yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def check(document: Document) -> None:
    """Hold a document to the schema twice: as the program will, and as any JSON Schema validator does.

    DocumentError: FILE:LINE: what is wrong, with its path.
    """
    _check(document)
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import best_match
    except ImportError:
        return  # it comes with the extra `config`; the check above says the same, and a test holds the two to each other

    error = best_match(Draft202012Validator(schema()).iter_errors(document.value))
    if error is not None:
        raise document.error(tuple(error.absolute_path), error.message)
