"""Malicious drivers: rings against a model, and requests for a disk that ends them in any order, between resets.

More tries: `python -m tests.hw.virtio.fuzz COUNT [SEED]`.
"""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud._generated.types.virtio import VirtioBlkOptions
from qemud.hw.virtio.blk import VirtioBlk
from qemud.hw.virtio.mmio import Reg
from tests.hw.virtio.devices import plug
from tests.hw.virtio.driver import BASE, BUFFERS, RAM, WRITE
from tests.hw.virtio.fuzz import Fuzzer

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = 3000
SIZE = 1 << 20


def test_rings_against_the_model() -> None:
    fuzzer = Fuzzer()
    for seed in range(TRIES):
        try:
            fuzzer.attempt(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert fuzzer.broken > TRIES // 10
    assert fuzzer.served > TRIES // 10


class FakeDisk:
    """A disk in memory that ends requests at once or when told; it believes its device, and checks it."""

    size = SIZE
    read_only = False

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.waiting: list[Callable[[], None]] = []

    def _begin(self, offset: int, length: int, views: list[memoryview], done: Callable[[int], None]) -> None:
        assert offset >= 0
        assert offset + length <= SIZE
        assert offset % 512 == 0
        assert length % 512 == 0

        def end() -> None:
            for view in views:
                view[:] = bytes([offset >> 9 & 0xFF]) * len(view)
            done(self.chance.choice([0, 0, 0, 5]))

        if self.chance.random() < 0.5:
            self.waiting.append(end)
        else:
            end()

    def read(self, offset: int, views: list[memoryview], done: Callable[[int], None], _lease: object) -> None:
        self._begin(offset, sum(map(len, views)), views, done)

    def write(
        self, offset: int, views: list[memoryview], done: Callable[[int], None], _lease: object
    ) -> None:
        assert b"".join(views) is not None
        self._begin(offset, sum(map(len, views)), [], done)

    def flush(self, done: Callable[[int], None], _lease: object) -> None:
        self._begin(0, 0, [], done)

    def discard(self, offset: int, length: int, done: Callable[[int], None], _lease: object) -> None:
        self._begin(offset, length, [], done)

    def write_zeroes(
        self, offset: int, length: int, done: Callable[[int], None], _lease: object, *, unmap: bool
    ) -> None:
        assert unmap in {True, False}
        self._begin(offset, length, [], done)

    def invalid(self, kind: int) -> None:
        assert kind in {0, 1}

    def drop_parked(self) -> None:
        pass

    def some_end(self, share: float) -> None:
        self.chance.shuffle(self.waiting)
        for _ in range(int(len(self.waiting) * share)):
            self.waiting.pop()()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_requests_for_a_disk(packed: bool) -> None:
    chance = random.Random(7)
    disk = FakeDisk(chance)
    device = VirtioBlk(VirtioBlkOptions(packed=packed, serial="fuzz"))
    device.drive = SimpleNamespace(  # type: ignore[assignment]  # no block layer below
        disk=disk,
        logical=512,
        physical=512,
        min_io=0,
        opt_io=0,
        discard_granularity=None,
        cylinders=1,
        heads=1,
        sectors=1,
        write_cache=True,
        backend=SimpleNamespace(enable_write_cache=True),
    )
    vm, _, driver, _ = plug(device, VirtioMmioOptions(force_legacy=False))
    driver.start(size=64, packed=packed)
    broken = ended = 0

    def address() -> int:
        return chance.choice(
            [BUFFERS + chance.randrange(RAM // 4) for _ in range(30)] + [0, BASE + RAM - 3, 1 << 63]
        )

    def header() -> bytes:
        kind = chance.choice([0, 0, 1, 1, 4, 8, 11, 13, 2, 3, 5, 10, 24, chance.randrange(1 << 32)])
        sector = chance.choice(
            [0, 8, SIZE // 512 - 1, chance.randrange(SIZE // 512), chance.randrange(1 << 64)]
        )
        return struct.pack("<IIQ", kind, 0, sector)[: chance.choice([16] * 30 + [15, 3])]

    def put() -> None:
        where = driver.buffer(16)
        content = header()
        vm.memory.write_physical(where, content)
        pieces = [(where, len(content), 0)]
        for _ in range(chance.randrange(4)):
            flag = chance.choice([0, WRITE, WRITE])
            pieces.append((address(), chance.choice([512, 512, 1024, 1, 16, 20, 4096, 0x7FFF_FE00]), flag))
        pieces.sort(key=lambda piece: piece[2])
        if chance.random() < 0.95:
            pieces.append((driver.buffer(1), 1, WRITE))
        queue = driver.queues[0]
        table = driver.buffer(16 * len(pieces)) if chance.random() < 0.7 else None
        if (queue.room if packed else len(queue.free)) >= len(pieces) and (not packed or queue.free):
            queue.add(pieces, table)

    for turn in range(1500):
        for _ in range(chance.randrange(6)):
            put()
        driver.set(Reg.QUEUE_NOTIFY, 0)
        while vm.mailboxes.to_machine:
            vm.mailboxes.run_machine()
        disk.some_end(chance.random())
        ended += len(driver.used(0))
        if driver.status & 64 or chance.random() < 0.02:
            broken += driver.status >> 6 & 1
            driver.set(Reg.STATUS, 0)
            if chance.random() < 0.5:
                disk.some_end(1)
            driver.start(size=64, packed=packed)
        assert vm.dma.count == len(disk.waiting), turn
    disk.some_end(1)
    assert vm.dma.count == 0
    assert vm.executor.holds == 0
    assert broken > 50
    assert ended > 500
