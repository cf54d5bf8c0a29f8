"""A guest that arms the watchdog and falls silent, in qemud and in QEMU: what is done about it, and what clients see.

The guest says on its serial line `A` when the watchdog is armed, and `T` when it finds after a reset that time was up.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.accel import asm
from tests.accel.asm import A0, S0, S1, S2, T0
from tests.programs import QEMU, QEMUD, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.differential

UART, FUNCTION, REGISTERS = 0x1000_0000, 0x3000_0000 | 5 << 15, 0x4000_0000
STEPS = 5000
"""Of 960 ns each: both stages together are 10 ms."""


def say(letter: str) -> list[Any]:
    return [asm.li(A0, ord(letter)), asm.store(1, A0, S1)]


def put(size: int, base: int, offset: int, value: int) -> list[Any]:
    return [asm.li(A0, value), asm.store(size, A0, base, offset)]


UNLOCK = [put(2, S2, 0xC, 0x80), put(2, S2, 0xC, 0x86)]

GUEST = asm.program(
    asm.li(S0, FUNCTION),
    asm.li(S1, UART),
    asm.li(S2, REGISTERS),
    put(4, S0, 0x10, REGISTERS),
    put(2, S0, 0x04, 2),
    asm.load(2, T0, S2, 0xC, unsigned=True),
    asm.bnez(T0, "again"),
    put(2, S0, 0x60, 0x04 | 0x03),
    UNLOCK,
    put(4, S2, 0x0, STEPS),
    UNLOCK,
    put(4, S2, 0x4, STEPS),
    say("A"),
    put(1, S0, 0x68, 0x02),
    asm.j("silent"),
    asm.label("again"),
    say("T"),
    asm.label("silent"),
    asm.WFI,
    asm.j("silent"),
)


@pytest.fixture(params=["daemon", "reference"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A machine with the guest, stopped before its first instruction, in qemud and in QEMU."""
    path = tmp_path / "guest"
    path.write_bytes(GUEST)
    starter: Starter = request.getfixturevalue(request.param)

    def run(*options: str) -> Program:
        board = ("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-bios", str(path))
        return starter(*board, "-S", "-device", "i6300esb,id=dog,addr=5", *options, serial=True)

    return run


def expired(program: Program, action: str) -> None:
    program.qmp.command("cont")
    program.serial.expect("A")
    assert program.qmp.event("WATCHDOG")["data"] == {"action": action}


def status(program: Program) -> Any:
    return program.qmp.command("query-status")["status"]


def test_reset(start: Any) -> None:
    """Which is what is done where nothing is said."""
    program = start()
    expired(program, "reset")
    assert program.qmp.event("RESET")["data"] == {"guest": True, "reason": "guest-reset"}
    program.serial.expect("T")
    assert status(program) == "running"


def test_reset_that_is_a_shutdown(start: Any) -> None:
    program = start("-action", "reboot=shutdown,shutdown=pause,watchdog=reset")
    expired(program, "reset")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-reset"}
    program.qmp.event("STOP")
    assert status(program) == "shutdown"


def test_pause(start: Any) -> None:
    program = start("-action", "watchdog=pause")
    expired(program, "pause")
    program.qmp.event("STOP")
    assert status(program) == "watchdog"
    program.qmp.command("cont")
    assert status(program) == "running"
    program.qmp.command("system_reset")
    program.serial.expect("T")


def test_reset_of_a_paused_one(start: Any) -> None:
    program = start("-watchdog-action", "pause")
    expired(program, "pause")
    program.qmp.event("STOP")
    program.qmp.command("system_reset")
    program.qmp.event("RESET")
    assert status(program) in {"prelaunch", "paused"}
    program.qmp.command("cont")
    program.serial.expect("T")


def test_shutdown(start: Any) -> None:
    """The power button is pressed: whether the guest heeds it is up to the guest."""
    program = start()
    program.qmp.command("watchdog-set-action", action="shutdown")
    expired(program, "shutdown")
    program.qmp.event("POWERDOWN")
    assert status(program) == "running"


def test_poweroff(start: Any) -> None:
    """The emulator ends at once, and nothing more is told."""
    program = start()
    program.qmp.command("set-action", {"watchdog": "poweroff", "shutdown": "pause"})
    expired(program, "poweroff")
    assert program.wait() == 0
    with pytest.raises(EOFError):
        program.qmp.message()


@pytest.mark.parametrize("action", ["debug", "none", "inject-nmi"])
def test_what_lets_the_guest_go_on(start: Any, action: str) -> None:
    program = start()
    answer = program.qmp.command(
        "human-monitor-command", {"command-line": f"watchdog_action {action.upper()}"}
    )
    assert answer == ""
    expired(program, action)
    assert status(program) == "running"
    assert ("watchdog: timer fired\n" in program.stderr) == (action == "debug")
    program.qmp.command("system_reset")
    program.serial.expect("T")


SCRIPT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("watchdog-set-action", {"action": "nope"}),
    ("watchdog-set-action", {}),
    ("set-action", {"watchdog": "nope"}),
    ("human-monitor-command", {"command-line": "watchdog_action"}),
    ("human-monitor-command", {"command-line": "watchdog_action pause"}),
    ("device_add", {"driver": "i6300esb", "id": "second"}),
    ("device_add", {"driver": "i6300esb", "id": "second", "bus": "virtio-mmio-bus.0"}),
    ("device-list-properties", {"typename": "i6300esb"}),
)
UNKNOWN = {"acpi-index", "failover_pair_id", "rombar", "romfile", "romsize", "sriov-pf"}
"""Properties of QEMU's PCI devices that there are none of here; and what begins with x-."""


def test_the_same_answers(daemon: Starter, reference: Starter) -> None:
    answers = []
    for starter in (daemon, reference):
        program = starter("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-S")
        found = []
        for command, arguments in SCRIPT:
            try:
                answer = program.qmp.command(command, arguments)
            except QmpError as error:
                answer = f"{error.error_class}: {error}"
            if command == "device-list-properties":
                names = {each["name"] for each in answer}
                answer = {name for name in names - UNKNOWN if not name.startswith("x-")}
            found.append((command, answer))
        answers.append(found)
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "words", [("-action", "watchdog=nope"), ("-watchdog-action", "nope"), ("-watchdog-action",)], ids=" ".join
)
def test_what_is_no_action(words: tuple[str, ...]) -> None:
    said = []
    for command in (QEMUD, QEMU):
        run = subprocess.run(
            [command, "-machine", "none", "-display", "none", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        said.append((run.returncode, run.stderr.replace(str(command), "qemu").splitlines()[:1]))
    assert said[0] == said[1]
