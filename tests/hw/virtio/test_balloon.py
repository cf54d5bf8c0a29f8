"""A balloon as a driver and a client meet it."""

from __future__ import annotations

import asyncio
import random
import struct
from types import SimpleNamespace
from typing import Any, Self

import pytest

from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud.hw.virtio.balloon import VirtioBalloon
from qemud.hw.virtio.balloon_commands import BalloonHandlers
from qemud.hw.virtio.mmio import Reg, VirtioMmio
from qemud.qapi.runtime.check import parse_type
from qemud.qapi.runtime.errors import DeviceNotActive, GenericError
from qemud.qom.device import reset_tree
from qemud.qom.machine import Machine
from tests.hw.virtio.driver import BASE, BUFFERS, RAM
from tests.hw.virtio.slot import SlotRig

PAGE = 4096
INFLATE, DEFLATE, FIGURES, REPORTING = range(4)
UNKNOWN = (1 << 64) - 1
FREE = BUFFERS + RAM // 4
"""Memory that nothing is in."""


class Board(Machine, type_name="test-balloon-board"):
    ram_size = RAM


class Rig(SlotRig):
    """A machine with a balloon, all of it real but the processor and the board."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.written: list[tuple[int, int]] = []

    async def __aenter__(self) -> Self:
        await self.open_slot()
        await self.call(self.vm.clock.start)
        self.vm.memory.add_listener(self)
        self.services.tree = SimpleNamespace(root=self.root)
        self.commands = BalloonHandlers(self.services)  # type: ignore[arg-type]  # as much as it needs
        self.balloon = VirtioBalloon(parse_type("VirtioBalloonOptions", self.options))
        await self.plug_in("balloon0", self.balloon, self.slot.virtio_bus, owner=self.machine.peripheral)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.balloon.realized:
            await self.take_out(self.balloon)
        await self.close_slot()

    def board(self) -> Board:
        self.machine = self.root.add_child("machine", Board())
        return self.machine

    # A listener of the address space.

    def section_added(self, section: Any) -> None: ...

    def section_removed(self, section: Any) -> None: ...

    def ram_written(self, segments: list[tuple[int, int]]) -> None:
        self.written += segments

    # The driver.

    async def start(self) -> None:
        count = 4 if self.options.get("free-page-reporting") else 3
        await self.call(lambda: self.driver.start(size=16, count=count))

    async def config(self) -> tuple[int, ...]:
        return await self.call(lambda: tuple(self.slot.read(Reg.CONFIG + at, 4) for at in (0, 4, 8, 12)))

    async def pages(self, queue: int, numbers: list[int]) -> None:
        """Put pages into the balloon, or take them out."""

        def put() -> None:
            self.driver.add(queue, [struct.pack(f"<{len(numbers)}I", *numbers)], [])
            self.driver.set(Reg.QUEUE_NOTIFY, queue)
            assert len(self.driver.used(queue)) == 1

        await self.call(put)

    async def set_actual(self, pages: int) -> None:
        await self.call(self.slot.write, Reg.CONFIG + 4, pages, 4)

    async def figures(self, *figures: tuple[int, int]) -> None:
        """Tell figures, by a buffer that stays with the balloon."""

        def put() -> None:
            self.driver.add(FIGURES, [b"".join(struct.pack("<HQ", *figure) for figure in figures)], [])
            self.driver.set(Reg.QUEUE_NOTIFY, FIGURES)

        await self.call(put)


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


def held(rig: Rig) -> int:
    """How many bytes the machine's memory takes of the host's."""
    import os

    section = rig.vm.memory.find(BASE)
    assert section is not None
    assert section.block is not None
    return os.fstat(section.block.fd).st_blocks * 512


def test_memory_is_really_given_back() -> None:
    async def main() -> None:
        async with Rig() as rig:
            await rig.start()
            count = 512
            await rig.call(rig.vm.memory.write_physical, FREE, b"x" * (count * PAGE))
            before = await rig.call(held, rig)
            rig.written.clear()
            numbers = list(range(FREE // PAGE, FREE // PAGE + count))
            random.Random(1).shuffle(numbers)
            await rig.pages(INFLATE, numbers)
            assert await rig.call(held, rig) <= before - (count - 4) * PAGE, (
                "but for what the driver has written"
            )
            assert (FREE, count * PAGE) in rig.written, "translated code is dropped"
            assert await rig.call(rig.vm.memory.read_physical, FREE, count * PAGE) == bytes(count * PAGE)
            await rig.pages(DEFLATE, numbers)
            await rig.call(rig.vm.memory.write_physical, FREE, b"new")
            assert await rig.call(rig.vm.memory.read_physical, FREE, 4) == b"new\0"

    run(main())


def test_only_what_was_named_is_gone() -> None:
    async def main() -> None:
        async with Rig() as rig:
            await rig.start()
            await rig.call(rig.vm.memory.write_physical, FREE, b"y" * (8 * PAGE))
            first = FREE // PAGE
            # Twice the same, somewhere else, where nothing is, and the very last number.
            await rig.pages(INFLATE, [first + 1, first + 1, first + 3, 0, (1 << 32) - 1, first + 4])
            content = await rig.call(rig.vm.memory.read_physical, FREE, 8 * PAGE)
            gone = [content[n * PAGE : (n + 1) * PAGE] == bytes(PAGE) for n in range(8)]
            assert gone == [False, True, False, True, True, False, False, False]
            assert not rig.balloon.state.broken

    run(main())


def test_what_a_lease_is_on_stays_mapped() -> None:
    async def main() -> None:
        async with Rig() as rig:
            await rig.start()
            owner = rig.vm.dma.owner("test")
            lease = await rig.call(lambda: owner.lend([(FREE, PAGE)], write=True))
            await rig.pages(INFLATE, [FREE // PAGE])
            lease.views[0][:5] = b"still"
            await rig.call(lease.release)
            assert await rig.call(rig.vm.memory.read_physical, FREE, 6) == b"still\0"

    run(main())


def test_asking_for_memory() -> None:
    async def main() -> None:
        async with Rig() as rig:
            await rig.start()
            assert (await rig.commands.query_balloon()).actual == RAM
            await rig.commands.balloon(value=RAM - 100 * PAGE)
            assert await rig.config() == (100, 0, 0, 0)
            assert await rig.call(rig.driver.get, Reg.INTERRUPT_STATUS) & 2
            await rig.set_actual(100)
            assert (await rig.commands.query_balloon()).actual == RAM - 100 * PAGE
            await rig.call(lambda: None)
            assert rig.events == [("BALLOON_CHANGE", {"actual": RAM - 100 * PAGE})]
            await rig.set_actual(100)
            assert len(rig.events) == 1, "nothing has changed"
            await rig.commands.balloon(value=2 * RAM)
            assert (await rig.config())[0] == 0
            await rig.commands.balloon(value=1)
            assert (await rig.config())[0] == RAM // PAGE - 1
            for value in (0, -1):
                with pytest.raises(GenericError, match=r"^Parameter 'value' expects a size"):
                    await rig.commands.balloon(value=value)
            # A driver that says nonsense has at most all memory in it.
            await rig.set_actual((1 << 32) - 1)
            assert (await rig.commands.query_balloon()).actual == 0
            await rig.call(rig.slot.write, Reg.CONFIG + 12, 0xAA, 4)
            assert (await rig.config())[3] == 0xAA
            await rig.call(reset_tree, rig.balloon)
            assert (await rig.config())[3] == 0

    run(main())


def test_no_balloon_and_no_second_one() -> None:
    async def main() -> None:
        async with Rig() as rig:
            second = VirtioBalloon(parse_type("VirtioBalloonOptions", {}))
            rig.machine.peripheral.add_child("balloon1", second)
            slot = rig.machine.add_child("slot1", VirtioMmio(VirtioMmioOptions(), number=1))
            await rig.call(slot.bring_up, rig.vm)
            with pytest.raises(GenericError, match="Only one balloon device is supported"):
                await rig.call(second.bring_up, rig.vm, slot.virtio_bus)
            await rig.call(rig.balloon.take_down)
            with pytest.raises(DeviceNotActive, match="No balloon device has been activated"):
                await rig.commands.query_balloon()
            with pytest.raises(DeviceNotActive, match="No balloon device has been activated"):
                await rig.commands.balloon(value=1)

    run(main())


def test_figures() -> None:
    async def main() -> None:
        async with Rig() as rig:
            stats: Any = rig.balloon.get_property("guest-stats")
            assert stats["last-update"] == 0
            assert set(stats["stats"].values()) == {UNKNOWN}
            assert len(stats["stats"]) == 16
            await rig.start()
            await rig.figures((4, 1000), (5, 2000), (99, 1))
            stats = rig.balloon.get_property("guest-stats")
            assert stats["stats"]["stat-free-memory"] == 1000
            assert stats["stats"]["stat-total-memory"] == 2000
            assert stats["stats"]["stat-swap-in"] == UNKNOWN
            assert stats["last-update"] > 0
            assert await rig.call(rig.driver.used, FIGURES) == [], "it is kept until new ones are wanted"
            await rig.call(rig.balloon.set_property, "guest-stats-polling-interval", 10)
            while not await rig.call(rig.driver.used, FIGURES):
                await asyncio.sleep(0)
            await rig.figures((4, 7))
            stats = rig.balloon.get_property("guest-stats")
            assert stats["stats"]["stat-free-memory"] == 7
            assert stats["stats"]["stat-total-memory"] == UNKNOWN
            for value, text in (
                (-1, "timer value must be greater than zero"),
                (1 << 32, "timer value is too big"),
            ):
                with pytest.raises(GenericError, match=text):
                    await rig.call(rig.balloon.set_property, "guest-stats-polling-interval", value)
            assert rig.balloon.get_property("guest-stats-polling-interval") == 10
            state = await rig.call(rig.balloon.save)
            assert "figures-buffer" in state
            await rig.call(rig.balloon.load, state)
            await rig.call(rig.balloon.set_property, "guest-stats-polling-interval", 0)
            await rig.call(rig.balloon.set_property, "guest-stats-polling-interval", 5)
            while not await rig.call(rig.driver.used, FIGURES):
                await asyncio.sleep(0)

    run(main())


def test_reporting() -> None:
    async def main() -> None:
        async with Rig(**{"free-page-reporting": True}) as rig:
            await rig.start()
            await rig.call(rig.vm.memory.write_physical, FREE, b"z" * (8 * PAGE))

            def report() -> None:
                pieces = [(FREE, 2 * PAGE, 2), (FREE + 3 * PAGE + 1, PAGE, 2), (FREE + 5 * PAGE, 100, 2)]
                rig.driver.queues[REPORTING].add(pieces)
                rig.driver.set(Reg.QUEUE_NOTIFY, REPORTING)
                assert len(rig.driver.used(REPORTING)) == 1

            await rig.call(report)
            content = await rig.call(rig.vm.memory.read_physical, FREE, 8 * PAGE)
            assert content == bytes(2 * PAGE) + b"z" * (6 * PAGE)

    run(main())


def test_a_saved_state_is_checked() -> None:
    async def main() -> None:
        async with Rig() as rig:
            await rig.start()
            state = await rig.call(rig.balloon.save)
            for wrong in ({"figures": [1]}, {"actual": RAM // PAGE + 1}, {"num-pages": RAM // PAGE + 1}):
                with pytest.raises(GenericError):
                    await rig.call(rig.balloon.load, {**state, **wrong})

    run(main())


def test_hostile_drivers() -> None:
    async def main() -> None:
        rng = random.Random(5)
        async with Rig(**{"free-page-reporting": True}) as rig:
            await rig.start()
            for _ in range(1000):

                def put() -> None:
                    queue = rng.randrange(4)
                    if queue in {INFLATE, REPORTING} and rng.random() < 0.9:
                        where = rng.choice((0, FREE, BASE + RAM - PAGE, 1 << 40, (1 << 64) - PAGE))
                        size = rng.choice((4, PAGE, 1 << 20, (1 << 32) - PAGE))
                        pieces = [(where, size, 2 * (queue == REPORTING))] * rng.randrange(1, 4)
                        rig.driver.queues[queue].add(pieces)
                    else:
                        data = [rng.randbytes(rng.randrange(1, 200)) for _ in range(rng.randrange(1, 3))]
                        rig.driver.add(queue, data, [])
                    rig.driver.set(Reg.QUEUE_NOTIFY, queue)

                await rig.call(put)
                await rig.start()
            assert (await rig.commands.query_balloon()).actual == RAM

    run(main())
