"""Every order of commands, of clients and of the guest, leaves a machine that can be told apart, reset and used."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from qemud.demo import DEMO_GUEST
from tests.programs import QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.system

BOARD = ("-machine", "virt", "-m", "32", "-display", "none", "-no-shutdown", "-kernel", str(DEMO_GUEST))

COMMANDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("stop", {}),
    ("cont", {}),
    ("cont", {}),
    ("system_reset", {}),
    ("system_powerdown", {}),
    ("query-status", {}),
    ("query-cpus-fast", {}),
    ("chardev-send-break", {"id": "test-serial"}),
    ("set-action", {"panic": "pause"}),
    ("set-action", {"panic": "none"}),
    ("qom-get", {"path": "/machine", "property": "type"}),
)
TYPED = (b"poweroff\r", b"reboot\r", b"fail\r", b"sum 3\r", b"atomic 1\r", b"count 20\r", b"tick 1\r")

STOPPED = {"paused", "prelaunch", "shutdown", "guest-panicked"}


def after(state: str, event: dict[str, Any]) -> str:
    """Whether the machine runs, as its events tell."""
    match event["event"]:
        case "STOP":
            assert state == "running"
            return "stopped"
        case "RESUME":
            assert state == "stopped"
            return "running"
    return state


@pytest.mark.parametrize("seed", range(6))
def test_a_storm(daemon: Starter, seed: int) -> None:
    """Commands without waiting for answers, while the guest switches itself off, resets and fails."""
    chance = random.Random(seed)
    program = daemon(*BOARD, serial=True)
    program.qmp.events.clear()
    state = "running"
    for _ in range(20):
        names = []
        for _ in range(chance.randrange(1, 20)):
            if chance.random() < 0.3:
                program.serial.send(chance.choice(TYPED))
            name, arguments = chance.choice(COMMANDS)
            names.append(name)
            program.qmp.send(json.dumps({"execute": name, "arguments": arguments}).encode())
        for name in names:
            reply = program.qmp.reply()
            if "error" in reply:
                assert name == "cont", (name, reply)
                assert reply["error"]["desc"] == "Resetting the Virtual Machine is required"
        state = settled(program, state)
    program.qmp.command("system_reset")
    program.qmp.command("set-action", panic="pause")
    program.qmp.command("cont")
    program.serial.expect("Try help.")
    assert settled(program, state) == "running"


def settled(program: Program, state: str) -> str:
    """The state after all events so far, which must be what the machine says."""
    status = program.qmp.command("query-status")
    for event in program.qmp.events:
        state = after(state, event)
    program.qmp.events.clear()
    assert status["running"] is (status["status"] == "running") is (state == "running"), (status, state)
    assert status["running"] or status["status"] in STOPPED
    return state


def test_a_kernel_that_is_not_there_any_more(daemon: Starter, tmp_path: Path) -> None:
    """A reset loads the kernel again: when its file has become shorter, that is told, and a good one repairs it."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(DEMO_GUEST.read_bytes())
    program = daemon(*BOARD[:-1], str(kernel), serial=True)
    program.serial.expect("demo> ")
    os.truncate(kernel, 4096)
    with pytest.raises(QmpError) as refusal:
        program.qmp.command("system_reset")
    size = DEMO_GUEST.stat().st_size
    told = f"could not load '{kernel}' again: {kernel} has become shorter: 4096 bytes, expected {size}"
    assert str(refusal.value) == told
    program.qmp.event("STOP")
    assert program.qmp.command("query-status") == {"running": False, "status": "internal-error"}
    with pytest.raises(QmpError, match="Resetting the Virtual Machine is required"):
        program.qmp.command("cont")
    kernel.write_bytes(DEMO_GUEST.read_bytes())
    program.qmp.command("system_reset")
    program.qmp.command("cont")
    program.serial.expect("Try help.")
    program.serial.expect("demo> ")
    os.truncate(kernel, 4096)
    program.serial.send(b"reboot\r")
    program.qmp.event("STOP")
    assert program.qmp.command("query-status") == {"running": False, "status": "internal-error"}
    assert json.dumps(told)[1:-1] in program.stderr


@pytest.mark.parametrize("seed", range(6))
def test_the_end_in_a_storm(daemon: Starter, seed: int) -> None:
    """The guest, a client and a signal end the program in any order, and in any state: it ends."""
    chance = random.Random(seed)
    program = daemon(*BOARD, serial=True)
    for _ in range(chance.randrange(1, 30)):
        if chance.random() < 0.3:
            program.serial.send(chance.choice(TYPED))
        name, arguments = chance.choice(COMMANDS)
        program.qmp.send(json.dumps({"execute": name, "arguments": arguments}).encode())
    if chance.random() < 0.5:
        program.qmp.send(b'{"execute":"quit"}')
    else:
        program.process.terminate()
    assert program.wait() == 0
