"""A client with a graph of its own, and a guest that writes while jobs are at work."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

from qemud._generated.table import COMMANDS
from qemud.block.backend import BlockBackend
from qemud.block.graph import Graph
from qemud.daemon.handlers import HANDLERS
from qemud.monitor.dispatch import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

Event = tuple[str, dict[str, Any]]
MIB = 1 << 20


class Client:
    """Commands by name, and the events that came."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.block = Graph(self._heard)
        self.has_block = True
        self._dispatcher = Dispatcher(COMMANDS, HANDLERS, self)
        self._news = asyncio.Event()

    def _heard(self, name: str, data: dict[str, Any] | None) -> None:
        # Through the wire's form, as a client gets it.
        from qemud.qapi.runtime.check import encode

        self.events.append((name, json.loads(encode(data or {}))))
        self._news.set()

    async def __call__(self, command: str, **arguments: Any) -> Any:
        """Run a command; underscores in names of arguments stand for hyphens."""
        result = await self._dispatcher.execute(
            command, {name.replace("_", "-"): value for name, value in arguments.items()}
        )
        return json.loads(result or b"null")

    async def until(self, name: str, **fields: Any) -> dict[str, Any]:
        """Wait for an event; those before it are dropped from the list."""
        while True:
            for index, (each, data) in enumerate(self.events):
                if each == name and all(data.get(key) == value for key, value in fields.items()):
                    del self.events[: index + 1]
                    return data
            self._news.clear()
            await self._news.wait()

    async def more(self) -> None:
        """Wait until another event has come."""
        self._news.clear()
        await self._news.wait()

    async def status(self, job: str, status: str) -> None:
        """Wait until a job has that status."""
        await self.until("JOB_STATUS_CHANGE", id=job, status=status)

    def told(self) -> list[str]:
        """What came, in short: statuses of jobs by themselves, other events by their names."""
        found = [data["status"] if name == "JOB_STATUS_CHANGE" else name for name, data in self.events]
        self.events.clear()
        return found

    async def add(self, node_name: str, driver: str, **options: Any) -> None:
        """`blockdev-add`."""
        await self("blockdev-add", node_name=node_name, driver=driver, **options)

    async def file(self, node_name: str, path: object, driver: str = "raw", **options: Any) -> None:
        """A format on a file."""
        await self.add(
            node_name,
            driver,
            file={"driver": "file", "filename": str(path), "node-name": f"{node_name}-file"},
            **options,
        )


def run(test: Callable[[Client], Awaitable[None]]) -> None:
    """Run a test with a client; afterwards nothing may be left of its graph."""

    async def main() -> None:
        client = Client()
        mistakes: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: mistakes.append(context))
        await asyncio.wait_for(test(client), 60)
        await client.block.close()
        assert not client.block.nodes
        assert not client.block.backends
        assert not mistakes

    asyncio.run(main())


class Guest:
    """A device with a disk, and what the guest has written to it."""

    def __init__(self, client: Client, node: str, data: bytes = b"", seed: int = 0) -> None:
        self.backend = BlockBackend(client.block, "hd0")
        self.backend.insert(client.block.nodes[node])
        self.backend.configure(read_only=False)
        self.disk = bytearray(data.ljust(self.backend.size, b"\0"))
        self.random = random.Random(seed)
        self.stopped = False
        self.errors = 0
        self.served = 0
        self._served = asyncio.Condition()

    async def write_once(self, unit: int = 512) -> None:
        """A request anywhere: data mostly, zeroes or a discard that changes nothing at times."""
        size = len(self.disk) // unit
        length = self.random.choice((1, 1, 3, 8, 64, 300))
        start = self.random.randrange(max(1, size - length)) * unit
        length = min(length * unit, len(self.disk) - start)
        if self.random.random() < 0.2:
            await self.backend.write_zeroes(start, length, unmap=self.random.random() < 0.5)
            self.disk[start : start + length] = bytes(length)
        else:
            data = self.random.randbytes(length)
            await self.backend.writev(start, [memoryview(data)])
            self.disk[start : start + length] = data

    async def keep_writing(self) -> None:
        """Write until `stopped`, one request at a time; errors are counted."""
        while not self.stopped:
            try:
                await self.write_once()
            except OSError:
                self.errors += 1
            async with self._served:
                self.served += 1
                self._served.notify_all()
            await asyncio.sleep(self.random.choice((0, 0, 0.001)))

    async def more(self, requests: int = 5) -> None:
        """Wait until so many more requests of `keep_writing` are done."""
        wanted = self.served + requests
        async with self._served:
            await self._served.wait_for(lambda: self.served >= wanted)

    async def read(self) -> bytes:
        """All of the disk."""
        data = bytearray(len(self.disk))
        for start in range(0, len(data), MIB):
            await self.backend.readv(start, [memoryview(data)[start : start + MIB]])
        return bytes(data)

    async def unplug(self) -> None:
        """The device is gone."""
        await self.backend.close()


def qemu_img(*arguments: object) -> str:
    """Run qemu-img, which must find nothing wrong; what it printed."""
    done = subprocess.run(
        ["qemu-img", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=60
    )
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def image(path: Path, size: int, *, seed: int = 1, density: float = 0.5) -> bytes:
    """A raw image of pieces of data and of holes; its content."""
    chance = random.Random(seed)
    data = bytearray(size)
    piece = 64 << 10
    with path.open("wb") as file:
        file.truncate(size)
        for start in range(0, size, piece):
            if chance.random() < density:
                length = min(piece, size - start)
                data[start : start + length] = chance.randbytes(length)
                file.seek(start)
                file.write(data[start : start + length])
    return bytes(data)


async def disks(client: Client, folder: Path, size: int, *, density: float = 0.5, **options: Any) -> bytes:
    """Nodes "source", with the content that is returned, and "copy", of zeroes and with these options."""
    data = image(folder / "source.img", size, density=density)
    (folder / "copy.img").write_bytes(bytes(size))
    await client.file("source", folder / "source.img")
    await client.file("copy", folder / "copy.img", **options)
    return data
