"""The network card: all of it real but the processor and the network, which is an end of a cable that keeps what it gets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud.hw.virtio import net as card
from qemud.hw.virtio import net_features as bits
from qemud.hw.virtio.mmio import Reg, VirtioMmio
from qemud.hw.virtio.net import VirtioNet
from qemud.hw.virtio.net_control import MAC_TABLE_ENTRIES
from qemud.machine.thread import MachineThread
from qemud.machine.vm import VirtualMachine
from qemud.net.nic import LIMIT
from qemud.net.offload import GSO_TCPV4, HEADER, NEEDS_CSUM, Offload
from qemud.qapi.runtime.check import parse_type
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import reset_tree
from qemud.qom.object import Root
from tests.hw.virtio.driver import BASE, RAM, Driver, add_ram
from tests.net.support import End, Rig, frame, rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")

NOTHING = Offload()
ALL = Offload(csum=True, tso4=True, tso6=True, ecn=True, ufo=True)
MAC = bytes.fromhex("525400123456")
HEAD = bytes(12)


class Backend(End):
    """An end that has a name, and takes whatever a card may offload if `offload` says so."""

    def __init__(self, name: str, offload: Offload) -> None:
        super().__init__(name)
        self.offload = offload
        self.wanted: list[Offload] = []

    def set_offload(self, offload: Offload) -> None:
        self.wanted.append(offload)


class Machine:
    """A machine thread, a slot, the card in it, its driver, and the network."""

    def __init__(self, networks: Rig, offload: Offload, options: dict[str, Any], *, legacy: bool) -> None:
        self.here = networks
        self.end = Backend("n", offload)
        networks.networks.clients.append(self.end)
        self.thread = MachineThread()
        self.vm = VirtualMachine(
            self.thread, lambda name, data: networks.events.append((name, data)), lambda _: None
        )
        self.services = SimpleNamespace(net=networks.networks, vm=self.vm, emit=self.vm.emit)
        self.options = {"netdev": "n", **options}
        self.legacy = legacy

    async def open(self) -> None:
        self.thread.start()
        await self.call(self.thread.attach_clock, self.vm.clock)
        await self.call(add_ram, self.vm)
        self.root = Root()
        self.slot = self.root.add_child("slot", VirtioMmio(VirtioMmioOptions(force_legacy=self.legacy)))
        await self.call(self.slot.bring_up, self.vm)
        self.vm.reset_devices = lambda: reset_tree(self.root)
        self.driver = Driver(self.vm, self.slot)  # type: ignore[arg-type]  # the real one has what it needs
        await self.plug()
        await self.vm.cont()

    async def plug(self) -> None:
        self.device = VirtioNet(parse_type("VirtioNetOptions", self.options))
        self.root.add_child("net", self.device)
        try:
            await self.device.claim(self.services)
            try:
                await self.call(self.device.bring_up, self.vm, self.slot.virtio_bus)
            except BaseException:
                await self.device.give_up()
                raise
        except BaseException:
            self.device.unparent()
            raise
        await self.call(reset_tree, self.device)

    async def unplug(self) -> None:
        await self.call(self.device.take_down)
        await self.device.settled()
        await self.device.give_up()
        self.device.unparent()

    async def close(self) -> None:
        if self.device.realized:
            await self.unplug()
        await self.thread.end()

    async def call(self, fn: Callable[..., T], *arguments: Any) -> T:
        return await self.vm.mailboxes.call(fn, *arguments)

    async def start(self, wanted: int = ~0, *, packed: bool = False, size: int = 64) -> None:
        await self.call(lambda: self.driver.start(wanted, size=size, count=3, packed=packed))

    async def send(self, *pieces: bytes) -> None:
        """A frame of the driver, its header and content in pieces."""

        def begin() -> None:
            self.driver.add(card.TX, pieces, [])
            self.driver.set(Reg.QUEUE_NOTIFY, card.TX)

        await self.call(begin)

    async def buffers(self, count: int, size: int) -> None:
        """Buffers for frames."""

        def begin() -> None:
            for _ in range(count):
                self.driver.add(card.RX, [], [size])
            self.driver.set(Reg.QUEUE_NOTIFY, card.RX)

        await self.call(begin)

    async def arrive(self, *frames: bytes, header: bytes = b"") -> None:
        """Frames from the network; they are with the card when this returns."""
        self.end.send([(header, each) for each in frames])
        await self.call(lambda: None)

    async def received(self) -> list[bytes]:
        """What came into the driver's buffers, in the order of their use."""

        def look() -> list[bytes]:
            return [
                self.driver.data(card.RX, number, written) for number, written in self.driver.used(card.RX)
            ]

        return await self.call(look)

    async def command(self, kind: int, command: int, data: bytes) -> int:
        """A command of the driver; what it is answered."""

        def begin() -> int:
            number = self.driver.add(card.CTRL, [bytes((kind, command)) + data], [1])
            self.driver.set(Reg.QUEUE_NOTIFY, card.CTRL)
            assert self.driver.used(card.CTRL) == [(number, 1)]
            return self.driver.data(card.CTRL, number)[0]

        return await self.call(begin)

    async def status(self) -> int:
        return await self.call(lambda: self.driver.status)

    async def config(self, offset: int, size: int) -> int:
        return await self.call(self.slot.read, Reg.CONFIG + offset, size)


