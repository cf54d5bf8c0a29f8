"""Commands that run, stop and end the machine, and the log.

Source: QEMU 10.0, monitor/hmp-cmds.c, for texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.monitor.hmp.shell import Shell


async def stop(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`stop`."""
    await shell.qmp("stop")


async def cont(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`cont`."""
    await shell.qmp("cont")


async def exit_preconfig(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`exit_preconfig`."""
    await shell.qmp("x-exit-preconfig")


async def quit_(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`quit`."""
    shell.ended = True
    await shell.qmp("quit")


async def system_reset(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`system_reset`."""
    await shell.qmp("system_reset")


async def system_powerdown(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`system_powerdown`."""
    await shell.qmp("system_powerdown")


async def system_wakeup(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`system_wakeup`."""
    await shell.qmp("system_wakeup")


async def nmi(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`nmi`."""
    await shell.qmp("inject-nmi")


async def cpu(shell: Shell, arguments: dict[str, Any]) -> None:
    """`cpu`: what other commands are about."""
    index = arguments["index"]
    if any(each["cpu-index"] == index for each in await shell.qmp("query-cpus-fast")):
        shell.cpu_index = index
    else:
        shell.print("invalid CPU index\n")


async def dumpdtb(shell: Shell, arguments: dict[str, Any]) -> None:
    """`dumpdtb`."""
    filename = arguments["filename"]
    await shell.qmp("dumpdtb", {"filename": filename})
    shell.print(f"DTB dumped to '{filename}'\n")


async def log(shell: Shell, arguments: dict[str, Any]) -> None:
    """`log`: what is to be logged, or `none`; the list of what can be, when there is no such item."""
    items = arguments["items"]
    wanted = [] if items == "none" else items.split(",")
    known = {item["name"] for item in await shell.qmp("x-query-log")}
    if set(wanted) <= known:
        await shell.qmp("x-set-log", {"items": wanted})
    else:
        log_items(shell)


def log_items(shell: Shell) -> None:
    """What `log` takes."""
    from qemud._generated.enums import ENUMS

    shell.print("Log items (comma separated):\n")
    for name, text in {"none": "log nothing", **ENUMS["LogItem"]}.items():
        shell.print(f"{name:<15} {text}\n")


async def logfile(shell: Shell, arguments: dict[str, Any]) -> None:
    """`logfile`."""
    try:
        await shell.qmp("x-set-log", {"filename": arguments["filename"]})
    except GenericError as error:
        shell.print(f"{error}\n")


async def trace_event(shell: Shell, arguments: dict[str, Any]) -> None:
    """`trace-event`."""
    wanted = {"name": arguments["name"], "enable": arguments["option"], "ignore-unavailable": True}
    try:
        await shell.qmp("trace-event-set-state", wanted)
    except GenericError as error:
        shell.print(f"{error}\n")


async def watchdog_action(shell: Shell, arguments: dict[str, Any]) -> None:
    """`watchdog_action`: in capitals, too."""
    await shell.qmp("watchdog-set-action", {"action": arguments["action"].lower()})
