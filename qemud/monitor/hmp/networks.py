"""Commands about networks.

Source: QEMU 10.0, net/net-hmp-cmds.c and net/slirp.c, for texts and layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime.errors import QmpError
from qemud.qapi.runtime.qemuopts import HintedError
from qemud.qapi.runtime.wire import to_wire

if TYPE_CHECKING:
    from qemud.monitor.hmp.shell import Shell

_ROUNDS = {"initial": 50, "max": 550, "rounds": 5, "step": 100}
"""How often cards announce themselves where nothing else is said."""


async def add(shell: Shell, arguments: dict[str, Any]) -> None:
    """`netdev_add`: described as for -netdev."""
    from qemud.net.help import kinds_help
    from qemud.net.options import netdev

    text: str = arguments["netdev"]
    if (listing := kinds_help(text)) is not None:
        shell.print(listing)
        return
    try:
        options = netdev(text, shell.reading.warn)
    except HintedError as error:
        shell.print(f"Error: {error}\n{error.hint}\n")
        return
    await shell.qmp("netdev_add", to_wire(options))


async def remove(shell: Shell, arguments: dict[str, Any]) -> None:
    """`netdev_del`."""
    await shell.qmp("netdev_del", {"id": arguments["id"]})


async def set_link(shell: Shell, arguments: dict[str, Any]) -> None:
    """`set_link`."""
    await shell.qmp("set_link", {"name": arguments["name"], "up": arguments["up"]})


async def announce_self(shell: Shell, arguments: dict[str, Any]) -> None:
    """`announce_self`."""
    parameters: dict[str, Any] = dict(_ROUNDS)
    if arguments.get("interfaces"):
        parameters["interfaces"] = arguments["interfaces"].split(",")
    if arguments.get("id") is not None:
        parameters["id"] = arguments["id"]
    await shell.qmp("announce-self", parameters)


async def info(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info network`."""
    shell.print((await shell.qmp("x-query-network"))["human-readable-text"])


async def usernet(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info usernet`."""
    shell.print((await shell.qmp("x-query-usernet"))["human-readable-text"])


async def hostfwd_add(shell: Shell, arguments: dict[str, Any]) -> None:
    """`hostfwd_add`."""
    try:
        await shell.qmp("x-hostfwd-add", _rule(arguments))
    except QmpError as error:
        shell.print(f"{error}\n")


async def hostfwd_remove(shell: Shell, arguments: dict[str, Any]) -> None:
    """`hostfwd_remove`."""
    rule = _rule(arguments)
    try:
        await shell.qmp("x-hostfwd-remove", rule)
    except QmpError as error:
        shell.print(f"{error}\n")
    else:
        shell.print(f"host forwarding rule for {rule['rule']} removed\n")


def _rule(arguments: dict[str, Any]) -> dict[str, Any]:
    """With two arguments, the first is the backend."""
    if arguments.get("arg2") is None:
        return {"rule": arguments["arg1"]}
    return {"netdev": arguments["arg1"], "rule": arguments["arg2"]}
