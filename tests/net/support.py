"""A place for networks in tests: `Networks` with nothing around it, and ends of cables that keep what they get."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, ClassVar

from qemud.chardev.address import inherited_fd
from qemud.chardev.registry import Chardevs
from qemud.net.client import NetClient, connect
from qemud.net.options import netdev
from qemud.net.registry import Networks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from qemud.net.client import Frames


def frame(text: str, *, size: int = 60) -> bytes:
    """An Ethernet frame with a text in it."""
    head = bytes.fromhex("525400123457 525400123456 88b5")
    return (head + text.encode()).ljust(size, b"\0")


class End(NetClient):
    """Keeps what it receives in `got`; `room` is how many frames it takes before it says that it is full."""

    kind: ClassVar[str] = "end"

    def __init__(self, name: str = "end", room: int = 1 << 30) -> None:
        super().__init__(name)
        self.got: list[bytes] = []
        self.headers: list[bytes] = []
        self.room = room
        self.resumed = 0
        self._came = asyncio.Event()

    def receive(self, frames: Frames) -> bool:
        self.got += [content for _, content in frames]
        self.headers += [header for header, _ in frames]
        self._came.set()
        return len(self.got) < self.room

    def resume(self) -> None:
        self.resumed += 1

    async def until(self, wanted: Callable[[], object]) -> None:
        """Wait until something is true that only frames make true."""
        async with asyncio.timeout(60):
            while not wanted():
                self._came.clear()
                await self._came.wait()


class Rig:
    """`Networks`, what they said, and a way to make backends as the command line does."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.lines: list[str] = []
        self.chardevs = Chardevs()
        self.networks = Networks(self._emit, self.chardevs, inherited_fd, self.lines.append)
        self._changed = asyncio.Event()

    def _emit(self, name: str, data: Any) -> None:
        self.events.append((name, data))
        self._changed.set()

    async def add(self, text: str) -> Any:
        """A backend, as `-netdev` describes it."""
        return await self.networks.add(netdev(text, self.lines.append))

    async def plugged(self, text: str, room: int = 1 << 30) -> End:
        """A backend with an end at the other side, which is returned."""
        backend = await self.add(text)
        end = End(f"end of {backend.name}", room)
        connect(end, backend)
        return end

    async def event(self, name: str, count: int = 1) -> Any:
        """The data of an event, as soon as it has come so many times."""
        async with asyncio.timeout(60):
            while len(found := [data for each, data in self.events if each == name]) < count:
                self._changed.clear()
                await self._changed.wait()
        return found[count - 1]


@contextlib.asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    """A `Rig`, closed at the end."""
    made = Rig()
    try:
        yield made
    finally:
        await made.networks.close()
        await made.chardevs.close_all()
