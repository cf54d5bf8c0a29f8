"""Under a service manager: sockets it passes, what it is told, and the units themselves."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.programs import LIMIT, QEMUD, Console, QmpClient
from tests.system.embed import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Starter

UNITS = Path(__file__).parents[2] / "systemd"
NONE = ("-machine", "none", "-display", "none")


class Manager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(LIMIT)

    def next(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def until(self, assignment: str) -> list[str]:
        seen: list[str] = []
        while assignment not in seen:
            seen += self.next()
        return seen

    def waiting(self) -> list[str]:
        """All that has come already."""
        seen: list[str] = []
        while select.select([self.socket], [], [], 0)[0]:
            seen += self.next()
        return seen


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.socket.close()


def test_the_manager_is_told_of_readiness_state_and_end(daemon: Starter, manager: Manager):
    program = daemon(*NONE, "-S", environment={"NOTIFY_SOCKET": manager.path})
    assert manager.next() == ["READY=1", "STATUS=prelaunch"]
    program.qmp.command("cont")
    assert manager.next() == ["STATUS=running"]
    program.qmp.command("stop")
    assert manager.next() == ["STATUS=paused"]
    program.qmp.command("quit")
    assert "STOPPING=1" in manager.until("STOPPING=1")
    assert program.wait() == 0


def test_the_watchdog_is_fed_while_the_machine_thread_answers(daemon: Starter, manager: Manager):
    daemon(*NONE, environment={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "100000"})
    manager.until("READY=1")
    for _ in range(3):
        manager.until("WATCHDOG=1")


def test_the_watchdog_is_not_fed_while_the_machine_thread_hangs(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
):
    """The same wait that sees signs of life before and after sees none during the hang.

    That wait is a number of the feeder's own intervals, one after another on the feeder's own loop: however slow the host, a
    feeder that did not wait for the machine thread would have come to its turn in each of them.
    """
    interval = 0.002
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    monkeypatch.setenv("WATCHDOG_USEC", str(int(interval * 2e6)))
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    release = threading.Event()
    with embedded(*NONE) as machine:
        mailboxes = machine.vm.mailboxes

        async def intervals(count: int) -> list[str]:
            for _ in range(count):
                await asyncio.sleep(interval)
            return manager.waiting()

        def hang(begun: asyncio.Future[None]) -> None:
            mailboxes.send(begun.set_result, None)
            release.wait(LIMIT)

        async def test() -> None:
            machine.daemon.announce()
            assert "WATCHDOG=1" in await intervals(10)
            begun = asyncio.get_running_loop().create_future()
            mailboxes.post(hang, begun)
            await begun
            await intervals(2)  # a sign of life may have been on its way
            assert await intervals(50) == []
            release.set()
            received = asyncio.to_thread(manager.until, "WATCHDOG=1")
            assert set(await received) == {"WATCHDOG=1"}
            assert "WATCHDOG=1" in await intervals(10)

        try:
            machine.run(test())
        finally:
            release.set()


@pytest.mark.needs("systemd-socket-activate")
def test_sockets_that_the_manager_passes_are_known_by_name(tmp_path: Path):
    """`systemd-socket-activate` starts the emulator when the first client comes, as systemd would."""
    qmp, serial = tmp_path / "qmp", tmp_path / "serial"
    process = subprocess.Popen(
        [
            "systemd-socket-activate",
            *("--listen", str(qmp), "--listen", str(serial), "--fdname", "qmp:serial"),
            *(QEMUD, "-machine", "virt", "-display", "none", "-nodefaults", "-S"),
            *("-chardev", "socket,id=qmp,fd=qmp,server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
            *("-chardev", "socket,id=serial,fd=serial,server=on,wait=off", "-serial", "chardev:serial"),
            *("-kernel", _demo_guest()),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for path in (qmp, serial):
            line = process.stderr.readline()
            assert re.match(f"Listening on {path}", line), line
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(str(qmp))
            client = QmpClient(first)
            second.connect(str(serial))
            console = Console(second)
            client.command("cont")
            console.expect("demo> ")
            client.command("quit")
            assert process.wait(LIMIT) == 0
        # The paths are the manager's: they outlive the emulator.
        assert qmp.is_socket()
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_name_that_was_not_passed_is_refused_in_a_sentence():
    done = subprocess.run(
        [QEMUD, *NONE, "-chardev", "socket,id=c,fd=nope,server=on,wait=off"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"{QEMUD}: -chardev socket,id=c,fd=nope,server=on,wait=off: Unable to parse FD number nope\n"
    )


def test_sigterm_from_the_manager_ends_with_status_0(daemon: Starter, manager: Manager):
    program = daemon(*NONE, environment={"NOTIFY_SOCKET": manager.path})
    manager.until("READY=1")
    program.process.send_signal(signal.SIGTERM)
    assert program.wait() == 0


@pytest.mark.needs("systemd-analyze")
def test_the_units_are_accepted_without_a_word(tmp_path: Path):
    """`systemd-analyze verify`, with an instance of each unit in a folder of its own."""
    names = []
    for unit in UNITS.iterdir():
        name = unit.name.replace("@.", "@test.")
        (tmp_path / unit.name).write_text(unit.read_text())
        names.append(name)
    assert len(names) == 3
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in sorted(names))],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _demo_guest() -> str:
    from qemud.demo import DEMO_GUEST

    return str(DEMO_GUEST)
