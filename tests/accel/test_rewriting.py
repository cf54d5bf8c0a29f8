"""Code that the guest writes anew: it runs the new code after `fence.i`, by whatever address it wrote it."""

import pytest

from tests.accel import asm
from tests.accel.asm import A0, A2, RA, T1, T2, ZERO
from tests.accel.machines import RAM

ROOT, TABLES, PAGE = RAM + 0x10000, RAM + 0x11000, RAM + 0x40000
CODE, ALIAS = 8 << 30, 9 << 30
READ_WRITE, ALL = 0xC7, 0xCF
"""D, A, W, R, V for supervisor mode; without and with X."""

BEFORE, AFTER = (asm.program(asm.li(A0, value), asm.jalr(ZERO, RA)) for value in (7, 9))
PLACES = (0, 0x800)
"""Two functions in one page, as far apart as blocks that are dropped one by one."""


def entry(address, bits):
    return (address >> 12 << 10 | bits).to_bytes(8, "little")


@pytest.mark.parametrize("rights", [READ_WRITE, ALL], ids=["rw", "rwx"])
@pytest.mark.parametrize("first", PLACES)
@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_code_rewritten_by_way_of_another_address(bare, rights, first, known):
    """As Linux loads a module where another one's first code was, or a compiler at run time writes through a second mapping."""
    for address, value in (
        (ROOT + 8 * 2, entry(RAM, ALL)),
        (ROOT + 8 * 8, entry(TABLES, 1)),
        (TABLES, entry(TABLES + 0x1000, 1)),
        (TABLES + 0x1000, entry(PAGE, ALL)),
        (ROOT + 8 * 9, entry(TABLES + 0x2000, 1)),
        (TABLES + 0x2000, entry(TABLES + 0x3000, 1)),
        (TABLES + 0x3000, entry(PAGE, rights)),
    ):
        bare.space.write_physical(address, value)
    for place in PLACES:
        bare.space.write_physical(PAGE + place, BEFORE)
    second = PLACES[1] - first
    new = int.from_bytes(AFTER, "little")

    def call(place):
        return (asm.li(T1, CODE + place), asm.jalr(RA, T1), asm.slli(A2, A2, 8), asm.add(A2, A2, A0))

    def write(place):
        return (asm.li(T1, new), asm.li(T2, ALIAS + place), asm.store(8, T1, T2))

    code = asm.program(
        asm.li(A2, 0), write(0x400) if known else (), call(first), call(second), write(first), write(second), asm.FENCE_I, call(first), call(second),
        asm.label("halt"), asm.WFI, asm.j("halt"),
    )  # fmt: skip
    bare.start(code, mode=1)
    bare.vcpu.set_csr(asm.SATP, 8 << 60 | ROOT >> 12)
    bare.run_until_halt()
    assert bare.vcpu.gpr(A2) == 0x07070909
