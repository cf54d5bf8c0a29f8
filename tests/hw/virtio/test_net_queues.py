"""The network card with several pairs of queues: which frames go where, how many pairs there are, and drivers that want others."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.hw.virtio import net_features as bits
from qemud.hw.virtio.mmio import Reg
from qemud.net.client import join
from qemud.net.nic import LIMIT
from qemud.net.tap import TapNet
from qemud.qapi.runtime.errors import GenericError
from tests.hw.virtio.net_rig import HEAD, Machine, machine
from tests.net.support import frame

CLASS_MQ = 4
VQ_PAIRS_SET = 0
OK, ERR = 0, 1
ROOM = 1600


async def use(here: Machine, count: int) -> int:
    """The driver asks for so many pairs; what it is answered."""
    answer = await here.command(CLASS_MQ, VQ_PAIRS_SET, struct.pack("<H", count))
    await here.call(lambda: None)
    return answer


async def contents(here: Machine, pair: int) -> list[bytes]:
    """The frames that came into a pair's buffers."""
    return [each[12:] for each in await here.received(2 * pair)]


async def maximum(here: Machine) -> int:
    """`max_virtqueue_pairs`."""
    return await here.config(8, 2)


async def count_queues(here: Machine) -> int:
    """How many queues the driver sees."""

    def look() -> int:
        count = 0
        while True:
            here.driver.set(Reg.QUEUE_SEL, count)
            if not here.driver.get(Reg.QUEUE_NUM_MAX):
                return count
            count += 1

    return await here.call(look)


@pytest.mark.parametrize("packed", [False, True])
def test_each_pair_is_one_queue_of_the_backend(packed: bool) -> None:
    async def main() -> None:
        async with machine(queues=3, mq=True, packed=packed) as here:
            await here.start(packed=packed)
            assert await maximum(here) == 3
            assert await use(here, 3) == OK
            assert [end.used[-1] for end in here.ends] == [True] * 3
            for pair in (2, 0, 1):
                await here.buffers(4, ROOM, queue=2 * pair)
                await here.send(HEAD, frame(f"out {pair}"), queue=2 * pair + 1)
                await here.arrive(frame(f"in {pair}"), pair=pair)
            for pair, end in enumerate(here.ends):
                await end.until(lambda end=end: end.got)  # type: ignore[misc]
                assert end.got == [frame(f"out {pair}")]
                assert await contents(here, pair) == [frame(f"in {pair}")]

    asyncio.run(main())


def test_a_driver_begins_with_one_pair() -> None:
    async def main() -> None:
        async with machine(queues=2, mq=True) as here:
            await here.start()
            assert [end.used[-1] for end in here.ends] == [True, False]
            await here.buffers(4, ROOM, queue=2)
            await here.send(HEAD, frame("early"), queue=3)
            await here.arrive(frame("lost"), pair=1)
            await here.arrive(frame("first"))
            await here.buffers(4, ROOM)
            assert await contents(here, 0) == [frame("first")]
            assert await contents(here, 1) == []
            assert here.ends[1].got == []
            # What the driver had put there leaves when the pair is used.
            assert await use(here, 2) == OK
            await here.ends[1].until(lambda: here.ends[1].got)
            assert here.ends[1].got == [frame("early")]
            await here.arrive(frame("second"), pair=1)
            assert await contents(here, 1) == [frame("second")]
            # And back again.
            assert await use(here, 1) == OK
            await here.arrive(frame("lost"), pair=1)
            await here.send(HEAD, frame("late"), queue=3)
            assert await contents(here, 1) == []
            await here.send(HEAD, frame("end"))
            await here.end.until(lambda: here.end.got)
            assert here.ends[1].got == [frame("early")]

    asyncio.run(main())


def test_what_is_offered_and_which_queues_there_are() -> None:
    async def main() -> None:
        # Without the option, the first queue of the backend is all there is.
        async with machine(queues=2) as here:
            assert not await here.call(here.driver.offered) & bits.FEATURE_MQ
            await here.start()
            assert await count_queues(here) == 3
            assert await here.config(6, 2) == 1
            assert await maximum(here) == 0xFFFF
            assert await use(here, 1) == ERR
        # With it, it is offered whatever the backend has.
        async with machine(mq=True) as here:
            assert await here.call(here.driver.offered) & bits.FEATURE_MQ
            await here.start()
            assert (await count_queues(here), await maximum(here)) == (3, 1)
            assert await use(here, 1) == OK
            assert await use(here, 2) == ERR
        async with machine(queues=4, mq=True) as here:
            assert await count_queues(here) == 3
            await here.start()
            assert await count_queues(here) == 9
            # A driver that does not take it has the commands where they always were.
            await here.start(~bits.FEATURE_MQ)
            assert await count_queues(here) == 3
            assert await use(here, 1) == ERR
            assert await here.command(0, 0, b"\x01") == OK
            await here.start()
            assert await use(here, 4) == OK

    asyncio.run(main())