@contextlib.asynccontextmanager
async def machine(
    offload: Offload = NOTHING, *, legacy: bool = False, **options: Any
) -> AsyncIterator[Machine]:
    async with rig() as networks:
        made = Machine(networks, offload, options, legacy=legacy)
        await made.open()
        try:
            yield made
        finally:
            await made.close()


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


TO_OTHERS = bytes.fromhex("5254000000ff") + bytes(54)
BROADCAST = b"\xff" * 6 + bytes(54)
GROUP = bytes.fromhex("01005e000001") + bytes(54)
OTHER_GROUP = bytes.fromhex("01005e000002") + bytes(54)
MINE = MAC + bytes(54)


def test_which_frames_it_takes() -> None:
    everything = [MINE, TO_OTHERS, BROADCAST, GROUP, OTHER_GROUP]

    async def taken(here: Machine) -> list[bytes]:
        await here.buffers(5, 200)
        await here.arrive(*everything)
        found = [each[12:] for each in await here.received()]
        # Use up the rest.
        await here.command(0, 0, b"\x01")
        await here.arrive(*[MINE] * (5 - len(found)))
        await here.received()
        await here.command(0, 0, b"\x00")
        return found

    async def main() -> None:
        async with machine() as here:
            await here.start()
            assert await taken(here) == everything  # until the driver says otherwise
            assert await taken(here) == [MINE, BROADCAST]
            table = struct.pack("<I", 1) + TO_OTHERS[:6] + struct.pack("<I", 1) + GROUP[:6]
            assert await here.command(1, 0, table) == 0
            assert await taken(here) == [MINE, TO_OTHERS, BROADCAST, GROUP]
            for command, wanted in (
                (1, everything),  # all multicast
                (3, [MINE, TO_OTHERS, BROADCAST]),  # none
                (4, [BROADCAST, GROUP]),  # no unicast
                (5, [MINE, TO_OTHERS, GROUP]),  # no broadcast
            ):
                assert await here.command(0, command, b"\x01") == 0
                assert await taken(here) == wanted
                assert await here.command(0, command, b"\x00") == 0
            assert await here.command(1, 0, bytes(8)) == 0
            assert await here.command(0, 2, b"\x01") == 0  # all unicast
            assert await taken(here) == [MINE, TO_OTHERS, BROADCAST]
            assert await here.command(1, 1, TO_OTHERS[:6]) == 0  # another address
            assert await here.command(0, 2, b"\x00") == 0
            assert await taken(here) == [TO_OTHERS, BROADCAST]
            for kind, command, data in (
                (0, 6, b"\x01"), (0, 0, b""), (1, 0, b""), (1, 0, bytes(4)), (1, 0, bytes(9)), (1, 1, bytes(5)),
                (1, 0, struct.pack("<I", 0xFFFFFFFF) + bytes(4)), (1, 2, b"\0"), (2, 0, b"\0"), (2, 0, b"\0\x10"),
                (2, 2, b"\0\0"), (3, 0, b"\0"), (5, 0, bytes(7)), (9, 0, b"\0"),
            ):  # fmt: skip
                assert await here.command(kind, command, data) == 1, (kind, command)
            many = struct.pack("<I", MAC_TABLE_ENTRIES + 1) + bytes(6 * (MAC_TABLE_ENTRIES + 1))
            assert await here.command(1, 0, many + many) == 0
            # More than there is room for: all are taken.
            assert await taken(here) == everything

    asyncio.run(main())


