"""The rig of the tests of the network card: all of it real but the processor and the network.

    async with machine(ALL, mac="52:54:00:ab:cd:ef") as here:
        await here.start()
        await here.send(HEAD, frame("out"))

The network is an end of a cable that keeps what it gets; with `queues`, as many ends that are one backend.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from qemud.hw.virtio import net as card
from qemud.hw.virtio.mmio import Reg
from qemud.hw.virtio.net import VirtioNet
from qemud.hw.virtio.net_features import FEATURE_MQ
from qemud.net.client import join
from qemud.net.offload import Offload
from qemud.qapi.runtime.check import parse_type
from tests.hw.virtio.slot import SlotRig
from tests.net.support import End, Rig, rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOTHING = Offload()
ALL = Offload(csum=True, tso4=True, tso6=True, ecn=True, ufo=True)
MAC = bytes.fromhex("525400123456")
HEAD = bytes(12)
"""The header of a frame with nothing to say."""

# Frames, by who they are for.
TO_OTHERS = bytes.fromhex("5254000000ff") + bytes(54)
BROADCAST = b"\xff" * 6 + bytes(54)
GROUP = bytes.fromhex("01005e000001") + bytes(54)
OTHER_GROUP = bytes.fromhex("01005e000002") + bytes(54)
MINE = MAC + bytes(54)


class Backend(End):
    """An end that has a name, and takes whatever a card may offload if `offload` says so."""

    def __init__(self, name: str, offload: Offload) -> None:
        super().__init__(name)
        self.offload = offload
        self.wanted: list[Offload] = []
        self.used: list[bool] = []

    def set_offload(self, offload: Offload) -> None:
        self.wanted.append(offload)

    def set_used(self, *, used: bool) -> None:
        self.used.append(used)


class Machine(SlotRig):
    """A machine thread, a slot, the card in it, its driver, and the network."""

    def __init__(
        self, networks: Rig, offload: Offload, options: dict[str, Any], *, legacy: bool, queues: int
    ) -> None:
        super().__init__()
        self.here = networks
        self.events = networks.events
        self.ends = [Backend("n", offload) for _ in range(queues)]
        join(self.ends)
        self.end = self.ends[0]
        networks.networks.clients += self.ends
        self.ctrl = card.CTRL
        self.options = {"netdev": "n", **options}
        self.legacy = legacy

    async def open(self) -> None:
        await self.open_slot(legacy=self.legacy)
        self.services.net = self.here.networks
        await self.plug()
        await self.vm.cont()

    async def plug(self) -> None:
        self.device = VirtioNet(parse_type("VirtioNetOptions", self.options))
        await self.plug_in("net", self.device, self.slot.virtio_bus)

    async def unplug(self) -> None:
        await self.take_out(self.device)

    async def close(self) -> None:
        if self.device.realized:
            await self.unplug()
        await self.close_slot()

    async def start(self, wanted: int = ~0, *, packed: bool = False, size: int = 64) -> None:
        def begin() -> None:
            has_all = wanted & self.driver.offered() & FEATURE_MQ
            self.ctrl = 2 * len(self.ends) if has_all else card.CTRL
            self.driver.start(wanted, size=size, count=self.ctrl + 1, packed=packed)

        await self.call(begin)

    async def send(self, *pieces: bytes, queue: int = card.TX) -> None:
        """A frame of the driver, its header and content in pieces."""

        def begin() -> None:
            self.driver.add(queue, pieces, [])
            self.driver.set(Reg.QUEUE_NOTIFY, queue)

        await self.call(begin)

    async def buffers(self, count: int, size: int, *, queue: int = card.RX) -> None:
        """Buffers for frames."""

        def begin() -> None:
            for _ in range(count):
                self.driver.add(queue, [], [size])
            self.driver.set(Reg.QUEUE_NOTIFY, queue)

        await self.call(begin)

    async def arrive(self, *frames: bytes, header: bytes = b"", pair: int = 0) -> None:
        """Frames from the network; they are with the card when this returns."""
        self.ends[pair].send([(header, each) for each in frames])
        await self.call(lambda: None)

    async def received(self, queue: int = card.RX) -> list[bytes]:
        """What came into the driver's buffers, in the order of their use."""

        def look() -> list[bytes]:
            return [self.driver.data(queue, number, written) for number, written in self.driver.used(queue)]

        return await self.call(look)

    async def command(self, kind: int, command: int, data: bytes) -> int:
        """A command of the driver; what it is answered."""

        def begin() -> int:
            number = self.driver.add(self.ctrl, [bytes((kind, command)) + data], [1])
            self.driver.set(Reg.QUEUE_NOTIFY, self.ctrl)
            assert self.driver.used(self.ctrl) == [(number, 1)]
            return self.driver.data(self.ctrl, number)[0]

        return await self.call(begin)

    async def status(self) -> int:
        return await self.call(lambda: self.driver.status)

    async def config(self, offset: int, size: int) -> int:
        return await self.call(self.slot.read, Reg.CONFIG + offset, size)


@contextlib.asynccontextmanager
async def machine(
    offload: Offload = NOTHING, *, legacy: bool = False, queues: int = 1, **options: Any
) -> AsyncIterator[Machine]:
    async with rig() as networks:
        made = Machine(networks, offload, options, legacy=legacy, queues=queues)
        await made.open()
        try:
            yield made
        finally:
            await made.close()
