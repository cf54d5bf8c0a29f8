"""Commands about devices and objects.

What is written as `key=value` is read by the same visitors as on the command line and goes on typed, as QMP has it.

Source: QEMU 10.0, qom/qom-hmp-cmds.c and system/qdev-monitor.c, for texts and layout.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime import scalars
from qemud.qapi.runtime.errors import GenericError, QmpError
from qemud.qapi.runtime.qemuopts import HELP, HintedError
from qemud.qapi.runtime.wire import to_wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.monitor.hmp.shell import Shell

_INTEGERS = frozenset(("int", "int8", "int16", "int32", "int64"))
_UNSIGNED = frozenset(("uint8", "uint16", "uint32", "uint64"))


async def device_add(shell: Shell, arguments: dict[str, Any]) -> None:
    """`device_add`."""
    from qemud.qom.help import device_help

    values: dict[str, str] = arguments.get("device", {})
    driver = values.get("driver")
    asked = [key for key in values if key in HELP]
    if driver is not None and (driver in HELP or asked):
        shell.print(device_help(",".join([driver, *asked])) or "")
        return
    await shell.qmp("device_add", _device(values))


def _device(values: dict[str, str]) -> dict[str, Any]:
    """The arguments of QMP's device_add; where they are none, as they are written: its errors are the right ones."""
    from qemud._generated.types.qdev import DeviceDriver
    from qemud.qapi.runtime.keyval import parse_keyval_type
    from qemud.qom.types import types

    driver = values.get("driver", "")
    known = {given.name for given in types.properties(types.resolve(driver))} | {"driver", "bus", "id"}
    if driver not in {each.value for each in DeviceDriver} or not values.keys() <= known:
        return dict(values)
    typed = to_wire(parse_keyval_type("DeviceOptions", dict(values)))
    return {name: value for name, value in typed.items() if name in values}


async def device_del(shell: Shell, arguments: dict[str, Any]) -> None:
    """`device_del`."""
    await shell.qmp("device_del", {"id": arguments["id"]})


async def object_add(shell: Shell, arguments: dict[str, Any]) -> None:
    """`object_add`."""
    from qemud.qom.help import object_help
    from qemud.qom.userobjects import options_from_text

    text: str = arguments["object"]
    asked = object_help(text)
    if asked is not None:
        shell.print(asked)
        return
    try:
        options = options_from_text(text, shell.reading.warn)
    except HintedError as error:
        shell.print(f"Error: {error}\n{error.hint}\n")
        return
    await shell.qmp("object-add", to_wire(options))


async def object_del(shell: Shell, arguments: dict[str, Any]) -> None:
    """`object_del`."""
    await shell.qmp("object-del", {"id": arguments["id"]})


async def qom_list(shell: Shell, arguments: dict[str, Any]) -> None:
    """`qom-list`."""
    if "path" not in arguments:
        shell.print("/\n")
        return
    for given in await shell.qmp("qom-list", {"path": arguments["path"]}):
        shell.print(f"{given['name']} ({given['type']})\n")


async def qom_get(shell: Shell, arguments: dict[str, Any]) -> None:
    """`qom-get`."""
    value = await shell.qmp("qom-get", arguments)
    shell.print(json.dumps(value, indent=4, ensure_ascii=False) + "\n")


async def qom_set(shell: Shell, arguments: dict[str, Any]) -> None:
    """`qom-set`."""
    path, name, text = arguments["path"], arguments["property"], arguments["value"]
    if arguments.get("json"):
        value = _parse_json(text)
    else:
        properties = await shell.qmp("qom-list", {"path": path})
        type_ = next((given["type"] for given in properties if given["name"] == name), "string")
        value = _parse_scalar(type_, name, text)
    await shell.qmp("qom-set", {"path": path, "property": name, "value": value})


def _parse_json(text: str) -> Any:
    from qemud.monitor.qmp.framing import parse_document
    from qemud.monitor.qmp.values import JsonError

    try:
        return parse_document(text.encode("utf-8", "surrogateescape"))
    except JsonError as error:
        raise GenericError(str(error)) from None


def _parse_scalar(type_: str, name: str, text: str) -> Any:
    """A value of a type of QOM as people write it."""
    parse: Callable[[str], Any]
    if type_ == "bool":
        parse = scalars.parse_bool
    elif type_ == "size":
        parse = scalars.parse_size
    elif type_ in _INTEGERS:
        parse = scalars.parse_int64
    elif type_ in _UNSIGNED:
        parse = scalars.parse_uint64
    else:
        return text
    try:
        return parse(text)
    except ValueError as error:
        raise GenericError(f"Parameter '{name}' expects {error}") from None


async def print_tree(shell: Shell, path: str, name: str, type_: str, indent: int) -> None:
    """An object and all below it."""
    shell.print(f"{'':{indent}}/{name} ({type_})\n")
    children = [
        (given["name"], given["type"])
        for given in await shell.qmp("qom-list", {"path": path})
        if given["type"].startswith("child<")
    ]
    for child, child_type in sorted(children):
        try:
            await print_tree(
                shell, f"{path.rstrip('/')}/{child}", child, child_type[len("child<") : -1], indent + 2
            )
        except QmpError:
            continue  # it went away meanwhile
