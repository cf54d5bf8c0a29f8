"""Machines that come and go.

Source: QEMU 10.0, migration/migration-hmp-cmds.c, for texts and layout.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qemud._generated.types.migration import MigrationStatus
from qemud._generated.types.migration_options import MigrationCapability, MigrationParameter
from qemud.migration.address import parse_uri
from qemud.monitor.hmp.expression import SPACE
from qemud.qapi.runtime import qemuopts
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from enum import Enum

    from qemud.monitor.hmp.shell import Shell

_GOES_ON = {"setup", "active"}
_LOOK = 0.2
"""Seconds between two looks at a migration that is waited for."""
_MIB = frozenset({"max-bandwidth", "avail-switchover-bandwidth"})
"""Parameters whose values are in MiB where no unit is given."""
_UNITS = {
    "announce-initial": " ms",
    "announce-max": " ms",
    "announce-rounds": "",
    "announce-step": " ms",
    "max-bandwidth": " bytes/second",
    "avail-switchover-bandwidth": " bytes/second",
    "downtime-limit": " ms",
}
_INT64_MAX = (1 << 63) - 1


async def migrate(shell: Shell, arguments: dict[str, Any]) -> None:
    """`migrate`."""
    await shell.qmp("migrate", {"uri": arguments["uri"], "resume": bool(arguments.get("resume"))})
    if arguments.get("detach"):
        return
    if shell.history is None:
        shell.print("terminal does not allow synchronous migration, continuing detached\n")
        return

    async def until_done() -> None:
        while (await shell.qmp("query-migrate")).get("status") in _GOES_ON:  # noqa: ASYNC110 - it asks as any client does
            await asyncio.sleep(_LOOK)

    shell.lasts = until_done


async def cancel(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`migrate_cancel`."""
    await shell.qmp("migrate_cancel")


async def go_on(shell: Shell, arguments: dict[str, Any]) -> None:
    """`migrate_continue`."""
    _check(MigrationStatus, arguments["state"])
    await shell.qmp("migrate-continue", {"state": arguments["state"]})


async def incoming(shell: Shell, arguments: dict[str, Any]) -> None:
    """`migrate_incoming`; here a failure does not end the process."""
    parse_uri(arguments["uri"])
    await shell.qmp("migrate-incoming", {"uri": arguments["uri"], "exit-on-error": False})


async def set_capability(shell: Shell, arguments: dict[str, Any]) -> None:
    """`migrate_set_capability`."""
    _check(MigrationCapability, arguments["capability"])
    given = {"capability": arguments["capability"], "state": arguments["state"]}
    await shell.qmp("migrate-set-capabilities", {"capabilities": [given]})


async def set_parameter(shell: Shell, arguments: dict[str, Any]) -> None:
    """`migrate_set_parameter`."""
    name, text = arguments["parameter"], arguments["value"]
    _check(MigrationParameter, name)
    await shell.qmp("migrate-set-parameters", {name: _bandwidth(text) if name in _MIB else _size(name, text)})


def _check(names: type[Enum], name: str) -> None:
    """Raise GenericError unless it is one of them."""
    if name not in {each.value for each in names}:
        raise GenericError(f"invalid parameter value: {name}")


def _bandwidth(text: str) -> int:
    try:
        value = qemuopts.size("value", text, "M")
    except GenericError:
        value = -1
    if not 0 <= value <= _INT64_MAX:
        raise GenericError(f"Invalid size {text}")
    return value


def _size(name: str, text: str) -> int:
    return qemuopts.size(name, text.strip(SPACE))


async def info(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info migrate`."""
    found = await shell.qmp("query-migrate")
    lines = []
    if (status := found.get("status")) is not None:
        reason = f" ({found['error-desc']})" if status == "failed" and "error-desc" in found else ""
        lines += [f"Migration status: {status}{reason}", f"total time: {found.get('total-time', 0)} ms"]
        for title, name in (
            ("expected downtime", "expected-downtime"),
            ("downtime", "downtime"),
            ("setup", "setup-time"),
        ):
            if name in found:
                lines.append(f"{title}: {found[name]} ms")
    if "ram" in found:
        lines += _memory(found["ram"])
    if "socket-address" in found:
        lines += ["socket address: [", *(f"\t{_uri(each)}" for each in found["socket-address"]), "]"]
    shell.print("".join(f"{line}\n" for line in lines))


def _memory(ram: dict[str, Any]) -> list[str]:
    lines = [
        f"transferred ram: {ram['transferred'] >> 10} kbytes",
        f"throughput: {ram['mbps']:.2f} mbps",
        f"remaining ram: {ram['remaining'] >> 10} kbytes",
        f"total ram: {ram['total'] >> 10} kbytes",
        f"duplicate: {ram['duplicate']} pages",
        f"normal: {ram['normal']} pages",
        f"normal bytes: {ram['normal-bytes'] >> 10} kbytes",
        f"dirty sync count: {ram['dirty-sync-count']}",
        f"page size: {ram['page-size'] >> 10} kbytes",
        f"multifd bytes: {ram['multifd-bytes'] >> 10} kbytes",
        f"pages-per-second: {ram['pages-per-second']}",
    ]
    if ram["dirty-pages-rate"]:
        lines.append(f"dirty pages rate: {ram['dirty-pages-rate']} pages")
    for title, name in (("precopy", "precopy-bytes"), ("downtime", "downtime-bytes")):
        if ram[name]:
            lines.append(f"{title} ram: {ram[name] >> 10} kbytes")
    return lines


def _uri(address: dict[str, Any]) -> str:
    match address["type"]:
        case "inet":
            host = f"[{address['host']}]" if ":" in address["host"] else address["host"]
            return f"tcp:{host}:{address['port']}"
        case "unix":
            return f"unix:{address['path']}"
        case _:
            return f"fd:{address['str']}"


async def capabilities(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info migrate_capabilities`."""
    for each in await shell.qmp("query-migrate-capabilities"):
        shell.print(f"{each['capability']}: {'on' if each['state'] else 'off'}\n")


async def parameters(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info migrate_parameters`."""
    found = await shell.qmp("query-migrate-parameters")
    for name, unit in _UNITS.items():
        shell.print(f"{name}: {found[name]}{unit}\n")
