"""Filters: files that tcpdump reads, copies and detours by character devices, delays, and their order."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from qemud.net.framing import Decoder, encode
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError
from qemud.qom.tree import Tree
from qemud.qom.userobjects import add_object, options_from_text, remove_object
from tests.net.support import End, Rig, frame, rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Place:
    """A backend `n` between the two ends `guest` and `outside`, and a tree for filters."""

    def __init__(self, here: Rig, guest: End, outside: End) -> None:
        self.here = here
        self.guest = guest
        self.outside = outside
        self.tree = Tree()
        self.tree.root.services = SimpleNamespace(net=here.networks)

    async def filter(self, text: str) -> Any:
        return await add_object(self.tree, options_from_text(text, print))

    def remove(self, name: str) -> None:
        remove_object(self.tree, name)

    def both(self, text: str) -> None:
        """One frame each way."""
        self.guest.send([(b"", frame(f"out {text}"))])
        self.outside.send([(b"", frame(f"in {text}"))])


@contextlib.asynccontextmanager
async def place() -> AsyncIterator[Place]:
    async with rig() as here:
        # The backend is a port of a hub; at the other port is the outside.
        guest = await here.plugged("hubport,id=n,hubid=0")
        outside = await here.plugged("hubport,id=m,hubid=0")
        made = Place(here, guest, outside)
        yield made
        for name in list(made.tree.objects.children):
            made.remove(name)


@pytest.mark.needs("tcpdump")
@pytest.mark.parametrize(("queue", "seen"), [("all", "both"), ("rx", "out"), ("tx", "in")])
def test_a_file_of_frames(tmp_path: Path, queue: str, seen: str) -> None:
    async def main() -> None:
        async with place() as here:
            await here.filter(f"filter-dump,id=f,netdev=n,queue={queue},file={tmp_path}/d.pcap,maxlen=40")
            for number in range(5):
                here.both(str(number))
            here.remove("f")
            here.both("unseen")

    asyncio.run(main())
    shown = subprocess.run(
        ["tcpdump", "-nn", "-e", "-A", "-r", f"{tmp_path}/d.pcap"], capture_output=True, text=True, check=True
    ).stdout
    assert shown.count("length 60") == (10 if seen == "both" else 5)
    assert ("out 3" in shown) is (seen != "in")
    assert ("in 3" in shown) is (seen != "out")
    assert "unseen" not in shown


def test_a_copy_of_each_frame(tmp_path: Path) -> None:
    async def main() -> None:
        async with place() as here:
            await here.here.chardevs.open_options(f"socket,id=c,path={tmp_path}/s,server=on,wait=off")
            await here.filter("filter-mirror,id=f,netdev=n,outdev=c,queue=rx")
            reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/s")
            while not here.here.chardevs.get("c").is_open:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            here.both("1")
            assert await reader.readexactly(64) == encode(frame("out 1"))
            assert here.outside.got == [frame("out 1")]
            assert here.guest.got == [frame("in 1")]
            with pytest.raises(GenericError, match="chardev 'c' is already in use"):
                await here.filter("filter-mirror,id=g,netdev=n,outdev=c")
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


@pytest.mark.parametrize("headers", ["off", "on"])
def test_a_detour(tmp_path: Path, headers: str) -> None:
    async def main() -> None:
        async with place() as here:
            for name in ("in", "out"):
                await here.here.chardevs.open_options(
                    f"socket,id={name},path={tmp_path}/{name},server=on,wait=off"
                )
            await here.filter(
                f"filter-redirector,id=f,netdev=n,queue=rx,indev=in,outdev=out,vnet_hdr_support={headers}"
            )
            reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/out")
            _, back = await asyncio.open_unix_connection(f"{tmp_path}/in")
            while not all(chardev.is_open for chardev in here.here.chardevs):
                await asyncio.sleep(0)
            here.both("1")
            assert here.outside.got == []
            assert here.guest.got == [frame("in 1")]
            decoder = Decoder(with_headers=headers == "on")
            data = await reader.read(4096)
            assert decoder.feed(data) == [(b"", frame("out 1"))]
            for part in (data[:7], data[7:]):
                back.write(part)
                await back.drain()
            await here.outside.until(lambda: here.outside.got)
            assert here.outside.got == [frame("out 1")]
            # Switched off, it lets everything pass.
            here.tree.objects.children["f"].set_property("status", "off")
            here.both("2")
            assert here.outside.got[-1] == frame("out 2")
            for each in (writer, back):
                each.close()
                await each.wait_closed()

    asyncio.run(main())


def test_frames_that_are_late() -> None:
    async def main() -> None:
        async with place() as here:
            buffer = await here.filter("filter-buffer,id=f,netdev=n,interval=1000,queue=tx")
            here.both("1")
            assert here.outside.got == [frame("out 1")]
            assert here.guest.got == []
            await here.guest.until(lambda: here.guest.got)
            assert here.guest.got == [frame("in 1")]
            buffer.options.interval = 1 << 31
            buffer.status_changed()
            here.both("2")
            buffer.set_property("status", "off")
            assert here.guest.got == [frame("in 1"), frame("in 2")]
            buffer.set_property("status", "on")
            here.both("3")
            here.remove("f")
            assert here.guest.got[2:] == [frame("in 3")]
            here.both("4")
            assert here.guest.got[-1] == frame("in 4")

    asyncio.run(main())


def test_their_order() -> None:
    async def main() -> None:
        async with place() as here:
            netdev = here.here.networks.find_netdev("n")
            assert netdev is not None

            async def add(name: str, more: str = "") -> str:
                await here.filter(f"filter-buffer,id={name},netdev=n,interval=1000000,status=off{more}")
                return " ".join(str(each.id) for each in netdev.filters)

            assert await add("a") == "a"
            assert await add("b") == "a b"
            assert await add("c", ",position=head") == "c a b"
            assert await add("d", ",position=id=a,insert=before") == "c d a b"
            assert await add("e", ",position=id=a") == "c d a e b"
            await here.here.networks.remove("n")
            assert list(here.tree.objects.children) == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("filter-dump,id=f,netdev=x,file=/nowhere", "Parameter 'netdev' expects a network backend id"),
        ("filter-dump,id=f,netdev=n,file=/nowhere/f", "net dump: can't open /nowhere/f: No such file or directory"),
        ("filter-buffer,id=f,netdev=n,interval=0", "Property 'filter-buffer.interval' requires a positive value"),
        ("filter-buffer,id=f,netdev=n,interval=1,status=x", "Invalid value for netfilter status, should be 'on' or 'off'"),
        ("filter-buffer,id=f,netdev=n,interval=1,position=x", "Parameter 'position' expects 'head', 'tail' or 'id=<id>'"),
        ("filter-buffer,id=f,netdev=n,interval=1,position=id=x", "filter 'x' not found"),
        ("filter-redirector,id=f,netdev=n", "filter redirector needs 'indev' or 'outdev' at least one property set"),
        ("filter-redirector,id=f,netdev=n,indev=c,outdev=c", "'indev' and 'outdev' could not be same for filter redirector"),
        ("filter-mirror,id=f,netdev=n,outdev=c", "Device 'c' not found"),
    ],
)  # fmt: skip
def test_what_cannot_be(text: str, trouble: str) -> None:
    async def main() -> None:
        async with place() as here:
            with pytest.raises((GenericError, DeviceNotFound)) as error:
                await here.filter(text)
            assert str(error.value) == trouble
            assert here.guest.peer is not None
            assert here.guest.peer.filters == []

    asyncio.run(main())
