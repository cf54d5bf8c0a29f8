"""The state of a hart, saved by value: a program goes on in a fresh engine as if nothing had been."""

import msgspec
import pytest

from qemud._generated.types.cpu_riscv import RiscvCpuState
from qemud.qapi.runtime.errors import GenericError
from tests.accel import asm
from tests.accel.asm import A0, A1, A2, A3, A5, A6, S0, S1, T0, T1, T2
from tests.accel.machines import RAM, Bare

DATA = RAM + 0x8000
ROOT = RAM + 0x10000
MASK = (1 << 64) - 1


def xorshift(rounds):
    """Mix registers, memory, multiplications and floating point for a while; the result is in a0 and at DATA."""
    return asm.program(
        asm.li(A3, 3 << 13), asm.csrs(asm.MSTATUS, A3), asm.li(A0, 0x9E37_79B9_7F4A_7C15), asm.li(A1, rounds),
        asm.li(T0, DATA), asm.li(T1, 0x5851_F42D_4C95_7F2D), asm.li(S0, 0),
        asm.label("loop"),
        asm.mul(A0, A0, T1), asm.addi(A0, A0, 1), asm.store(8, A0, T0), asm.fld(1, T0), asm.fsd(1, T0, 8), asm.load(8, T2, T0, 8),
        asm.xor(A0, A0, T2), asm.add(A0, A0, S0), asm.addi(S0, S0, 3), asm.amoadd_d(A2, A0, T0),
        asm.addi(A1, A1, -1), asm.bnez(A1, "loop"),
        asm.label("halt"), asm.WFI, asm.j("halt"),
    )  # fmt: skip


def copy_memory(source, target):
    target.ram.view[:] = source.ram.view
    target.space.written(RAM, len(source.ram.view))


def test_a_program_goes_on_in_fresh_engines(native):
    """Stopped at a dozen places, each time carried over as text into a new engine; the end is the same."""
    rounds = 3_000_000
    machine = Bare()
    machine.run(xorshift(rounds))
    expected = machine.vcpu.save(), bytes(machine.ram.view[0x8000:0x8010])
    machine.close()

    machine = Bare()
    machine.start(xorshift(rounds))
    moves = 0
    try:
        while not machine.vcpu.halted:
            machine.vcpu.on_attention = machine.vcpu.leave
            machine.vcpu.set_deadline(0)
            machine.vcpu.run()
            if machine.vcpu.halted or moves > 12:
                machine.vcpu.on_attention = lambda: None
                machine.vcpu.set_deadline(None)
                machine.vcpu.run()
                continue
            moves += 1
            text = msgspec.json.encode(machine.vcpu.save())
            fresh = Bare()
            copy_memory(machine, fresh)
            fresh.vcpu.load(msgspec.json.decode(text, type=RiscvCpuState))
            assert fresh.vcpu.save() == machine.vcpu.save()
            machine.close()
            machine = fresh
        assert moves > 3
        assert (machine.vcpu.save(), bytes(machine.ram.view[0x8000:0x8010])) == expected
    finally:
        machine.close()


def test_every_register_is_in_the_state(native):
    """Write each through the instruction set, save, load into a fresh engine, and read each back there."""
    registers = [
        asm.MEDELEG, asm.MIDELEG, asm.MIE, asm.MTVEC, asm.MSCRATCH, asm.MEPC, asm.MCAUSE, asm.MTVAL, asm.STVEC, asm.SSCRATCH,
        asm.SEPC, asm.SCAUSE, asm.STVAL, asm.SATP, 0x306, 0x106, 0x003, asm.MSTATUS,
        *(asm.PMPADDR0 + i for i in range(16)), asm.PMPCFG0, asm.PMPCFG0 + 2, asm.MIP,
    ]  # fmt: skip
    values = {number: 0x0101_0101_0101_0101 * (1 + i) & ~2 for i, number in enumerate(registers)}
    values[asm.SATP] = 8 << 60 | 0x1234
    values[asm.MSTATUS] = 3 << 13 | 1 << 18
    values[asm.PMPCFG0] = 0x0F1F_0B19_0F0F_1B1F
    values[0x003] = 0x75  # fcsr
    first, second = Bare(), Bare()
    try:
        first.vcpu.set_csr(asm.MSTATUS, 3 << 13)
        for number in registers:
            first.vcpu.set_csr(number, values[number])
        for n in range(32):
            first.vcpu.set_gpr(n, 0x1111 * n)
        state = first.vcpu.save()
        state.priv, state.halted = 1, True
        state.load_res, state.load_val = RAM, 77
        second.vcpu.load(state)
        assert second.vcpu.save() == state
        for number in registers:
            assert second.vcpu.csr(number) == first.vcpu.csr(number), hex(number)
        assert second.vcpu.csr(asm.SATP) == values[asm.SATP]
        assert second.vcpu.csr(0x003) == 0x75
        assert second.vcpu.csr(asm.PMPCFG0) == values[asm.PMPCFG0]
        assert [second.vcpu.gpr(n) for n in range(32)] == [0x1111 * n for n in range(32)]
    finally:
        first.close()
        second.close()


