"""Stopping, resuming and resetting a busy guest: exact, and as often as one likes."""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING

import pytest

from qemud.demo import DEMO_GUEST
from tests.guests import STRESS_HASH
from tests.system.embed import Embedded
from tests.system.linux import kernel, run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.system

DEMO = ("-machine", "virt", "-m", "64", "-display", "none", "-kernel", str(DEMO_GUEST))
TIMES = 200


def stop_and_go(program: Program, times: int = TIMES) -> None:
    """Stop the guest that many times, resume it each time."""
    for _ in range(times):
        program.qmp.command("stop")
        program.qmp.event("STOP")
        program.qmp.command("cont")
        program.qmp.event("RESUME")


def test_linux_under_load(daemon: Starter) -> None:
    """Processes, pipes and checksums: every one is right."""
    program = daemon(*kernel(), serial=True)
    shell(program)
    program.serial.send(b"stress 40\r")
    program.serial.expect("STRESS 1 ")
    stop_and_go(program)
    lines = program.serial.expect("STRESS end")
    told = re.findall(r"STRESS (\d+) (\w+)", program.serial.log.decode())
    assert told == [(str(i), STRESS_HASH) for i in range(1, 41)], lines
    shell(program)
    assert run(program, "dmesg | grep -c -e 'Oops' -e 'BUG:' -e 'WARNING:' -e stall") == ["0"]


@pytest.mark.parametrize(
    "firmware", [(), ("-bios", "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.bin")]
)
def test_sums_and_atomic_additions(daemon: Starter, firmware: tuple[str, ...]) -> None:
    """No instruction is done twice or left out: additions are counted, under a storm of timer interrupts."""
    program = daemon(*DEMO, *firmware, serial=True)
    program.serial.expect("demo> ")
    program.serial.send(b"atomic 60\r")
    stop_and_go(program)
    assert "atomic: 60000000 of 60000000 right\r\n" in program.serial.expect("demo> ")
    program.serial.send(b"sum 200\r")
    stop_and_go(program)
    assert "sum: 0x924c6b6d1e8f0155, 200 of 200 right\r\n" in program.serial.expect("demo> ")


def test_resets_under_load(daemon: Starter) -> None:
    """The guest is reset in the middle of everything it does, running and stopped."""
    program = daemon(*DEMO, serial=True)
    for work in (b"atomic 1000\r", b"sum 10000\r", b"count 1000000\r", b"code\r", b"tick 100\r", b"") * 3:
        program.serial.expect("Try help.")
        program.serial.send(work)
        program.qmp.command("system_reset")
        assert program.qmp.event("RESET")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
        program.qmp.command("stop")
        program.qmp.command("system_reset")
        program.qmp.event("RESET")
        assert program.qmp.command("query-status") == {"running": False, "status": "prelaunch"}
        program.qmp.command("cont")
    program.serial.expect("Try help.")
    program.serial.expect("demo> ")
    for _ in range(TIMES):
        program.qmp.command("system_reset")
        program.qmp.event("RESET")
    # What comes may still be from before the last reset, and then the guest does not hear what is typed.
    answer = "Try help."
    while answer.endswith("Try help."):
        program.serial.expect("demo> ")
        program.serial.send(b"sum 4\r")
        answer = program.serial.expect(re.compile(r"Try help\.|4 of 4 right"))


def test_linux_is_reset_in_the_middle_of_its_boot(daemon: Starter) -> None:
    program = daemon(*kernel(), serial=True)
    for line in ("Linux version", "devtmpfs: initialized", "Run /init"):
        program.serial.expect(line)
        program.qmp.command("system_reset")
        program.qmp.event("RESET")
    shell(program)
    assert run(program, "stress 1")[0] == f"STRESS 1 {STRESS_HASH}"


def test_nothing_changes_while_stopped(tmp_path: Path) -> None:
    """Over two seconds: not time, not memory, not a register; seen from inside, and from outside by QMP."""
    program = Embedded(*kernel(), serial=True)
    try:
        shell(program)
        program.serial.send(b"stress 100\r")
        program.serial.expect("STRESS 1 ")
        program.qmp.command("stop")
        clock, digest, memory = program.clock(), program.digest(), dumped(program, tmp_path)
        # To wait is the subject here: two seconds of the host's time must be none of the guest's.
        time.sleep(2)
        assert (program.clock(), program.digest(), dumped(program, tmp_path)) == (clock, digest, memory)
        program.serial.send(b"\x03")
        program.qmp.command("cont")
        shell(program)
    finally:
        program.close()


def dumped(program: Program, folder: Path) -> bytes:
    """A hash of all memory, as a client sees it."""
    file = folder / "memory"
    program.qmp.command("pmemsave", val=0x8000_0000, size=256 << 20, filename=str(file))
    return hashlib.sha256(file.read_bytes()).digest()


def test_the_guests_counter_stands_still(daemon: Starter) -> None:
    """mtime, read by the guest before and after a stop of two seconds, moves on by the time the guest ran and no more."""
    program = daemon(*DEMO, serial=True)
    program.serial.expect("demo> ")
    began = time.monotonic()  # before the guest looks at its counter: it runs on after that
    before = counter(program)
    started = time.monotonic()
    program.qmp.command("stop")
    # To wait is the subject here.
    time.sleep(2)
    program.qmp.command("cont")
    stopped = time.monotonic() - started
    after = counter(program)
    ran = time.monotonic() - began
    assert stopped >= 2
    assert (after - before) / 10_000_000 <= ran - 2


def counter(program: Program) -> int:
    [line] = program.serial.command("time")
    return int(line.removeprefix("time: "))


def test_the_clock_over_many_stops() -> None:
    """The clock goes on from where it stood, many times; what the guest counts meanwhile is all there."""
    program = Embedded(*DEMO, serial=True)
    try:
        program.serial.expect("demo> ")
        program.serial.send(b"atomic 30\r")
        for _ in range(30):
            program.qmp.command("stop")
            first = program.ask("value")["clock"]
            program.qmp.send(b'{"execute":"cont"}{"execute":"stop"}')
            for _ in range(2):
                program.qmp.reply()
            second = program.ask("value")["clock"]
            assert first < second
            assert program.ask("value")["clock"] == second
            program.qmp.command("cont")
        assert "30000000 of 30000000 right" in program.serial.expect("demo> ")
    finally:
        program.close()
