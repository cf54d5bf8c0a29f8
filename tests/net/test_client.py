"""Cables: who gets what, what becomes of frames that nobody has room for, links, hubs, names."""

from __future__ import annotations

import asyncio

import pytest

from qemud.net import mac
from qemud.net.client import QUEUE_LIMIT, connect, disconnect
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError
from tests.net.support import End, frame, rig


def test_frames_reach_the_other_end_in_order():
    async def main() -> None:
        one, other = End("one"), End("other")
        connect(one, other)
        assert one.send([(b"", frame("a")), (b"", frame("b"))])
        assert other.got == [frame("a"), frame("b")]
        assert one.got == []

    asyncio.run(main())


def test_who_has_no_room_gets_the_rest_later_and_tells_the_sender():
    async def main() -> None:
        one, other = End("one"), End("other", room=1)
        connect(one, other)
        assert not one.send([(b"", frame("a"))])
        assert not one.send([(b"", frame("b"))])
        assert other.got == [frame("a")]
        other.room = 100
        other.ready()
        assert other.got == [frame("a"), frame("b")]
        assert one.resumed == 1

    asyncio.run(main())


def test_no_more_than_so_many_frames_wait():
    async def main() -> None:
        one, other = End("one"), End("other", room=1)
        connect(one, other)
        one.send([(b"", b"x")])
        for _ in range(3):
            one.send([(b"", b"y")] * (QUEUE_LIMIT // 2))
        assert other.lost == QUEUE_LIMIT // 2
        other.room = 1 << 30
        other.ready()
        assert len(other.got) == 1 + QUEUE_LIMIT

    asyncio.run(main())


def test_what_waits_is_lost_with_the_cable_and_the_sender_may_go_on():
    async def main() -> None:
        one, other = End("one"), End("other", room=1)
        connect(one, other)
        one.send([(b"", b"x")])
        one.send([(b"", b"y")])
        disconnect(one)
        assert (one.peer, other.peer, one.resumed) == (None, None, 1)
        assert one.send([(b"", b"z")])
        assert other.got == [b"x"]

    asyncio.run(main())


def test_a_hub_sends_to_all_other_ports():
    async def main() -> None:
        async with rig() as here:
            ends = [await here.plugged(f"hubport,id=p{n},hubid=7") for n in range(3)]
            ends[0].send([(b"", frame("a"))])
            assert [end.got for end in ends] == [[], [frame("a")], [frame("a")]]
            await here.networks.remove("p1")
            ends[0].send([(b"", frame("b"))])
            assert ends[1].got == [frame("a")]
            assert ends[2].got == [frame("a"), frame("b")]

    asyncio.run(main())


def test_a_hub_has_room_as_long_as_one_port_has():
    async def main() -> None:
        async with rig() as here:
            sender = await here.plugged("hubport,id=s,hubid=0")
            slow, fast = (
                await here.plugged("hubport,id=a,hubid=0", 1),
                await here.plugged("hubport,id=b,hubid=0", 2),
            )
            assert sender.send([(b"", frame("1"))])
            assert not sender.send([(b"", frame("2"))])
            fast.room = slow.room = 100
            slow.ready()
            assert sender.resumed
            assert slow.got == fast.got == [frame("1"), frame("2")]

    asyncio.run(main())


def test_a_pulled_cable_carries_nothing():
    async def main() -> None:
        async with rig() as here:
            one, other = (
                await here.plugged("hubport,id=a,hubid=0"),
                await here.plugged("hubport,id=b,hubid=0"),
            )
            here.networks.set_link("a", up=False)
            one.send([(b"", frame("1"))])
            other.send([(b"", frame("2"))])
            assert one.got == other.got == []
            here.networks.set_link("a", up=True)
            one.send([(b"", frame("3"))])
            assert other.got == [frame("3")]

    asyncio.run(main())


def test_names():
    async def main() -> None:
        async with rig() as here:
            await here.add("hubport,id=a,hubid=0")
            with pytest.raises(GenericError, match=r"^Duplicate ID 'a'$"):
                await here.add("hubport,id=a,hubid=1")
            with pytest.raises(DeviceNotFound, match=r"^Device 'b' not found$"):
                await here.networks.remove("b")
            with pytest.raises(DeviceNotFound, match=r"^Device 'b' not found$"):
                here.networks.set_link("b", up=True)
            assert list(here.networks.warnings()) == ["hub port a has no peer", "netdev a has no peer"]
            await here.networks.remove("a")
            await here.add("hubport,id=a,hubid=0")

    asyncio.run(main())


def test_addresses_as_people_write_them():
    assert mac.parse("52:54:0:12:34:aB") == bytes.fromhex("5254001234ab") == mac.parse("52-54-00-12-34-ab")
    assert mac.show(bytes.fromhex("5254001234ab")) == "52:54:00:12:34:ab"
    for text in (
        "",
        "52:54:00:12:34",
        "52:54:00:12:34:56:78",
        "52:54:00:12:34:g6",
        "52:54:00:12:34:156",
        "::::::",
    ):
        with pytest.raises(ValueError, match=text or "^$"):
            mac.parse(text)
    with pytest.raises(ValueError, match="52:54:0"):
        mac.parse("52:54:0:12:34:56", least=2)


def test_addresses_to_choose_from():
    pool = mac.MacPool()
    pool.take(mac.parse("52:54:00:12:34:57"))
    assert [mac.show(pool.choose())[-2:] for _ in range(3)] == ["56", "58", "59"]
    pool.give_back(mac.parse("52:54:00:12:34:58"))
    assert mac.show(pool.choose()) == "52:54:00:12:34:58"
    for _ in range(0xFE - 0x59):
        pool.choose()
    with pytest.raises(GenericError, match="no MAC addresses left"):
        pool.choose()
