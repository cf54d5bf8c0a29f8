"""Real clients over real sockets: the official one, several at once, and one that sends anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from qemu.qmp import ExecuteError, QMPClient

from qemud._generated.types.char_backends import ChardevSocket
from qemud._generated.types.sockets import FdSocketAddress, SocketAddressLegacyFd
from qemud.chardev.socket import SocketChardev
from qemud.monitor.qmp.events import Events
from qemud.monitor.qmp.server import Monitor, Turn
from qemud.monitor.version import version_text
from tests.qmp.fakes import FakePort, Services, monitor, read_messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine


@contextlib.asynccontextmanager
async def served(services: Services) -> AsyncIterator[tuple[Monitor, socket.socket]]:
    """A monitor on one end of a socket pair, and the other end, not blocking."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    options = ChardevSocket(
        addr=SocketAddressLegacyFd(data=FdSocketAddress(str=str(ours.detach()))), server=False
    )
    chardev = SocketChardev("monitor", options)
    await chardev.open()
    made = Monitor(chardev.attach(), services.dispatcher.execute, version_text(), Turn())
    try:
        yield made, theirs
    finally:
        made.close()
        chardev.close()
        theirs.close()


def run(test: Callable[[Services], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(asyncio.wait_for(test(Services()), 60))


async def read_lines(sock: socket.socket, count: int) -> list[Any]:
    data = b""
    loop = asyncio.get_running_loop()
    while data.count(b"\n") < count:
        piece = await loop.sock_recv(sock, 1 << 20)
        assert piece, "the monitor hung up"
        data += piece
    return read_messages(data)


def test_the_official_client() -> None:
    async def test(services: Services) -> None:
        async with served(services) as (made, theirs):
            events = Events(asyncio.get_running_loop().call_later)
            events.subscribe(made.send_event)
            services.during = lambda: events.emit("STOP", None)
            client = QMPClient("test")
            await client.connect(theirs)
            assert await client.execute("query-status") == {"running": False, "status": "prelaunch"}
            event = await client.events.get()
            assert event["event"] == "STOP"
            with pytest.raises(ExecuteError, match="Parameter 'path' is missing"):
                await client.execute("qom-list")
            replies = await asyncio.gather(*(client.execute("query-name") for _ in range(50)))
            assert replies == [{}] * 50
            await client.disconnect()

    run(test)


def test_a_large_reply_reaches_a_slow_reader_whole() -> None:
    async def test(services: Services) -> None:
        async with served(services) as (_, theirs):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(theirs, b'{"execute":"qmp_capabilities"}')
            await read_lines(theirs, 2)
            requests = b"".join(b'{"execute":"big","id":%d}' % number for number in range(60))
            await loop.sock_sendall(theirs, requests)
            messages = await read_lines(theirs, 60)
            assert [message["id"] for message in messages] == list(range(60))
            assert {len(message["return"]) for message in messages} == {100_000}

    run(test)


def test_descriptors_arrive_with_their_command() -> None:
    async def test(services: Services) -> None:
        async with served(services) as (made, theirs):
            sent = os.open("/dev/zero", os.O_RDONLY)
            try:
                socket.send_fds(theirs, [b'{"execute":"qmp_capabilities"}'], [sent])
            finally:
                os.close(sent)
            await read_lines(theirs, 2)
            received = made.session.passed.take()
            assert received is not None
            with os.fdopen(received, "rb") as file:
                assert file.read(3) == b"\0\0\0"

    run(test)


def test_pipelined_commands_are_answered_in_order() -> None:
    async def test(services: Services) -> None:
        async with served(services) as (_, theirs):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(theirs, b'{"execute":"qmp_capabilities"}')
            await read_lines(theirs, 2)
            count = 20_000
            requests = b"".join(b'{"execute":"query-status","id":%d}\r\n' % number for number in range(count))
            reading = asyncio.ensure_future(read_lines(theirs, count))
            await loop.sock_sendall(theirs, requests)
            assert [message["id"] for message in await reading] == list(range(count))

    run(test)


_words = st.sampled_from(
    [
        b'{"execute":"query-status"}',
        b'{"execute":"qmp_capabilities"}',
        b'{"exec-oob":"oob","id":1}',
        b'{"execute":"slow"}',
        b"{'execute':'query-name','arguments':{}}",
        b'{"execute":"qom-list","arguments":{"path":1}}',
        b'"execute"',
        *(bytes([byte]) for byte in b"{}[],:\"'\\\x00\x01\xff\n 10-.eat"),
    ]
)


@given(st.lists(st.one_of(_words, st.binary(max_size=20)), max_size=25), st.booleans())
@settings(max_examples=200)
def test_whatever_a_client_sends_it_gets_json(pieces: list[bytes], oob: bool) -> None:
    async def test() -> None:
        services = Services()
        _, port = monitor(services, negotiate="oob" if oob else False)
        for piece in pieces:
            port.receive(piece)
            while services.gates:
                services.gates.pop().set_result(None)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        for message in port.messages():
            assert (
                {"QMP"} == {*message}
                or {"return"} <= {*message} <= {"return", "id"}
                or ({"error"} <= {*message} <= {"error", "id"} and [*message["error"]] == ["class", "desc"])
            )
        await still_works(port, services)

    async def still_works(port: FakePort, services: Services) -> None:
        port.receive(b"\xff\xff\x01\n" + json.dumps({"execute": "no", "id": "last"}).encode())
        while not (messages := port.messages()) or messages[-1].get("id") != "last":
            while services.gates:
                services.gates.pop().set_result(None)
            await asyncio.sleep(0)

    asyncio.run(test())
