"""A malicious driver: random rings in random places, held against `model`.

    python -m tests.hw.virtio.fuzz COUNT [SEED]     so many tries, from this seed on

Whatever the driver does, the device does what the model does, byte for byte of the guest's memory; where the model says that a rule
was broken the device needs a reset, and no lease is out afterwards.
"""

from __future__ import annotations

import random
import struct
import sys

from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud.hw.virtio.device import VirtioDevice
from qemud.hw.virtio.mmio import Reg, VirtioMmio
from qemud.machine.memory import RamBlock
from qemud.qom.object import Root
from tests.hw.support import Vm
from tests.hw.virtio.driver import Driver
from tests.hw.virtio.model import EVENT_IDX, PACKED, Bad, Memory, Model

BASE = 0x8000_0000
RAM = 64 << 10
VERSION_1 = 1 << 32


class Toucher(VirtioDevice, type_name="test-toucher"):
    """Lends all that it is given, fills what it may write, and gives it back."""

    device_id = 62
    queue_sizes = (64,)

    def handle_queue(self, index: int) -> None:
        queue = self.queues[index]
        while (element := queue.pop()) is not None:
            read = self.dma.lend(element.readable, write=False)
            try:
                write = self.dma.lend(element.writable, write=True)
            finally:
                read.release()
            written = 0
            for view in write.views:
                view[:] = bytes([element.index & 0xFF]) * len(view)
                written += len(view)
            write.release()
            queue.push(element, written & 0xFFFFFFFF)
        queue.notify()


