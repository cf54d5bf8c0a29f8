"""What the tests of chardevs share: loops to run on, a user that records, and the other side of each kind."""

from __future__ import annotations

import asyncio
import os
import socket
import tty
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import uvloop

from qemud.chardev.registry import Chardevs
from qemud.chardev.stream import UNLIMITED, ChardevEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from qemud.chardev.stream import Chardev

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def run_on(loop: str, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run on one of `LOOPS`; what hangs fails."""

    async def limited() -> None:
        async with asyncio.timeout(60):
            await coroutine

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(limited())


class User:
    """A user of a chardev that keeps what it is told."""

    def __init__(self, chardev: Chardev | None, *, credit: int = UNLIMITED, can_change: bool = False) -> None:
        self.received = bytearray()
        self.events: list[ChardevEvent] = []
        self.drains = 0
        self._changed = asyncio.Event()
        assert chardev is not None
        self.port = chardev.attach()
        self.port.start(self._receive, self._event, self._drained, credit=credit, can_change=can_change)

    def _receive(self, data: bytes) -> None:
        assert data
        self.received += data
        self._changed.set()

    def _event(self, event: ChardevEvent) -> None:
        self.events.append(event)
        self._changed.set()

    def _drained(self) -> None:
        self.drains += 1
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that a callback brings about."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def until_received(self, size: int) -> None:
        """Wait until there are exactly so many bytes."""
        await self.until(lambda: len(self.received) >= size)
        assert len(self.received) == size

    async def gets(self, data: bytes) -> None:
        """Wait for exactly these bytes, and forget them."""
        await self.until(lambda: len(self.received) >= len(data))
        assert bytes(self.received) == data
        self.received.clear()

    async def sees(self, *events: ChardevEvent) -> None:
        """Wait for these events, and forget them."""
        await self.until(lambda: len(self.events) >= len(events))
        assert tuple(self.events) == events
        self.events.clear()


class Peer:
    """The other side of a chardev, by descriptors."""

    def __init__(self, fd_in: int, fd_out: int) -> None:
        self.fd_in, self.fd_out = fd_in, fd_out
        for fd in {fd_in, fd_out} - {-1}:
            os.set_blocking(fd, False)

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or fewer at the end."""
        data = b""
        while len(data) < size:
            try:
                piece = os.read(self.fd_in, size - len(data))
            except BlockingIOError:
                await self._ready(self.fd_in, asyncio.get_running_loop().add_reader)
                continue
            if not piece:
                break
            data += piece
        return data

    async def write(self, data: bytes) -> None:
        """All of it."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.fd_out, rest) :]
            except BlockingIOError:
                await self._ready(self.fd_out, asyncio.get_running_loop().add_writer)

    def close(self) -> None:
        for fd in {self.fd_in, self.fd_out} - {-1}:
            os.close(fd)
        self.fd_in = self.fd_out = -1

    @staticmethod
    async def _ready(fd: int, watch: Any) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        watch(fd, lambda: None if future.done() else future.set_result(None))
        await future
        loop.remove_reader(fd)
        loop.remove_writer(fd)


class Rig:
    """One kind of chardev and its other side."""

    has_input = True
    reconnects = False
    blocks = True  # a megabyte is more than the kernel keeps for a peer that does not read
    keeps = True  # what the kernel has is not lost when this side closes

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.chardevs = Chardevs(announce=lambda _: None)

    @property
    def options(self) -> str:
        raise NotImplementedError

    async def open(self, more: str = "") -> Chardev:
        self.prepare()
        return await self.chardevs.open_options(f"{self.options},id=c{more}")

    def prepare(self) -> None:
        """Make what must exist before."""

    def close(self) -> None:
        """Close what `prepare` made and nobody used."""

    @property
    def filename(self) -> str:
        """What query-chardev shows, below a multiplexer if there is one."""
        chardev = self.chardevs.get("c-base") or self.chardevs.get("c")
        assert chardev is not None
        return chardev.filename

    async def peer(self) -> Peer:
        raise NotImplementedError


class UnixServer(Rig):
    reconnects = True

    @property
    def options(self) -> str:
        return f"socket,path={self.directory}/s,server=on,wait=off"

    async def peer(self) -> Peer:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{self.directory}/s")
            fd = sock.detach()
        return Peer(fd, fd)


class AbstractServer(UnixServer):
    @property
    def options(self) -> str:
        return f"socket,path={self.directory}/a,abstract=on,server=on,wait=off"

    async def peer(self) -> Peer:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"\0{self.directory}/a")
            fd = sock.detach()
        return Peer(fd, fd)


class TcpServer(Rig):
    reconnects = True
    blocks = False
    host = "127.0.0.1"

    @property
    def options(self) -> str:
        return f"socket,host={self.host},port=0,server=on,wait=off,nodelay=on"

    async def peer(self) -> Peer:
        port = int(self.filename.removesuffix(",server=on").rpartition(":")[2])
        with socket.create_connection((self.host, port)) as sock:
            fd = sock.detach()
        return Peer(fd, fd)


class Tcp6Server(TcpServer):
    host = "::1"


class UnixClient(Rig):
    def prepare(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.directory}/s")
        self.listener.listen(1)

    @property
    def options(self) -> str:
        return f"socket,path={self.directory}/s"

    async def peer(self) -> Peer:
        fd = self.listener.accept()[0].detach()
        return Peer(fd, fd)

    def close(self) -> None:
        self.listener.close()


class ConnectedFd(Rig):
    def prepare(self) -> None:
        self.here, self.there = socket.socketpair()

    @property
    def options(self) -> str:
        return f"socket,fd={self.here.detach()}"

    async def peer(self) -> Peer:
        fd = self.there.detach()
        return Peer(fd, fd)

    def close(self) -> None:
        self.there.close()


class Pty(Rig):
    reconnects = True
    keeps = False

    @property
    def options(self) -> str:
        return "pty"

    async def peer(self) -> Peer:
        fd = os.open(self.filename.removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY)
        tty.setraw(fd)
        return Peer(fd, fd)


class Pipes(Rig):
    def prepare(self) -> None:
        os.mkfifo(f"{self.directory}/p.in")
        os.mkfifo(f"{self.directory}/p.out")

    @property
    def options(self) -> str:
        return f"pipe,path={self.directory}/p"

    async def peer(self) -> Peer:
        return Peer(
            os.open(f"{self.directory}/p.out", os.O_RDONLY | os.O_NONBLOCK),
            os.open(f"{self.directory}/p.in", os.O_WRONLY | os.O_NONBLOCK),
        )


class Fifos(Pipes):
    """Kind `file` over named pipes."""

    @property
    def options(self) -> str:
        return f"file,path={self.directory}/p.out,input-path={self.directory}/p.in"


class File(Rig):
    has_input = False
    blocks = False

    @property
    def options(self) -> str:
        return f"file,path={self.directory}/f"

    async def peer(self) -> Peer:
        return FilePeer(os.open(f"{self.directory}/f", os.O_RDONLY), -1)


class FilePeer(Peer):
    """The end of a file is not the end: more is being written."""

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += os.read(self.fd_in, size - len(data))
            await asyncio.sleep(0)
        return data


RIGS: dict[str, type[Rig]] = {
    "unix-server": UnixServer,
    "abstract-server": AbstractServer,
    "tcp-server": TcpServer,
    "tcp6-server": Tcp6Server,
    "unix-client": UnixClient,
    "connected-fd": ConnectedFd,
    "pty": Pty,
    "pipe": Pipes,
    "file-fifo": Fifos,
    "file": File,
}


def close_quietly(fds: list[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
