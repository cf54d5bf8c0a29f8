"""Backends that are sockets: two of them carry frames to each other, and nobody else can hurt them."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from qemud.net.framing import LENGTH, encode
from qemud.net.wire import MOST_PENDING
from qemud.qapi.runtime.errors import GenericError
from tests.net.support import frame, rig

if TYPE_CHECKING:
    from pathlib import Path


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("family", ["unix", "inet"])
def test_two_ends_of_a_stream(tmp_path: Path, family: str) -> None:
    address = f"addr.type=unix,addr.path={tmp_path}/s"
    if family == "inet":
        address = f"addr.type=inet,addr.host=127.0.0.1,addr.port={free_port()}"

    async def main() -> None:
        async with rig() as here:
            server = await here.plugged(f"stream,id=server,server=on,{address}")
            assert server.peer is not None
            assert server.peer.info == "listening"
            client = await here.plugged(f"stream,id=client,{address}")
            await here.event("NETDEV_STREAM_CONNECTED", 2)
            names = [data["netdev-id"] for _, data in here.events]
            assert sorted(names) == ["client", "server"]
            for name, data in here.events:
                assert name == "NETDEV_STREAM_CONNECTED"
                assert data["addr"]["type"] == family
            frames = [frame(str(number), size=60 + 100 * number) for number in range(200)]
            client.send([(b"", each) for each in frames])
            server.send([(b"", each) for each in reversed(frames)])
            await server.until(lambda: len(server.got) == len(frames))
            await client.until(lambda: len(client.got) == len(frames))
            assert server.got == frames == client.got[::-1]
            # The client goes; the server waits for the next.
            await here.networks.remove("client")
            assert await here.event("NETDEV_STREAM_DISCONNECTED") == {"netdev-id": "server"}
            assert server.peer.info == "listening"
            server.send([(b"", frame("lost"))])
            again = await here.plugged(f"stream,id=client,{address}")
            await here.event("NETDEV_STREAM_CONNECTED", 4)
            server.send([(b"", frame("found"))])
            await again.until(lambda: again.got)
            assert again.got == [frame("found")]

    asyncio.run(main())


def test_a_client_connects_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig() as here:
            address = f"addr.type=unix,addr.path={tmp_path}/s"
            client = await here.plugged(f"stream,id=client,{address},reconnect-ms=10")
            await here.add(f"stream,id=server,server=on,{address}")
            await here.event("NETDEV_STREAM_CONNECTED", 2)
            await here.networks.remove("server")
            assert await here.event("NETDEV_STREAM_DISCONNECTED") == {"netdev-id": "client"}
            server = await here.plugged(f"stream,id=server,server=on,{address}")
            await here.event("NETDEV_STREAM_CONNECTED", 4)
            client.send([(b"", frame("a"))])
            await server.until(lambda: server.got)
            assert here.lines == []

    asyncio.run(main())


def test_who_cannot_connect_says_so_once_and_stays(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig() as here:
            backend = await here.add(f"stream,id=c,addr.type=unix,addr.path={tmp_path}/nobody")
            async with asyncio.timeout(60):
                while not here.lines:
                    await asyncio.sleep(0)
            trouble = f"Failed to connect to '{tmp_path}/nobody': No such file or directory"
            assert here.lines == [f"warning: netdev c: {trouble}"]
            assert backend.info == f"error: {trouble}"

    asyncio.run(main())


def test_nonsense_ends_a_connection_and_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig() as here:
            end = await here.plugged(f"stream,id=s,server=on,addr.type=unix,addr.path={tmp_path}/s")
            for attack in (LENGTH.pack(1 << 31), encode(frame("a"))[:20]):
                _, writer = await asyncio.open_unix_connection(f"{tmp_path}/s")
                writer.write(attack)
                await writer.drain()
                writer.write_eof()
                await here.event("NETDEV_STREAM_DISCONNECTED", 1 + (attack[0] == 0))
                writer.close()
                await writer.wait_closed()
            assert end.got == []

    asyncio.run(main())


def test_who_does_not_read_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig() as here:
            end = await here.plugged(f"stream,id=s,server=on,addr.type=unix,addr.path={tmp_path}/s")
            reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/s", limit=1 << 24)
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads, too
            await here.event("NETDEV_STREAM_CONNECTED")
            big, count = frame("big", size=60_000), 0
            while end.send([(b"", big)]):
                count += 1
            assert count * len(big) >= MOST_PENDING
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            data = await reader.readexactly((count + 1) * (len(big) + 4))
            assert data == encode(big) * (count + 1)
            async with asyncio.timeout(60):
                while not end.resumed:
                    await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_a_guest_without_buffers_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig() as here:
            end = await here.plugged(f"stream,id=s,server=on,addr.type=unix,addr.path={tmp_path}/s", room=1)
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(f"{tmp_path}/s")
            sock.setblocking(False)
            await here.event("NETDEV_STREAM_CONNECTED")
            sent = 0
            quiet = 0
            while quiet < 100:  # the kernel's buffers fill up, since nobody reads after the first batch
                try:
                    sent += sock.send(encode(frame("a", size=996)) * 100)
                    quiet = 0
                except BlockingIOError:
                    quiet += 1
                await asyncio.sleep(0)
            taken = len(end.got)
            assert 0 < taken * 1000 < sent
            end.room = 1 << 30
            assert end.peer is not None
            end.ready()
            await end.until(lambda: len(end.got) >= sent // 1000)
            sock.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "kind", ["dgram-unix", "dgram-inet", "dgram-group", "socket-udp", "socket-mcast", "socket-tcp"]
)
def test_two_ends_of_other_kinds(tmp_path: Path, kind: str) -> None:
    a, b = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)

    def inet(side: str, port: int, host: str = "127.0.0.1") -> str:
        return f"{side}.type=inet,{side}.host={host},{side}.port={port}"

    def unix(side: str, name: str) -> str:
        return f"{side}.type=unix,{side}.path={tmp_path}/{name}"

    group = f"{inet('remote', a, '239.1.2.3')},{inet('local', a)}"
    texts = {
        "dgram-unix": (
            f"dgram,id=a,{unix('local', 'a')},{unix('remote', 'b')}",
            f"dgram,id=b,{unix('local', 'b')},{unix('remote', 'a')}",
        ),
        "dgram-inet": (
            f"dgram,id=a,{inet('local', a)},{inet('remote', b)}",
            f"dgram,id=b,{inet('local', b)},{inet('remote', a)}",
        ),
        "dgram-group": (f"dgram,id=a,{group}", f"dgram,id=b,{group}"),
        "socket-udp": (
            f"socket,id=a,udp=127.0.0.1:{b},localaddr=127.0.0.1:{a}",
            f"socket,id=b,udp=127.0.0.1:{a},localaddr=127.0.0.1:{b}",
        ),
        "socket-mcast": (f"socket,id=a,mcast=239.1.2.3:{a},localaddr=127.0.0.1",) * 2,
        "socket-tcp": (f"socket,id=a,listen=127.0.0.1:{a}", f"socket,id=b,connect=127.0.0.1:{a}"),
    }[kind]

    async def main() -> None:
        async with rig() as here:
            one = await here.plugged(texts[0])
            other = await here.plugged(texts[1].replace("id=a", "id=b"))
            assert one.peer is not None
            assert other.peer is not None
            async with asyncio.timeout(60):
                while one.peer.link_down or other.peer.link_down:
                    await asyncio.sleep(0)
            for number in range(20):
                one.send([(b"", frame(f"to {number}"))])
                other.send([(b"", frame(f"back {number}"))])
            # A group gives everybody their own frames back, too.
            await other.until(lambda: frame("to 19") in other.got)
            await one.until(lambda: frame("back 19") in one.got)
            assert [each for each in other.got if each[14:16] == b"to"] == [
                frame(f"to {n}") for n in range(20)
            ]
            assert here.events == []
            assert here.lines == []

    asyncio.run(main())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_somebody_else_has_opened(kind: socket.SocketKind) -> None:
    async def main() -> None:
        async with rig() as here:
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
            fd = ours.detach()
            if kind is socket.SOCK_STREAM:
                end = await here.plugged(f"stream,id=s,addr.type=fd,addr.str={fd}")
                theirs.sendall(encode(frame("a")))
            else:
                end = await here.plugged(f"dgram,id=s,local.type=fd,local.str={fd}")
                theirs.send(frame("a"))
            await end.until(lambda: end.got)
            assert end.got == [frame("a")]
            end.send([(b"", frame("b"))])
            assert theirs.recv(4096).endswith(frame("b"))
            theirs.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("dgram,id=d,local.type=fd,local.str=999999", "d: Can't use file descriptor 999999: Bad file descriptor"),
        ("stream,id=d,addr.type=fd,addr.str=999999", "File descriptor '999999' is not a socket"),
        ("socket,id=d,fd=999999", "d: Can't use file descriptor 999999: Bad file descriptor"),
        ("stream,id=d,server=on,addr.type=unix,addr.path=/nowhere/x", "Failed to bind socket to /nowhere/x: No such file or directory"),
        ("stream,id=d,server=on,reconnect-ms=1,addr.type=unix,addr.path=/x", "'reconnect' and 'reconnect-ms' options are incompatible with socket in server mode"),
        ("stream,id=d,reconnect=1,reconnect-ms=1,addr.type=unix,addr.path=/x", "'reconnect' and 'reconnect-ms' are mutually exclusive"),
        ("stream,id=d,reconnect-ms=-1,addr.type=unix,addr.path=/x", "Parameter 'reconnect-ms' expects 0 to 4294967295 milliseconds"),
        ("dgram,id=d,local.type=unix,local.path=/nowhere/x,remote.type=unix,remote.path=/y", "can't bind unix=/nowhere/x to socket: No such file or directory"),
        ("socket,id=d,udp=127.0.0.1:1,localaddr=127.0.0.1:x", "port number 'x' is invalid"),
        ("socket,id=d,mcast=127.0.0.1:1", "specified mcastaddr 127.0.0.1 (0x7f000001) does not contain a multicast address"),
    ],
)  # fmt: skip
def test_what_cannot_be(text: str, trouble: str) -> None:
    async def main() -> None:
        async with rig() as here:
            with pytest.raises(GenericError) as error:
                await here.add(text)
            assert str(error.value) == trouble
            assert here.networks.clients == []

    asyncio.run(main())
