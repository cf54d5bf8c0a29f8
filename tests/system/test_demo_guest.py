"""The embedded guest on qemud: every part of the board `virt` that it can reach, in a second or two."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest

from qemud.demo import DEMO_GUEST
from tests.programs import LIMIT, QEMUD, Console, Hang, Program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Starter

BOARD = ("-machine", "virt", "-display", "none", "-kernel", str(DEMO_GUEST))


@pytest.fixture(scope="module")
def guest() -> Iterator[Program]:
    """One guest at its prompt for all tests that leave it there."""
    with Program(QEMUD, *BOARD, "-append", "hello there", serial=True) as program:
        program.serial.expect("demo> ")
        yield program


def test_banner_tells_what_the_device_tree_says(guest: Program) -> None:
    banner = guest.serial.log.decode().replace("\r", "")
    assert "riscv64 in S-mode, SBI 2.0, time at 10000000 Hz\n" in banner
    assert "uart 0x10000000 irq 10, plic 0xc000000 context 1\n" in banner
    assert "memory: 128 MiB at 0x80000000, " in banner
    assert "command line: hello there\ntick 1\n" in banner


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo hello", ["hello"]),
        ("tick 2", ["tick 1", "tick 2"]),
        ("spin 1", ["spin: done"]),
        ("sum 4", ["sum: 0x924c6b6d1e8f0155, 4 of 4 right"]),
        ("atomic 2", ["atomic: 2000000 of 2000000 right"]),
        ("code", ["code: 100 of 100 right"]),
        ("load", ["fault: cause 5, address 0x18000000, precise"]),
        ("store", ["fault: cause 7, address 0x18000000, precise"]),
        ("fetch", ["fault: cause 1, address 0x18000000, precise"]),
        ("store 0x80400000", ["fault: none"]),
        ("poke 0x80400000 0x1234", ["poke: done"]),
        ("peek 0x80400000", ["peek: 0x1234"]),
        ("peek 0x10001000", ["peek: 0x74726976"]),
        ("nonsense", ["unknown command; try help"]),
        ("count 3", ["count 1", "count 2", "count 3"]),
    ],
)
def test_command(guest: Program, command: str, said: list[str]) -> None:
    assert guest.serial.command(command) == said


def test_much_output_arrives_whole(guest: Program) -> None:
    assert guest.serial.command("count 5000") == [f"count {i}" for i in range(1, 5001)]


def test_much_input_arrives_whole(guest: Program) -> None:
    """More than the guest's ring holds, while it does not look: the sender is held back and nothing is lost."""
    data = bytes(i * 7 % 251 for i in range(50000))
    total = 0
    for byte in data:
        total = (((total >> 1) | (total << 15)) + byte) & 0xFFFF
    guest.serial.send(b"take 50000\r")
    guest.serial.expect("take: ready\r\n")
    guest.serial.send(data)
    assert f"take: {total}\r\n" in guest.serial.expect("demo> ")


def test_a_break_is_counted(guest: Program) -> None:
    before = counted(guest, "break")
    guest.qmp.command("chardev-send-break", id="test-serial")
    assert counted(guest, "break") == before + 1


def counted(guest: Program, what: str) -> int:
    found = re.search(rf"{what} (\d+)", guest.serial.command("irq")[0])
    assert found
    return int(found[1])


def test_guest_memory_is_seen_from_outside(guest: Program, tmp_path: object) -> None:
    guest.serial.command("poke 0x80400000 0x64636261")
    file = f"{tmp_path}/memory"
    guest.qmp.command("pmemsave", {"val": 0x80400000, "size": 4, "filename": file})
    with open(file, "rb") as saved:
        assert saved.read() == b"abcd"


def test_time_stands_still_while_stopped(guest: Program) -> None:
    """A tenth of a second of the host's time must not be the guest's."""
    guest.qmp.command("stop")
    guest.qmp.event("STOP")
    assert guest.qmp.command("query-status") == {"running": False, "status": "paused"}
    guest.serial.send(b"time\r")
    guest.qmp.command("cont")
    guest.qmp.event("RESUME")
    assert guest.serial.expect("demo> ").count("time: ") == 1


def test_power_off_is_told_and_ends_the_program(daemon: Starter) -> None:
    program = daemon(*BOARD, serial=True)
    program.serial.expect("demo> ")
    program.serial.send(b"poweroff\r")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert program.wait() == 0


def test_no_shutdown_keeps_the_program(daemon: Starter) -> None:
    program = daemon(*BOARD, "-no-shutdown", serial=True)
    program.serial.expect("demo> ")
    program.serial.send(b"poweroff\r")
    program.qmp.event("SHUTDOWN")
    program.qmp.event("STOP")
    assert program.qmp.command("query-status") == {"running": False, "status": "shutdown"}
    program.qmp.command("quit")
    assert program.wait() == 0


def test_reboot_starts_the_same_guest_again(daemon: Starter) -> None:
    program = daemon(*BOARD, serial=True)
    for _ in range(3):
        program.serial.expect("demo> ")
        program.serial.send(b"reboot\r")
        assert program.qmp.event("RESET")["data"] == {"guest": True, "reason": "guest-reset"}
    program.serial.expect("demo> ")
    program.qmp.command("system_reset")
    assert program.qmp.event("RESET")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    program.serial.expect("demo> ")


def test_no_reboot_ends_instead(daemon: Starter) -> None:
    program = daemon(*BOARD, "-no-reboot", serial=True)
    program.serial.expect("demo> ")
    program.serial.send(b"reboot\r")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-reset"}
    assert program.wait() == 0


@pytest.mark.parametrize("size", [64, 2048])
def test_memory_size_reaches_the_guest(daemon: Starter, size: int) -> None:
    program = daemon(*BOARD, "-m", str(size), serial=True)
    program.serial.expect(f"memory: {size} MiB at 0x80000000")


def test_demo_in_a_terminal() -> None:
    """As a newcomer meets it: the prompt on the terminal, Ctrl-A x to leave, the terminal as it was."""
    with terminal() as (here, there):
        before = termios.tcgetattr(there)
        with subprocess.Popen(
            [QEMUD, "demo"],
            stdin=there,
            stdout=there,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                console = TerminalConsole(here)
                console.expect("demo> ")
                console.send(b"echo hi\r")
                assert "\nhi\r" in console.expect("demo> ")
                assert termios.tcgetattr(there) != before, "keys must reach the guest one by one"
                console.send(b"\x01x")
                _, said = process.communicate(timeout=LIMIT)
            finally:
                process.kill()
        assert (process.returncode, said) == (0, "")
        assert termios.tcgetattr(there) == before


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: the end that a user sits at, and the end that a program has."""
    here, there = pty.openpty()
    try:
        yield here, there
    finally:
        os.close(here)
        os.close(there)


class TerminalConsole(Console):
    """A console at the user's end of a terminal."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.log = b""
        self.closed = False
        self._seen = 0

    def fill(self, deadline: float) -> bytes:
        ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise Hang(f"nothing came in time; so far: {self.log[-2000:]!r}")
        data = os.read(self.fd, 65536)
        self.log += data
        return data

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)
