"""A guest that reads code from its disk into a page that it has executed, and calls it again: on the real engine."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

import pytest

from qemud.accel import create_vcpu
from tests.accel.asm import (
    A0,
    FENCE_I,
    NOP,
    RA,
    S0,
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    T0,
    WFI,
    ZERO,
    addi,
    bne,
    j,
    jalr,
    label,
    li,
    load,
    program,
    store,
)
from tests.hw.virtio.driver import BASE, WRITE
from tests.hw.virtio.rig import HEADER, Rig

if TYPE_CHECKING:
    from pathlib import Path

SLOT = 0x1000_8000
CODE, PAGE, NOTES, DONE = (BASE + 0x30_0000 + 0x1_0000 * n for n in range(4))
READS = 60


def function(value: int, padding: int) -> bytes:
    """Code that returns a number."""
    return bytes(program([NOP] * padding, li(A0, value), jalr(ZERO, RA)))


GUEST = program(
    li(S0, NOTES),
    li(S1, SLOT),
    li(S2, PAGE),
    li(S5, 0),
    li(S6, READS),
    label("loop"),
    jalr(RA, S2),
    store(8, A0, S0),
    addi(S0, S0, 8),
    addi(S5, S5, 1),
    store(2, S5, S3),  # one more is available
    store(4, ZERO, S1, 0x50),  # QueueNotify
    label("wait"),
    load(2, T0, S4, unsigned=True),
    bne(T0, S5, "wait"),
    FENCE_I,
    bne(S5, S6, "loop"),
    jalr(RA, S2),
    store(8, A0, S0),
    li(T0, DONE),
    store(8, S6, T0),
    label("end"),
    WFI,
    j("end"),
)


@pytest.mark.parametrize("slow", [False, True], ids=["at-once", "later"])
def test_code_that_came_from_a_disk_is_executed(tmp_path: Path, slow: bool) -> None:
    sectors = b"".join(function(1000 + n, n % 7).ljust(512, b"\0") for n in range(READS))

    def prepare(rig: Rig) -> None:
        memory, driver = rig.vm.memory, rig.driver
        rig.slot.map(0, SLOT)
        driver.start(size=64)
        queue = driver.queues[0]
        for n in range(READS):
            header, status, table = driver.buffer(16), driver.buffer(1), driver.buffer(48)
            memory.write_physical(header, HEADER.pack(0, 0, n))
            queue.add([(header, 16, 0), (PAGE, 512, WRITE), (status, 1, WRITE)], table)
        memory.write_physical(queue.avail + 2, bytes(2))
        memory.write_physical(CODE, GUEST)
        memory.write_physical(PAGE, function(999, 3))
        vcpu = create_vcpu(memory)
        rig.vm.vcpus.append(vcpu)
        rig.thread.attach(vcpu)
        vcpu.reset(pc=CODE)
        vcpu.set_gpr(S3, queue.avail + 2)
        vcpu.set_gpr(S4, queue.used_ring + 2)

    async def main() -> None:
        async with Rig(tmp_path / "disk", sectors.ljust(1 << 16, b"\0"), slow=slow) as rig:
            rig.gate.set()
            await rig.call(prepare, rig)
            await rig.vm.cont()
            while await rig.call(rig.vm.memory.read_physical, DONE, 8) == bytes(8):
                await asyncio.sleep(0)
            await rig.vm.stop()
            noted = struct.unpack(
                f"<{READS + 1}Q", await rig.call(rig.vm.memory.read_physical, NOTES, 8 * READS + 8)
            )
            assert noted == (999, *range(1000, 1000 + READS))
            vcpu = await rig.call(rig.thread.detach)
            assert vcpu is not None
            await rig.call(vcpu.close)

    asyncio.run(asyncio.wait_for(main(), 60))
