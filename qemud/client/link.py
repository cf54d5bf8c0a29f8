"""One connection to a server: negotiation, commands under way and their replies.

    link = Link(sock, on_event, on_end)
    await link.open(enable={"oob"})
    value = await link.execute("query-status", None)

Commands are sent in the order of the calls and known by their ids; replies may come in any order.  A reply that nobody waits for is
logged and forgotten: whoever asked was cancelled, or the server errs.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from qemud.client.errors import ClientError, ConnectError, ConnectionLost, ProtocolError
from qemud.client.messages import Messages
from qemud.client.transport import Transport
from qemud.qapi.runtime import errors

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Sequence

log = logging.getLogger("qemud.client")

_ERRORS: dict[str, type[errors.QmpError]] = {
    kind.error_class: kind
    for kind in (
        errors.GenericError,
        errors.CommandNotFound,
        errors.DeviceNotActive,
        errors.DeviceNotFound,
        errors.KVMMissingCap,
    )
}


class Link:
    """A connection.  `on_event(message)` gets each event, `on_end(error)` is called once when the connection has ended."""

    def __init__(
        self,
        sock: socket.socket,
        on_event: Callable[[dict[str, Any]], None],
        on_end: Callable[[Link, ClientError], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._on_event = on_event
        self._on_end = on_end
        self._messages = Messages()
        self._pending: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._number = 0
        self._greeting: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.end: ClientError | None = None
        """Why the connection has ended."""
        self.version: dict[str, Any] = {}
        self.offered: list[str] = []
        """What the greeting says."""
        self.enabled: frozenset[str] = frozenset()
        """What was negotiated."""
        self._transport = Transport(sock, self._receive, self._ended)

    async def open(self, enable: Collection[str]) -> None:
        """Wait for the greeting and enable what is offered of `enable`.  ConnectError: it is no QMP server."""
        try:
            greeting = await self._greeting
        except ClientError as error:
            raise ConnectError(f"no QMP server: {error}") from None
        try:
            self.version = greeting["version"]
            self.offered = [str(name) for name in greeting["capabilities"]]
        except (KeyError, TypeError):
            self.close()
            raise ConnectError(f"no QMP server: its greeting is {greeting}") from None
        wanted = [name for name in self.offered if name in enable]
        await self.execute("qmp_capabilities", {"enable": wanted} if wanted else None)
        self.enabled = frozenset(wanted)

    async def execute(self, name: str, arguments: Any, *, fds: Sequence[int] = (), oob: bool = False) -> Any:
        """Run a command; what it returns, as JSON has it.  QmpError, ConnectionLost."""
        if self.end is not None:
            raise ConnectionLost(f"'{name}' was not sent: {self.end}")
        self._number += 1
        request: dict[str, Any] = {"exec-oob" if oob else "execute": name, "id": self._number}
        if arguments:
            request["arguments"] = arguments
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[self._number] = name, future
        self._transport.write(msgspec.json.encode(request) + b"\r\n", fds)
        return await future

    def close(self) -> None:
        """End the connection."""
        self._finish(ConnectionLost("the client was closed"))

    # What comes

    def _receive(self, data: bytes) -> None:
        try:
            for message in self._messages.feed(data):
                if self.end is None:
                    self._take(message)
        except ProtocolError as error:
            self._finish(error)

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._on_event(message)
        elif "QMP" in message:
            if self._greeting.done():
                raise ProtocolError("the server sent a second greeting")
            if not isinstance(message["QMP"], dict):
                raise ProtocolError(f"the server's greeting is {message}")
            self._greeting.set_result(message["QMP"])
        elif "return" in message or "error" in message:
            self._settle(message)
        else:
            raise ProtocolError(f"the server sent a message of no known kind, with {sorted(message)}")

    def _settle(self, message: dict[str, Any]) -> None:
        identity = message.get("id")
        if "error" in message and identity is None:
            raise ProtocolError(f"the server did not understand a command: {message['error']}")
        name, future = "", None
        if type(identity) is int:
            name, future = self._pending.get(identity, ("", None))
        if future is None:
            log.warning("a reply to no command, id %r", identity)
        elif future.done():
            log.debug("a reply to '%s', which was cancelled", name)
        elif "error" in message:
            error = message["error"]
            if not isinstance(error, dict) or not all(isinstance(text, str) for text in error.values()):
                raise ProtocolError(f"the server answered '{name}' with an error of no known form: {error}")
            kind = _ERRORS.get(error.get("class", ""), errors.GenericError)
            future.set_exception(kind(error.get("desc", "no reason given")))
        else:
            future.set_result(message.get("return"))
        if future is not None:
            del self._pending[message["id"]]

    def _ended(self, error: OSError | None) -> None:
        if error is not None:
            self._finish(ConnectionLost(f"the connection failed: {error.strerror or error}"))
        elif self._messages.midway:
            self._finish(ConnectionLost("the server closed the connection in the middle of a message"))
        else:
            self._finish(ConnectionLost("the server closed the connection"))

    def _finish(self, error: ClientError) -> None:
        if self.end is not None:
            return
        self.end = error
        self._transport.close()
        if not self._greeting.done():
            self._greeting.set_exception(error)
            self._greeting.exception()  # nobody may be waiting any more
        for name, future in self._pending.values():
            if not future.done():
                future.set_exception(ConnectionLost(f"'{name}' was not answered: {error}"))
        self._pending.clear()
        self._on_end(self, error)