def test_a_reset_leaves_one_pair() -> None:
    async def main() -> None:
        async with machine(queues=2, mq=True) as here:
            await here.start()
            assert await use(here, 2) == OK
            await here.start()
            assert [end.used[-1] for end in here.ends] == [True, False]
            await here.buffers(1, ROOM, queue=2)
            await here.arrive(frame("lost"), pair=1)
            assert await contents(here, 1) == []
            await here.call(here.driver.set, Reg.STATUS, 0)
            assert await count_queues(here) == 3

    asyncio.run(main())


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (VQ_PAIRS_SET, struct.pack("<H", 0)),
        (VQ_PAIRS_SET, struct.pack("<H", 3)),
        (VQ_PAIRS_SET, struct.pack("<H", 0x8000)),
        (VQ_PAIRS_SET, struct.pack("<H", 0xFFFF)),
        (VQ_PAIRS_SET, b"\x01"),
        (VQ_PAIRS_SET, b""),
        (1, struct.pack("<H", 1)),
        (2, struct.pack("<H", 1)),
        (255, struct.pack("<H", 1)),
    ],
)
def test_what_a_driver_cannot_have(command: int, data: bytes) -> None:
    async def main() -> None:
        async with machine(queues=2, mq=True) as here:
            await here.start()
            assert await use(here, 2) == OK
            assert await here.command(CLASS_MQ, command, data) == ERR
            await here.buffers(1, ROOM, queue=2)
            await here.arrive(frame("still there"), pair=1)
            assert await contents(here, 1) == [frame("still there")]

    asyncio.run(main())


@given(st.lists(st.integers(0, 5), max_size=8))
def test_pairs_in_use_are_those_that_the_driver_has_asked_for_last(wanted: list[int]) -> None:
    async def main() -> None:
        async with machine(queues=4, mq=True) as here:
            await here.start()
            used = 1
            for step, count in enumerate(wanted):
                fits = 1 <= count <= 4
                assert await use(here, count) == (OK if fits else ERR)
                used = count if fits else used
                assert [end.used[-1] for end in here.ends] == [pair < used for pair in range(4)]
                for pair in range(4):
                    await here.buffers(1, 200, queue=2 * pair)
                    await here.arrive(frame(f"{step} {pair}"), pair=pair)
                    expected = [frame(f"{step} {pair}")] if pair < used else []
                    assert await contents(here, pair) == expected

    asyncio.run(main())


def test_a_network_that_is_full_stops_its_own_pair_only() -> None:
    async def main() -> None:
        async with machine(queues=2, mq=True) as here:
            await here.start()
            assert await use(here, 2) == OK
            full, other = here.ends
            full.room = 1
            big, sent = frame("big", size=60_000), 0
            for _ in range(60):
                await here.send(HEAD + big)
                sent += len(await here.call(here.driver.used, 1))
            assert sent * len(big) <= LIMIT + 2 * len(big)
            await here.send(HEAD, frame("past it"), queue=3)
            await other.until(lambda: other.got)
            full.room = 1 << 30
            full.ready()
            await full.until(lambda: len(full.got) == 60)
            # The same the other way: a pair without buffers.
            while full.send([(b"", big)]):
                pass
            assert other.send([(b"", big)])
            assert not full.resumed
            # What came for a pair that is used no longer is lost, and whoever sends it is not held up.
            while other.send([(b"", big)]):
                pass
            assert await use(here, 1) == OK
            await here.call(lambda: None)
            assert other.resumed
            assert not full.resumed

    asyncio.run(main())


def test_the_cable_is_one() -> None:
    async def main() -> None:
        async with machine(queues=2, mq=True) as here:
            await here.start()
            assert await use(here, 2) == OK
            networks = here.here.networks
            await here.buffers(4, ROOM, queue=2)
            for name in ("n", "virtio-net-device.0"):
                networks.set_link(name, up=False)
                assert await here.config(6, 2) == 0
                await here.arrive(frame("lost"), pair=1)
                assert await contents(here, 1) == []
                networks.set_link(name, up=True)
                assert await here.config(6, 2) == 1
                await here.arrive(frame("there"), pair=1)
                assert await contents(here, 1) == [frame("there")]
            here.end.is_netdev = True
            await networks.remove("n")
            assert await here.config(6, 2) == 0
            assert await use(here, 1) == OK
            assert await use(here, 2) == OK
            await here.send(HEAD, frame("nowhere"), queue=3)
            assert len(await here.call(here.driver.used, 3)) == 1
            assert not any(each in networks.clients for each in here.ends)

    asyncio.run(main())


def test_nothing_moves_while_the_machine_is_stopped() -> None:
    async def main() -> None:
        async with machine(queues=2, mq=True) as here:
            await here.start()
            assert await use(here, 2) == OK
            await here.buffers(4, ROOM, queue=2)
            await here.vm.stop()
            await here.arrive(frame("a"), pair=1)
            await here.send(HEAD, frame("b"), queue=3)
            assert await contents(here, 1) == []
            assert here.ends[1].got == []
            await here.vm.cont()
            await here.ends[1].until(lambda: here.ends[1].got)
            assert here.ends[1].got == [frame("b")]
            assert await contents(here, 1) == [frame("a")]

    asyncio.run(main())


