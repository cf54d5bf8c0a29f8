"""The byte stream under every character device, and its user's end of it.

A `Chardev` is what is outside: a socket, a terminal, a file.  Its user is inside: a monitor on the event loop, or a
device of the guest behind a `qemud.chardev.frontend.Frontend`.  The user attaches and holds a `Port`:

    port = chardev.attach()                       # GenericError: "chardev 'c' is already in use"
    port.start(receive=parser.feed, event=on_event)
    port.write(b"hello")

Everything is called back on the event loop, from the very callback that saw the descriptor ready: no task stands
between a socket and its user.

Back-pressure goes both ways.  A chardev reads only what its port has credit for (`grant`, `set_paused`); a user that
writes faster than the outside takes it sees `pending` grow and is told by `drained` when it has fallen again.  `write`
never blocks and never refuses; bytes written while nobody is connected are thrown away, as on a serial line.

Source: QEMU 10.0's front-end interface, include/chardev/char-fe.h, for the order of events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.chardev.log import Log

UNLIMITED = 1 << 62
"""Credit that never runs out."""

LOW_WATER = 32 * 1024
"""A port is drained when no more than this many bytes are pending."""

READ_SIZE = 64 * 1024
"""The most that one read takes: what a pipe holds, and enough for hundreds of QMP commands."""


class ChardevEvent(Enum):
    """What a user is told about the other side, beside bytes."""

    OPENED = "opened"  # somebody is there now
    CLOSED = "closed"  # and is gone
    BREAK = "break"  # a break condition
    MUX_IN = "mux-in"  # this user has the focus of its multiplexer
    MUX_OUT = "mux-out"  # and lost it


def _ignore(_: object) -> None:
    """Stand in for a callback until the port is started."""


class Port:
    """The user's end of a chardev.

    `chardev` may change under it (chardev-change); the user sees CLOSED and OPENED then, nothing else.
    """

    __slots__ = (
        "_credit",
        "_drained",
        "_event",
        "_gather",
        "_paused",
        "_receive",
        "_waiters",
        "answers",
        "can_change",
        "chardev",
        "is_open",
    )

    def __init__(self, chardev: Chardev) -> None:
        self.chardev: Chardev | None = chardev
        self.is_open = False
        self.can_change = False
        self.answers = False
        self._receive: Callable[[bytes], object] = _ignore
        self._event: Callable[[ChardevEvent], object] = _ignore
        self._drained: Callable[[], object] | None = None
        self._gather: Callable[[], object] | None = None
        self._credit = 0
        self._paused = False
        self._waiters: list[asyncio.Future[None]] = []

    # -- the user's side ---------------------------------------------------------------------------------------------

    def start(
        self,
        receive: Callable[[bytes], object],
        event: Callable[[ChardevEvent], object] | None = None,
        drained: Callable[[], object] | None = None,
        *,
        gather: Callable[[], object] | None = None,
        credit: int = UNLIMITED,
        is_open: bool = True,
        can_change: bool = False,
        answers: bool = False,
    ) -> None:
        """Begin to receive; an OPENED that came earlier is delivered now, before this returns.

        `credit` is how many bytes may come before the first `grant`; `is_open` is what query-chardev shows as frontend-open;
        `gather` makes the user write what it still holds back, at the end; `can_change` says that the chardev may be replaced under this user;
        `answers` that what the user writes answers what it has received: it is for the one who sent that, and for nobody else.
        """
        self.answers = answers
        self.can_change = can_change
        self._receive = receive
        self._event = event or _ignore
        self._drained = drained
        self._gather = gather
        self._credit = credit
        self.is_open = is_open
        if self.chardev is not None:
            self.chardev.port_started(self)

    def detach(self) -> None:
        """Leave the chardev free for another user; nothing is received from now on."""
        chardev, self.chardev = self.chardev, None
        self._receive = self._event = _ignore
        self._drained = self._gather = None
        self._credit = 0
        self.is_open = False
        self.wake()
        if chardev is not None:
            chardev.port_detached(self)

    def write(self, data: bytes) -> None:
        """Send bytes: at once as far as the outside takes them, the rest when it does."""
        if self.chardev is not None and not (self.answers and self.chardev.is_behind):
            self.chardev.write(data)

    @property
    def pending(self) -> int:
        """How many written bytes the outside has not taken yet."""
        return 0 if self.chardev is None else self.chardev.backlog

    async def drain(self) -> None:
        """Wait until few bytes are pending; returns too when the other side is gone."""
        while self.pending > LOW_WATER:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def grant(self, count: int) -> None:
        """Take `count` more bytes of input than before."""
        self._credit = min(self._credit + count, UNLIMITED)
        if self.chardev is not None and self.allowance > 0:
            self.chardev.input_wanted(self)

    def set_paused(self, *, paused: bool) -> None:
        """Take no input, or take it again; the credit stays."""
        if paused is self._paused:
            return
        self._paused = paused
        if self.chardev is None:
            return
        if paused:
            self.chardev.input_unwanted(self)
        elif self.allowance > 0:
            self.chardev.input_wanted(self)

    def set_open(self, is_open: bool) -> None:
        """Say whether something listens behind this port, for query-chardev."""
        self.is_open = is_open

    def take_focus(self) -> None:
        """Get the input of a multiplexer; elsewhere this means nothing."""
        if self.chardev is not None:
            self.chardev.focus(self)

    def take_fds(self) -> list[int]:
        """The descriptors of the oldest message that carried some; they are the caller's to close."""
        return [] if self.chardev is None else self.chardev.take_fds()

    # -- the chardev's side ------------------------------------------------------------------------------------------

    @property
    def allowance(self) -> int:
        """How many bytes may be delivered now."""
        return 0 if self._paused else self._credit

    def deliver(self, data: bytes) -> None:
        """Hand input to the user; no more than the allowance."""
        if self._credit < UNLIMITED:
            self._credit -= len(data)
        self._receive(data)

    def notify(self, event: ChardevEvent) -> None:
        """Tell the user of an event."""
        self._event(event)

    def drained(self) -> None:
        """Tell the user that few bytes are pending."""
        self.wake()
        if self._drained is not None:
            self._drained()

    def gather(self) -> None:
        """Make the user write what it still holds back."""
        if self._gather is not None:
            self._gather()

    def wake(self) -> None:
        """Let those who wait in `drain` look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Chardev:
    """A character device: something outside that bytes go to and come from.

    A kind of chardev overrides `open`, `transmit`, `pending`, `resume_input`, `stop_input` and `close`, and calls `received`,
    `set_open` and `output_drained`.  `label` is its ID; `filename` is what query-chardev shows.
    """

    kind: ClassVar[str] = ""

    def __init__(self, label: str, log: Log | None = None) -> None:
        self.label = label
        self.filename = self.kind
        self.backend: Any = None  # what it was made of, a `ChardevBackend`, once it is open
        self.is_open = False
        self._port: Port | None = None
        self._attaching = Lock()
        self._log = log
        if log is not None:
            log.on_drained = self.output_drained
        self._inbox: deque[bytes | ChardevEvent] = deque()
        self._flushing = False
        self._empty: asyncio.Future[None] | None = None

    # -- what each kind does -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open what is outside.  GenericError with QEMU's text when that fails; nothing is left behind then."""
        self.set_open(True)

    def transmit(self, data: bytes) -> None:
        """Send bytes outside, or throw them away where nobody is."""

    @property
    def pending(self) -> int:
        """How many transmitted bytes have not left yet."""
        return 0

    def resume_input(self) -> None:
        """Read from outside: the port has an allowance."""

    def stop_input(self) -> None:
        """Do not read from outside: the port takes nothing."""

    def close(self) -> None:
        """Give everything back at once; what is pending and cannot leave without waiting is lost."""
        if self._log is not None:
            self._log.close()

    def take_fds(self) -> list[int]:
        """As `Port.take_fds`."""
        return []

    def add_client(self, fd: int) -> bool:
        """Take over a connected socket as the other side, if that is possible now; whether it was."""
        del fd
        return False

    can_yank: ClassVar[bool] = False
    """Whether `yank` means something."""

    def yank(self) -> None:
        """Give a connection up that may hang, without waiting for anything."""

    # -- users -------------------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether somebody is attached."""
        return self._port is not None

    @property
    def frontend_open(self) -> bool:
        """What query-chardev says of the user."""
        return self._port is not None and self._port.is_open

    @property
    def can_hand_over(self) -> bool:
        """Whether chardev-change is possible: nobody uses it, or somebody who does not mind."""
        return self._port is None or self._port.can_change

    @property
    def identities(self) -> tuple[tuple[int, int], ...]:
        """Device and inode of each socket in the file system that a successor may take the place of."""
        return ()

    def attach(self) -> Port:
        """Reserve the chardev for one user.  May be called from any thread.

        GenericError: somebody has it already.
        """
        with self._attaching:
            if self._port is not None:
                raise GenericError(f"chardev '{self.label}' is already in use")
            self._port = Port(self)
            return self._port

    def port_started(self, port: Port) -> None:
        """The port can receive now."""
        if self.is_open:
            port.notify(ChardevEvent.OPENED)
        if port.allowance > 0:
            self.input_wanted(port)
        else:
            self.input_unwanted(port)

    def port_detached(self, port: Port) -> None:
        """The port is gone."""
        if self._port is port:
            self._port = None
            self._inbox.clear()
            self.stop_input()

    def hand_over(self, successor: Chardev) -> None:
        """Let another chardev have this one's user (chardev-change)."""
        port, self._port = self._port, None
        if port is None:
            return
        self.stop_input()
        if self.is_open:
            port.notify(ChardevEvent.CLOSED)
        port.chardev = successor
        successor._port = port
        port.drained()
        successor.port_started(port)

    def focus(self, port: Port) -> None:
        """As `Port.take_focus`."""

    # -- output ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """As `Port.write`."""
        if self._log is not None:
            self._log.write(data)
        self.transmit(data)

    def gather(self) -> None:
        """Make users write what they still hold back: there is no later."""
        if self._port is not None:
            self._port.gather()

    @property
    def backlog(self) -> int:
        """How many written bytes have not left, or are not in the log yet, whichever is more."""
        return self.pending if self._log is None else max(self.pending, self._log.pending)

    async def drain(self) -> None:
        """Wait until all output has left or the other side is gone."""
        while self.backlog:
            self._empty = asyncio.get_running_loop().create_future()
            await self._empty
        self._empty = None

    def output_drained(self) -> None:
        """Few bytes are pending, or the other side is gone and with it what was pending."""
        if self._empty is not None and not self._empty.done():
            self._empty.set_result(None)
        if self._port is not None:
            self._port.drained()

    # -- input -------------------------------------------------------------------------------------------------------

    @property
    def allowance(self) -> int:
        """How many bytes the user takes now."""
        port = self._port
        return 0 if port is None or self._inbox else port.allowance

    def received(self, data: bytes) -> None:
        """Bytes came: give the user what it takes, keep the rest for later."""
        port = self._port
        if port is None:
            return
        if self._inbox or len(data) > port.allowance:
            self._inbox.append(data)
            self._flush()
        else:
            port.deliver(data)

    def happened(self, event: ChardevEvent) -> None:
        """Something happened, after the bytes received so far."""
        if self._inbox:
            self._inbox.append(event)
        elif self._port is not None:
            self._port.notify(event)

    def set_open(self, is_open: bool) -> None:
        """Somebody is there, or is gone."""
        self.is_open = is_open
        self.happened(ChardevEvent.OPENED if is_open else ChardevEvent.CLOSED)

    @property
    def is_behind(self) -> bool:
        """Whether the user still has input before it of one who has gone."""
        return bool(self._inbox) and ChardevEvent.CLOSED in self._inbox

    @property
    def kept(self) -> int:
        """How many received bytes the user has not taken."""
        return sum(len(item) for item in self._inbox if isinstance(item, bytes))

    def input_wanted(self, port: Port) -> None:
        """The port has an allowance: give it what was kept, then read on."""
        if port is self._port:
            self._flush()
            if self.allowance > 0:
                self.resume_input()

    def input_unwanted(self, port: Port) -> None:
        """The port takes nothing until further notice."""
        if port is self._port:
            self.stop_input()

    def _flush(self) -> None:
        """Deliver what was kept, as far as the user takes it."""
        if self._flushing:  # the user granted credit while it received: the loop below goes on
            return
        self._flushing = True
        try:
            while self._inbox and (port := self._port) is not None:
                item = self._inbox[0]
                if isinstance(item, ChardevEvent):
                    self._inbox.popleft()
                    port.notify(item)
                    continue
                allowance = port.allowance
                if allowance <= 0:
                    return
                if len(item) <= allowance:
                    self._inbox.popleft()
                    port.deliver(item)
                else:
                    self._inbox[0] = item[allowance:]
                    port.deliver(item[:allowance])
        finally:
            self._flushing = False
