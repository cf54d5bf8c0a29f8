"""The NBD server: who listens, and the clients that come.

    server = NbdServer(exports, listener, max_connections=100, handshake_seconds=10)
    server.stop_listening()
    await server.close()            # all clients are disconnected

A client that is one too many waits, unaccepted, until another has gone.  One that does not end its handshake in time is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from qemud.block.nbd.connection import Connection
from qemud.block.nbd.handshake import BadClient, negotiate
from qemud.block.nbd.wire import Wire
from qemud.logs import Logger
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from qemud.block.nbd.exports import Exports, NbdExport
    from qemud.chardev.address import Listener
    from qemud.chardev.tls import Protection

log = Logger("nbd")


class NbdServer:
    """See the module."""

    def __init__(
        self,
        exports: Exports,
        listener: Listener,
        *,
        max_connections: int,
        handshake_seconds: int,
        protection: Protection | None,
    ) -> None:
        self.max_connections = max_connections
        self._exports = exports
        self._listener = listener
        self._handshake_seconds = handshake_seconds or None
        self._protection = protection
        self._clients: dict[asyncio.Task[None], Wire] = {}
        self._listening = False
        self._closed = False
        self._watch()

    # As `Server` of the handshake.

    @property
    def encrypts(self) -> bool:
        """Whether clients must use TLS."""
        return self._protection is not None

    def exports(self) -> Iterable[NbdExport]:
        """What there is."""
        return [export for export in self._exports.all.values() if not export.shutting_down]

    def find(self, name: str) -> NbdExport | None:
        """The export of that name."""
        return self._exports.find_by_name(name)

    async def secure(self, wire: Wire) -> None:
        """Shake hands over TLS and see who it is.  GenericError: it failed."""
        assert self._protection is not None
        await wire.start_tls(self._protection)

    # Listening.

    def _watch(self) -> None:
        """Listen exactly while another client may come."""
        wanted = not self._closed and (not self.max_connections or len(self._clients) < self.max_connections)
        if wanted == self._listening:
            return
        self._listening = wanted
        loop = asyncio.get_running_loop()
        for sock in self._listener.sockets:
            if wanted:
                loop.add_reader(sock, self._accept, sock)
            else:
                loop.remove_reader(sock)

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError:  # it has gone again, or there are no descriptors: it will be tried again
            return
        wire = Wire(sock)
        task = asyncio.get_running_loop().create_task(self._serve(wire))
        self._clients[task] = wire
        task.add_done_callback(self._gone)
        self._watch()

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._clients.pop(task).close()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a client of the NBD server was dropped", error=repr(error))
        self._watch()

    async def _serve(self, wire: Wire) -> None:
        try:
            async with asyncio.timeout(self._handshake_seconds):
                session = await negotiate(wire, self)
        except (EOFError, OSError):  # with it TimeoutError: whoever says nothing is not worth a word
            return
        except (BadClient, GenericError) as error:
            log.warning("a client of the NBD server was refused", reason=str(error))
            return
        if session is None or session.export.shutting_down:
            return
        export = session.export
        export.wires.add(wire)
        try:
            await Connection(wire, session).serve()
        except BadClient as error:
            log.warning("a client of the NBD server was dropped", export=export.name, reason=str(error))
        finally:
            export.wires.discard(wire)
            self._exports.settle(export)

    # Ending.

    def stop_listening(self) -> None:
        """Nobody else can come."""
        self._closed = True
        self._watch()
        self._listener.close()

    async def close(self) -> None:
        """Disconnect all clients, and wait until their requests are over."""
        if not self._closed:
            self.stop_listening()
        tasks = list(self._clients)
        for task in tasks:
            self._clients[task].shut()
        if tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(tasks)
        if self._protection is not None:
            self._protection.release()
