"""Sources of random bytes, objects that a client makes for devices: `rng-builtin` and `rng-random`.

    source.request(64, receive)     # machine thread; receive(data) is called there, with 1 to 64 bytes

`rng-builtin` is the host kernel's generator and answers before `request` returns; `rng-random` reads a file, in the event loop, and
answers when that has something.  Requests are answered in their order; whoever is reset meanwhile must bear a late answer.

Source of the texts: QEMU 10.0, backends/rng*.c.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING

from qemud._generated.types.backends import RngProperties, RngRandomProperties
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.userobjects import UserCreatable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from qemud.machine.mailbox import Mailboxes

    Receive = Callable[[bytes], None]

AGAIN = 1.0
"""Seconds after which a file that has ended is asked again: it may be a pipe whose other end is not there yet."""

LARGEST = 64 << 10
"""Bytes; what is asked for beyond that is answered with fewer."""


class RngBackend(UserCreatable, type_name="rng-backend", abstract=True, interfaces=("user-creatable",)):
    """See the module."""

    def request(self, mailboxes: Mailboxes, size: int, receive: Receive) -> None:
        """Ask for up to `size` bytes.  Machine thread."""
        del mailboxes, size, receive
        raise GenericError(f"object type '{self.type_name}' is abstract")


class RngBuiltin(RngBackend, type_name="rng-builtin", options=RngProperties):
    """The host kernel's generator, which never lets one wait."""

    def request(self, mailboxes: Mailboxes, size: int, receive: Receive) -> None:  # noqa: ARG002 - nobody is waited for
        """Answer now."""
        receive(os.urandom(min(size, LARGEST)))


class RngRandom(RngBackend, type_name="rng-random", options=RngRandomProperties):
    """A file: a generator of the host, or anything that has bytes."""

    options: RngRandomProperties

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._fd = -1
        self._waiting: deque[tuple[Mailboxes, int, Receive]] = deque()
        self._reading = False
        self._timer: asyncio.TimerHandle | None = None

    async def complete(self) -> None:
        """Open the file."""
        name = self.options.filename
        try:
            self._fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "Invalid argument"
            raise GenericError(f"Could not open '{name}': {reason}") from None

    def close(self) -> None:
        """Close the file.  Nobody uses the object any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd >= 0:
            self._listen(wanted=False)
            os.close(self._fd)
            self._fd = -1

    def request(self, mailboxes: Mailboxes, size: int, receive: Receive) -> None:
        """Have the loop read."""
        mailboxes.send(self._ask, mailboxes, min(size, LARGEST), receive)

    # In the loop.

    def _ask(self, mailboxes: Mailboxes, size: int, receive: Receive) -> None:
        self._waiting.append((mailboxes, size, receive))
        self._read()

    def _read(self) -> None:
        """Answer as many as there are bytes for now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._fd >= 0:
            mailboxes, size, receive = self._waiting[0]
            try:
                data = os.read(self._fd, size)
            except BlockingIOError:
                self._listen(wanted=True)
                return
            except OSError:
                data = b""
            if not data:
                self._listen(wanted=False)
                self._timer = asyncio.get_running_loop().call_later(AGAIN, self._read)
                return
            self._waiting.popleft()
            mailboxes.post(receive, data)
        self._listen(wanted=False)

    def _listen(self, *, wanted: bool) -> None:
        if wanted != self._reading and self._fd >= 0:
            self._reading = wanted
            loop = asyncio.get_running_loop()
            if wanted:
                loop.add_reader(self._fd, self._read)
            else:
                loop.remove_reader(self._fd)
