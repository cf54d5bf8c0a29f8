"""The network card: frames both ways, what is offered to a driver, the cable, and options."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from qemud.hw.virtio import net as card
from qemud.hw.virtio import net_features as bits
from qemud.hw.virtio.mmio import Reg
from qemud.hw.virtio.net import VirtioNet
from qemud.net.nic import LIMIT
from qemud.net.offload import GSO_TCPV4, HEADER, NEEDS_CSUM, Offload
from qemud.qapi.runtime.check import parse_type
from qemud.qapi.runtime.errors import GenericError
from tests.hw.virtio.net_rig import ALL, HEAD, MAC, machine
from tests.net.support import frame


@pytest.mark.parametrize("packed", [False, True])
def test_frames_go_out(packed: bool) -> None:
    async def main() -> None:
        async with machine(packed=packed) as here:
            await here.start(packed=packed)
            sent = [frame(str(number), size=60 + 7 * number) for number in range(5)]
            await here.send(HEAD + sent[0])
            await here.send(HEAD, sent[1])
            await here.send(HEAD, sent[2][:20], sent[2][20:])
            await here.send(HEAD[:3], HEAD[3:] + sent[3][:1], sent[3][1:])
            await here.send(HEAD + sent[4][:14], sent[4][14:])
            await here.end.until(lambda: len(here.end.got) == 5)
            assert here.end.got == sent
            assert [number for number, _ in await here.call(here.driver.used, card.TX)]
            assert await here.call(here.driver.interrupted)

    asyncio.run(main())


@pytest.mark.parametrize("packed", [False, True])
def test_frames_come_in(packed: bool) -> None:
    async def main() -> None:
        async with machine(packed=packed) as here:
            await here.start(packed=packed)
            await here.buffers(8, 1600)
            frames = [frame("a"), frame("b", size=1500)]
            await here.arrive(*frames)
            assert await here.received() == [bytes(10) + b"\x01\x00" + each for each in frames]
            assert await here.call(here.driver.interrupted)

    asyncio.run(main())


def test_one_frame_in_several_buffers() -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            await here.buffers(3, 600)
            content = bytes(range(256)) * 5
            await here.arrive(content)
            parts = await here.received()
            assert [len(part) for part in parts] == [600, 600, 12 + len(content) - 1200]
            assert b"".join(parts) == bytes(10) + b"\x03\x00" + content
            # Too few buffers: it waits, and no buffer is lost.
            await here.buffers(2, 600)
            await here.arrive(content)
            assert await here.received() == []
            await here.buffers(1, 600)
            assert len(await here.received()) == 3

    asyncio.run(main())


def test_without_merging_a_frame_that_does_not_fit_is_lost() -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start(~bits.FEATURE_MRG_RXBUF)
            await here.buffers(1, 600)
            await here.arrive(bytes(1000), frame("a"))
            assert await here.received() == [bytes(10) + b"\x01\x00" + frame("a")]

    asyncio.run(main())


def test_legacy_headers_are_shorter() -> None:
    async def main() -> None:
        async with machine(legacy=True, mrg_rxbuf=False) as here:

            def start() -> None:
                here.driver.start_legacy()
                # The one queue that it sets up receives.
                here.driver.add(card.RX, [], [200])
                here.driver.set(Reg.QUEUE_NOTIFY, card.RX)

            await here.call(start)
            await here.arrive(frame("a"))
            assert await here.received() == [bytes(10) + frame("a")]

    asyncio.run(main())


def test_what_the_backend_cannot_take_is_not_offered() -> None:
    offloads = bits.FEATURE_CSUM | bits.GUEST_OFFLOADS | bits.FEATURE_HOST_TSO4 | bits.FEATURE_HOST_TSO6
    offloads |= bits.FEATURE_HOST_ECN | bits.FEATURE_HOST_UFO

    async def main() -> None:
        async with machine() as here:
            assert not await here.call(here.driver.offered) & offloads
        async with machine(ALL) as here:
            assert await here.call(here.driver.offered) & offloads == offloads
        async with machine(ALL, guest_tso4=False, csum=False) as here:
            missing = bits.FEATURE_GUEST_TSO4 | bits.FEATURE_CSUM | bits.HOST_OFFLOADS
            assert await here.call(here.driver.offered) & offloads == offloads & ~missing

    asyncio.run(main())


def test_large_frames_go_both_ways_if_the_driver_has_agreed() -> None:
    header = HEADER.pack(NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16)
    large = bytes(range(250)) * 240

    async def main() -> None:
        async with machine(ALL) as here:
            await here.start()
            assert here.end.wanted[-1] == ALL
            await here.send(header + bytes(2), large)
            await here.end.until(lambda: here.end.got)
            assert (here.end.got, here.end.headers) == ([large], [header])
            await here.buffers(20, 4096)
            await here.arrive(large, header=header)
            content = b"".join(await here.received())
            assert content == header + b"\x0f\x00" + large
            # It may change its mind.
            assert await here.command(5, 0, struct.pack("<Q", bits.FEATURE_GUEST_CSUM)) == 0
            assert here.end.wanted[-1] == Offload(csum=True)
            await here.arrive(large, header=header)
            assert await here.received() == []
            assert await here.command(5, 0, struct.pack("<Q", 1 << 40)) == 1
        async with machine(ALL) as here:
            await here.start(~bits.FEATURE_HOST_TSO4)
            await here.send(header + bytes(2), large)
            await here.send(HEADER.pack(NEEDS_CSUM, 0, 0, 0, 34, 1000) + bytes(2), frame("beyond its end"))
            await here.send(HEAD, frame("good"))
            await here.end.until(lambda: here.end.got)
            assert here.end.got == [frame("good")]

    asyncio.run(main())


def test_the_configuration() -> None:
    async def main() -> None:
        async with machine(mac="52:54:00:ab:cd:ef", host_mtu=9000, speed=10000, duplex="full") as here:
            await here.start()
            assert (await here.config(0, 4)).to_bytes(4, "little").hex() == "525400ab"
            assert await here.config(6, 2) == 1
            assert await here.config(10, 2) == 9000
            assert await here.config(12, 4) == 10000
            assert await here.config(16, 1) == 1
            assert here.device.nic.info == "model=virtio-net-device,macaddr=52:54:00:ab:cd:ef"
        async with machine() as here:
            assert here.device.options.mac == "52:54:00:12:34:56"
            assert await here.config(10, 2) == 0xFFFF

    asyncio.run(main())


def test_the_cable() -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            name = here.device.nic.name
            assert name == "virtio-net-device.0"
            for who, up in (("n", False), (name, True), (name, False), ("n", True)):
                here.here.networks.set_link(who, up=up)
                assert await here.config(6, 2) == int(up)
                pending = await here.call(here.driver.get, Reg.INTERRUPT_STATUS)
                assert pending & 2
                await here.call(here.driver.set, Reg.INTERRUPT_ACK, pending)

    asyncio.run(main())


def test_a_backend_that_is_removed_leaves_a_card_with_its_cable_out() -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            here.end.is_netdev = True
            await here.here.networks.remove("n")
            assert await here.config(6, 2) == 0
            await here.send(HEAD, frame("nowhere"))
            assert len(await here.call(here.driver.used, card.TX)) == 1

    asyncio.run(main())


def test_it_announces_itself() -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            here.device.nic.announce()
            await here.call(lambda: None)
            [rarp] = here.end.got
            assert rarp == (
                b"\xff" * 6 + MAC + bytes.fromhex("8035 0001 0800 06 04 0003") + MAC + bytes(4) + MAC
            ).ljust(60, b"\0")
            assert await here.config(6, 2) == 3
            assert await here.command(3, 0, b"") == 0
            assert await here.config(6, 2) == 1
            assert await here.command(3, 0, b"") == 1

    asyncio.run(main())


def test_a_network_that_is_full_is_waited_for() -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            here.end.room = 1
            big, sent = frame("big", size=60_000), 0
            for _ in range(60):
                await here.send(HEAD + big)
                sent += len(await here.call(here.driver.used, card.TX))
            assert sent < 60
            assert sent * len(big) <= LIMIT + 2 * len(big)
            here.end.room = 1 << 30
            here.end.ready()
            await here.end.until(lambda: len(here.end.got) == 60)

    asyncio.run(main())


def test_a_guest_without_buffers_is_waited_for() -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            big, count = frame("big", size=60_000), 1
            while here.end.send([(b"", big)]):
                count += 1
            assert LIMIT - 2 * len(big) < count * len(big) <= LIMIT + len(big)
            while not here.end.resumed:
                await here.buffers(16, 4096)
                await here.received()
            assert here.end.send([(b"", big)])

    asyncio.run(main())


def test_nothing_changes_while_the_machine_is_stopped() -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            await here.buffers(4, 200)
            await here.vm.stop()
            await here.arrive(frame("a"))
            assert await here.received() == []
            await here.vm.cont()
            assert [each[12:] for each in await here.received()] == [frame("a")]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "trouble"),
    [
        ({"netdev": "x"}, "Property 'virtio-net-device.netdev' can't find value 'x'"),
        (
            {"mac": "52:54:0:12:34:56"},
            "Property 'virtio-net-device.mac' doesn't take value '52:54:0:12:34:56'",
        ),
        ({"duplex": "x"}, "'duplex' must be 'half' or 'full'"),
        ({"speed": -2}, "'speed' must be between 0 and INT_MAX"),
        ({"rx_queue_size": 100}, "Invalid rx_queue_size (= 100), must be a power of 2 between 256 and 1024."),
        ({"tx_queue_size": 512}, "Invalid tx_queue_size (= 512), must be a power of 2 between 256 and 256"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], trouble: str) -> None:
    async def main() -> None:
        async with machine() as here:
            await here.unplug()
            here.options = {"netdev": "n", **options}
            with pytest.raises(GenericError) as error:
                await here.plug()
            assert str(error.value) == trouble
            assert here.end.peer is None
            here.options = {"netdev": "n"}
            await here.plug()
            assert here.device.options.mac == "52:54:00:12:34:56"  # which is free again
            other = VirtioNet(parse_type("VirtioNetOptions", here.options))
            with pytest.raises(GenericError, match="can't take value 'n', it's in use"):
                await other.claim(here.services)

    asyncio.run(main())
