"""A chardev over a new pseudo-terminal, for a terminal program to open by its name.

Nobody tells the master's side that the terminal was opened, so a timer looks; so does every write, because that is when it
matters.  While nobody has it open, output is thrown away: what a console said before it was opened is gone.

Source: QEMU 10.0, chardev/char-pty.c.
"""

from __future__ import annotations

import asyncio
import os
import select
import termios
import tty
from typing import TYPE_CHECKING

from qemud.chardev.descriptor import DescriptorChardev, Output
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.char_backends import ChardevPty
    from qemud.chardev.log import Log

_LOOK_INTERVAL = 0.25
"""Seconds between looks whether somebody has opened the terminal."""


class PtyChardev(DescriptorChardev):
    """The master's side of a pseudo-terminal; open while somebody has the other side open."""

    kind = "pty"

    def __init__(
        self,
        label: str,
        options: ChardevPty,
        log: Log | None = None,
        *,
        announce: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`announce` takes the line that tells people, and programs, the terminal's name."""
        super().__init__(label, log)
        self._link = options.path
        self._announce = announce
        self._fd = -1
        self._poll = select.poll()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def terminal(self) -> str:
        """The name of the side to open."""
        return self.filename.removeprefix("pty:")

    async def open(self) -> None:
        """GenericError: there are no more pseudo-terminals, or the link cannot be made."""
        try:
            self._fd, terminal = os.openpty()
        except OSError as error:
            raise GenericError(f"Failed to create PTY: {os.strerror(error.errno or 0)}") from None
        try:
            name = os.ttyname(terminal)
            tty.setraw(terminal, termios.TCSANOW)
            os.set_blocking(self._fd, False)
            if self._link is not None:
                os.symlink(name, self._link)
        except (OSError, ValueError) as error:
            os.close(self._fd)
            self._fd = -1
            reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
            raise GenericError(f"Failed to create PTY symlink: {reason}") from None
        finally:
            os.close(terminal)
        self.filename = f"pty:{name}"
        self._poll.register(self._fd, select.POLLIN)
        self._announce(f"char device redirected to {name} (label {self.label})")
        self._look()

    def close(self) -> None:
        """As in the base."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.disconnect()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if (
                self._link is not None
                and os.path.islink(self._link)
                and os.readlink(self._link) == self.terminal
            ):
                os.unlink(self._link)
        super().close()

    def transmit(self, data: bytes) -> None:
        """As in the base."""
        if self._output is None:
            self._look()
        super().transmit(data)

    def input_ended(self) -> None:
        """The last one has closed the terminal."""
        if self._output is None:
            return
        self.disconnect()
        self.set_open(False)
        self._look_later()

    def _look(self) -> None:
        """Find out whether somebody has opened the terminal.  Input that is left counts, even if its writer has gone."""
        if self._output is not None or self._fd < 0:
            return
        events = dict(self._poll.poll(0)).get(self._fd, 0)
        if events & select.POLLHUP and not events & select.POLLIN:
            self._look_later()
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.connect(self._fd, Output(self._fd, failed=self.output_failed, drained=self.output_drained))
        self.set_open(True)

    def _look_later(self) -> None:
        """Set the timer, unless it runs."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_INTERVAL, self._timer_ended)

    def _timer_ended(self) -> None:
        """Look again."""
        self._timer = None
        self._look()
