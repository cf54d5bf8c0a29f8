"""Interfaces of the host, with one queue and with several: real ones where this process may make them, and else what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qemud.net.client import connect, join
from qemud.net.commands import NetHandlers
from qemud.qapi.runtime.errors import GenericError
from tests.net.support import End, Rig, frame, rig
from tests.programs import QmpError
from tests.system.test_descriptors import passing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.net.tap import TapNet
    from tests.conftest import Starter

_TUNSETIFF = 0x400454CA
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_TAP, _NO_PI, _VNET_HDR, _MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
_ETH_P_ALL = 3
_IFREQ = struct.Struct("16sH22x")


def _queue(name: bytes, flags: int) -> tuple[int, bytes]:
    """A descriptor of an interface, and its name.  OSError: this process may not."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = bytearray(_IFREQ.pack(name, _TAP | _NO_PI | flags))
    try:
        fcntl.ioctl(fd, _TUNSETIFF, request)
    except OSError:
        os.close(fd)
        raise
    return fd, bytes(request[:16]).rstrip(b"\0")


def may_make_interfaces() -> bool:
    """Whether this process has the right to."""
    try:
        fd, _ = _queue(b"qemudt%d", _MULTI_QUEUE)
    except OSError:
        return False
    os.close(fd)
    return True


@contextlib.contextmanager
def host_end(name: str) -> Iterator[socket.socket]:
    """The host's side of an interface, which is up."""
    quiet = Path("/proc/sys/net/ipv6/conf") / name / "disable_ipv6"
    with contextlib.suppress(OSError):
        quiet.write_text("1")
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    with sock:
        request = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
        flags = _IFREQ.unpack(request)[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(name.encode(), flags | _IFF_UP))
        sock.bind((name, 0))
        sock.setblocking(False)
        yield sock


def plug(backend: TapNet) -> list[End]:
    """An end for each queue."""
    ends = [End(f"end {each.index}") for each in backend.queues]
    join(ends)
    for end, queue in zip(ends, backend.queues, strict=True):
        connect(end, queue)
    return ends


async def get(sock: socket.socket, wanted: bytes) -> None:
    """Wait for a frame at the host's side; the host says things of its own there, too."""
    async with asyncio.timeout(60):
        while await asyncio.get_running_loop().sock_recv(sock, 4096) != wanted:
            pass


def udp(a: int, b: int, text: str) -> bytes:
    """A datagram from one station to another, in a frame."""
    data = text.encode().ljust(32)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0)
    header += bytes((10, 9, 8, a)) + bytes((10, 9, 8, b))
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack(">H", ~total & 0xFFFF) + header[12:]
    macs = bytes((2, 0, 0, 0, 0, b, 2, 0, 0, 0, 0, a))
    return macs + b"\x08\x00" + header + struct.pack(">HHHH", 1000 + a, 1000 + b, 8 + len(data), 0) + data


async def _real(here: Rig) -> None:
    backend = await here.add("tap,id=t,queues=2")
    name = backend.info.partition("ifname=")[2].partition(",")[0]
    assert [each.info for each in backend.queues] == [f"ifname={name},script=no,downscript=no"] * 2
    ends = plug(backend)
    with host_end(name) as host:
        for end in ends:
            end.send([(b"", frame(end.name))])
            await get(host, frame(end.name))
        # The kernel answers in the queue that a stream came from last, as long as that is used.
        for index, end in enumerate(ends):
            end.send([(b"", udp(1, 2, f"from {index}"))])
            await get(host, udp(1, 2, f"from {index}"))
            await asyncio.get_running_loop().sock_sendall(host, udp(2, 1, f"to {index}"))
            await end.until(lambda end=end, index=index: udp(2, 1, f"to {index}") in end.got)  # type: ignore[misc]
        backend.queues[1].set_used(used=False)
        backend.queues[1].set_used(used=False)
        for number in range(16):
            sent = udp(2, 10 + number, f"one queue {number}")
            await asyncio.get_running_loop().sock_sendall(host, sent)
            await ends[0].until(lambda sent=sent: sent in ends[0].got)  # type: ignore[misc]
        ends[1].send([(b"", frame("nowhere"))])
        backend.queues[1].set_used(used=True)
        ends[1].send([(b"", frame("again"))])
        await get(host, frame("again"))
        ends[1].send([(b"", udp(1, 2, "back"))])
        await get(host, udp(1, 2, "back"))
        await asyncio.get_running_loop().sock_sendall(host, udp(2, 1, "to 1 again"))
        await ends[1].until(lambda: udp(2, 1, "to 1 again") in ends[1].got)
        await here.networks.remove("t")
        assert not here.networks.clients
        with pytest.raises(OSError, match=r"."):
            socket.if_nametoindex(name)


