"""What a guest's report of its own failure does, under each `-action panic`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qemud.demo import DEMO_GUEST
from tests.programs import QmpError

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.system

BOARD = ("-machine", "virt", "-display", "none", "-kernel", str(DEMO_GUEST))


def failed(daemon: Starter, *options: str) -> tuple[Program, dict[str, Any]]:
    """A guest that has failed, and what was told of it first."""
    program = daemon(*BOARD, *options, serial=True)
    program.serial.expect("demo> ")
    program.serial.send(b"fail\r")
    event: dict[str, Any] = program.qmp.event("GUEST_PANICKED")["data"]
    return program, event


@pytest.mark.parametrize("options", [(), ("-action", "panic=shutdown"), ("-action", "panic=exit-failure")])
def test_shutdown(daemon: Starter, options: tuple[str, ...]) -> None:
    program, event = failed(daemon, *options)
    assert event == {"action": "poweroff"}
    program.qmp.event("STOP")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-panic"}
    assert program.wait() == 1


@pytest.mark.parametrize("options", [("-action", "panic=pause"), ("-no-shutdown",)])
def test_pause(daemon: Starter, options: tuple[str, ...]) -> None:
    program, event = failed(daemon, *options)
    assert event == {"action": "pause"}
    program.qmp.event("STOP")
    assert program.qmp.command("query-status") == {"running": False, "status": "guest-panicked"}
    program.qmp.command("system_reset")
    program.qmp.event("RESET")
    program.qmp.command("cont")
    program.serial.expect("demo> ")


def test_go_on(daemon: Starter) -> None:
    program, event = failed(daemon, "-action", "panic=none")
    assert event == {"action": "run"}
    program.serial.expect("demo> ")
    assert program.serial.command("echo alive") == ["alive"]
    assert program.qmp.command("query-status") == {"running": True, "status": "running"}


def test_the_action_can_be_changed(daemon: Starter) -> None:
    program = daemon(*BOARD, serial=True)
    program.serial.expect("demo> ")
    program.qmp.command("set-action", panic="pause", reboot="shutdown")
    program.serial.send(b"fail\r")
    assert program.qmp.event("GUEST_PANICKED")["data"] == {"action": "pause"}
    program.qmp.event("STOP")
    with pytest.raises(QmpError, match="expected"):
        program.qmp.command("set-action", panic=1)
    program.qmp.command("system_reset")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    assert program.wait() == 0
