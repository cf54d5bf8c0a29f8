"""A machine saved by value goes on in another process as if nothing had happened, wherever it was stopped."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from qemud.demo import DEMO_GUEST
from qemud.demo.debian import PROMPT
from qemud.qapi.runtime.errors import QmpError
from tests.guests import STRESS_HASH
from tests.programs import LIMIT
from tests.programs import QmpError as CommandError
from tests.system.embed import Embedded
from tests.system.linux import kernel, run, shell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.system

DEMO = ("-machine", "virt", "-m", "32", "-display", "none", "-kernel", str(DEMO_GUEST))
HARMONIC = 'BEGIN { print "begin"; for (i = 1; i < 300000; i++) s += 1 / i; printf "%.17g\\n", s }'
SUM = "sum: 0x924c6b6d1e8f0155, {0} of {0} right"


def move(program: Embedded, options: tuple[str, ...], file: Path) -> tuple[Embedded, dict[str, Any]]:
    """Take a stopped machine to another process, still stopped; also what was saved of it.

    Its console goes on, too: nothing holds a guest back until it is stopped, so it may have printed more than was waited for.
    """
    digest, clock = program.digest(), program.clock()
    saved = program.save(file)
    program.qmp.command("quit")
    while program.serial.fill(time.monotonic() + LIMIT):
        pass
    program.close()
    other = Embedded(*options, "-S", serial=True)
    try:
        # A machine that has a state already, which must not shine through.
        other.load(file)
        assert other.qmp.command("query-status") == {"running": False, "status": "paused"}
        assert other.digest() == digest
        assert other.clock() == clock
        other.serial.follow(program.serial)
    except BaseException:
        other.close()
        raise
    return other, saved


def state_of(saved: dict[str, Any], path: str) -> dict[str, Any]:
    [state] = [item["state"] for item in saved["objects"] if item["path"] == path]
    assert isinstance(state, dict)
    return state


def receive(program: Embedded, count: int) -> None:
    """Let that many more bytes come from the guest, or all until it waits at its prompt."""
    wanted = len(program.serial.log) + count
    deadline = time.monotonic() + LIMIT
    while len(program.serial.log) < wanted and PROMPT.encode() not in program.serial.log:
        assert program.serial.fill(deadline)


def test_a_linux_boot_goes_on_in_other_processes(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - for who has to repeat a failure
    chance = random.Random(seed)
    program = Embedded(*kernel(), serial=True)
    try:
        program.serial.expect("Linux version")
        for _ in range(3):
            receive(program, chance.randrange(200, 2000))  # a whole boot prints 11,000 bytes
            program.qmp.command("stop")
            program, _ = move(program, kernel(), tmp_path / "machine")
            program.qmp.command("cont")
        shell(program)
        assert run(program, "stress 2")[:2] == [f"STRESS {i} {STRESS_HASH}" for i in (1, 2)]

        # Floating-point registers and a sleeping process move, too.
        program.serial.send(b"sleep 1 & awk '" + HARMONIC.encode() + b"'; wait\r")
        program.serial.expect("begin\r\n")
        program.qmp.command("stop")
        program, _ = move(program, kernel(), tmp_path / "machine")
        program.qmp.command("cont")
        total = 0.0
        for i in range(1, 300000):
            total += 1 / i  # not sum(), which is more exact than additions are
        program.serial.expect(f"{total:.17g}\r\n")
        shell(program)
        assert run(program, "dmesg | grep -c -e 'Oops' -e 'BUG:' -e 'WARNING:' -e stall") == ["0"]
        program.serial.send(b"poweroff -f\r")
        assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
        assert program.wait() == 0
    finally:
        program.close()


class Demo:
    """The embedded guest, to be moved about."""

    def __init__(self, file: Path, options: tuple[str, ...]) -> None:
        self.file = file
        self.options = options
        self.program = Embedded(*options, serial=True)

    def stop_when(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Stop the guest again and again until it is caught in a state; that state."""
        for _ in range(2000):
            self.program.qmp.command("stop")
            saved: dict[str, Any] = self.program.ask("value")
            if wanted(saved):
                return saved
            self.program.qmp.command("cont")
        raise AssertionError("the guest never got there")

    def move(self) -> dict[str, Any]:
        """To another process, and on."""
        self.program, saved = move(self.program, self.options, self.file)
        self.program.qmp.command("cont")
        return saved

    def expect(self, text: str) -> str:
        return self.program.serial.expect(text)

    def type(self, line: str) -> None:
        self.program.serial.send(line.encode() + b"\r")


