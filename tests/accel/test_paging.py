"""What the device tree promises of the MMU with "svvptc": a page that has become valid is seen without a fence."""

import pytest

from tests.accel import asm
from tests.accel.asm import A2, A3, A5, A7, RA, S0, S1, S2, T1, T2, ZERO
from tests.accel.machines import RAM

ROOT, TABLES, PAGES = RAM + 0x10000, RAM + 0x11000, RAM + 0x40000
VIRTUAL = 8 << 30
COUNT = 64
LEAF = 0xCF
"""D, A, X, W, R, V: for supervisor mode."""

ACCESSES = {"load": asm.load(8, A2, S0), "store": asm.store(8, A3, S0), "fetch": asm.jalr(RA, S0)}


def entry(address: int, bits: int) -> bytes:
    return (address >> 12 << 10 | bits).to_bytes(8, "little")


@pytest.mark.parametrize("kind", ACCESSES)
def test_a_page_made_valid_is_seen_without_a_fence(bare, kind):
    """Every page faults once; the handler writes its entry and goes back to the access, without sfence.vma."""
    for address, value in (
        (ROOT + 8 * 2, entry(RAM, LEAF)),
        (ROOT + 8 * 8, entry(TABLES, 1)),
        (TABLES, entry(TABLES + 0x1000, 1)),
    ):
        bare.space.write_physical(address, value)
    for page in range(COUNT):
        bare.space.write_physical(PAGES + 0x1000 * page, asm.program(asm.jalr(ZERO, RA)))
    code = asm.program(
        asm.la(T1, "trap"), asm.csrw(asm.STVEC, T1), asm.li(S0, VIRTUAL), asm.li(A3, COUNT), asm.li(T1, 0x1000),
        asm.li(S1, TABLES + 0x1000), asm.li(S2, int.from_bytes(entry(PAGES, LEAF), "little")),
        asm.label("touch"), ACCESSES[kind], asm.add(S0, S0, T1), asm.addi(A3, A3, -1), asm.bnez(A3, "touch"),
        asm.label("halt"), asm.WFI, asm.j("halt"),
        asm.Align(4), asm.label("trap"), asm.csrr(A5, asm.SCAUSE), asm.addi(A7, A7, 1), asm.li(T2, COUNT + 1),
        asm.beq(A7, T2, "halt"), asm.store(8, S2, S1), asm.addi(S1, S1, 8), asm.addi(S2, S2, 1 << 10), asm.SRET,
    )  # fmt: skip
    bare.start(code, mode=1)
    bare.vcpu.set_csr(asm.MEDELEG, 0xFFFF)
    bare.vcpu.set_csr(asm.SATP, 8 << 60 | ROOT >> 12)
    bare.run_until_halt()
    assert bare.vcpu.gpr(A5) == {"load": 13, "store": 15, "fetch": 12}[kind]
    assert (bare.vcpu.gpr(A3), bare.vcpu.gpr(A7)) == (0, COUNT)