def test_vlans() -> None:
    def tagged(number: int) -> bytes:
        return MINE[:12] + b"\x81\x00" + number.to_bytes(2, "big") + bytes(44)

    async def main() -> None:
        async with machine() as here:
            await here.start()
            await here.command(0, 0, b"\x00")
            await here.buffers(10, 200)
            await here.command(2, 0, struct.pack("<H", 7))
            await here.arrive(tagged(7), tagged(8), tagged(0x2007))
            assert [each[12:] for each in await here.received()] == [tagged(7), tagged(0x2007)]
            await here.command(2, 1, struct.pack("<H", 7))
            await here.arrive(tagged(7), MINE)
            assert [each[12:] for each in await here.received()] == [MINE]
        async with machine(ctrl_vlan=False) as here:
            await here.start()
            await here.command(0, 0, b"\x00")
            await here.buffers(10, 200)
            await here.arrive(tagged(7))
            assert len(await here.received()) == 1

    asyncio.run(main())


def test_what_is_told_of_its_choice() -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            await here.command(0, 0, b"\x00")
            await here.command(0, 1, b"\x01")
            await here.command(2, 0, struct.pack("<H", 7))
            table = struct.pack("<I", 1) + TO_OTHERS[:6] + struct.pack("<I", 2) + GROUP[:6] + OTHER_GROUP[:6]
            await here.command(1, 0, table)
            changes = [data for name, data in here.here.events if name == "NIC_RX_FILTER_CHANGED"]
            assert changes == [{"path": "/net"}]  # once until somebody asks
            told = await here.call(here.device.nic.query_filter)
            assert (told.promiscuous, told.multicast.value, told.unicast.value, told.vlan.value) == (
                False, "all", "normal", "normal",
            )  # fmt: skip
            assert told.unicast_table == ["52:54:00:00:00:ff"]
            assert told.multicast_table == ["01:00:5e:00:00:02", "01:00:5e:00:00:01"]
            assert told.vlan_table == [7]
            assert told.main_mac == "52:54:00:12:34:56"
            await here.command(0, 0, b"\x01")
            await here.call(lambda: None)
            assert [name for name, _ in here.here.events].count("NIC_RX_FILTER_CHANGED") == 2

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


def test_resets_and_unplugs_with_frames_under_way() -> None:
    async def main() -> None:
        async with machine() as here:
            for turn in range(100):
                await here.start(packed=bool(turn & 1))
                await here.buffers(4, 200)
                for number in range(8):
                    here.end.send([(b"", frame(f"in {number}"))])
                await here.call(lambda: here.driver.add(card.TX, [HEAD, frame("out")], []))
                await here.call(here.driver.set, Reg.QUEUE_NOTIFY, card.TX)
                if turn % 3 == 0:
                    await here.call(here.driver.set, Reg.STATUS, 0)
                elif turn % 3 == 1:
                    await here.call(reset_tree, here.root)
                else:
                    await here.unplug()
                    assert here.end.peer is None
                    await here.plug()
            await here.start()
            await here.buffers(1, 200)
            await here.arrive(frame("last"))
            assert [each[12:] for each in await here.received()] == [frame("last")]
            # Nothing counts as under way any more.
            await here.call(lambda: None)
            nic = here.device.nic
            assert nic._posted == nic._consumed

    asyncio.run(main())


