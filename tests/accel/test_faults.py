"""Accesses to nothing: the fault is the right one, at the right instruction, and nothing behind it has happened."""

import pytest

from qemud.machine.vcpu import Exit
from tests.accel import asm
from tests.accel.asm import A0, A1, A2, A3, A4, A5, A6, A7, S0, SP, T0, T1, T2, ZERO
from tests.accel.machines import DEVICE, RAM, RAM_SIZE

DATA = RAM + 0x8000
END = RAM + RAM_SIZE
HOLE = 0x4000_0000
HOLES = [0, 0x1000, HOLE, DEVICE + 0x1000, END, 1 << 40, (1 << 56) - 8, 1 << 63, (1 << 64) - 8]


def faulting(setup, access):
    """Set a trap, do `setup` and the access, and leave traces: in registers, in RAM and at a device."""
    return asm.program(
        asm.SET_TRAP,
        asm.li(T2, DATA),
        setup,
        access,
        asm.addi(A0, A0, 1),
        asm.store(8, T2, T2),
        asm.li(A1, DEVICE),
        asm.store(4, A0, A1),
        asm.j("halt"),
        asm.NOP,
        asm.REPORT,
    )


def place(setup):
    """Where the access of `faulting` is."""
    return RAM + len(asm.program([asm.NOP] * 3, asm.li(T2, DATA), setup))


def check(bare, cause, tval, epc):
    assert bare.vcpu.halted
    assert (bare.vcpu.gpr(A5), bare.vcpu.gpr(A6), bare.vcpu.gpr(A7)) == (cause, tval, epc)
    assert not bare.failures


def check_nothing_later(bare):
    assert bare.vcpu.gpr(A0) == 0, "a later instruction took effect"
    assert bare.u64(DATA) == 0, "a later store reached RAM"
    assert bare.device.log == [], "a later store reached a device"


@pytest.mark.parametrize("address", HOLES)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["load", "store"])
def test_load_or_store_of_nothing_is_precise(fast, kind, size, address):
    setup = asm.li(S0, address)
    access = asm.load(size, A2, S0) if kind == "load" else asm.store(size, A2, S0)
    assert fast.run(faulting(setup, access)) is Exit.HALTED
    check(fast, 5 if kind == "load" else 7, address, place(setup))
    check_nothing_later(fast)


@pytest.mark.parametrize("address", HOLES)
def test_jump_to_nothing_is_an_instruction_access_fault(bare, address):
    code = asm.program(asm.SET_TRAP, asm.li(S0, address), asm.jalr(ZERO, S0), asm.NOP, asm.REPORT)
    bare.start(code)
    bare.run_until_halt()
    check(bare, 1, address, address)


def test_jump_to_a_device_is_an_instruction_access_fault(bare):
    code = asm.program(asm.SET_TRAP, asm.li(S0, DEVICE), asm.jalr(ZERO, S0), asm.NOP, asm.REPORT)
    bare.start(code)
    bare.run_until_halt()
    check(bare, 1, DEVICE, DEVICE)
    assert bare.device.log == []


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("kind", ["load", "store"])
def test_access_that_runs_out_of_ram_names_the_page_behind(fast, kind, size):
    for inside in range(1, size):
        fast.device.log.clear()
        access = asm.load(size, A2, S0) if kind == "load" else asm.store(size, A2, S0)
        setup = asm.li(S0, END - inside)
        fast.run(faulting(setup, access))
        check(fast, 5 if kind == "load" else 7, END, place(setup))
        check_nothing_later(fast)


def test_instruction_that_runs_out_of_ram_names_the_page_behind(fast):
    start = asm.program(asm.SET_TRAP, asm.li(S0, END - 4), asm.jalr(ZERO, S0), asm.NOP, asm.REPORT)
    fast.space.write_physical(
        END - 4, asm.C_NOP.to_bytes(2, "little") + (asm.NOP & 0xFFFF).to_bytes(2, "little")
    )
    fast.start(start)
    fast.run_until_halt()
    check(fast, 1, END, END - 2)


