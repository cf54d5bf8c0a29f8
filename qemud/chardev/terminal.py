"""The terminal on standard input in raw mode, and back again however this process ends.

Three nets catch the end: `restore`, called on the orderly way; `atexit`; handlers for the signals whose default is to end the process
at once.  A fourth holds even when the engine crashes or somebody sends SIGKILL: a small shell waits for this process to
vanish and then puts the saved mode back.  It runs in a session of its own, so that no key of the terminal reaches it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import termios
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_DEADLY = (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)

_GUARD = 'cat >/dev/null; exec stty "$1" <&1'
"""Wait for the end of the input, which only this process holds open; then set the mode of the output's terminal."""

IFLAG, OFLAG, CFLAG, LFLAG, CC = 0, 1, 2, 3, 6
"""Where termios.tcgetattr keeps what."""


class RawTerminal:
    """A terminal in raw mode from construction until `restore`."""

    def __init__(self, fd: int, guard: subprocess.Popen[bytes] | None, *, signals: bool) -> None:
        """`guard` comes from `start_guard`; `signals` leaves the keys for signals, such as Ctrl-C, to the terminal."""
        self._fd = fd
        self._signals = signals
        self._saved = termios.tcgetattr(fd)
        self._is_raw = True
        self._handled: list[int] = []
        self._guard = guard
        atexit.register(self.restore)
        if threading.current_thread() is threading.main_thread():
            for number in _DEADLY:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._deadly)
                    self._handled.append(number)
        self.enter()

    def enter(self) -> None:
        """Raw mode: no echo, no lines, no translation of input; output is still translated, for messages among it.

        Again after a stop (SIGCONT), because the shell has set its own mode in between.
        """
        mode = termios.tcgetattr(self._fd)
        mode[IFLAG] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[OFLAG] |= termios.OPOST
        mode[LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
        if not self._signals:
            mode[LFLAG] &= ~termios.ISIG
        mode[CFLAG] &= ~(termios.CSIZE | termios.PARENB)
        mode[CFLAG] |= termios.CS8
        mode[CC][termios.VMIN] = 1
        mode[CC][termios.VTIME] = 0
        _set_mode(self._fd, mode)

    def restore(self) -> None:
        """Put the saved mode back, once."""
        if not self._is_raw:
            return
        self._is_raw = False
        atexit.unregister(self.restore)
        for number in self._handled:
            if signal.getsignal(number) == self._deadly:
                signal.signal(number, signal.SIG_DFL)
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()  # it must not act on a terminal that the next program has
            guard.wait()
            assert guard.stdin is not None
            guard.stdin.close()
        _set_mode(self._fd, self._saved)

    def _deadly(self, number: int, _frame: FrameType | None) -> None:
        """A signal ends this process: restore, then let it."""
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _set_mode(fd: int, mode: list[Any]) -> None:
    """Set a terminal's mode; without being stopped when this process is in the background by now."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(fd, termios.TCSANOW, mode)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_guard(fd: int) -> subprocess.Popen[bytes] | None:
    """Start the shell that outlives us, before the terminal is raw; None where there is no shell.  It takes a while."""
    mode = termios.tcgetattr(fd)
    characters = [byte if isinstance(byte, int) else byte[0] for byte in mode[CC]]
    flags = (mode[IFLAG], mode[OFLAG], mode[CFLAG], mode[LFLAG], *characters)
    saved = ":".join(f"{value:x}" for value in flags)  # as `stty -g` prints it
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "qemud-terminal-guard", saved],
            stdin=subprocess.PIPE,
            stdout=fd,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