async def _passed(here: Rig) -> None:
    """Descriptors that somebody else has opened."""
    first, name = _queue(b"qemudt%d", _MULTI_QUEUE | _VNET_HDR)
    second, _ = _queue(name, _MULTI_QUEUE | _VNET_HDR)
    backend = await here.add(f"tap,id=t,fds={first}:{second}")
    assert [each.info for each in backend.queues] == [f"fd={first}", f"fd={second}"]
    assert backend.offload.csum
    assert backend.queues[1].offload == backend.offload
    ends = plug(backend)
    with host_end(name.decode()) as host:
        for end in ends:
            end.send([(b"", frame(end.name))])
            await get(host, frame(end.name))
    await here.networks.remove("t")
    # Interfaces that do not go together; nothing stays open.
    first, _ = _queue(b"qemudt%d", _VNET_HDR)
    second, _ = _queue(b"qemudt%d", 0)
    with pytest.raises(GenericError, match="vnet_hdr not consistent across given tap fds"):
        await here.add(f"tap,id=t,fds={first}:{second}")
    for fd in (first, second):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    first, _ = _queue(b"qemudt%d", 0)
    with pytest.raises(GenericError, match=f"fds= names descriptor {first} twice"):
        await here.add(f"tap,id=t,fds={first}:{first}")


def test_interfaces_with_several_queues() -> None:
    async def main() -> None:
        async with rig() as here:
            if may_make_interfaces():
                await _real(here)
                await _passed(here)
            else:
                with pytest.raises(GenericError, match=r"could not (open|configure) /dev/net/tun"):
                    await here.add("tap,id=t,queues=2")
            assert here.networks.clients == []

    asyncio.run(main())


def test_queues_by_the_names_that_a_client_gave_them(daemon: Starter) -> None:
    program = daemon("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null")
    qmp = program.qmp
    may = may_make_interfaces()
    if may:
        first, name = _queue(b"qemudt%d", _MULTI_QUEUE)
        second, _ = _queue(name, _MULTI_QUEUE)
    else:
        first, second = (each.detach() for each in socket.socketpair())
    try:
        for fd, given in ((first, "q0"), (second, "q1")):
            passing(qmp, [fd], "getfd", fdname=given)
        if may:
            qmp.command("netdev_add", type="tap", id="t", fds="q0:q1")
            shown = qmp.command("human-monitor-command", {"command-line": "info network"})
            assert re.fullmatch(r"(t: index=[01],type=tap,fd=\d+\r\n){2}", shown)
            qmp.command("netdev_del", id="t")
        else:
            with pytest.raises(QmpError, match="Unable to query TUNGETIFF on FD"):
                qmp.command("netdev_add", type="tap", id="t", fds="q0:q1")
        # They belong to the backend, and are gone with it.
        with pytest.raises(QmpError, match="File descriptor named 'q0' has not been found"):
            qmp.command("netdev_add", type="tap", id="t", fds="q0:q1")
        passing(qmp, [first], "getfd", fdname="q0")
        with pytest.raises(QmpError):
            qmp.command("netdev_add", type="tap", id="t", fds="q0:q9")
    finally:
        os.close(first)
        os.close(second)


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("queues=0", "an interface cannot have 0 queues: from 1 to 1024"),
        ("queues=1025", "an interface cannot have 1025 queues: from 1 to 1024"),
        (f"fds={':'.join(map(str, range(5000, 6025)))}", "fds= names 1025 descriptors: 1024 at most"),
        ("fds=5000:5001", "t: Can't use file descriptor 5000: Bad file descriptor"),
        ("fds=", "Unable to parse FD number "),
        ("fds=x:y", "Unable to parse FD number x"),
        (
            "fds=5000,queues=2",
            "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= are invalid with fds=",
        ),
        (
            "fd=5000,fds=5001",
            "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= are invalid with fd=",
        ),
    ],
)
def test_what_cannot_be(text: str, trouble: str) -> None:
    async def main() -> None:
        async with rig() as here:
            with pytest.raises(GenericError) as error:
                await here.add(f"tap,id=t,{text}")
            assert str(error.value) == trouble
            assert here.networks.clients == []

    asyncio.run(main())


def test_what_is_no_interface() -> None:
    async def main() -> None:
        async with rig() as here:
            ends = [each.detach() for each in socket.socketpair()]
            with pytest.raises(GenericError, match=f"Unable to query TUNGETIFF on FD {ends[0]}: "):
                await here.add(f"tap,id=t,fds={ends[0]}:{ends[1]}")
            os.close(ends[1])

    asyncio.run(main())


def test_filters_are_for_backends_with_one_queue() -> None:
    from types import SimpleNamespace

    from qemud._generated.types.net_filter import FilterBufferProperties
    from qemud.net.filters.buffer import FilterBuffer
    from qemud.qom.object import Root

    async def main() -> None:
        async with rig() as here:
            ends = [End("n"), End("n")]
            join(ends)
            here.networks.clients += ends
            root = Root()
            root.services = SimpleNamespace(net=here.networks)
            made = root.add_child("f", FilterBuffer(FilterBufferProperties(netdev="n", interval=1)))
            with pytest.raises(GenericError, match="multiqueue is not supported"):
                await made.complete()
            handlers = NetHandlers(SimpleNamespace(net=here.networks))
            text = (await handlers.x_query_network()).human_readable_text
            assert text == "n: index=0,type=end,\nn: index=1,type=end,\n"
            here.networks.clients.clear()

    asyncio.run(main())