@pytest.mark.parametrize(
    ("access", "cause", "offset"),
    [
        (asm.c_lw(A2, S0, 64), 5, 64),
        (asm.c_ld(A2, S0, 200), 5, 200),
        (asm.c_sw(A2, S0, 4), 7, 4),
        (asm.c_sd(A2, S0, 72), 7, 72),
        (asm.c_ldsp(A2, 488), 5, 488),
        (asm.c_sdsp(A2, 504), 7, 504),
        (asm.fld(2, S0, -8), 5, -8),
        (asm.fsd(2, S0, -16), 7, -16),
        (asm.load(1, A2, S0, -1), 5, -1),
        (asm.store(1, A2, S0, -2048), 7, -2048),
        (asm.store(2, A2, S0, 2047), 7, 2047),
        (asm.amoadd_d(A2, A3, S0), 7, 0),
        (asm.lr_d(A2, S0), 5, 0),
    ],
)
def test_every_form_of_access_tells_its_address(fast, access, cause, offset):
    setup = [asm.li(S0, HOLE), asm.li(SP, HOLE), asm.li(A4, 1 << 13), asm.csrs(asm.MSTATUS, A4)]
    fast.run(faulting(setup, access))
    check(fast, cause, HOLE + offset, place(setup))
    check_nothing_later(fast)


def test_a_device_that_refuses_faults_precisely(fast):
    for access, cause in ((asm.load(4, A2, S0), 5), (asm.store(4, A2, S0), 7)):
        setup = asm.li(S0, DEVICE + 0xF0)
        fast.run(faulting(setup, access))
        check(fast, cause, DEVICE + 0xF0, place(setup))
        assert len(fast.device.log) == 1
        fast.device.log.clear()


def test_the_twin_faults_behind_the_block_with_the_right_address(bare):
    """What it promises instead of precision: the cause, the address and the instruction are right."""
    for access, cause in ((asm.load(4, A2, S0), 5), (asm.store(4, A2, S0), 7)):
        setup = asm.li(S0, HOLE + 4)
        bare.start(faulting(setup, access))
        bare.run_until_halt()
        check(bare, cause, HOLE + 4, place(setup))


# With translation on, what the guest is told is the virtual address.

ROOT = RAM + 0x10000


def supervisor(bare, body, *, ppn, virtual=0x2_0000_0000):
    """Run `body` in S-mode with Sv39: RAM mapped as it is, `virtual` a gigabyte at physical page `ppn`."""
    flags = 0xCF
    for index, page in ((RAM >> 30, RAM >> 12), (virtual >> 30, ppn)):
        bare.space.write_physical(ROOT + 8 * index, (page << 10 | flags).to_bytes(8, "little"))
    code = asm.program(
        asm.la(T1, "trap"), asm.csrw(asm.STVEC, T1), asm.li(T0, 8 << 60 | ROOT >> 12), asm.csrw(asm.SATP, T0),
        asm.SFENCE_VMA, body, asm.addi(A0, A0, 1), asm.li(T2, DATA), asm.store(8, T2, T2), asm.j("halt"),
        asm.label("trap"), asm.csrr(A5, asm.SCAUSE), asm.csrr(A6, asm.STVAL), asm.csrr(A7, asm.SEPC),
        asm.label("halt"), asm.WFI, asm.j("halt"),
    )  # fmt: skip
    bare.start(code, mode=1)
    bare.vcpu.set_csr(asm.MEDELEG, 0xFFFF)
    bare.run_until_halt()


@pytest.mark.parametrize("kind", ["load", "store", "fetch"])
def test_faults_tell_the_virtual_address(fast, kind):
    virtual = 0x2_0000_1238
    body = {"load": asm.load(8, A2, S0), "store": asm.store(8, A2, S0), "fetch": asm.jalr(ZERO, S0)}[kind]
    supervisor(fast, [asm.li(S0, virtual), body], ppn=HOLE >> 12)
    assert fast.vcpu.gpr(A5) == {"load": 5, "store": 7, "fetch": 1}[kind]
    assert fast.vcpu.gpr(A6) == virtual
    assert fast.vcpu.gpr(A0) == 0
    assert fast.u64(DATA) == 0


