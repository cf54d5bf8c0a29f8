"""A guest that waits costs nothing: the machine's thread sleeps until the next timer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qemud.demo import DEMO_GUEST
from tests.system.linux import board, kernel, run, shell

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.system


class MachineThread:
    """The thread that runs the guest, as the host's kernel sees it."""

    def __init__(self, program: Program) -> None:
        [cpu] = program.qmp.command("query-cpus-fast")
        self.folder = Path(f"/proc/{program.process.pid}/task/{cpu['thread-id']}")

    def field(self, name: str) -> str:
        for line in (self.folder / "status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
        raise AssertionError(name)

    @property
    def sleeping(self) -> bool:
        return self.field("State").startswith("S")

    @property
    def sleeps(self) -> int:
        """How often it went to sleep of its own accord."""
        return int(self.field("voluntary_ctxt_switches"))

    @property
    def ran(self) -> int:
        """Nanoseconds on a processor of the host."""
        return int((self.folder / "schedstat").read_text().split()[0])


def test_an_idle_guest_lets_its_thread_sleep(daemon: Starter) -> None:
    """Over twenty ticks of the guest's timer, two seconds: it wakes for each, not a thousand times, and runs for little of it."""
    program = daemon(*board("-kernel", str(DEMO_GUEST), memory=64), serial=True)
    program.serial.expect("demo> ")
    thread = MachineThread(program)
    sleeps, ran = thread.sleeps, thread.ran
    program.serial.command("tick 20")
    assert 10 <= thread.sleeps - sleeps < 1000
    # A tenth of what a thread that does not sleep would take; a hundredth is usual.
    assert thread.ran - ran < 200_000_000


def test_a_stopped_guest_lets_its_thread_sleep(daemon: Starter) -> None:
    program = daemon(*board("-kernel", str(DEMO_GUEST), memory=64), serial=True)
    program.serial.expect("demo> ")
    program.serial.send(b"spin 1000000\r")
    program.serial.expect("\n")
    thread = MachineThread(program)
    program.qmp.command("stop")
    # It may sleep a moment too early for the wrong reason, such as the interpreter's lock; then it runs once more.
    while not settled(program, thread):
        pass


def settled(program: Program, thread: MachineThread) -> bool:
    """Whether the thread has not run at all over a few commands that do not concern it."""
    ran = thread.ran
    for _ in range(10):
        program.qmp.command("query-status")
    return thread.ran == ran and thread.sleeping


def test_linux_sleeps(daemon: Starter) -> None:
    """A sleeping shell: Linux without work has no periodic timer."""
    program = daemon(*kernel(), serial=True)
    shell(program)
    thread = MachineThread(program)
    ran = thread.ran
    run(program, "sleep 2")
    assert thread.ran - ran < 400_000_000


def test_a_guest_that_waits_for_nothing(daemon: Starter) -> None:
    """Without a kernel there is nothing to run: no timer, no work, and still a monitor."""
    program = daemon(*board(memory=64))
    thread = MachineThread(program)
    while not settled(program, thread):
        pass
    assert program.qmp.command("query-status") == {"running": True, "status": "running"}
