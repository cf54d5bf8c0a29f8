"""Servers to be a client of: a scripted one in the same loop, real emulators, and a wire that can be cut."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from qemud.client import Client
from tests.programs import Program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 99}, "package": "fake"}, '
    b'"capabilities": ["oob"]}}\r\n'
)


def run(test: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(limited())


class FakeServer:
    """The other end of a client's socket, moved by the test."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._data = b""

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def receive(self) -> Any:
        while b"\n" not in self._data:
            data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 16)
            if not data:
                raise EOFError
            self._data += data
        line, _, self._data = self._data.partition(b"\n")
        return json.loads(line)

    async def serve(self, returns: Any, **more: Any) -> Any:
        """Answer the next command; the command."""
        request = await self.receive()
        await self.send(json.dumps({"return": returns, "id": request["id"], **more}).encode() + b"\r\n")
        return request


@asynccontextmanager
async def faked(*, numbered: bool = False) -> AsyncIterator[tuple[Client, FakeServer]]:
    """A client of a server that the test plays; `numbered` if it offers `event-replay`, with no event so far."""
    ours, theirs = socket.socketpair()
    with closing(theirs):
        server = FakeServer(theirs)
        connecting = asyncio.ensure_future(_await(Client.connect(ours)))
        await server.send(GREETING.replace(b'["oob"]', b'["oob", "event-replay"]') if numbered else GREETING)
        await server.serve({})
        if numbered:
            await server.serve({"instance": "one", "last": 0, "lost": 0, "events": []})
        client = await connecting
        async with client:
            yield client, server


async def _await(connecting: Any) -> Client:
    client: Client = await connecting
    return client


@contextmanager
def emulator(
    program: str, *arguments: str, given: socket.socket | None = None
) -> Iterator[tuple[Program, str]]:
    """A running emulator, and the address of a monitor that nobody uses yet: at `given`, or in the file system."""
    with TemporaryDirectory() as folder, given or socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(folder, "qmp"))
        if listener.family == socket.AF_UNIX:
            listener.bind(address)
        else:
            address = "tcp:{}:{}".format(*listener.getsockname())
        listener.listen()
        number = listener.fileno()
        chardev = f"socket,id=client,fd={number},server=on,wait=off"
        words = ["-chardev", chardev, "-mon", "chardev=client,mode=control", *arguments]
        with Program(program, *words, pass_fds=[number]) as running:
            yield running, address


class Wire:
    """A relay between a client and a server's socket, which can be cut."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.open = True
        """Whether connections are passed on; else they are cut at once."""
        self.lifetimes: Iterator[int] | None = None
        """After how many bytes from the server each further connection is cut, wherever in a message that is."""
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self.connections = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, server: str) -> AsyncIterator[tuple[Wire, str]]:
        wire = cls(server)
        with TemporaryDirectory() as folder:
            address = str(Path(folder, "wire"))
            listener = await asyncio.start_unix_server(wire._serve, address)
            try:
                yield wire, address
            finally:
                listener.close()
                wire.cut()
                await asyncio.gather(*wire._pumps, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.transport.abort()
            return
        there, back = await asyncio.open_unix_connection(self.server)
        self.connections += 1
        self._writers += [writer, back]
        life = None if self.lifetimes is None else next(self.lifetimes)
        for source, target, bounded in ((reader, back, None), (there, writer, life)):
            task = asyncio.ensure_future(self._pump(source, target, bounded))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, life: int | None
    ) -> None:
        try:
            while data := await source.read(1 << 16 if life is None else min(life, 1 << 16)):
                target.write(data)
                await target.drain()
                if life is not None:
                    life -= len(data)
        except OSError:
            pass
        finally:
            target.close()