@pytest.mark.parametrize("kind", ["load", "store", "fetch"])
def test_page_tables_in_a_hole_are_access_faults_of_the_access(fast, kind):
    virtual = 0x2_0000_1238
    body = {"load": asm.load(8, A2, S0), "store": asm.store(8, A2, S0), "fetch": asm.jalr(ZERO, S0)}[kind]
    fast.space.write_physical(ROOT + 8 * 9, ((HOLE >> 12) << 10 | 1).to_bytes(8, "little"))
    supervisor(fast, [asm.li(S0, virtual + (1 << 30)), body], ppn=HOLE >> 12)
    assert fast.vcpu.gpr(A5) == {"load": 5, "store": 7, "fetch": 1}[kind]
    assert fast.vcpu.gpr(A6) == virtual + (1 << 30)


def test_page_tables_in_device_registers_do_not_touch_the_device(bare):
    bare.space.write_physical(ROOT + 8 * 9, ((DEVICE >> 12) << 10 | 1).to_bytes(8, "little"))
    supervisor(bare, [asm.li(S0, 0x2_4000_0000), asm.load(8, A2, S0)], ppn=HOLE >> 12)
    assert bare.vcpu.gpr(A5) in {5, 13}
    assert bare.device.log == []


def test_translate(bare):
    supervisor(bare, [asm.NOP], ppn=(3 << 30) >> 12)
    assert bare.vcpu.translate(0x2_0000_1238) == (3 << 30) + 0x1238
    assert bare.vcpu.translate(RAM + 0x123) == RAM + 0x123
    assert bare.vcpu.translate(0x7_0000_0000) is None


def test_permission_to_touch_user_pages_comes_and_goes_at_once(bare):
    """mstatus.SUM set and cleared, with few pages opened and with many: never a stale permission, never one too few."""
    table, pages, virtual = RAM + 0x11000, 40, 0x2_0000_0000
    bare.space.write_physical(table, ((table + 0x1000) >> 12 << 10 | 1).to_bytes(8, "little"))
    leaves = b"".join(((RAM + 0x40000 >> 12) + n << 10 | 0xDF).to_bytes(8, "little") for n in range(pages))
    bare.space.write_physical(table + 0x1000, leaves)
    for count in (1, 3, 16, 17, pages):
        touch = [
            asm.li(S0, virtual), asm.li(A3, count), asm.li(T2, 0x1000), asm.label("touch"), asm.store(8, A3, S0),
            asm.load(8, A4, S0), asm.add(S0, S0, T2), asm.addi(A3, A3, -1), asm.bnez(A3, "touch"),
        ]  # fmt: skip
        code = asm.program(
            asm.la(T1, "trap"), asm.csrw(asm.STVEC, T1), asm.li(A1, 1 << 18), asm.csrs(asm.SSTATUS, A1), touch,
            asm.csrc(asm.SSTATUS, A1), asm.li(A0, 1), asm.li(S0, virtual), asm.label("again"), asm.load(8, A4, S0),
            asm.li(A2, 99), asm.label("halt"), asm.WFI, asm.j("halt"),
            # Each page faults once; the handler opens them again for a moment, and goes to the next.
            asm.Align(4), asm.label("trap"), asm.csrr(A5, asm.SCAUSE), asm.csrr(A6, asm.STVAL), asm.addi(A7, A7, 1),
            asm.csrs(asm.SSTATUS, A1), asm.load(8, A4, S0), asm.csrc(asm.SSTATUS, A1), asm.li(T2, 0x1000), asm.add(S0, S0, T2),
            asm.li(T2, count), asm.beq(A7, T2, "halt"), asm.j("again"),
        )  # fmt: skip
        flat = (RAM >> 12) << 10 | 0xCF
        bare.space.write_physical(ROOT + 8 * 2, flat.to_bytes(8, "little"))
        bare.space.write_physical(ROOT + 8 * 8, (table >> 12 << 10 | 1).to_bytes(8, "little"))
        bare.space.write_physical(table, ((table + 0x1000) >> 12 << 10 | 1).to_bytes(8, "little"))
        bare.start(code, mode=1)
        bare.vcpu.set_csr(asm.MEDELEG, 0xFFFF)
        bare.vcpu.set_csr(asm.SATP, 8 << 60 | ROOT >> 12)
        bare.run_until_halt()
        assert bare.vcpu.gpr(A0) == 1
        assert bare.vcpu.gpr(A2) == 0, "a user page was read without permission"
        assert bare.vcpu.gpr(A7) == count
        assert (bare.vcpu.gpr(A5), bare.vcpu.gpr(A6)) == (13, virtual + 0x1000 * (count - 1))
