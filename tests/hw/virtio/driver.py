"""A driver of virtio devices in Python, for tests: it knows the standard and nothing of what it drives.

    driver = Driver(vm, slot)
    driver.start(wanted=~0)                    # features, queues, DRIVER_OK, by the slot's registers
    number = driver.add(0, [b"read this"], [64])
    driver.kick(0)
    [(number, written)] = driver.used(0)
    driver.data(0, number, written)            # what the device wrote

Memory: the machine has `RAM` bytes at `BASE`; the lower half is for rings, the upper for buffers.

Source: Virtual I/O Device (VIRTIO) Version 1.2, sections 2.7, 2.8, 3.1 and 4.2.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from qemud.hw.virtio.mmio import Reg, VirtioMmio
from qemud.machine.memory import RamBlock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.hw.support import Lines, Vm

BASE = 0x8000_0000
RAM = 16 << 20
RINGS = BASE
BUFFERS = BASE + RAM // 2

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
EVENT_IDX, VERSION_1, PACKED = 1 << 29, 1 << 32, 1 << 34
INDIRECT_DESC = 1 << 28


class SplitQueue:
    """The driver's side of a split ring."""

    def __init__(self, driver: Driver, size: int, base: int) -> None:
        self.memory = driver.vm.memory
        self.size = size
        self.desc = base
        self.avail = base + 16 * size
        self.used_ring = -(-(self.avail + 6 + 2 * size) // 4096) * 4096
        self.end = self.used_ring + 6 + 8 * size
        self.free = list(range(size))
        self.chains: dict[int, list[int]] = {}
        self.avail_index = 0
        self.last_used = 0
        self.kicked = 0

    def _put(self, address: int, layout: str, *values: int) -> None:
        self.memory.write_physical(address, struct.pack("<" + layout, *values))

    def _get(self, address: int, layout: str) -> Any:
        return struct.unpack("<" + layout, self.memory.read_physical(address, struct.calcsize("<" + layout)))

    def describe(self, slot: int, address: int, length: int, flags: int, following: int) -> None:
        self._put(self.desc + 16 * slot, "QIHH", address, length, flags, following)

    def add(self, pieces: list[tuple[int, int, int]], table: int | None = None) -> int:
        """Pieces of (address, length, WRITE or 0); with `table` by an indirect table there."""
        if table is not None:
            for n, (address, length, flags) in enumerate(pieces):
                more = NEXT if n + 1 < len(pieces) else 0
                self._put(table + 16 * n, "QIHH", address, length, flags | more, n + 1)
            pieces = [(table, 16 * len(pieces), INDIRECT)]
        slots = [self.free.pop(0) for _ in pieces]
        for n, (slot, (address, length, flags)) in enumerate(zip(slots, pieces, strict=True)):
            last = n + 1 == len(slots)
            self.describe(slot, address, length, flags | (0 if last else NEXT), 0 if last else slots[n + 1])
        self.chains[slots[0]] = slots
        self.publish(slots[0])
        return slots[0]

    def publish(self, head: int) -> None:
        self._put(self.avail + 4 + 2 * (self.avail_index % self.size), "H", head)
        self.avail_index = (self.avail_index + 1) & 0xFFFF
        self._put(self.avail + 2, "H", self.avail_index)

    def used(self) -> list[tuple[int, int]]:
        found = []
        (index,) = self._get(self.used_ring + 2, "H")
        while self.last_used != index:
            head, length = self._get(self.used_ring + 4 + 8 * (self.last_used % self.size), "II")
            self.last_used = (self.last_used + 1) & 0xFFFF
            self.free += self.chains.pop(head)
            found.append((head, length))
        return found

    def want_interrupt_after(self, count: int) -> None:
        self._put(self.avail + 4 + 2 * self.size, "H", (self.last_used + count - 1) & 0xFFFF)

    def no_interrupts(self, *, off: bool) -> None:
        self._put(self.avail, "H", int(off))

    def wants_kick(self, *, event_idx: bool) -> bool:
        if event_idx:
            (event,) = self._get(self.used_ring + 4 + 8 * self.size, "H")
            old, self.kicked = self.kicked, self.avail_index
            return bool((self.avail_index - event - 1) & 0xFFFF < (self.avail_index - old) & 0xFFFF)
        (flags,) = self._get(self.used_ring, "H")
        return not flags & 1


class PackedQueue:
    """The driver's side of a packed ring."""

    def __init__(self, driver: Driver, size: int, base: int) -> None:
        self.memory = driver.vm.memory
        self.size = size
        self.desc = base
        self.avail = base + 16 * size
        self.used_ring = self.avail + 4
        self.end = self.used_ring + 4
        self.room = size
        self.free = list(range(size))
        self.counts: dict[int, int] = {}
        self.next, self.wrap = 0, True
        self.last, self.last_wrap = 0, True
        self.added = 0

    def _put(self, address: int, layout: str, *values: int) -> None:
        self.memory.write_physical(address, struct.pack("<" + layout, *values))

    def _get(self, address: int, layout: str) -> Any:
        return struct.unpack("<" + layout, self.memory.read_physical(address, struct.calcsize("<" + layout)))

    def add(self, pieces: list[tuple[int, int, int]], table: int | None = None) -> int:
        if table is not None:
            for n, (address, length, flags) in enumerate(pieces):
                self._put(table + 16 * n, "QIHH", address, length, 0, flags)
            pieces = [(table, 16 * len(pieces), INDIRECT)]
        number = self.free.pop(0)
        assert len(pieces) <= self.room
        writes = []
        for n, (address, length, flags) in enumerate(pieces):
            own = AVAIL if self.wrap else USED
            more = NEXT if n + 1 < len(pieces) else 0
            writes.append((self.next, (address, length, number, flags | more | own)))
            self.next += 1
            if self.next == self.size:
                self.next, self.wrap = 0, not self.wrap
        for slot, values in reversed(writes):  # the first one last: it makes the rest visible
            self._put(self.desc + 16 * slot, "QIHH", *values)
        self.counts[number] = len(pieces)
        self.added += len(pieces)
        self.room -= len(pieces)
        return number

    def used(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while True:
            _, length, number, flags = self._get(self.desc + 16 * self.last, "QIHH")
            if bool(flags & AVAIL) != bool(flags & USED) or bool(flags & USED) != self.last_wrap:
                return found
            count = self.counts.pop(number)
            self.room += count
            self.free.append(number)
            self.last += count
            if self.last >= self.size:
                self.last, self.last_wrap = self.last - self.size, not self.last_wrap
            found.append((number, length))

    def want_interrupt_after(self, count: int) -> None:
        at, wrap = self.last + count - 1, self.last_wrap
        if at >= self.size:
            at, wrap = at - self.size, not wrap
        self._put(self.avail, "HH", at | wrap << 15, 2)

    def no_interrupts(self, *, off: bool) -> None:
        self._put(self.avail, "HH", 0, int(off))

    def wants_kick(self, *, event_idx: bool) -> bool:
        where, flags = self._get(self.used_ring, "HH")
        added, self.added = self.added, 0
        if flags != 2 or not event_idx:
            return bool(flags != 1)
        event = where & 0x7FFF
        if bool(where >> 15) != self.wrap:
            event -= self.size
        return bool((self.next - event - 1) & 0xFFFF < added)


class Driver:
    """See the module."""

    def __init__(self, vm: Vm, slot: VirtioMmio, lines: Lines | None = None) -> None:
        self.vm = vm
        self.slot = slot
        self.lines = lines
        self.features = 0
        self.queues: list[Any] = []
        self._buffers = BUFFERS
        self._written: dict[tuple[int, int], list[tuple[int, int]]] = {}

    # Registers.

    def get(self, register: int) -> int:
        return self.slot.read(register, 4)

    def set(self, register: int, value: int) -> None:
        self.slot.write(register, value & 0xFFFF_FFFF, 4)

    @property
    def status(self) -> int:
        return self.get(Reg.STATUS)

    def offered(self) -> int:
        found = 0
        for half in (0, 1):
            self.set(Reg.DEVICE_FEATURES_SEL, half)
            found |= self.get(Reg.DEVICE_FEATURES) << (32 * half)
        return found

    # Life.

    def start(self, wanted: int = ~0, *, size: int = 16, packed: bool = False, count: int = 1) -> None:
        """Bring the device up with what it offers of `wanted`."""
        self.set(Reg.STATUS, 0)
        self.set(Reg.STATUS, 1)
        self.set(Reg.STATUS, 3)
        self.features = self.offered() & wanted & (~0 if packed else ~PACKED)
        for half in (0, 1):
            self.set(Reg.DRIVER_FEATURES_SEL, half)
            self.set(Reg.DRIVER_FEATURES, self.features >> (32 * half))
        self.set(Reg.STATUS, 11)
        assert self.status == 11
        self.place_queues(size, count, packed=packed)
        self.set(Reg.STATUS, 15)

    def place_queues(self, size: int, count: int, *, packed: bool) -> None:
        base = RINGS
        self.queues = []
        for index in range(count):
            queue = (PackedQueue if packed else SplitQueue)(self, size, base)
            self.vm.memory.write_physical(base, bytes(queue.end - base))
            base = -(-queue.end // 4096) * 4096
            self.set(Reg.QUEUE_SEL, index)
            assert self.get(Reg.QUEUE_NUM_MAX) >= size
            self.set(Reg.QUEUE_NUM, size)
            for register, address in (
                (Reg.QUEUE_DESC_LOW, queue.desc),
                (Reg.QUEUE_DRIVER_LOW, queue.avail),
                (Reg.QUEUE_DEVICE_LOW, queue.used_ring),
            ):
                self.set(register, address & 0xFFFF_FFFF)
                self.set(register + 4, address >> 32)
            self.set(Reg.QUEUE_READY, 1)
            self.queues.append(queue)

    def start_legacy(self, wanted: int = ~0, *, size: int = 16) -> None:
        """The same by the legacy interface, one queue."""
        self.set(Reg.STATUS, 0)
        self.set(Reg.STATUS, 3)
        self.set(Reg.DEVICE_FEATURES_SEL, 0)
        self.features = self.get(Reg.DEVICE_FEATURES) & wanted
        self.set(Reg.DRIVER_FEATURES_SEL, 0)
        self.set(Reg.DRIVER_FEATURES, self.features)
        self.set(Reg.GUEST_PAGE_SIZE, 4096)
        queue = SplitQueue(self, size, RINGS)
        self.vm.memory.write_physical(RINGS, bytes(queue.end - RINGS))
        self.set(Reg.QUEUE_SEL, 0)
        assert self.get(Reg.QUEUE_PFN) == 0
        self.set(Reg.QUEUE_NUM, size)
        self.set(Reg.QUEUE_ALIGN, 4096)
        self.set(Reg.QUEUE_PFN, RINGS >> 12)
        self.queues = [queue]
        self.set(Reg.STATUS, 7)

    # Work.

    def buffer(self, size: int) -> int:
        """Memory for a buffer; it is used again when all of it has been."""
        if self._buffers + size > BASE + RAM:
            self._buffers = BUFFERS
        address = self._buffers
        self._buffers += -(-size // 16) * 16
        return address

    def add(
        self, index: int, readable: Sequence[bytes], writable: Sequence[int], *, indirect: bool = False
    ) -> int:
        """Put a request into a queue; its number."""
        pieces = []
        for data in readable:
            address = self.buffer(len(data))
            self.vm.memory.write_physical(address, data)
            pieces.append((address, len(data), 0))
        room = []
        for length in writable:
            address = self.buffer(length)
            self.vm.memory.write_physical(address, b"\xee" * length)
            pieces.append((address, length, WRITE))
            room.append((address, length))
        table = self.buffer(16 * len(pieces)) if indirect else None
        number: int = self.queues[index].add(pieces, table)
        self._written[index, number] = room
        return number

    def kick(self, index: int) -> bool:
        """Notify, if the device wants that."""
        wanted: bool = self.queues[index].wants_kick(event_idx=bool(self.features & EVENT_IDX))
        if wanted:
            self.set(Reg.QUEUE_NOTIFY, index)
        return wanted

    def used(self, index: int) -> list[tuple[int, int]]:
        """What the device has given back since the last call."""
        found: list[tuple[int, int]] = self.queues[index].used()
        return found

    def data(self, index: int, number: int, written: int | None = None) -> bytes:
        """What is in the writable part of a request now."""
        parts = [self.vm.memory.read_physical(*piece) for piece in self._written[index, number]]
        return b"".join(parts)[:written]

    def interrupted(self) -> bool:
        """Whether there was an interrupt; it is acknowledged."""
        pending = self.get(Reg.INTERRUPT_STATUS)
        self.set(Reg.INTERRUPT_ACK, pending)
        if self.lines is not None:
            assert self.lines[0] == 0
        return bool(pending & 1)


def add_ram(vm: Vm) -> None:
    """The machine's memory."""
    vm.memory.add_ram("ram", BASE, RamBlock("ram", RAM))
