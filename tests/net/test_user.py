"""User-mode networks: what libslirp does with frames, ports and options; the guest is a few frames of ours."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from qemud.net.user import abi
from qemud.net.user.config import check
from qemud.qapi.runtime.errors import GenericError
from tests.net.support import rig
from tests.net.test_offload import plain_sum

if TYPE_CHECKING:
    from tests.net.support import End, Rig

MAC = bytes.fromhex("525400123456")
GATEWAY_MAC = bytes.fromhex("52550a000202")
GUEST, GATEWAY = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))


def arp(operation: int, sender: bytes, target: bytes, to: bytes = b"\xff" * 6) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + MAC + sender + bytes(6) + target
    return (to + MAC + b"\x08\x06" + body).ljust(60, b"\0")


def udp(data: bytes, *, here: bytes, there: bytes, ports: tuple[int, int]) -> bytes:
    datagram = struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0) + here + there
    ip = ip[:10] + struct.pack("!H", ~plain_sum(ip) & 0xFFFF) + ip[12:]
    to = b"\xff" * 6 if there == b"\xff" * 4 else GATEWAY_MAC
    return to + MAC + b"\x08\x00" + ip + datagram


def discover() -> bytes:
    """A request for an address, by DHCP."""
    head = struct.pack("!BBBBI8x", 1, 1, 6, 0, 0x1234) + bytes(12) + MAC
    body = head.ljust(236, b"\0") + bytes.fromhex("63825363 350101 ff")
    return udp(body, here=bytes(4), there=b"\xff" * 4, ports=(68, 67))


def tcp(
    flags: int, seq: int, ack: int, data: bytes = b"", *, ports: tuple[int, int], there: bytes = GATEWAY
) -> bytes:
    segment = struct.pack("!HHIIBBHHH", *ports, seq, ack, 0x50, flags, 65000, 0, 0) + data
    pseudo = GUEST + there + struct.pack("!HH", 6, len(segment))
    segment = segment[:16] + struct.pack("!H", ~plain_sum(pseudo + segment) & 0xFFFF) + segment[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 6, 0) + GUEST + there
    ip = ip[:10] + struct.pack("!H", ~plain_sum(ip) & 0xFFFF) + ip[12:]
    return GATEWAY_MAC + MAC + b"\x08\x00" + ip + segment


SYN, ACK, PSH = 2, 16, 8


async def announce(end: End) -> None:
    """Let the network know where the guest is."""
    end.send([(b"", arp(1, GUEST, GATEWAY))])
    await end.until(lambda: any(frame[12:14] == b"\x08\x06" for frame in end.got))


async def connected(end: End, port: int, there: bytes = GATEWAY) -> int:
    """Begin a connection; the next number of the other side."""
    await announce(end)
    end.send([(b"", tcp(SYN, 1000, 0, ports=(4000, port), there=there))])

    def answers() -> list[bytes]:
        return [frame for frame in end.got if frame[23:24] == b"\x06" and frame[47] == SYN | ACK]

    await end.until(answers)
    (number,) = struct.unpack_from("!I", answers()[0], 38)
    end.send([(b"", tcp(ACK, 1001, number + 1, ports=(4000, port), there=there))])
    return int(number + 1)


def received(end: End) -> bytes:
    """The data of TCP segments that have come, in their order."""
    return b"".join(
        frame[54 : 14 + struct.unpack_from("!H", frame, 16)[0]] for frame in end.got if frame[23:24] == b"\x06" and frame[46] == 0x50
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "address", "router"),
    [
        ("", "10.0.2.15", "10.0.2.2"),
        (",net=192.168.7.0/24,dhcpstart=192.168.7.99", "192.168.7.99", "192.168.7.2"),
        (",net=192.168.7.0/24,host=192.168.7.1", "192.168.7.15", "192.168.7.1"),
    ],
)
def test_an_address_is_offered(options: str, address: str, router: str) -> None:
    async def main() -> None:
        async with rig() as here:
            more = ",hostname=vm7,domainname=example.org,dnssearch=a.example,dnssearch=b.example,bootfile=boot.img"
            end = await here.plugged(f"user,id=n{options}{more}")
            end.send([(b"", discover())])
            await end.until(lambda: end.got)
            [offer] = end.got
            assert socket.inet_ntoa(offer[14 + 28 + 16 :][:4]) == address
            assert socket.inet_aton(router) in offer
            for text in (b"vm7", b"example.org", b"boot.img", b"\x01a\x07example"):
                assert text in offer

    asyncio.run(main())


@pytest.mark.parametrize("offload", [False, True])
def test_the_guest_reaches_the_host(offload: bool) -> None:
    async def main() -> None:
        async with rig() as here:
            end = await here.plugged("user,id=n")
            assert end.peer is not None
            if offload:
                end.peer.set_offload(end.peer.offload)
            got: asyncio.Queue[bytes] = asyncio.Queue()
            answer = bytes(range(256)) * 100
            before: list[int] = []

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                got.put_nowait(await reader.readexactly(5))
                writer.write(answer)
                await writer.drain()
                writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            number = await connected(end, port)
            end.send([(b"", tcp(ACK | PSH, 1001, number, b"hello", ports=(4000, port)))])
            async with asyncio.timeout(60):
                assert await got.get() == b"hello"
                while len(data := received(end)) < len(answer):
                    # Acknowledge, so that the rest comes as well.
                    end.send([(b"", tcp(ACK, 1006, number + len(data), ports=(4000, port)))])
                    before.append(len(data))
                    await end.until(lambda: len(received(end)) > before[-1])
            assert data[: len(answer)] == answer
            large = [frame for frame in end.got if len(frame) > 1514]
            assert bool(large) is offload
            server.close()
            await server.wait_closed()

    asyncio.run(main())


def test_a_port_of_the_host_leads_to_the_guest_until_it_does_not() -> None:
    async def main() -> None:
        async with rig() as here:
            end = await here.plugged("user,id=n")
            await announce(end)
            backend = here.networks.find_netdev("n")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            rule = f"tcp:127.0.0.1:{port}-:80"
            backend.add_rule(rule)  # type: ignore[union-attr]
            with pytest.raises(GenericError, match=r"^Could not set up host forwarding rule"):
                backend.add_rule(rule)  # type: ignore[union-attr]
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            await end.until(lambda: any(frame[23] == 6 and frame[36:38] == b"\x00\x50" for frame in end.got))
            assert "HOST_FORWARD" in backend.stack.connections  # type: ignore[union-attr]
            writer.close()
            await writer.wait_closed()
            assert backend.remove_rule(f"tcp:127.0.0.1:{port}")  # type: ignore[union-attr]
            assert not backend.remove_rule(f"tcp:127.0.0.1:{port}")  # type: ignore[union-attr]
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(main())


def test_an_address_leads_the_guest_to_a_command() -> None:
    async def main() -> None:
        async with rig() as here:
            end = await here.plugged("user,id=n,restrict=on,guestfwd=tcp:10.0.2.100:7777-cmd:cat")
            there = bytes((10, 0, 2, 100))
            number = await connected(end, 7777, there)
            end.send([(b"", tcp(ACK | PSH, 1001, number, b"echo", ports=(4000, 7777), there=there))])
            await end.until(lambda: received(end) == b"echo")

    asyncio.run(main())


def test_an_address_leads_the_guest_to_a_character_device(tmp_path: object) -> None:
    async def main() -> None:
        async with rig() as here:
            path = f"{tmp_path}/s"
            rule = f"guestfwd=tcp:10.0.2.100:7777-unix:{path},,server=on,,wait=off"
            end = await here.plugged(f"user,id=n,{rule}")
            assert [chardev.label for chardev in here.chardevs] == ["guestfwd.tcp.7777"]
            there = bytes((10, 0, 2, 100))
            reader, writer = await asyncio.open_unix_connection(path)
            number = await connected(end, 7777, there)
            end.send([(b"", tcp(ACK | PSH, 1001, number, b"ping", ports=(4000, 7777), there=there))])
            assert await reader.readexactly(4) == b"ping"
            writer.write(b"pong")
            await end.until(lambda: received(end) == b"pong")
            writer.close()
            await writer.wait_closed()
            await here.networks.remove("n")
            assert list(here.chardevs) == []

    asyncio.run(main())


def test_a_restricted_guest_reaches_nothing() -> None:
    async def main() -> None:
        async with rig() as here:
            end = await here.plugged("user,id=n,restrict=on")
            reached = asyncio.Event()

            async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                reached.set()
                writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            await announce(end)
            end.send([(b"", tcp(SYN, 1000, 0, ports=(4000, port)))])
            end.send([(b"", arp(1, GUEST, GATEWAY))])
            before = len(end.got)
            await end.until(lambda: len(end.got) > before)
            assert not reached.is_set()
            server.close()
            await server.wait_closed()

    asyncio.run(main())


def test_frames_of_any_content_hurt_nobody() -> None:
    async def main() -> None:
        async with rig() as here:
            end = await here.plugged("user,id=n")
            good = [discover(), arp(1, GUEST, GATEWAY), tcp(SYN, 1, 0, ports=(1, 2))]
            for seed in range(3000):
                base = bytearray(good[seed % 3])
                for each in range(seed % 7):
                    base[(seed * 31 + each * 17) % len(base)] = (seed * 7 + each) & 0xFF
                end.send([(b"", bytes(base[: 14 + seed % (len(base) - 13)]))])
            end.got.clear()
            await announce(end)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "network", "mask"),
    [
        ("net=10.1.2.3", "10.0.0.0", "255.0.0.0"),
        ("net=172.16.5.5", "172.16.0.0", "255.240.0.0"),
        ("net=192.168.1.1", "192.168.0.0", "255.255.0.0"),
        ("net=198.18.0.0", "198.18.0.0", "255.254.0.0"),
        ("net=10.1.2.3/255.255.0.0", "10.1.0.0", "255.255.0.0"),
        ("net=10.1.2.3/20", "10.1.0.0", "255.255.240.0"),
        ("ip=10.9.8.7", "10.9.8.0", "255.255.255.0"),
    ],
)
def test_networks_as_they_are_written(options: str, network: str, mask: str) -> None:
    from qemud.net.options import netdev

    found = check(netdev(f"user,id=n,{options}", print))  # type: ignore[arg-type]  # it is one of these
    assert (socket.inet_ntoa(found.network), socket.inet_ntoa(found.mask)) == (network, mask)


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(here: Rig) -> None:
        with pytest.raises(GenericError) as error:
            await here.add("user,id=n")
        assert str(error.value) == (
            "user-mode networking needs the library libslirp.so.999, which is not installed (Debian: libslirp0)"
        )
        assert here.networks.clients == []

    async def run() -> None:
        async with rig() as here:
            await main(here)

    monkeypatch.setattr(abi, "NAME", "libslirp.so.999")
    monkeypatch.setattr(abi, "_loaded", [])
    asyncio.run(run())
