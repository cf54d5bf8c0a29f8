"""The client: typed commands, streams of events, and a connection that comes back.

An instance outlives its connections when `reconnect` is given.  Commands under way when one ends raise ConnectionLost (whether they
were carried out nobody knows); those called meanwhile wait for the next.  Streams of events go on without a gap where the server has
the capability `event-replay`; where it has not, or has forgotten, they raise EventsLost once.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, overload

from qemud._generated.client.commands import Commands
from qemud._generated.client.references import RETURNS
from qemud.client import address as addresses
from qemud.client.decode import decoder
from qemud.client.encode import encode
from qemud.client.errors import ClientError, ConnectError, ConnectionLost, EventsLost, UnexpectedReply
from qemud.client.link import Link
from qemud.client.streams import DEFAULT_LIMIT, EventStream, decode_event
from qemud.qapi.runtime.calls import Event
from qemud.qapi.runtime.errors import QmpError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator, Iterable, Sequence

    from qemud._generated.types.control import EventReplay, VersionInfo

log = logging.getLogger("qemud.client")

E = TypeVar("E", bound=Event)


class Reconnect(NamedTuple):
    """How to come back: the first try after `delay` seconds, then each time after twice as long, up to `longest`.

    After `tries` in vain the client gives up; None is never.
    """

    delay: float = 0.05
    longest: float = 5.0
    tries: int | None = None


class Client(Commands):
    """A client of one QMP server; see `qemud.client`.  Made by `Client.connect`."""

    def __init__(
        self, place: str | socket.socket, enable: frozenset[str], reconnect: Reconnect | None, limit: float
    ) -> None:
        self._place = place
        self._enable = enable
        self._reconnect = reconnect if isinstance(place, str) else None
        self._limit = limit
        self._link: Link | None = None
        self._newest: Link | None = None  # which may not be open yet
        self._streams: list[EventStream[Any]] = []
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end: ClientError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # Numbered events: the last one delivered, of which run of the server, and what waits until those before it are there.
        self._last: int | None = None
        self._instance = ""
        self._held: list[dict[str, Any]] | None = None

    @classmethod
    def connect(
        cls,
        place: str | socket.socket,
        *,
        oob: bool = False,
        replay: bool = True,
        reconnect: Reconnect | bool = False,
        greeting_timeout: float = 30.0,
    ) -> Connecting:
        """Connect: `async with Client.connect("unix:/run/vm.qmp") as qmp`, or `qmp = await Client.connect(…)`.

        `place` is an address (`qemud.client.address`) or a connected socket, which the client owns then.  `oob` enables
        out-of-band commands and `replay` the numbering of events, if the server offers them.  ConnectError: nobody is there, or no
        greeting comes within `greeting_timeout` seconds.
        """
        enable = frozenset([*(["oob"] if oob else []), *(["event-replay"] if replay else [])])
        back = Reconnect() if reconnect is True else reconnect or None
        return Connecting(lambda: cls(place, enable, back, greeting_timeout))

    # --- what is known of the server

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link is not None

    @property
    def version(self) -> VersionInfo:
        """The server's version, as its greeting has it."""
        version: VersionInfo = decoder.decode("VersionInfo", self._now().version, "version")
        return version

    @property
    def offered(self) -> list[str]:
        """The capabilities that the server offers."""
        return self._now().offered

    @property
    def enabled(self) -> frozenset[str]:
        """The capabilities that are in use."""
        return self._now().enabled

    # --- commands

    async def execute(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        fds: Sequence[int] = (),
        timeout: float | None = None,  # noqa: ASYNC109 - the usual word for it
        oob: bool = False,
    ) -> Any:
        """Run a command by name, known to the schema or not; what it returns, as JSON has it.

        `fds` are descriptors that go with it; `timeout` is in seconds; `oob` runs it out of band.  A command that is cancelled or
        times out here still runs there.  QmpError: the server's answer; TimeoutError; ConnectionLost.
        """
        async with asyncio.timeout(timeout):
            link = await self._connected()
            return await link.execute(name, encode(arguments), fds=fds, oob=oob)

    def using(
        self,
        *,
        fds: Sequence[int] = (),
        timeout: float | None = None,
        oob: bool = False,
    ) -> Commands:
        """The typed commands, called with these options: `await qmp.using(fds=[fd]).getfd(fdname="tap0")`."""
        return _Using(self, fds, timeout, oob)

    async def _call(self, name: str, arguments: Any = None) -> Any:
        return _typed(name, await self.execute(name, arguments))

    async def _connected(self) -> Link:
        while self._link is None:
            if self._end is not None:
                raise ConnectionLost(str(self._end))
            await asyncio.shield(self._changed)
        return self._link

    def _now(self) -> Link:
        if self._link is None:
            raise ConnectionLost(str(self._end) if self._end is not None else "not connected at the moment")
        return self._link

    # --- events

    @overload
    def events(
        self, *, where: Callable[[Event], bool] | None = None, limit: int = DEFAULT_LIMIT
    ) -> EventStream[Event]: ...

    @overload
    def events(
        self, *kinds: type[E], where: Callable[[E], bool] | None = None, limit: int = DEFAULT_LIMIT
    ) -> EventStream[E]: ...

    @overload
    def events(
        self,
        *kinds: type[Event] | str,
        where: Callable[[Event], bool] | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> EventStream[Event]: ...

    def events(
        self, *kinds: Any, where: Callable[[Any], bool] | None = None, limit: int = DEFAULT_LIMIT
    ) -> EventStream[Any]:
        """The events from now on: all, or those of the classes or names `kinds`, for which `where` is true.

        A stream that is not read holds the last `limit` events, and then raises EventsLost first.
        """
        names = frozenset(kind if isinstance(kind, str) else kind.NAME for kind in kinds) - {""}
        stream: EventStream[Any] = EventStream(names, where, limit, self._forget)
        if self._end is not None:
            stream.finish(self._end)
        else:
            self._streams.append(stream)
        return stream

    def _forget(self, stream: EventStream[Any]) -> None:
        if stream in self._streams:
            self._streams.remove(stream)

    def _deliver(self, message: dict[str, Any]) -> None:
        event = decode_event(message)
        for stream in tuple(self._streams):
            stream.push(event)

    def _on_event(self, message: dict[str, Any]) -> None:
        number = message.get("sequence")
        if self._held is not None:
            self._held.append(message)
        elif not isinstance(number, int) or self._last is None:
            self._deliver(message)
        elif number == self._last + 1:
            self._last = number
            self._deliver(message)
        elif number > self._last:  # else it is among those that were replayed
            # The server drops events of a client that is slow to read; it has them still.
            self._held = [message]
            assert self._newest is not None
            self._spawn(self._fill_gap(self._newest))

    async def _fill_gap(self, link: Link) -> None:
        with suppress(ConnectionLost):  # the next connection fills it
            await self._catch_up(link)

    async def _catch_up(self, link: Link) -> None:
        """Ask for the events behind the last that was delivered, deliver them, then those that came meanwhile."""
        if "event-replay" not in link.enabled:
            self._lost(None, "the server does not keep them")
            self._last = None
        else:
            try:
                here = await self._replay(link, None)
                if here.instance == self._instance and self._last is not None:
                    here = await self._replay(link, self._last)
                    if here.lost:
                        self._lost(here.lost, "the server does not keep so many")
                    for record in here.events:
                        self._deliver(encode(record))
                elif self._instance:
                    self._lost(None, "the server is another one now")
                self._instance, self._last = here.instance, here.last
            except (QmpError, UnexpectedReply) as error:
                self._lost(None, str(error))
                self._last = None
        held, self._held = self._held or [], None
        for message in held:
            self._on_event(message)

    async def _replay(self, link: Link, since: int | None) -> EventReplay:
        value = await link.execute("replay-events", None if since is None else {"since": since})
        reply: EventReplay = decoder.decode("EventReplay", value, "replay-events")
        return reply

    def _lost(self, count: int | None, reason: str) -> None:
        for stream in self._streams:
            stream.lost(EventsLost(count, reason))

    # --- connections

    async def open(self) -> None:
        """Make the first connection; `connect` does it."""
        try:
            await self._open(first=True)
        except BaseException as error:
            self._finish(error if isinstance(error, ClientError) else ConnectionLost("never connected"))
            raise

    async def _open(self, *, first: bool) -> None:
        sock = await addresses.connect(self._place) if isinstance(self._place, str) else self._place
        self._held = []
        link = self._newest = Link(sock, self._on_event, self._on_end)
        try:
            try:
                async with asyncio.timeout(self._limit):
                    await link.open(self._enable)
            except TimeoutError:
                raise ConnectError(
                    f"no QMP server: no greeting came within {self._limit:g} seconds"
                ) from None
            if first:
                await self._begin_counting(link)
            else:
                await self._catch_up(link)
        except BaseException:
            link.close()
            raise
        if link.end is not None:
            raise ConnectError(f"no QMP server: {link.end}")
        self._link = link
        self._wake()

    async def _begin_counting(self, link: Link) -> None:
        if "event-replay" in link.enabled:
            here = await self._replay(link, None)
            self._instance, self._last = here.instance, here.last
        # Streams are made when the client is there; what was held came before.
        self._held = None

    def _on_end(self, link: Link, error: ClientError) -> None:
        if link is not self._link:
            return  # it never came to be: whoever opens it is told
        self._link = None
        if self._reconnect is None:
            self._finish(error)
        else:
            log.info("%s; connecting again", error)
            self._spawn(self._come_back(self._reconnect))

    async def _come_back(self, how: Reconnect) -> None:
        delay, tries = how.delay, 0
        while True:
            await asyncio.sleep(delay)
            try:
                await self._open(first=False)
            except (ClientError, QmpError) as error:
                tries += 1
                if how.tries is not None and tries >= how.tries:
                    self._finish(ConnectionLost(f"gave up after {tries} tries: {error}"))
                    return
                log.info("%s", error)
                delay = min(delay * 2, how.longest)
            else:
                return

    def _finish(self, error: ClientError) -> None:
        """There will be no more connections."""
        if self._end is None:
            self._end = error
            self._wake()
            for stream in self._streams:
                stream.finish(error)
            self._streams.clear()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait_closed(self) -> None:
        """Wait until there is no connection and will be none; how that came is no matter here."""
        while self._end is None or self._link is not None:
            await asyncio.shield(self._changed)

    async def close(self) -> None:
        """End the connection.  Commands under way raise ConnectionLost, streams of events end."""
        for stream in self._streams:
            stream.finish(None)
        self._streams.clear()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._finish(ConnectionLost("the client was closed"))
        await asyncio.sleep(0)  # the loop lets go of the socket

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class Connecting:
    """A client to be: awaited, or entered."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._client: Client | None = None

    async def _open(self) -> Client:
        client = self._make()
        await client.open()
        return client

    def __await__(self) -> Generator[Any, None, Client]:
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._open()
        return self._client

    async def __aexit__(self, *exception: object) -> None:
        assert self._client is not None
        await self._client.close()


class _Using(Commands):
    """Typed commands with options."""

    def __init__(self, client: Client, fds: Iterable[int], timeout: float | None, oob: bool) -> None:
        self._client = client
        self._fds = tuple(fds)
        self._timeout = timeout
        self._oob = oob

    async def _call(self, name: str, arguments: Any = None) -> Any:
        value = await self._client.execute(
            name, arguments, fds=self._fds, timeout=self._timeout, oob=self._oob
        )
        return _typed(name, value)


def _typed(name: str, value: Any) -> Any:
    reference = RETURNS.get(name)
    return None if reference is None else decoder.decode(reference, value, name)
