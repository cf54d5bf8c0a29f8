"""Monitors as people see them: on sockets, on a terminal of their own, and on one that they share with a serial port."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qemud.demo
from qemud.monitor.hmp.table import COMMANDS, INFO
from tests.programs import LIMIT, Console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Starter

GREETING = "QEMU 10.0.2 monitor - type 'help' for more information\r\n(qemu) "
NONE = ("-machine", "none", "-display", "none")


class Terminal:
    """A pseudo-terminal with the methods of a socket that `Console` uses."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._timeout = LIMIT

    def settimeout(self, seconds: float) -> None:
        self._timeout = seconds

    def recv(self, size: int) -> bytes:
        if not select.select([self._fd], [], [], self._timeout)[0]:
            raise TimeoutError
        try:
            return os.read(self._fd, size)
        except OSError:  # the other side is closed
            return b""

    def sendall(self, data: bytes) -> None:
        os.write(self._fd, data)

    def close(self) -> None:
        os.close(self._fd)


def console(fd: int) -> Console:
    return Console(Terminal(fd))  # type: ignore[arg-type]


class Monitor:
    """qemud with a human monitor on one end of a socket pair."""

    def __init__(self, start: Starter, *arguments: str) -> None:
        here, there = socket.socketpair()
        with there:
            fd = there.fileno()
            self.program = start(
                "-chardev", f"socket,id=hmp,fd={fd}", "-mon", "hmp", *arguments, pass_fds=[fd]
            )
        self.console = Console(here)

    def command(self, line: str) -> str:
        """What a line prints."""
        self.console.send(line.encode() + b"\r")
        answer = self.console.expect("\r\n(qemu) ")
        return answer.partition("\r\n")[2].removesuffix("(qemu) ").replace("\r\n", "\n")


@pytest.fixture
def monitor(daemon: Starter) -> Iterator[Monitor]:
    started = Monitor(daemon, *NONE)
    with contextlib.closing(started.console):
        started.console.expect(GREETING)
        yield started


def test_a_line_and_its_answer(monitor: Monitor) -> None:
    assert monitor.command("info status") == "VM status: running\n"
    assert monitor.command("") == ""
    assert monitor.command("info history").splitlines()[0] == "0: 'info status'"


def test_lines_in_one_burst_run_in_order(monitor: Monitor) -> None:
    monitor.console.send(b"stop\rinfo status\rcont\rinfo status\r")
    said = monitor.console.expect("VM status: running")
    assert said.index("VM status: paused") < said.index("VM status: running")


def test_events_of_what_is_typed_reach_qmp(monitor: Monitor) -> None:
    monitor.command("stop")
    monitor.program.qmp.event("STOP")


def test_completion_asks_for_names(monitor: Monitor) -> None:
    monitor.command("object_add memory-backend-ram,id=lonely,size=4k")
    monitor.console.send(b"object_del l\t")
    monitor.console.expect("object_del lonely ")
    assert monitor.command("") == ""
    assert "lonely" not in monitor.command("qom-list /objects")


def test_completion_shows_several(monitor: Monitor) -> None:
    monitor.console.send(b"system_\t")
    assert "system_powerdown  system_reset" in monitor.console.expect("\r\n(qemu) system_")


def test_quit_ends_the_program(monitor: Monitor) -> None:
    monitor.console.send(b"q\r")
    assert monitor.program.wait() == 0
    assert monitor.program.qmp.event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-qmp-quit"}


def test_garbage_is_no_command_and_no_end(monitor: Monitor) -> None:
    monitor.console.send(bytes(range(256)) * 40 + b"\r")
    monitor.console.send(b"\x15\r")
    monitor.console.send(b"info version\r")
    monitor.console.expect("10.0.2 (qemud ")


def test_who_does_not_read_is_not_read_from(monitor: Monitor) -> None:
    lines = b"help\r" * 400000
    monitor.console.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        monitor.console.socket.sendall(lines)
    assert monitor.program.qmp.command("query-status")["running"] is True


def test_a_listener_greets_each_client_and_several_monitors_work_at_once(daemon: Starter) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/one", f"{folder}/two"]
        texts = [f"unix:{path},server=on,wait=off" for path in paths]
        program = daemon(*NONE, "-monitor", texts[0], "-monitor", texts[1])
        assert [each["id"] for each in program.qmp.command("query-monitors") if each["mode"] == "readline"]
        for _ in range(2):
            clients = [Console(socket.socket(socket.AF_UNIX)) for _ in paths]
            for client, path in zip(clients, paths, strict=True):
                client.socket.connect(path)
                client.expect(GREETING)
            for client in clients:
                client.send(b"info kvm\r")
            for client in clients:
                client.expect("kvm support: not compiled\r\n(qemu) ")
                client.send(b"half a line")
                client.close()


