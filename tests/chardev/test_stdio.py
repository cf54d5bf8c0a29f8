"""Standard input and output, in a process of its own: on a terminal, on pipes, on files."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHILD = """
import asyncio, os, sys, uvloop
from qemud.chardev.registry import Chardevs

async def main(options, end):
    ended = asyncio.Event()
    chardevs = Chardevs(end=ended.set)
    port = (await chardevs.open_options("stdio,id=c," + options)).attach()

    def receive(data):
        port.write(data.upper())
        if b"!" in data:
            ended.set() if end == "close" else os.abort() if end == "abort" else sys.exit(3) if end == "exit" else 1 / 0

    port.start(receive, lambda event: ended.set() if event.value == "closed" else port.write(b"ready"))
    await ended.wait()
    await chardevs.close_all()

{loop}.run(main(sys.argv[1], sys.argv[2]))
"""


class Terminal:
    """A terminal with the child on it."""

    def __init__(self, *, loop: str = "asyncio", options: str = "signal=on", end: str = "close") -> None:
        self.fd, self.side = pty.openpty()
        self.before = termios.tcgetattr(self.side)
        self.child = subprocess.Popen(
            [sys.executable, "-c", CHILD.replace("{loop}", loop), options, end],
            stdin=self.side,
            stdout=self.side,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.expect(b"ready")

    def expect(self, text: bytes) -> None:
        seen = b""
        while text not in seen:
            assert select.select([self.fd], [], [], 60)[0], seen
            seen += os.read(self.fd, 1000)

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.side)

    def is_restored(self) -> bool:
        """Within the time that the guard of a killed process needs to notice."""
        return self.becomes(self.before)

    def becomes(self, mode: list[Any]) -> bool:
        """Whether the terminal gets into a mode."""
        end = time.monotonic() + 60
        while self.mode() != mode:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self.fd)
        os.close(self.side)


@contextlib.contextmanager
def terminal(**how: str) -> Iterator[Terminal]:
    made = Terminal(**how)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_terminal_is_raw_and_then_as_before(loop: str) -> None:
    with terminal(loop=loop) as tty:
        mode = tty.mode()
        assert not mode[3] & (termios.ECHO | termios.ICANON)
        assert mode[3] & termios.ISIG
        tty.type(b"a")
        tty.expect(b"A")
        tty.type(b"\r!")
        tty.expect(b"\r!")
        assert tty.child.wait(20) == 0
        assert tty.mode() == tty.before


def test_keys_for_signals_may_be_input() -> None:
    with terminal(options="signal=off") as tty:
        assert not tty.mode()[3] & termios.ISIG
        tty.type(b"\x03z")
        tty.expect(b"\x03Z")
        tty.type(b"!")
        assert tty.child.wait(20) == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT, signal.SIGKILL]
)
def test_signals_restore_the_terminal(number: signal.Signals, loop: str) -> None:
    with terminal(loop=loop) as tty:
        tty.child.send_signal(number)
        status = tty.child.wait(20)
        assert status in {-number, 1} if number is signal.SIGINT else status == -number
        assert tty.is_restored()


@pytest.mark.parametrize(("end", "status"), [("abort", -signal.SIGABRT), ("exit", 3), ("raise", None)])
def test_crashes_restore_the_terminal(end: str, status: int | None) -> None:
    with terminal(end=end) as tty:
        tty.type(b"!")
        if status is None:  # an exception in a callback ends nothing
            tty.type(b"a")
            tty.expect(b"A")
            tty.child.terminate()
        else:
            assert tty.child.wait(20) == status
        assert tty.is_restored()


def test_the_mode_is_set_again_after_a_stop() -> None:
    with terminal() as tty:
        raw = tty.mode()
        tty.child.send_signal(signal.SIGSTOP)
        os.waitpid(tty.child.pid, os.WUNTRACED)
        termios.tcsetattr(tty.side, termios.TCSANOW, tty.before)  # what a shell does
        tty.child.send_signal(signal.SIGCONT)
        tty.type(b"a\n")
        tty.expect(b"A")
        assert tty.becomes(raw)
        tty.type(b"!\n")
        assert tty.child.wait(20) == 0
        assert tty.mode() == tty.before


def run_child(stdin: int, stdout: int, *, loop: str = "asyncio") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.replace("{loop}", loop), "signal=on", "close"],
        stdin=stdin,
        stdout=stdout,
    )


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_on_pipes_which_stay_blocking_for_others(loop: str) -> None:
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    with run_child(in_read, out_write, loop=loop) as child:
        assert os.read(out_read, 5) == b"ready"
        assert os.get_blocking(in_read)
        assert os.get_blocking(out_write)
        os.close(out_write)
        os.write(in_write, b"hello!")
        assert os.read(out_read, 100) == b"HELLO!"
        assert child.wait(20) == 0
    for fd in (in_read, in_write, out_read):
        os.close(fd)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_on_files(tmp_path: Path, loop: str) -> None:
    (tmp_path / "in").write_bytes(b"hello " * 50_000)
    with (
        (tmp_path / "in").open("rb") as stdin,
        (tmp_path / "out").open("wb") as stdout,
        run_child(stdin.fileno(), stdout.fileno(), loop=loop) as child,
    ):
        assert child.wait(20) == 0  # the end of the file is the end
    assert (tmp_path / "out").read_bytes() == b"ready" + b"HELLO " * 50_000


def test_on_nothing() -> None:
    with open("/dev/null", "r+b") as null, run_child(null.fileno(), null.fileno()) as child:
        assert child.wait(20) == 0
