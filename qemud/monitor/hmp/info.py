"""`info` and `help`: what only shows.

Source: QEMU 10.0, for layout: monitor/hmp.c, hw/core/machine-hmp-cmds.c, system/qdev-monitor.c, system/memory.c,
target/riscv/cpu.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.monitor.hmp.arguments import split
from qemud.monitor.hmp.objects import print_tree
from qemud.monitor.hmp.table import COMMANDS, SUBCOMMANDS
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError

if TYPE_CHECKING:
    from qemud.monitor.hmp.shell import Shell
    from qemud.monitor.hmp.table import Command

_MEMORY = {"ram": "ram", "rom": "rom", "mmio": "i/o"}
_UNITS = "BKMGTPE"


# -- help ----------------------------------------------------------------------------------------------------------------


async def help_(shell: Shell, arguments: dict[str, Any]) -> None:
    """`help`: all commands, or those that begin with the words given."""
    from qemud.monitor.hmp.machine import log_items

    text = arguments.get("name", "")
    if text == "log":
        log_items(shell)
        return
    words = split(text)
    if words is None:
        return
    phase = await shell.phase()
    table, sentences = COMMANDS, _help("HmpCommand")
    for position, word in enumerate(words):
        command = table.get(word)
        if command is None or not command.is_available(phase):
            shell.print(f"unknown command: '{' '.join(words[: position + 1])}'\n")
            return
        below = SUBCOMMANDS.get(command.name) if table is COMMANDS else None
        if below is None:
            _explain(shell, command, words[:position], sentences)
            return
        table, sentences = below, _help("HmpInfo")
    for command in dict.fromkeys(table.values()):
        if command.is_available(phase):
            _explain(shell, command, words, sentences)


async def help_info(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info` alone: what can stand behind it."""
    await help_(shell, {"name": "info"})


def _explain(shell: Shell, command: Command, words: list[str], sentences: dict[str, str]) -> None:
    before = "".join(f"{word} " for word in words)
    shell.print(f"{before}{command.title} {command.shown} -- {sentences[command.name]}\n")


def _help(enum: str) -> dict[str, str]:
    from qemud._generated.enums import ENUMS

    return ENUMS[enum]


# -- the machine ---------------------------------------------------------------------------------------------------------


