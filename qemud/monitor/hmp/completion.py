"""How a line could go on: what the Tab key offers.

    typed, names = await completions(shell, "info st")      # "st", ["status"]

Names of objects are asked by QMP, like everything.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from qemud.monitor.hmp.arguments import split
from qemud.monitor.hmp.expression import SPACE
from qemud.monitor.hmp.table import COMMANDS, SUBCOMMANDS
from qemud.qapi.runtime.errors import QmpError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qemud.monitor.hmp.shell import Shell
    from qemud.monitor.hmp.table import Command


async def completions(shell: Shell, text: str) -> tuple[str, list[str]]:
    """The word at the end of `text`, and the words that begin with it and could stand there."""
    words = split(text)
    if words is None:
        return "", []
    if not words or text[-1] in SPACE:
        words.append("")
    typed = words[-1]
    try:
        candidates = await _candidates(shell, words)
    except QmpError:
        return typed, []
    return typed, [name for name in candidates if name.startswith(typed)]


async def _candidates(shell: Shell, words: list[str]) -> list[str]:
    table = COMMANDS
    while len(words) > 1:
        command = table.get(words[0])
        if command is None:
            return []
        words = words[1:]
        if command.name == "help" and table is COMMANDS:
            continue
        below = SUBCOMMANDS.get(command.name) if table is COMMANDS else None
        if below is None:
            return await _arguments(shell, command, words)
        table = below
    phase = await shell.phase()
    return [name for name, command in table.items() if command.is_available(phase)]


async def _arguments(shell: Shell, command: Command, words: list[str]) -> list[str]:
    """What could stand as the last of the arguments that have been typed."""
    finder = _FINDERS.get(command.name)
    if finder is not None:
        return await finder(shell) if len(words) == 1 else []
    kinds = [kind.partition(":")[2] for kind in command.arguments.split(",")]
    positional = [kind for kind in kinds if not kind.startswith(("-", "/"))]
    typed = [word for word in words[:-1] if not word.startswith(("-", "/"))]
    if len(typed) < len(positional) and positional[len(typed)].startswith("F"):
        return await asyncio.get_running_loop().run_in_executor(None, _files, words[-1])
    return []


def _files(typed: str) -> list[str]:
    """The files in the directory of a path, directories with a slash behind."""
    folder = typed[: typed.rfind("/") + 1]
    try:
        with os.scandir(folder or ".") as entries:
            return [f"{folder}{entry.name}{'/' if entry.is_dir() else ''}" for entry in entries]
    except OSError:
        return []


async def _drivers(_shell: Shell) -> list[str]:
    from qemud._generated.types.qdev import DeviceDriver
    from qemud.qom.types import types

    return [driver.value for driver in DeviceDriver if types.entry(driver.value) is not None]


async def _object_types(_shell: Shell) -> list[str]:
    from qemud._generated.types.qom import ObjectType

    return [kind.value for kind in ObjectType]


async def _children(shell: Shell, path: str) -> list[str]:
    found = await shell.qmp("qom-list", {"path": path})
    return [given["name"] for given in found if given["type"].startswith("child<")]


async def _devices(shell: Shell) -> list[str]:
    return await _children(shell, "/machine/peripheral")


async def _objects(shell: Shell) -> list[str]:
    return await _children(shell, "/objects")


async def _chardevs(shell: Shell) -> list[str]:
    return [each["label"] for each in await shell.qmp("query-chardev")]


async def _ring_buffers(shell: Shell) -> list[str]:
    found = await shell.qmp("query-chardev")
    return [each["label"] for each in found if each["filename"] in {"ringbuf", "memory"}]


async def _chardev_kinds(shell: Shell) -> list[str]:
    return [each["name"] for each in await shell.qmp("query-chardev-backends")]


async def _snapshots(shell: Shell) -> list[str]:
    return [each["name"] for each in (await shell.qmp("x-query-snapshots"))["common"]]


async def _trace_events(shell: Shell) -> list[str]:
    return [each["name"] for each in await shell.qmp("trace-event-get-state", {"name": "*"})]


async def _watchdog_actions(_shell: Shell) -> list[str]:
    from qemud._generated.types.run_state import WatchdogAction

    return [action.value for action in WatchdogAction]


_FINDERS: dict[str, Callable[[Shell], Awaitable[list[str]]]] = {
    "chardev-add": _chardev_kinds,
    "chardev-change": _chardevs,
    "chardev-remove": _chardevs,
    "chardev-send-break": _chardevs,
    "delvm": _snapshots,
    "device_add": _drivers,
    "device_del": _devices,
    "loadvm": _snapshots,
    "object_add": _object_types,
    "object_del": _objects,
    "ringbuf_read": _ring_buffers,
    "ringbuf_write": _ring_buffers,
    "trace-event": _trace_events,
    "trace-events": _trace_events,
    "watchdog_action": _watchdog_actions,
}
"""What the first argument of a command can be."""