def test_a_card_that_goes_leaves_all_queues_to_the_next_one() -> None:
    async def main() -> None:
        async with machine(queues=2, mq=True) as here:
            await here.start()
            assert await use(here, 2) == OK
            await here.unplug()
            assert all(end.peer is None for end in here.ends)
            assert here.here.networks.clients == here.ends
            await here.plug()
            await here.start()
            assert await use(here, 2) == OK
            await here.send(HEAD, frame("again"), queue=3)
            await here.ends[1].until(lambda: here.ends[1].got)

    asyncio.run(main())


def test_the_state_knows_the_pairs() -> None:
    async def main() -> None:
        async with machine(queues=3, mq=True) as here:
            await here.start()
            assert await use(here, 2) == OK
            saved = await here.call(here.device.save)
            assert (saved["queue-pairs"], len(saved["queues"])) == (2, 7)
            driver = here.driver.queues
            await here.call(here.device.reset)
            assert [end.used[-1] for end in here.ends] == [True, False, False]
            await here.call(here.device.load, saved)
            await here.call(lambda: None)
            assert [end.used[-1] for end in here.ends] == [True, True, False]
            here.driver.queues = driver
            await here.buffers(1, ROOM, queue=2)
            await here.arrive(frame("a"), pair=1)
            assert await contents(here, 1) == [frame("a")]
            assert await use(here, 3) == OK
            for count, trouble in (
                (4, "virtio-net: curr_queue_pairs 4 > max_queue_pairs 3"),
                (0, "no queue pairs are in use"),
            ):
                saved["queue-pairs"] = count
                with pytest.raises(GenericError, match=trouble):
                    await here.call(here.device.load, saved)
        async with machine(queues=2, mq=True) as here:
            saved["queue-pairs"] = 2
            with pytest.raises(GenericError, match="it has 7 queues, here there are 5"):
                await here.call(here.device.load, saved)

    asyncio.run(main())


def test_a_backend_with_too_many_queues() -> None:
    async def main() -> None:
        with pytest.raises(GenericError) as error:
            async with machine(queues=512, mq=True):
                pass
        assert str(error.value) == (
            "Invalid number of queue pairs (= 512), must be a positive integer less than 511."
        )
        async with machine(queues=511, mq=True) as here:
            await here.start(size=2)
            assert await count_queues(here) == 1023
            assert await use(here, 511) == OK

    asyncio.run(main())


def test_what_people_and_clients_are_told() -> None:
    from qemud.net.commands import NetHandlers

    async def main() -> None:
        async with machine(queues=2, mq=True) as here:
            for end in here.ends:
                end.info = "x"
            here.services.net = here.here.networks
            handlers = NetHandlers(here.services)
            text = (await handlers.x_query_network()).human_readable_text
            assert text == (
                "virtio-net-device.0: index=0,type=nic,model=virtio-net-device,macaddr=52:54:00:12:34:56\n"
                " \\ n: index=0,type=end,x\n"
                "virtio-net-device.1: index=1,type=nic,\n"
                " \\ n: index=1,type=end,x\n"
            )
            [told] = await handlers.query_rx_filter()
            assert told.name == "virtio-net-device.0"

    asyncio.run(main())


def test_queues_of_a_tap_that_are_not_used_are_not_read() -> None:
    """Sockets stand in for an interface's queues."""

    async def main() -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
        for pair in pairs:
            for each in pair:
                each.setblocking(False)
        async with machine(mq=True) as here:
            taps = [TapNet("t", ours.detach(), "", has_header=False) for ours, _ in pairs]
            join(taps)
            here.here.networks.clients += taps
            await here.unplug()
            here.options = {"netdev": "t", "mq": True}
            await here.plug()
            here.ends = taps  # type: ignore[assignment]  # as far as it counts how many there are
            hosts = [theirs for _, theirs in pairs]
            loop = asyncio.get_running_loop()
            try:
                await here.start()
                await here.buffers(4, ROOM)
                await here.buffers(4, ROOM, queue=2)
                hosts[1].send(frame("for later"))
                hosts[0].send(frame("now"))
                while not (came := await contents(here, 0)):
                    await asyncio.sleep(0)
                assert came == [frame("now")]
                assert await contents(here, 1) == []
                assert await use(here, 2) == OK
                while not (came := await contents(here, 1)):
                    await asyncio.sleep(0)
                assert came == [frame("for later")]
                for number, host in enumerate(hosts):
                    await here.send(HEAD, frame(f"out {number}"), queue=2 * number + 1)
                    assert await loop.sock_recv(host, 2000) == frame(f"out {number}")
            finally:
                for host in hosts:
                    host.close()

    asyncio.run(main())
