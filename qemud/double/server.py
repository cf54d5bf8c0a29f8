"""All connections of the double: what they share, where they come in, how it ends."""

from __future__ import annotations

import asyncio
import signal
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from qemud._generated.client.references import RETURNS
from qemud._generated.table import COMMANDS
from qemud._generated.types.char_backends import ChardevBackendSocket
from qemud._generated.types.sockets import FdSocketAddress
from qemud.chardev.address import Listener, connect, flatten, inherited_fd, listen
from qemud.chardev.options import parse_compact
from qemud.double.plausible import plausible
from qemud.double.player import Player
from qemud.qapi.runtime.check import checker, parse_arguments
from qemud.qapi.runtime.errors import CommandNotFound, GenericError
from qemud.qapi.runtime.table import holds
from qemud.qapi.runtime.wire import to_wire

if TYPE_CHECKING:
    from qemud.double.scenario import Scenario
    from qemud.monitor.qmp.envelope import Request
    from qemud.monitor.qmp.session import Session


class Server:
    """The double."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.players: set[Player] = set()
        self._connections = 0
        self._calls: dict[str, int] = {}
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._results: dict[str, Any] = {}

    # What the players ask

    def count_connection(self) -> int:
        """The number of a new connection, from 1."""
        self._connections += 1
        return self._connections

    def count_call(self, name: str) -> int:
        """The number of a new call of a command, from 1."""
        self._calls[name] = self._calls.get(name, 0) + 1
        return self._calls[name]

    def result(self, session: Session, request: Request, *, first: bool) -> Any:
        """What a command returns: a JSON value, or the text of one.  QmpError: its arguments are wrong, or it does not exist.

        `first` is whether it has not been answered yet.
        """
        name = request.name
        info = COMMANDS.get(name)
        if info is None or not holds(info.condition, checker.defined):
            if name in self.scenario.answers:
                return self.scenario.answers[name]
            raise CommandNotFound(f"The command {name} has not been found")
        if request.oob and not info.allow_oob:
            raise GenericError(f"The command {name} does not support OOB")
        arguments = parse_arguments(name, request.arguments)
        if name == "qmp_capabilities" and first:
            session.negotiate([capability.value for capability in arguments["enable"] or []])
        if name in self.scenario.answers:
            return self.scenario.answers[name]
        if name not in self._results:
            self._results[name] = self._make_result(name)
        return self._results[name]

    def _make_result(self, name: str) -> Any:
        match name:
            case "query-version":
                return to_wire(self.scenario.version)
            case "query-commands":
                known = [info.name for info in COMMANDS.values() if holds(info.condition, checker.defined)]
                return [{"name": command} for command in sorted({*known, *self.scenario.answers})]
            case "query-qmp-schema":
                return files("qemud._generated").joinpath(f"introspection-{checker.target}.json").read_bytes()
            case _:
                reference = RETURNS.get(name)
                return {} if reference is None else plausible(reference)

    def end(self, status: int) -> None:
        """End the double."""
        if not self._ended.done():
            self._ended.set_result(status)

    # Its life

    async def serve(self, addresses: list[str]) -> int:
        """Serve clients until the end; the exit status.  GenericError: an address is wrong or taken."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end, 0)
        listeners: list[Listener] = []
        servers: list[asyncio.Server] = []
        try:
            for address in addresses:
                await self._open(address, listeners, servers)
            return await self._ended
        finally:
            for server in servers:
                server.close()
            for listener in listeners:
                listener.close()
            players = list(self.players)
            for player in players:
                player.hang_up()
            await asyncio.sleep(0)  # what they still say leaves now, as far as sockets take it

    async def _open(self, text: str, listeners: list[Listener], servers: list[asyncio.Server]) -> None:
        if text.startswith("fd:"):
            where: Any = FdSocketAddress(str=text.removeprefix("fd:"))
            listens = True
        else:
            backend = parse_compact(text).backend
            if not isinstance(backend, ChardevBackendSocket):
                raise GenericError(f"'{text}' is no socket, expected unix:PATH, tcp:HOST:PORT or fd:NUMBER")
            where = flatten(backend.data.addr)
            # Unlike an emulator's, a double's sockets listen unless told otherwise.
            said = any(word.partition("=")[0] == "server" for word in text.split(",")[1:])
            listens = backend.data.server or not said
        loop = asyncio.get_running_loop()
        if not listens:
            await loop.connect_accepted_socket(lambda: Player(self), await connect(where, inherited_fd))
            return
        listener = await listen(where, inherited_fd)
        listeners.append(listener)
        servers += [await loop.create_server(lambda: Player(self), sock=sock) for sock in listener.sockets]