async def version(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info version`: the interface's, and the program's own."""
    reply = await shell.qmp("query-version")
    qemu = reply["qemu"]
    shell.print(f"{qemu['major']}.{qemu['minor']}.{qemu['micro']} ({reply['package']})\n")


async def status(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info status`."""
    reply = await shell.qmp("query-status")
    state = "" if reply["running"] or reply["status"] == "paused" else f" ({reply['status']})"
    shell.print(f"VM status: {'running' if reply['running'] else 'paused'}{state}\n")


async def name(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info name`: nothing where none was given."""
    found = (await shell.qmp("query-name")).get("name")
    if found is not None:
        shell.print(f"{found}\n")


async def uuid(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info uuid`."""
    shell.print(f"{(await shell.qmp('query-uuid'))['UUID']}\n")


async def kvm(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info kvm`."""
    reply = await shell.qmp("query-kvm")
    state = ("enabled" if reply["enabled"] else "disabled") if reply["present"] else "not compiled"
    shell.print(f"kvm support: {state}\n")


async def cpus(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info cpus`: with a star at the one that other commands are about."""
    chosen = await shell.cpu()
    for cpu in await shell.qmp("query-cpus-fast"):
        mark = "*" if cpu["cpu-index"] == chosen["cpu-index"] else " "
        shell.print(f"{mark} CPU #{cpu['cpu-index']}: thread_id={cpu['thread-id']}\n")


async def registers(shell: Shell, arguments: dict[str, Any]) -> None:
    """`info registers`."""
    known = [cpu["cpu-index"] for cpu in await shell.qmp("query-cpus-fast")]
    if arguments.get("cpustate_all"):
        wanted = known
    else:
        wanted = [arguments.get("vcpu", (await shell.cpu())["cpu-index"])]
        if wanted[0] not in known:
            given = "vcpu" in arguments
            shell.print(f"CPU#{wanted[0]} not available\n" if given else "No CPU available\n")
            return
    for index in wanted:
        reply = await shell.qmp("x-query-registers", {"cpu-index": index})
        shell.print(f"\nCPU#{index}\n{_registers(reply['registers'])}")


def _registers(found: list[dict[str, Any]]) -> str:
    """One on a line; those that are numbered (x10/a0) four on a line."""
    text = ""
    column = 0
    for register in found:
        text += f" {register['name']:<8} {register['value']:016x}"
        column = (column + 1) % 4 if "/" in register["name"] else 0
        if column == 0:
            text += "\n"
    return text


async def memory_size_summary(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info memory_size_summary`."""
    shell.print(f"base memory: {(await shell.qmp('query-memory-size-summary'))['base-memory']}\n")


async def mtree(shell: Shell, arguments: dict[str, Any]) -> None:
    """`info mtree`: the address space with what is in it; flat, with -f."""
    regions = await shell.qmp("x-query-mtree")
    lines = "".join(
        f"{region['base']:016x}-{region['base'] + region['size'] - 1:016x} "
        f"(prio 0, {_MEMORY[region['kind']]}): {region['name']}\n"
        for region in regions
    )
    if arguments.get("flatview"):
        shell.print('FlatView #0\n AS "memory", root: system\n Root memory region: system\n')
        shell.print(_indent(lines, 2) or "  No rendered FlatView\n")
    else:
        shell.print("address-space: memory\n  0000000000000000-ffffffffffffffff (prio 0, i/o): system\n")
        shell.print(_indent(lines, 4))
    shell.print("\n")


def _indent(lines: str, count: int) -> str:
    return "".join(" " * count + line for line in lines.splitlines(keepends=True))


async def chardev(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info chardev`."""
    for each in await shell.qmp("query-chardev"):
        shell.print(f"{each['label']}: filename={each['filename']}\n")


async def history(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info history`."""
    for number, line in enumerate(shell.history() if shell.history is not None else ()):
        shell.print(f"{number}: '{line}'\n")


async def trace_events(shell: Shell, arguments: dict[str, Any]) -> None:
    """`info trace-events`."""
    try:
        found = await shell.qmp("trace-event-get-state", {"name": arguments.get("name", "*")})
    except GenericError as error:
        shell.print(f"{error}\n")
        return
    for event in found:
        shell.print(f"{event['name']} : state {int(event['state'] == 'enabled')}\n")


# -- trees ---------------------------------------------------------------------------------------------------------------


async def qom_tree(shell: Shell, arguments: dict[str, Any]) -> None:
    """`info qom-tree`: the composition tree below an object, the machine unless one is given."""
    path = arguments.get("path", "/machine")
    try:
        type_ = await shell.qmp("qom-get", {"path": path, "property": "type"})
    except DeviceNotFound:
        shell.print(f"Path '{path}' could not be resolved.\n")
        return
    except GenericError:
        shell.print(f"Warning: Path '{path}' is ambiguous.\n")
        return
    await print_tree(shell, path, path.rstrip("/").rpartition("/")[2], type_, 0)


async def qtree(shell: Shell, arguments: dict[str, Any]) -> None:
    """`info qtree`: buses and devices, without properties with -b."""
    for bus in await shell.qmp("x-query-qtree"):
        _print_bus(shell, bus, 0, details=not arguments.get("brief"))


def _print_bus(shell: Shell, bus: dict[str, Any], indent: int, *, details: bool) -> None:
    margin = " " * indent
    shell.print(f"{margin}bus: {bus['name']}\n{margin}  type {bus['type']}\n")
    for device in bus["devices"]:
        shell.print(f'{margin}  dev: {device["driver"]}, id "{device.get("id", "")}"\n')
        if details:
            shell.print(_indent(_details(device), indent + 4))
        for below in device["buses"]:
            _print_bus(shell, below, indent + 4, details=details)


def _details(device: dict[str, Any]) -> str:
    lines = f'gpio-out "sysbus-irq" {device["irqs"]}\n' if device["irqs"] else ""
    for given in device["properties"]:
        lines += f"{given['name']} = {_value(given)}\n"
    for region in device["registers"]:
        lines += f"mmio {region.get('base', (1 << 64) - 1):016x}/{region['size']:016x}\n"
    return lines


def _value(given: dict[str, Any]) -> str:
    """A property's value as people read it."""
    value = given.get("value")
    match value:
        case None:
            return "<null>"
        case bool():
            return "true" if value else "false"
        case int() if given["type"] == "size":
            return f"{value} ({_size(value)})"
        case int():
            return f"{value} (0x{value & (1 << 64) - 1:x})"
        case list():
            return ", ".join(_value({"type": given["type"], "value": item}) for item in value)
        case dict():
            return f"<{given['type']}>"
        case _:
            return f'"{value}"'


def _size(value: int) -> str:
    """A number of bytes with three digits and a unit."""
    power = 0
    while power < len(_UNITS) - 1 and value >= 1000 << (10 * power):
        power += 1
    unit = _UNITS[power] + ("iB" if power else "")
    return f"{value / (1 << 10 * power):.3g} {unit}"
