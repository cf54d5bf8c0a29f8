"""Events for all clients: time stamps, and the rate limits that keep a guest from flooding them.

    events = Events(call_later=loop.call_later)
    events.subscribe(monitor.send_event)
    events.emit("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})

Events that a guest can cause at will are limited to one a second: the first is sent at once; of those that follow
within the second only the last is kept, and sent when the second is over.  Some are limited for each device by itself.

Source: QEMU 10.0, docs/interop/qmp-spec.rst, section "Asynchronous events"; monitor/monitor.c (which, and by what).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from qemud.monitor.qmp import envelope

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

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


class Events:
    """Where events enter; used on the event loop only.

    `now_ns` gives the host's time in ns since 1970.
    """

    def __init__(self, call_later: CallLater, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._call_later = call_later
        self._now_ns = now_ns
        self._subscribers: list[Callable[[str, bytes], None]] = []
        self._waiting: dict[
            tuple[str, Any], bytes | None
        ] = {}  # keys within their second, and the last event since

    def subscribe(self, send: Callable[[str, bytes], None]) -> None:
        """Have `send(name, line)` called for each event."""
        self._subscribers.append(send)

    def unsubscribe(self, send: Callable[[str, bytes], None]) -> None:
        """End what `subscribe` began."""
        self._subscribers.remove(send)

    def emit(self, name: str, data: dict[str, Any] | None) -> None:
        """Send an event to all subscribers, now or when its rate allows."""
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
        for send in tuple(self._subscribers):
            send(name, line)
