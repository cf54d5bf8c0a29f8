"""The bridge between a chardev on the event loop and a device on the machine thread.

    self.frontend = Frontend(chardev, machine.mailboxes, receive=self.receive, on_writable=self.on_writable)
    self.frontend.grant(16)            # the receive FIFO is empty
    self.frontend.write(b"x")          # the guest wrote to the transmit register

The device's side (`write`, `writable`, `grant`, `close`) belongs to the machine thread and never waits; the device's callbacks come
there too.  Whatever happens in one burst crosses in one message: the mailbox is rung once, and the other side takes all there is.
Counters go one way each, so that neither thread needs a lock.  A guest writes a console byte by byte, which to a loop that sleeps is
one burst a byte: so the loop takes the first byte at once, and what follows every millisecond, until it is quiet again.

Back-pressure: bytes that the outside has not taken count as in flight; from `HIGH_WATER` on `writable` is False, and `on_writable`
is called when there is room again.  Input comes only as far as it was granted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.chardev.stream import Chardev, ChardevEvent

HIGH_WATER = 64 * 1024
"""Bytes in flight from which on a device should wait."""

GATHER_TIME = 0.001
"""Seconds between looks for more output, while there is some."""


class Mailboxes(Protocol):
    """What a front end needs of `qemud.machine.mailbox.Mailboxes`."""

    def post(self, fn: Callable[..., object], *args: object) -> None:
        """Run a function on the machine thread soon."""

    def send(self, fn: Callable[..., object], *args: object) -> None:
        """Run a function on the event loop soon."""


class Frontend:
    """A device's end of a chardev."""

    def __init__(
        self,
        chardev: Chardev,
        mailboxes: Mailboxes,
        *,
        receive: Callable[[bytes], object],
        event: Callable[[ChardevEvent], object] | None = None,
        on_writable: Callable[[], object] | None = None,
        is_open: bool = True,
        call_later: Callable[[float, Callable[[], object]], object] | None = None,
    ) -> None:
        """Reserve the chardev; input and events begin soon.  From either thread.

        `receive` gets no more bytes than were granted.  `is_open` is what query-chardev shows as frontend-open;
        `call_later` is the loop's, except in tests.
        GenericError: the chardev has a user.
        """
        self._port = chardev.attach()
        self._mailboxes = mailboxes
        self._receive = receive
        self._event = event
        self._on_writable = on_writable
        self._call_later = call_later
        self._closed = False
        # machine thread writes, loop reads
        self._out: deque[bytes] = deque()
        self._out_scheduled = False
        self._written = 0
        self._waiting = False
        self._granted = 0
        self._grant_scheduled = False
        # loop writes, machine thread reads
        self._in: deque[bytes | ChardevEvent] = deque()
        self._in_scheduled = False
        self._passed_on = 0
        self._granted_seen = 0
        self._left = 0
        mailboxes.send(self._start, is_open)

    # -- the device's side: machine thread -----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes.  Nothing is refused, but a device should look at `writable` first."""
        if data and not self._closed:
            self._out.append(data)
            self._written += len(data)
            if not self._out_scheduled:
                self._out_scheduled = True
                self._mailboxes.send(self._pass_out)

    @property
    def in_flight(self) -> int:
        """How many written bytes the outside has not taken."""
        return self._written - self._left

    @property
    def writable(self) -> bool:
        """Whether few enough bytes are in flight; when not, `on_writable` will be called."""
        if self.in_flight < HIGH_WATER:
            return True
        self._waiting = True
        return self.in_flight < HIGH_WATER  # the loop may have looked before it could know that we wait

    def grant(self, count: int) -> None:
        """Take `count` more bytes of input."""
        if count > 0 and not self._closed:
            self._granted += count
            if not self._grant_scheduled:
                self._grant_scheduled = True
                self._mailboxes.send(self._pass_grant)

    def set_open(self, is_open: bool) -> None:
        """Say whether the guest listens, for query-chardev."""
        self._mailboxes.send(self._port.set_open, is_open)

    def close(self) -> None:
        """Leave the chardev to others; what was written before still leaves."""
        if not self._closed:
            self._closed = True
            self._mailboxes.send(self._detach)

    def _pass_in(self) -> None:
        """Hand the device what came, on its thread."""
        self._in_scheduled = False
        pieces: list[bytes] = []
        while self._in:
            item = self._in.popleft()
            if isinstance(item, bytes):
                pieces.append(item)
                continue
            self._hand_over(pieces)
            if self._event is not None and not self._closed:
                self._event(item)
        self._hand_over(pieces)

    def _hand_over(self, pieces: list[bytes]) -> None:
        """Give the device bytes that came one after another."""
        if pieces and not self._closed:
            self._receive(b"".join(pieces))
        pieces.clear()

    def _wake_writer(self) -> None:
        """Tell the device that there is room, on its thread."""
        if self._on_writable is not None and not self._closed:
            self._on_writable()

    # -- the outside: event loop -----------------------------------------------------------------------------------------

    def _start(self, is_open: bool) -> None:
        """Begin to receive."""
        if self._call_later is None:
            self._call_later = asyncio.get_running_loop().call_later
        self._port.start(
            self._received,
            self._happened,
            self._update_left,
            gather=self._take_out,
            credit=0,
            is_open=is_open,
            can_change=True,
        )

    def _detach(self) -> None:
        """The device is gone."""
        self._take_out()
        self._port.detach()

    def _pass_grant(self) -> None:
        """Pass on what the device granted."""
        self._grant_scheduled = False
        granted = self._granted
        more, self._granted_seen = granted - self._granted_seen, granted
        self._port.grant(more)

    def _pass_out(self) -> None:
        """Pass on what the device wrote, and look again in a while; when there was nothing, wait to be called."""
        if not self._take_out():
            self._out_scheduled = False
            if not self._out:  # the device may have written before it could know that we do not look
                return
            self._out_scheduled = True
            self._take_out()
        assert self._call_later is not None
        self._call_later(GATHER_TIME, self._pass_out)

    def _take_out(self) -> bool:
        """Pass on what the device wrote; whether it wrote anything."""
        out = self._out
        if not out:
            return False
        data = out.popleft() if len(out) == 1 else b"".join([out.popleft() for _ in range(len(out))])
        self._passed_on += len(data)
        self._port.write(data)
        self._update_left()
        return True

    def _update_left(self) -> None:
        """Count what has left; a device that waits is told when there is room."""
        # Other users of a multiplexer count too: their bytes are before ours.
        self._left = max(self._left, self._passed_on - self._port.pending)
        if self._waiting and self.in_flight < HIGH_WATER:
            self._waiting = False
            self._mailboxes.post(self._wake_writer)

    def _received(self, data: bytes) -> None:
        """Input for the device."""
        self._in.append(data)
        self._schedule_in()

    def _happened(self, event: ChardevEvent) -> None:
        """An event for the device, in its place among the input."""
        if self._event is not None:
            self._in.append(event)
            self._schedule_in()

    def _schedule_in(self) -> None:
        """Ring the machine, once a burst."""
        if not self._in_scheduled:
            self._in_scheduled = True
            self._mailboxes.post(self._pass_in)