def test_what_a_client_left_behind_is_not_for_the_next_one(daemon: Starter) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/monitor"
        program = daemon("-machine", "virt", "-S", "-display", "none", "-serial", "null",
                         "-monitor", f"unix:{path},server=on,wait=off")  # fmt: skip
        for _ in range(5):
            with contextlib.closing(Console(socket.socket(socket.AF_UNIX))) as client:
                client.socket.connect(path)
                client.send(b"xp /8192xb 0x80000000\rstop\rinfo reg")
                client.expect("QEMU ")
        with contextlib.closing(Console(socket.socket(socket.AF_UNIX))) as client:
            client.socket.connect(path)
            client.send(b"info uuid\r")
            client.expect("00000000-0000-0000-0000-000000000000\r\n(qemu) ")
            assert client.log.startswith(GREETING.encode())
            assert b"xp" not in client.log
        assert program.qmp.command("query-status")["running"] is False


def test_a_pseudo_terminal(daemon: Starter) -> None:
    program = daemon(*NONE, "-monitor", "pty")
    name = next(
        each["filename"].removeprefix("pty:")
        for each in program.qmp.command("query-chardev")
        if each["filename"].startswith("pty:")
    )
    fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
    with contextlib.closing(console(fd)) as terminal:
        terminal.send(b"\r")
        terminal.expect("(qemu) ")
        terminal.send(b"infx\x7fo uuid\x01\x05\r")
        terminal.expect("00000000-0000-0000-0000-000000000000")


def test_a_machine_is_made_by_hand(daemon: Starter) -> None:
    monitor = Monitor(daemon, "-machine", "virt", "-display", "none", "-serial", "null", "-preconfig")
    with contextlib.closing(monitor.console):
        monitor.console.expect(GREETING)
        not_yet = "Command 'c' not available until machine initialization has completed.\n"
        assert monitor.command("c") == not_yet
        assert monitor.command("object_add memory-backend-ram,id=m,size=4k") == ""
        monitor.console.send(b"exi\t\r")
        monitor.console.expect("(qemu) ")
        assert monitor.command("info status") == "VM status: running\n"
        assert monitor.command("exit_preconfig").startswith("Error: The command is permitted only before")


def test_a_migration_is_waited_for(daemon: Starter, tmp_path: Path) -> None:
    """Unless it is to go on by itself; other monitors are answered meanwhile."""
    monitor = Monitor(daemon, "-machine", "virt", "-display", "none", "-serial", "null", "-S")
    qmp = monitor.program.qmp
    with contextlib.closing(monitor.console):
        monitor.console.expect(GREETING)
        assert monitor.command("migrate_set_parameter max-bandwidth 1b") == ""
        assert monitor.command(f"migrate -d file:{tmp_path / 'a'}") == ""
        assert monitor.command("migrate_cancel") == ""
        while qmp.command("query-migrate")["status"] != "cancelled":
            pass
        monitor.console.send(f"migrate file:{tmp_path / 'b'}\r".encode())
        while qmp.command("query-migrate").get("status") != "active":
            pass
        monitor.console.expect(f"{tmp_path / 'b'}")
        assert not monitor.console.log.endswith(b"(qemu) ")
        qmp.command("migrate-set-parameters", {"max-bandwidth": 0})
        monitor.console.expect("(qemu) ")
        assert monitor.command("info migrate").startswith("Migration status: completed\n")
        assert monitor.command("info status") == "VM status: paused (postmigrate)\n"


WRITES = {
    *("chardev-add", "chardev-change", "dump-guest-memory", "dumpdtb", "logfile", "memsave"),
    *("migrate", "migrate_incoming", "object_add", "pmemsave", "quit"),
}
"""Commands that make files or run programs, or end it all."""