class Fuzzer:
    """One machine with one device, used for all tries."""

    def __init__(self) -> None:
        self.vm = Vm()
        self.vm.memory.add_ram("ram", BASE, RamBlock("ram", RAM))
        root = Root()
        self.slot = root.add_child("slot", VirtioMmio(VirtioMmioOptions(force_legacy=False)))
        self.slot.bring_up(self.vm)
        self.device = root.add_child("device", Toucher())
        self.device.options.packed = True
        self.device.bring_up(self.vm, self.slot.virtio_bus)
        self.driver = Driver(self.vm, self.slot)
        self.broken = self.served = 0

    def attempt(self, seed: int) -> None:
        """One try; AssertionError tells what went wrong."""
        chance = random.Random(seed)
        packed = chance.random() < 0.5
        features = VERSION_1 | (PACKED if packed else 0) | (EVENT_IDX if chance.random() < 0.5 else 0)
        size = chance.choice([1, 2, 4, 8, 8, 8, 16, 64])
        if packed and chance.random() < 0.3:
            size = chance.randrange(1, 20)
        content = bytearray(RAM)
        rings = self._place(chance, size)
        self._fill(chance, content, size, rings, packed=packed)
        self.vm.memory.write_physical(BASE, bytes(content))

        model: Model | None = None
        bad = False
        try:
            model = Model(Memory(BASE, bytes(content)), size, rings, features)
            for _ in range(2):
                model.serve()
        except Bad:
            bad = True
        self._run(features, size, rings)

        assert self.vm.dma.count == 0, "a lease is out"
        assert self.vm.executor.holds == 0
        assert bool(self.driver.status & 64) == bad, f"needs reset: {bad} expected"
        if model is not None:
            assert self.vm.memory.read_physical(BASE, RAM) == bytes(model.memory.content), "memory"
            self.served += model.used_index > 0
        self.broken += bad

    def _run(self, features: int, size: int, rings: tuple[int, int, int]) -> None:
        set_ = self.driver.set
        set_(Reg.STATUS, 0)
        set_(Reg.STATUS, 3)
        for half in (0, 1):
            set_(Reg.DRIVER_FEATURES_SEL, half)
            set_(Reg.DRIVER_FEATURES, features >> (32 * half))
        set_(Reg.STATUS, 11)
        assert self.driver.status == 11
        set_(Reg.QUEUE_SEL, 0)
        set_(Reg.QUEUE_NUM, size)
        for register, address in zip(
            (Reg.QUEUE_DESC_LOW, Reg.QUEUE_DRIVER_LOW, Reg.QUEUE_DEVICE_LOW), rings, strict=True
        ):
            set_(register, address & 0xFFFFFFFF)
            set_(register + 4, address >> 32)
        set_(Reg.QUEUE_READY, 1)
        set_(Reg.STATUS, 15)
        for _ in range(2):
            set_(Reg.QUEUE_NOTIFY, 0)

    # What a malicious driver writes.

    def _place(self, chance: random.Random, size: int) -> tuple[int, int, int]:
        places = [BASE + 0x100, BASE + 0x100 + 16 * size + 64, BASE + 0x2000]
        if chance.random() < 0.1:
            places[chance.randrange(3)] = self._address(chance)
        return places[0], places[1], places[2]

    def _address(self, chance: random.Random) -> int:
        return chance.choice(
            [
                BASE + chance.randrange(RAM),
                BASE + chance.randrange(RAM // 256) * 256,
                BASE + chance.randrange(0x200),
                BASE + RAM - chance.randrange(64),
                BASE - chance.randrange(64),
                chance.randrange(1 << 64),
                (1 << 64) - chance.randrange(1, 64),
                0,
            ]
        )

    def _descriptor(self, chance: random.Random, size: int, tables: list[int]) -> tuple[int, int, int, int]:
        """Mostly good; address, length, flags, next."""
        good = chance.random() < 0.85
        address = BASE + 0x4000 + chance.randrange(0x8000) if good else self._address(chance)
        length = chance.choice([1, 16, 512]) if good else chance.choice([0, 1, 15, 4096, RAM, 0xFFFFFFFF])
        flags = chance.choice([0, 1, 1, 2, 3, 3]) if good else chance.randrange(1 << 16)
        if chance.random() < 0.2:
            address = chance.choice(tables)
            length = 16 * chance.randrange(1, 17) if chance.random() < 0.9 else chance.choice([17, 0, 15])
            flags = 4
        following = chance.randrange(size) if good else chance.randrange(size + 2)
        return address, length, flags, following

    def _fill(
        self,
        chance: random.Random,
        content: bytearray,
        size: int,
        rings: tuple[int, int, int],
        *,
        packed: bool,
    ) -> None:
        tables = [BASE + 0x3000 + 0x100 * n for n in range(4)]
        for table in tables:
            count = 16
            good_chain = chance.random() < 0.5
            longest = chance.choice([2, 7, 11, 12, 15])
            writable = chance.randrange(longest + 1)
            order = list(range(1, count + 1))
            if chance.random() < 0.2:
                other = chance.randrange(longest)
                order[other] = chance.randrange(1, count + 1)
            for n in range(count):
                address, length, flags, following = self._descriptor(chance, count, tables)
                if good_chain:
                    length = chance.choice([1, 16, 512]) if chance.random() < 0.99 else 0
                    address = BASE + 0x4000 + chance.randrange(0x8000)
                    flags = (1 if n < longest else 0) | (2 if n >= writable else 0)
                    following = order[n]
                values = (address, length, flags, following) if not packed else (address, length, n, flags)
                struct.pack_into("<QIHH", content, table - BASE + 16 * n, *values)
        desc, avail, _ = rings

        def put(address: int, layout: str, *values: int) -> None:
            if address >= BASE and address + struct.calcsize("<" + layout) <= BASE + RAM:
                struct.pack_into("<" + layout, content, address - BASE, *values)

        available = chance.randrange(size + 1) if chance.random() < 0.9 else size
        for n in range(size):
            address, length, flags, following = self._descriptor(chance, size, tables)
            if packed:
                flags &= ~(1 << 7 | 1 << 15)
                if n < available:
                    flags |= 1 << 7
                if chance.random() < 0.05:
                    flags ^= chance.choice([1 << 7, 1 << 15])
                put(desc + 16 * n, "QIHH", address, length, chance.randrange(1 << 16), flags)
            else:
                put(desc + 16 * n, "QIHH", address, length, flags, following)
        if packed:
            put(avail, "HH", chance.randrange(1 << 16), chance.randrange(4))
            return
        for n in range(size):
            head = (
                chance.randrange(size)
                if chance.random() < 0.97
                else chance.choice([size, size + 1, chance.randrange(1 << 16)])
            )
            put(avail + 4 + 2 * n, "H", head)
        put(avail + 2, "H", available if chance.random() < 0.95 else chance.randrange(1 << 16))
        put(avail + 4 + 2 * size, "H", chance.randrange(size + 1))


def main() -> None:
    count = int(sys.argv[1])
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    fuzzer = Fuzzer()
    for seed in range(first, first + count):
        try:
            fuzzer.attempt(seed)
        except BaseException:
            print("seed", seed)  # noqa: T201 - what the command is for
            raise
    print(f"{count} tries, {fuzzer.broken} broken, {fuzzer.served} served")  # noqa: T201


if __name__ == "__main__":
    main()