def test_state_is_kept() -> None:
    async def main() -> None:
        async with machine(ALL) as here:
            await here.start()
            await here.command(0, 0, b"\x00")
            await here.command(1, 0, struct.pack("<I", 0) + struct.pack("<I", 1) + GROUP[:6])
            await here.command(2, 0, struct.pack("<H", 7))
            await here.command(1, 1, TO_OTHERS[:6])
            await here.command(5, 0, struct.pack("<Q", bits.FEATURE_GUEST_CSUM))
            saved = await here.call(here.device.save)
            await here.buffers(2, 200)
            await here.call(reset_tree, here.device)
            assert here.device.state.promisc
            await here.call(here.device.load, saved)
            assert await here.call(here.device.save) == saved
            assert here.end.wanted[-1] == Offload(csum=True)
            await here.arrive(MINE, OTHER_GROUP, GROUP)
            assert [each[12:] for each in await here.received()] == [GROUP]
            now = await here.call(here.device.save)
            for name, value in (
                ("mac", "12"),
                ("multicast", ["zz"] * 2),
                ("unicast", ["00" * 6] * 65),
                ("vlans", [4096]),
            ):
                with pytest.raises(GenericError):
                    await here.call(here.device.load, saved | {name: value})
            assert await here.call(here.device.save) == now

    asyncio.run(main())


@pytest.mark.parametrize(
    ("readable", "writable"),
    [([b""[:0] + b"\0" * 11], []), ([b"x" * 5, b"y" * 6], []), ([], [64]), ([HEAD + frame("a")], [64])],
)
def test_frames_that_are_none_break_the_device(readable: list[bytes], writable: list[int]) -> None:
    async def main() -> None:
        async with machine() as here:
            await here.start()
            await here.call(lambda: here.driver.add(card.TX, readable, writable))
            await here.call(here.driver.set, Reg.QUEUE_NOTIFY, card.TX)
            assert await here.status() & 64
            await here.start()
            assert await here.status() == 15

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(6))
def test_hostile_drivers(seed: int) -> None:
    """Descriptors with any address, length and direction: the device ends as needing a reset, or goes on; never anything else."""

    async def main() -> None:
        dice = random.Random(seed)
        async with machine(ALL, packed=True) as here:
            failures: list[BaseException] = []
            look = here.device.look

            def watched() -> None:
                try:
                    look()
                except BaseException as error:
                    failures.append(error)
                    raise

            here.device.look = watched  # type: ignore[method-assign]
            edges = (0, 1, 2, 9, 10, 11, 12, 13, 26, 60, 1514, 65535, 65600, 1 << 20, (1 << 32) - 1)
            for _ in range(150):
                await here.start(packed=bool(dice.getrandbits(1)))

                def attack() -> None:
                    driver = here.driver
                    for queue in (card.RX, card.TX, card.CTRL):
                        for _ in range(dice.randrange(4)):
                            pieces = []
                            for _ in range(dice.randrange(1, 5)):
                                address = dice.choice(
                                    (
                                        driver.buffer(64),
                                        BASE + RAM - 5,
                                        0,
                                        BASE,
                                        (1 << 64) - 8,
                                        dice.getrandbits(32),
                                    )
                                )
                                pieces.append((address, dice.choice(edges), dice.choice((0, 2))))
                            if dice.random() < 0.7:
                                pieces.sort(key=lambda piece: piece[2])
                            for address, length, _ in pieces:
                                if BASE <= address < BASE + RAM - 64 and length:
                                    here.vm.memory.write_physical(
                                        address + 12 * (address < BASE + RAM // 2), dice.randbytes(16)
                                    )
                            driver.queues[queue].add(pieces)
                        driver.set(Reg.QUEUE_NOTIFY, queue)

                with contextlib.suppress(
                    IndexError, AssertionError
                ):  # the rings themselves were written into
                    await here.call(attack)
                here.end.send(
                    [
                        (
                            dice.choice((b"", dice.randbytes(10))),
                            dice.randbytes(dice.choice((1, 60, 1514, 60000))),
                        )
                        for _ in range(3)
                    ]
                )
                status = await here.status()
                assert status in {15, 15 | 64}
            await here.start()
            await here.buffers(4, 2000)
            await here.arrive(frame("alive"))
            assert failures == []
            assert [each[12:] for each in await here.received()] == [frame("alive")]

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