@pytest.fixture(params=[(), ("-bios", "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin")])
def demo(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    guest = Demo(tmp_path / "machine", (*DEMO, *request.param))
    try:
        guest.expect("demo> ")
        yield guest
    finally:
        guest.program.close()


HART = "/machine/soc0/harts[0]"


def test_an_idle_guest(demo: Demo) -> None:
    """It waits for an interrupt; what is typed while nobody runs is there afterwards."""
    demo.stop_when(lambda saved: state_of(saved, HART)["halted"])
    demo.type("echo one")
    saved = demo.move()
    assert state_of(saved, HART)["halted"]
    # Its next tick is due some time, by the clock of whichever firmware it has.
    compare = state_of(saved, "/machine/mtimer0")["timecmp"][0]
    if "-bios" not in demo.options:
        compare = state_of(saved, "/machine/sbi")["timer"]
    assert 0 < compare < 1 << 62
    demo.expect("one\r\n")
    demo.expect("demo> ")
    demo.type("tick 2")
    demo.expect("tick 2\r\n")


def test_computing_guests(demo: Demo) -> None:
    demo.type("sum 40")
    demo.expect("sum 40")
    for _ in range(2):
        demo.program.qmp.command("stop")
        demo.move()
    demo.expect(SUM.format(40))
    demo.type("atomic 4")
    demo.expect("atomic 4")
    demo.program.qmp.command("stop")
    demo.move()
    demo.expect("4000000 of 4000000 right")


def test_in_the_middle_of_an_interrupt(demo: Demo) -> None:
    """The handler has claimed the serial port's interrupt, characters wait in the FIFO: none is lost, none comes twice."""
    program = demo.program
    piece, most = 30, 3000
    data = bytes(i * 7 % 251 for i in range(piece * most))
    demo.type(f"take {len(data)}")
    demo.expect("take: ready\r\n")
    program.qmp.command("stop")
    sent = 0
    while sent < len(data) - piece:
        before = waiting(program.ask("value"))
        if before < piece:
            program.serial.send(data[sent : sent + piece])
            sent += piece
            while waiting(program.ask("value")) < before + piece:
                pass
        program.qmp.send(b'{"execute":"cont"}{"execute":"stop"}')
        for _ in range(2):
            assert program.qmp.reply() == {"return": {}}
        saved = program.ask("value")
        if any(state_of(saved, "/machine/plic")["claimed"]) and waiting(saved):
            break
    else:
        raise AssertionError("the guest was never caught in its interrupt handler")
    saved = demo.move()
    assert any(state_of(saved, "/machine/plic")["claimed"])
    demo.program.serial.send(data[sent:])
    total = 0
    for byte in data:
        total = (((total >> 1) | (total << 15)) + byte) & 0xFFFF
    demo.expect(f"take: {total}\r\n")


def waiting(saved: dict[str, Any]) -> int:
    """How many characters the serial port has for the guest."""
    uart = state_of(saved, "/machine/uart0")
    return len(uart["recv-fifo"]) + len(uart["wire"])


@pytest.mark.parametrize("demo", [()], indirect=True)
def test_a_full_transmitter(demo: Demo) -> None:
    """Nobody reads what the guest prints, until its transmitter is full; every line is there in the end, once."""
    demo.type("count 25000")
    first = demo.program
    # Once it is full it stays so: there is no need to stop the guest to see it.
    deadline = time.monotonic() + LIMIT
    while not state_of(first.ask("value"), "/machine/uart0")["xmit-fifo"]:
        assert time.monotonic() < deadline
    first.qmp.command("stop")
    first.save(demo.file)
    digest = first.digest()
    # What the first process had taken it still passes on, and no more.
    first.qmp.send(b'{"execute":"quit"}')
    while first.serial.fill(deadline):
        pass
    first.close()
    heard = first.serial.log
    demo.program = Embedded(*demo.options, "-S", serial=True)
    demo.program.load(demo.file)
    assert demo.program.digest() == digest
    demo.program.qmp.command("cont")
    demo.expect("count 25000\r\n")
    told = (heard + demo.program.serial.log).decode().replace("\r", "").split("\n")
    assert [line for line in told if line.startswith("count ")] == [f"count {i}" for i in range(1, 25001)]


def test_a_running_machine_is_neither_saved_nor_loaded(tmp_path: Path) -> None:
    program = Embedded(*DEMO, serial=True)
    try:
        with pytest.raises(QmpError, match=r"^the machine runs; it has to be stopped to be saved or loaded$"):
            program.save(tmp_path / "machine")
        program.qmp.command("stop")
        program.save(tmp_path / "machine")
        program.qmp.command("cont")
        with pytest.raises(QmpError, match=r"^the machine runs"):
            program.load(tmp_path / "machine")
        program.serial.expect("demo> ")
    finally:
        program.close()


def test_what_a_machine_was_doing_is_saved_as_well(tmp_path: Path) -> None:
    program = Embedded(*DEMO, "-no-shutdown", serial=True)
    try:
        program.serial.expect("demo> ")
        program.serial.send(b"poweroff\r")
        program.qmp.event("STOP")
        program.save(tmp_path / "machine")
    finally:
        program.close()
    program = Embedded(*DEMO, "-S", serial=True)
    try:
        program.load(tmp_path / "machine")
        assert program.qmp.command("query-status") == {"running": False, "status": "shutdown"}
        with pytest.raises(CommandError, match="Resetting the Virtual Machine is required"):
            program.qmp.command("cont")
        program.qmp.command("system_reset")
        program.qmp.command("cont")
        program.serial.expect("demo> ")
    finally:
        program.close()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-machine", "none"), "the saved machine is a virt-10.0-machine, this one is a none-machine"),
        (
            (*DEMO, "-m", "64"),
            "saved memory 'riscv_virt_board.ram' has 0x2000000 bytes at 0x80000000, here it has 0x4000000 at 0x80000000",
        ),
        (
            (*DEMO, "-machine", "virt,aclint=on"),
            "saved state has no '/machine/sswi0', which this machine has",
        ),
        ((*DEMO, "-bios", "none"), "saved state has '/machine/sbi', which this machine has not"),
    ],
)
def test_another_machine_refuses(tmp_path: Path, options: tuple[str, ...], reason: str) -> None:
    program = Embedded(*DEMO, "-S", serial=True)
    try:
        program.save(tmp_path / "machine")
    finally:
        program.close()
    other = Embedded(*options, "-S")
    try:
        before = other.digest() if "none" not in options[1] else ""
        with pytest.raises(QmpError) as refusal:
            other.load(tmp_path / "machine")
        assert str(refusal.value) == reason
        if before:
            assert other.digest() == before
    finally:
        other.close()
