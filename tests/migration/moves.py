"""Machines that are moved between two processes, for the tests of it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from qemud.demo import DEMO_GUEST

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

DEMO = ("-machine", "virt", "-m", "32", "-display", "none", "-kernel", str(DEMO_GUEST))
ENDS = {"completed", "failed", "cancelled"}
ADDRESS = 0x80400000
LEAVES = ["MIGRATION setup", "MIGRATION_PASS 1", "MIGRATION active"]
GONE = ["MIGRATION device", "MIGRATION_PASS 2", "MIGRATION completed"]


def switch(program: Program, *names: str, state: bool = True) -> None:
    """Switch capabilities on."""
    given = [{"capability": name, "state": state} for name in names]
    program.qmp.command("migrate-set-capabilities", {"capabilities": given})


def source(daemon: Starter, *options: str, value: int = 77) -> Program:
    """A running machine with a value in its memory, that tells of each step."""
    program = daemon(*DEMO, *options, serial=True)
    program.serial.expect("demo> ")
    program.serial.command(f"poke {ADDRESS:#x} {value}")
    switch(program, "events")
    return program


def target(daemon: Starter, *options: str, uri: str = "defer", **how: Any) -> Program:
    """A process that a machine is to come to, that tells of each step."""
    program = daemon(*DEMO, "-incoming", uri, *options, serial=True, **how)
    switch(program, "events")
    return program


def incoming(program: Program, uri: str, **arguments: Any) -> None:
    program.qmp.command("migrate-incoming", {"uri": uri, "exit-on-error": False, **arguments})


def steps(program: Program) -> list[str]:
    """What is told up to the end of the migration."""
    told: list[str] = []
    while True:
        event = program.qmp.events.pop(0) if program.qmp.events else program.qmp.message()
        name, data = event["event"], event.get("data") or {}
        value = data.get("status", data.get("pass"))
        told.append(name if value is None else f"{name} {value}")
        if name == "MIGRATION" and value in ENDS:
            return told


def status(program: Program) -> str:
    found: str = program.qmp.command("query-status")["status"]
    return found


def info(program: Program) -> dict[str, Any]:
    found: dict[str, Any] = program.qmp.command("query-migrate")
    return found


def peek(program: Program) -> int:
    [line] = program.serial.command(f"peek {ADDRESS:#x}")
    return int(line.removeprefix("peek: "), 0)


def awake(program: Program) -> None:
    """The guest answers at the prompt that it had before."""
    program.serial.send(b"\r")
    program.serial.expect("demo> ")


def port_of(program: Program) -> str:
    """Where a process waits for a machine by TCP."""
    [address] = info(program)["socket-address"]
    return f"tcp:{address['host']}:{address['port']}"


def pass_descriptor(program: Program, fd: int, name: str) -> None:
    """`getfd` with the descriptor behind it; it is closed here."""
    qmp = program.qmp
    request = b'{"execute": "getfd", "arguments": {"fdname": "%s"}}' % name.encode()
    socket.send_fds(qmp.socket, [request], [fd])
    os.close(fd)
    assert qmp.reply() == {"return": {}}
