"""Events for all clients: time stamps, and the rate limits that keep a guest from flooding them.

    events = Events(call_later=loop.call_later)
    events.subscribe(monitor.send_event)
    events.emit("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})

Events that a guest can cause at will are limited to one a second: the first is sent at once; of those that follow
within the second only the last is kept, and sent when the second is over.  Some are limited for each device by itself.

What is sent is numbered and kept for a while, for clients that come back: `history`.

Source: QEMU 10.0, docs/interop/qmp-spec.rst, section "Asynchronous events"; monitor/monitor.c (which, and by what).
"""

from __future__ import annotations

import os
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from qemud.logs import trace, traced
from qemud.monitor.qmp import envelope

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from qemud.qapi.runtime.policy import Policy

    class CallLater(Protocol):
        """`asyncio.AbstractEventLoop.call_later`, as far as it is needed."""

        def __call__(self, delay: float, callback: Callable[..., object], /, *args: Any) -> object:
            """Call `callback(*args)` after `delay` seconds."""


RATE_SECONDS: Final = 1.0

# Name of the event: the member that tells apart what is limited by itself, or None.
RATE_LIMITED: Final[dict[str, str | None]] = {
    "BALLOON_CHANGE": None,
    "BLOCK_IO_ERROR": "qom-path",
    "HV_BALLOON_STATUS_REPORT": None,
    "MEMORY_DEVICE_SIZE_CHANGE": "qom-path",
    "QUORUM_FAILURE": None,
    "QUORUM_REPORT_BAD": "node-name",
    "RTC_CHANGE": None,
    "VSERPORT_CHANGE": "id",
    "WATCHDOG": None,
}


MAX_HISTORY_EVENTS: Final = 1024
MAX_HISTORY_BYTES: Final = 1 << 20


class History:
    """The last events that were sent, by number; the first of all is number 1."""

    __slots__ = ("_lines", "_size", "instance", "last")

    def __init__(self) -> None:
        self.instance = os.urandom(8).hex()
        """Tells this history from that of another process."""
        self.last = 0
        """The number of the last event."""
        self._lines: deque[bytes] = deque()
        self._size = 0

    def add(self, line: bytes) -> int:
        """Number an event and keep it; the oldest ones make room."""
        self.last += 1
        self._lines.append(line)
        self._size += len(line)
        while len(self._lines) > MAX_HISTORY_EVENTS or self._size > MAX_HISTORY_BYTES:
            self._size -= len(self._lines.popleft())
        return self.last

    def since(self, number: int) -> list[tuple[int, bytes]]:
        """The events behind the given one that are still kept, each with its number."""
        first = self.last - len(self._lines) + 1
        skipped = max(number + 1 - first, 0)
        return list(enumerate(islice(self._lines, skipped, None), first + skipped))


class Events:
    """Where events enter; used on the event loop only.

    `now_ns` gives the host's time in ns since 1970.
    """

    def __init__(self, call_later: CallLater, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._call_later = call_later
        self._now_ns = now_ns
        self.history = History()
        self.policy: Policy | None = None
        """What to do with events that are deprecated or unstable, and with such members of their data."""
        self._subscribers: list[Callable[[str, bytes, int], None]] = []
        self._waiting: dict[
            tuple[str, Any], bytes | None
        ] = {}  # keys within their second, and the last event since

    def subscribe(self, send: Callable[[str, bytes, int], None]) -> None:
        """Have `send(name, line, number)` called for each event."""
        self._subscribers.append(send)

    def unsubscribe(self, send: Callable[[str, bytes, int], None]) -> None:
        """End what `subscribe` began."""
        self._subscribers.remove(send)

    def emit(self, name: str, data: dict[str, Any] | None) -> None:
        """Send an event to all subscribers, now or when its rate allows."""
        if self.policy is not None:
            from qemud._generated.results import EVENTS
            from qemud.qapi.runtime.check import checker

            features, reference = EVENTS[name]
            if self.policy.hides(features):
                return
            data = self.policy.shown(checker, reference, data)
        seconds, nanoseconds = divmod(self._now_ns(), 1_000_000_000)
        line = envelope.event(name, data, seconds, nanoseconds // 1000)
        if name not in RATE_LIMITED or (name == "BLOCK_IO_ERROR" and data and data.get("action") == "stop"):
            # A machine stopped by an error causes no more of them, and its manager must see every one.
            self._send(name, line)
            return
        member = RATE_LIMITED[name]
        key = (name, data.get(member) if member and data else None)
        if key in self._waiting:
            self._waiting[key] = line
        else:
            self._waiting[key] = None
            self._send(name, line)
            self._call_later(RATE_SECONDS, self._second_over, key)

    def _second_over(self, key: tuple[str, Any]) -> None:
        line = self._waiting[key]
        if line is None:
            del self._waiting[key]
        else:
            self._waiting[key] = None
            self._send(key[0], line)
            self._call_later(RATE_SECONDS, self._second_over, key)

    def _send(self, name: str, line: bytes) -> None:
        if "monitor_protocol_event_emit" in traced:
            trace("monitor_protocol_event_emit", name=name)
        number = self.history.add(line)
        for send in tuple(self._subscribers):
            send(name, line, number)
