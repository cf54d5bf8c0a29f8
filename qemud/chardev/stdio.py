"""A chardev over standard input and output: a terminal, a pipe, or a file.

A terminal is put into raw mode while the chardev exists (`qemud.chardev.terminal`).  The descriptors that others share with us, a
shell for one, stay blocking: where possible they are opened anew through /proc, so that the non-blocking mode is ours alone.

Source: QEMU 10.0, chardev/char-stdio.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, ClassVar

from qemud.chardev.descriptor import is_file, is_pollable
from qemud.chardev.file import FileChardev
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.char_backends import ChardevStdio
    from qemud.chardev.log import Log
    from qemud.chardev.terminal import RawTerminal


class StdioChardev(FileChardev):
    """There is one standard input, so there can be one of these."""

    kind = "stdio"
    _exists: ClassVar[bool] = False

    def __init__(self, label: str, options: ChardevStdio, log: Log | None = None) -> None:
        super().__init__(label, None, log)
        self._signals = options.signal
        self._terminal: RawTerminal | None = None
        self._blocking: list[int] = []
        self._is_ours = False

    async def open(self) -> None:
        """GenericError: standard input and output have a user."""
        if StdioChardev._exists:
            raise GenericError("cannot use stdio by multiple character devices")
        try:
            self._fds.append(fd_in := self._own(0, os.O_RDONLY))  # closed by `close`, whatever happens here
            self._fds.append(fd_out := self._own(1, os.O_WRONLY))
        except OSError as error:
            raise GenericError(f"Failed to set FD nonblocking: {os.strerror(error.errno or 0)}") from None
        StdioChardev._exists = self._is_ours = True
        if os.isatty(0):
            from qemud.chardev.terminal import RawTerminal, start_guard

            guard = await asyncio.to_thread(start_guard, 0)
            self._terminal = RawTerminal(0, guard, signals=self._signals)
            with contextlib.suppress(ValueError, RuntimeError):  # signals belong to the main thread
                asyncio.get_running_loop().add_signal_handler(signal.SIGCONT, self._terminal.enter)
        self.serve(fd_in, fd_out)
        self.set_open(True)

    def close(self) -> None:
        """As in the base; the terminal is as it was."""
        super().close()
        if self._terminal is not None:
            with contextlib.suppress(ValueError, RuntimeError):
                asyncio.get_running_loop().remove_signal_handler(signal.SIGCONT)
            self._terminal.restore()
            self._terminal = None
        for fd in self._blocking:
            os.set_blocking(fd, True)
        self._blocking.clear()
        if self._is_ours:
            StdioChardev._exists = self._is_ours = False

    def _own(self, fd: int, mode: int) -> int:
        """A non-blocking descriptor for the same file; what has no use for it, a file, is only duplicated."""
        if is_file(fd) or not is_pollable(fd):
            return os.dup(fd)
        try:
            return os.open(f"/proc/self/fd/{fd}", mode | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:  # a socket, or another user's terminal: there is only the shared one
            if os.get_blocking(fd):
                os.set_blocking(fd, False)
                self._blocking.append(fd)
            return os.dup(fd)
