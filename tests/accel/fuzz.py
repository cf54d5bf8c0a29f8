"""Random guests: whatever a hart is told to do, the engine must not end the process, hang, or reach a state that cannot be saved.

``python -m tests.accel.fuzz SEED COUNT`` runs COUNT programs and prints "done"; the number of the one at work is on standard error,
so that a crash names its program.  `test_fuzz.py` runs some in processes of their own.
"""

from __future__ import annotations

import faulthandler
import random
import sys
import time

from qemud.machine.vcpu import Exit
from tests.accel import asm
from tests.accel.machines import DEVICE, RAM, Bare

OPCODES: list[int] = [
    0x03, 0x07, 0x0F, 0x13, 0x17, 0x1B, 0x23, 0x27, 0x2F, 0x33, 0x37, 0x3B, 0x43, 0x47, 0x4B, 0x4F, 0x53, 0x63, 0x67, 0x6F, 0x73,
]  # fmt: skip
CSRS: list[int] = [
    1, 2, 3, 0x100, 0x104, 0x105, 0x106, 0x140, 0x141, 0x142, 0x143, 0x144, 0x180, 0x300, 0x301, 0x302, 0x303, 0x304, 0x305,
    0x306, 0x340, 0x341, 0x342, 0x343, 0x344, 0x3A0, 0x3A1, 0x3A2, *range(0x3B0, 0x3C0), 0x5A8, 0x600, 0x680, 0x7A0, 0x7B0,
    0xA00, 0xB00, 0xB02, 0xC00, 0xC01, 0xC02,
]  # fmt: skip
SYSTEM = [
    asm.ECALL,
    asm.EBREAK,
    asm.SRET,
    asm.MRET,
    asm.WFI,
    asm.SFENCE_VMA,
    asm.FENCE_I,
    0x00200073,
    0x7B200073,
]
SLICE_NS = 500_000


def instruction(rng: random.Random) -> int:
    """Any word, or one that is likely to be an instruction."""
    kind = rng.random()
    if kind < 0.3:
        return rng.getrandbits(32)
    if kind < 0.5:
        csr, source, function = rng.choice(CSRS), rng.getrandbits(5), rng.choice([1, 2, 3, 5, 6, 7])
        return csr << 20 | source << 15 | function << 12 | rng.getrandbits(5) << 7 | 0x73
    if kind < 0.56:
        return rng.choice(SYSTEM)
    return rng.getrandbits(25) << 7 | rng.choice(OPCODES)


def value(rng: random.Random) -> int:
    """Something to have in a register: numbers, addresses of RAM and of the device, page-table roots."""
    return rng.choice(
        [
            0, rng.getrandbits(8), rng.getrandbits(32), rng.getrandbits(64), RAM + rng.getrandbits(12), RAM + rng.getrandbits(19),
            DEVICE + rng.getrandbits(7), rng.choice([8, 9, 10]) << 60 | (RAM >> 12) + rng.getrandbits(8),
        ]
    )  # fmt: skip


def prepare(machine: Bare, rng: random.Random) -> None:
    """A machine in a random state, with random code."""
    vcpu = machine.vcpu
    code = b"".join(instruction(rng).to_bytes(4, "little") for _ in range(1024))
    machine.ram.view[:] = bytes(len(machine.ram.view))
    machine.space.written(RAM, len(machine.ram.view))
    machine.space.write_physical(RAM, code)
    vcpu.reset(pc=RAM + rng.randrange(0x800) * 2, mode=rng.choice([0, 1, 3, 3, 3]))
    for n in range(1, 32):
        vcpu.set_gpr(n, value(rng))
    for csr, bits in ((asm.MSTATUS, 64), (asm.MEDELEG, 16), (asm.MIDELEG, 12), (asm.MIE, 12)):
        vcpu.set_csr(csr, rng.getrandbits(bits))
    for csr in (asm.MTVEC, asm.STVEC):
        vcpu.set_csr(csr, RAM + rng.getrandbits(10) * 4)
    if rng.random() < 0.5:
        vcpu.set_csr(asm.SATP, rng.choice([8, 9, 10]) << 60 | (RAM >> 12) + rng.getrandbits(8))
    if rng.random() < 0.3:
        for n in range(4):
            vcpu.set_csr(asm.PMPADDR0 + n, rng.choice([rng.getrandbits(64), RAM >> 2, (1 << 54) - 1]))
        vcpu.set_csr(asm.PMPCFG0, rng.getrandbits(64))
    if rng.random() < 0.3:
        vcpu.set_interrupt(rng.choice([1, 3, 5, 7, 9, 11]), 1)
    if rng.random() < 0.2:
        # A saved state that somebody has written by hand.
        state = vcpu.save()
        for name in (
            "mstatus",
            "mie",
            "mideleg",
            "medeleg",
            "mtvec",
            "stvec",
            "mepc",
            "sepc",
            "load_res",
            "mcounteren",
        ):
            if rng.random() < 0.5:
                setattr(state, name, rng.getrandbits(64))
        state.mip = rng.getrandbits(16)
        vcpu.load(state)
    vcpu.on_ecall = (lambda: True) if rng.random() < 0.3 else None


def main() -> None:
    faulthandler.enable()
    seed, count = sys.argv[1], int(sys.argv[2])
    machine = Bare()
    vcpu = machine.vcpu
    for number in range(count):
        sys.stderr.write(f"{number}\n")
        prepare(machine, random.Random(f"{seed}/{number}"))
        machine.failures.clear()
        machine.device.log.clear()
        vcpu.on_attention = vcpu.leave
        vcpu.set_deadline(time.monotonic_ns() + SLICE_NS)
        if vcpu.run() is Exit.FAILED:
            sys.exit(vcpu.failure)
        state = vcpu.save()
        vcpu.load(state)
        if vcpu.save() != state:
            sys.exit("the state does not survive")
        unexpected = [error for error in machine.failures if not isinstance(error, ZeroDivisionError)]
        if unexpected:
            sys.exit(repr(unexpected))
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