def test_a_loaded_pending_interrupt_is_taken(native):
    code = asm.program(
        asm.la(T1, "trap"), asm.csrw(asm.MTVEC, T1), asm.li(T0, 1 << 7), asm.csrw(asm.MIE, T0), asm.li(T0, 8),
        asm.csrs(asm.MSTATUS, T0), asm.label("w"), asm.WFI, asm.addi(A0, A0, 1), asm.j("w"),
        asm.Align(4), asm.label("trap"), asm.csrr(A5, asm.MCAUSE), asm.label("halt"), asm.WFI, asm.j("halt"),
    )  # fmt: skip
    first, second = Bare(), Bare()
    try:
        first.run(code)
        state = first.vcpu.save()
        assert state.halted
        state.mip = 1 << 7
        copy_memory(first, second)
        second.vcpu.load(state)
        assert not second.vcpu.halted
        second.vcpu.run()
        assert second.vcpu.gpr(A5) == 1 << 63 | 7
        assert second.vcpu.gpr(A0) == 0
    finally:
        first.close()
        second.close()


def test_load_forgets_what_was_translated_and_mapped(bare):
    """The same virtual address, mapped elsewhere in the loaded state."""
    for page, value in ((0, 11), (1, 22)):
        table = bytearray(4096)
        for index, target in ((2, RAM >> 12), (8, (RAM >> 12) + page * 0x40000)):
            table[8 * index : 8 * index + 8] = (target << 10 | 0xCF).to_bytes(8, "little")
        bare.space.write_physical(ROOT + page * 0x1000, bytes(table))
        assert value
    bare.space.write_physical(RAM, asm.program(asm.load(8, A0, S0), asm.label("h"), asm.WFI, asm.j("h")))
    bare.space.write_physical(DATA, (0xABCD).to_bytes(8, "little"))
    bare.vcpu.reset(pc=RAM, mode=1)
    bare.vcpu.set_gpr(S0, (8 << 30) + 0x8000)
    bare.vcpu.set_csr(asm.SATP, 8 << 60 | ROOT >> 12)
    state = bare.vcpu.save()
    bare.vcpu.run()
    assert bare.vcpu.gpr(A0) == 0xABCD
    state.satp = 8 << 60 | ROOT + 0x1000 >> 12
    state.medeleg = 0
    state.mtvec = RAM + 4
    bare.vcpu.load(state)
    bare.vcpu.run()
    assert bare.vcpu.gpr(A0) == 0, "that page is a hole now"
    assert bare.vcpu.csr(asm.MCAUSE) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"priv": 2}, "saved CPU state: 'priv' is 0x2, which no processor has"),
        ({"priv": 9}, "saved CPU state: 'priv' is 0x9, which no processor has"),
        ({"satp": 1 << 60}, "saved CPU state: 'satp' is 0x1000000000000000, which no processor has"),
        ({"frm": 9}, "saved CPU state: 'frm' is 0x9, which no processor has"),
        ({"fflags": 32}, "saved CPU state: 'fflags' is 0x20, which no processor has"),
        ({"mip": 1 << 40}, "saved CPU state: 'mip' is 0x10000000000, which no processor has"),
        ({"x": [1] + [0] * 31}, "saved CPU state: 'x0' is 0x1, which no processor has"),
        ({"x": [0] * 31}, "saved CPU state: 'x' has 31 registers, expected 32"),
        ({"pmpcfg": [0] * 17}, "saved CPU state: 'pmpcfg' has 17 registers, expected 16"),
    ],
)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(bare, change, message):
    bare.vcpu.reset(pc=RAM, a0=5)
    before = bare.vcpu.save()
    state = msgspec.structs.replace(before, **change)
    with pytest.raises(GenericError, match=f"^{message}$"):
        bare.vcpu.load(state)
    assert bare.vcpu.save() == before


def test_reset_is_power_on(bare):
    fresh = bare.vcpu.save()
    code = xorshift(10)
    bare.run(code)
    assert bare.vcpu.save() != fresh
    bare.vcpu.set_csr(asm.SATP, 8 << 60)
    bare.vcpu.set_interrupt(11, 1)
    bare.vcpu.reset(pc=fresh.pc)
    assert bare.vcpu.save() == fresh
    assert fresh.priv == 3
    assert not fresh.halted


def test_reset_in_supervisor_mode_with_arguments(bare):
    bare.vcpu.reset(pc=RAM, a0=1, a1=2, a2=3, mode=1)
    state = bare.vcpu.save()
    assert (state.priv, state.pc, state.x[10:13]) == (1, RAM, [1, 2, 3])
    with pytest.raises(GenericError, match="privilege mode 2 does not exist, expected 0, 1 or 3"):
        bare.vcpu.reset(pc=RAM, mode=2)


def test_csrs_that_do_not_exist(bare):
    for number in (0x7FF, -1, 0x1000, 1 << 70):
        with pytest.raises(GenericError, match="does not exist or cannot be written"):
            bare.vcpu.csr(number)
    with pytest.raises(GenericError, match="CSR 0xf14 does not exist or cannot be written"):
        bare.vcpu.set_csr(0xF14, 1)
    assert bare.vcpu.csr(0xF14) == 0


def test_registers_from_outside(bare):
    bare.vcpu.set_gpr(0, 5)
    bare.vcpu.set_gpr(5, -1)
    assert bare.vcpu.gpr(0) == 0
    assert bare.vcpu.gpr(5) == MASK
    bare.vcpu.pc = RAM + 8
    assert bare.vcpu.pc == RAM + 8
    for n in (A6, S1):
        assert bare.vcpu.gpr(n) == 0