words = st.sampled_from(
    [
        *(name for name, command in COMMANDS.items() if command.name not in WRITES),
        *(f"info {name}" for name in INFO),
        *("-j", "-f", "/8xb", "/i", "/c", "$pc", "$x31", "0x80000000", "0", "-1"),
        *("/machine", "/objects", "type", '"', "\\", "a=b,c", "loader,addr=1"),
    ]
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n"), max_size=12)


def test_no_line_is_a_defect(daemon: Starter) -> None:
    monitor = Monitor(daemon, "-machine", "virt", "-display", "none", "-serial", "null", "-S")
    qmp = monitor.program.qmp

    @settings(max_examples=150)
    @given(st.lists(words | texts, min_size=1, max_size=5).map(" ".join))
    def say(line: str) -> None:
        assert "Internal error" not in qmp.command("human-monitor-command", {"command-line": line})

    with contextlib.closing(monitor.console):
        say()
        monitor.console.expect(GREETING)
        assert monitor.command("print 1") == "0x1\n"


@contextlib.contextmanager
def session(*words: str) -> Iterator[tuple[Console, subprocess.Popen[bytes]]]:
    """qemud on a terminal, as a person starts it."""
    ours, theirs = pty.openpty()
    with contextlib.closing(console(ours)) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "qemud", *words], stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        try:
            yield terminal, process
        finally:
            process.kill()
            process.wait()


def test_the_demo_there_and_back() -> None:
    with session("demo") as (terminal, process):
        terminal.expect("demo> ")
        terminal.send(b"\x01c")
        terminal.expect("QEMU 10.0.2 monitor - type 'help' for more information")
        terminal.expect("(qemu) ")
        terminal.send(b"info stauts\x1b[D\x7f\x1b[Dt\x05\r")
        terminal.expect("VM status: running")
        terminal.expect("(qemu) ")
        terminal.send(b"stop\r")
        terminal.expect("(qemu) ")
        terminal.send(b"\x1b[A\x1b[A\r")
        terminal.expect("VM status: paused")
        terminal.expect("(qemu) ")
        terminal.send(b"xp /1i 0x80200000\x15x /1i $pc\r")
        terminal.expect("(qemu) ")
        terminal.send(b"c\r")
        terminal.expect("(qemu) ")
        terminal.send(b"\x01c\r")
        terminal.expect("demo> ")
        terminal.send(b"\x01c")
        terminal.expect("(qemu) ")
        terminal.send(b"quit\r")
        assert process.wait(LIMIT) == 0


def test_ctrl_a_x_ends_it_with_the_monitor_there() -> None:
    with session("demo") as (terminal, process):
        terminal.expect("demo> ")
        terminal.send(b"\x01c")
        terminal.expect("(qemu) ")
        terminal.send(b"\x01x")
        terminal.expect("QEMU: Terminated")
        assert process.wait(LIMIT) == 0


def test_a_multiplexer_made_by_hand() -> None:
    words = (
        "-chardev",
        "stdio,id=t,mux=on,signal=off",
        "-serial",
        "chardev:t",
        "-mon",
        "chardev=t,mode=readline",
    )
    kernel = str(Path(qemud.demo.__file__).with_name("demo.bin"))
    with session("-machine", "virt", "-display", "none", "-kernel", kernel, *words) as (terminal, process):
        terminal.expect("demo> ")
        terminal.send(b"\x01c")
        terminal.expect("(qemu) ")
        terminal.send(b"q\r")
        assert process.wait(LIMIT) == 0


def test_a_monitor_on_the_terminal_leaves_no_serial_port_there() -> None:
    with session("-machine", "virt", "-S", "-display", "none", "-monitor", "stdio") as (terminal, process):
        terminal.expect("(qemu) ")
        terminal.send(b"info chardev\r")
        said = terminal.expect("(qemu) ")
        assert "compat_monitor0: filename=stdio" in said
        assert "serial0: filename=null" in said
        terminal.send(b"q\r")
        assert process.wait(LIMIT) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-monitor", "nope"), "-monitor nope: 'nope' is not a valid char driver"),
        (("-monitor", "chardev:nope"), '-monitor chardev:nope: chardev "nope" not found'),
        (("-mon", "chardev=nope"), '-mon chardev=nope: chardev "nope" not found'),
        (
            ("-chardev", "null,id=c", "-mon", "chardev=c,pretty=on"),
            "-mon chardev=c: 'pretty' is not compatible with HMP monitors",
        ),
        (
            ("-chardev", "null,id=c", "-mon", "c", "-mon", "c"),
            "-mon chardev=c: chardev 'c' is already in use",
        ),
    ],
)
def test_what_cannot_be(daemon: Starter, words: tuple[str, ...], said: str) -> None:
    program = daemon(*NONE, *words, negotiate=False)
    assert program.wait() == 1
    assert said in program.stderr
