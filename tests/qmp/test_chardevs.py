"""One suite for monitors on every kind of chardev that can carry a conversation."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tty
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from qemud.chardev.registry import Chardevs
from qemud.monitor.qmp.server import Monitor, Turn
from qemud.monitor.version import version_text
from tests.qmp.fakes import Services

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path


class Client:
    """A QMP client on a descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._pending = b""
        os.set_blocking(fd, False)

    async def message(self) -> Any:
        loop = asyncio.get_running_loop()
        while b"\r\n" not in self._pending:
            ready = asyncio.Event()
            loop.add_reader(self.fd, ready.set)
            await ready.wait()
            loop.remove_reader(self.fd)
            piece = os.read(self.fd, 1 << 16)
            assert piece, "the monitor hung up"
            self._pending += piece
        line, self._pending = self._pending.split(b"\r\n", 1)
        return json.loads(line)

    def send(self, name: str, identity: Any) -> None:
        data = json.dumps({"execute": name, "id": identity}).encode()
        assert os.write(self.fd, data) == len(data)

    def close(self) -> None:
        os.close(self.fd)


class Kind:
    """A kind of chardev: how to make it, and how to reach it.  A client may come again unless `once`.

    Where it `finishes`, one who has gone looks like one who waits for answers, until those are sent.
    """

    once = False
    finishes = False

    def __init__(self, folder: Path) -> None:
        self.path = folder / "socket"

    async def make(self, chardevs: Chardevs) -> str:
        raise NotImplementedError

    async def connect(self, filename: str) -> Client:
        raise NotImplementedError


class Unix(Kind):
    async def make(self, chardevs: Chardevs) -> str:
        return (await chardevs.open_compact("monitor", f"unix:{self.path},server=on,wait=off")).filename

    async def connect(self, filename: str) -> Client:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, str(self.path))
        return Client(sock.detach())


class Tcp(Kind):
    finishes = True

    async def make(self, chardevs: Chardevs) -> str:
        return (await chardevs.open_compact("monitor", "tcp:127.0.0.1:0,server=on,wait=off")).filename

    async def connect(self, filename: str) -> Client:
        host, port = filename.removeprefix("disconnected:tcp:").split(",")[0].rsplit(":", 1)
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        return Client(sock.detach())


class Listening(Unix):
    """A socket that somebody else made, listening already, as libvirt and systemd hand it over."""

    async def make(self, chardevs: Chardevs) -> str:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.path))
        sock.listen()
        text = f"socket,id=monitor,fd={sock.detach()},server=on,wait=off"
        return (await chardevs.open_options(text)).filename


class Connected(Kind):
    once = True

    async def make(self, chardevs: Chardevs) -> str:
        ours, self.theirs = socket.socketpair()
        return (await chardevs.open_options(f"socket,id=monitor,fd={ours.detach()}")).filename

    async def connect(self, filename: str) -> Client:
        return Client(self.theirs.detach())


class Pty(Kind):
    once = True  # a terminal opened again at once was never seen closed

    async def make(self, chardevs: Chardevs) -> str:
        return (await chardevs.open_compact("monitor", "pty")).filename

    async def connect(self, filename: str) -> Client:
        fd = os.open(filename.removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY)
        tty.setraw(fd)
        return Client(fd)


KINDS = [Unix, Tcp, Listening, Connected, Pty]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.lower())
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    made: Kind = request.param(tmp_path)
    return made


def run(kind: Kind, test: Callable[[Services, Callable[[], Coroutine[Any, Any, Client]]], Any]) -> None:
    """Run with a monitor on a chardev of that kind and a function that connects a client."""

    async def scene() -> None:
        services = Services()
        chardevs = Chardevs(announce=lambda _: None)
        filename = await kind.make(chardevs)
        chardev = chardevs.get("monitor")
        assert chardev is not None
        monitor = Monitor(chardev.attach(), services.dispatcher.execute, version_text(), Turn())
        try:
            async with asyncio.timeout(60):
                await test(services, lambda: kind.connect(filename))
        finally:
            monitor.close()
            await chardevs.close_all()

    uvloop.run(scene())


def test_a_conversation(kind: Kind) -> None:
    async def test(services: Services, connect: Callable[[], Coroutine[Any, Any, Client]]) -> None:
        client = await connect()
        assert [*await client.message()] == ["QMP"]
        for number, name in enumerate(["qmp_capabilities", "query-name", "slow", "query-status"]):
            client.send(name, number)
        assert [(await client.message())["id"] for _ in range(2)] == [0, 1]
        while not services.gates:
            await asyncio.sleep(0)
        services.gates[0].set_result(None)
        assert [(await client.message())["id"] for _ in range(2)] == [2, 3]
        client.close()

    run(kind, test)


def test_the_next_client_begins_anew(kind: Kind) -> None:
    async def test(services: Services, connect: Callable[[], Coroutine[Any, Any, Client]]) -> None:
        client = await connect()
        await client.message()
        client.send("qmp_capabilities", 1)
        client.send("slow", 2)
        assert (await client.message())["id"] == 1
        while not services.gates:
            await asyncio.sleep(0)
        client.close()
        if kind.once:
            services.gates[0].set_result(None)
            while services.log != ["begun", "ended"]:
                await asyncio.sleep(0)
            return
        if kind.finishes:
            services.gates[0].set_result("for nobody")
        client = await connect()
        assert [*await client.message()] == ["QMP"]
        if not kind.finishes:
            services.gates[0].set_result("for nobody")
        client.send("query-name", 3)
        refused = await client.message()
        assert (refused["id"], refused["error"]["class"]) == (3, "CommandNotFound")
        client.close()

    run(kind, test)
