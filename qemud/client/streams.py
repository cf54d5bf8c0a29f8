"""Events for whoever waits for them: streams with filters.

    with qmp.events(ShutdownEvent, "DEVICE_DELETED") as events:
        await qmp.device_del(id="disk0")
        async for event in events:
            ...

A stream holds what came since it was made, so make it before you cause what you wait for.  It ends (the iteration stops) when the
client is closed, raises ConnectionLost when the connection ended by itself, and EventsLost where events are missing; after
EventsLost it goes on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from qemud._generated.client.events import EVENTS
from qemud._generated.client.references import EVENT_DATA
from qemud.client.decode import decoder
from qemud.client.errors import ClientError, EventsLost, ProtocolError, UnexpectedReply
from qemud.qapi.names import event_attribute
from qemud.qapi.runtime.calls import Event

if TYPE_CHECKING:
    from collections.abc import Callable

E = TypeVar("E", bound=Event)

DEFAULT_LIMIT: Final = 10_000
"""How many events a stream holds for who does not read it."""


def decode_event(message: dict[str, Any]) -> Event:
    """The typed event that a message is, an `Event` for one that the schema does not know or that is otherwise.

    ProtocolError: it has not the form of an event.
    """
    name, data, when = message["event"], message.get("data", {}), message.get("timestamp", {})
    sequence = message.get("sequence")
    try:
        timestamp = when.get("seconds", -1) + when.get("microseconds", 0) / 1_000_000
    except (AttributeError, TypeError, OverflowError):
        timestamp = None
    if not isinstance(name, str) or not isinstance(data, dict) or timestamp is None:
        raise ProtocolError(f"the server sent an event of no known form: {message}")
    kind = EVENTS.get(name)
    if kind is not None:
        event = kind(name, timestamp, data, sequence)
        if name not in EVENT_DATA:
            return event
        reference, boxed = EVENT_DATA[name]
        try:
            if boxed:
                event.arg = decoder.decode(reference, data, name)  # type: ignore[attr-defined]  # its class has it
            else:
                for member, value in decoder.members(reference, data, name).items():
                    setattr(event, event_attribute(member), value)
        except UnexpectedReply:
            pass  # another server's event of the same name
        else:
            return event
    return Event(name, timestamp, data, sequence)


class EventStream(Generic[E]):
    """Events of some kinds in the order in which they came; see the module.  Made by `Client.events`."""

    def __init__(
        self,
        names: frozenset[str],
        where: Callable[[E], bool] | None,
        limit: int,
        on_close: Callable[[EventStream[Any]], None],
    ) -> None:
        self._names = names
        self._where = where
        self._limit = limit
        self._on_close = on_close
        self._items: deque[E | Exception] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._end: ClientError | None = None
        self._closed = False
        self._dropped = 0  # events that came before all that is held

    async def get(self, timeout: float | None = None) -> E:  # noqa: ASYNC109 - the usual word for it
        """The next event.  TimeoutError; EventsLost; ConnectionLost; StopAsyncIteration at the end of a closed stream."""
        if not self._items:
            async with asyncio.timeout(timeout):
                while not self._items and not self._closed:
                    if self._waiter is not None:
                        raise RuntimeError("two tasks wait at one stream of events")
                    self._waiter = asyncio.get_running_loop().create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
        if self._dropped:
            count, self._dropped = self._dropped, 0
            raise EventsLost(count, "they were not read in time")
        if self._items:
            item = self._items.popleft()
            if isinstance(item, Exception):
                raise item
            return item
        raise self._end if self._end is not None else StopAsyncIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        return await self.get()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Take no more events; what is held can still be read."""
        self._on_close(self)
        self.finish(None)

    # What the client calls

    def push(self, event: Any) -> None:
        """Take an event, if it is of the kinds wanted."""
        if self._names and event.event not in self._names:
            return
        if self._where is not None:
            try:
                wanted = self._where(event)
            except Exception as error:  # noqa: BLE001 - it is the reader's own, who gets it
                event, wanted = error, True
            if not wanted:
                return
        if len(self._items) >= self._limit:
            oldest = self._items.popleft()
            self._dropped += (oldest.count or 1) if isinstance(oldest, EventsLost) else 1
        self._items.append(event)
        self._wake()

    def lost(self, error: EventsLost) -> None:
        """Events are missing here."""
        self._items.append(error)
        self._wake()

    def finish(self, error: ClientError | None) -> None:
        """No more events will come, because of `error`."""
        if not self._closed:
            self._closed = True
            self._end = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
