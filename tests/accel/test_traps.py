"""Traps, interrupts, waiting and time, as the privileged architecture has them."""

import time

import pytest

from qemud.machine.vcpu import Exit
from tests.accel import asm
from tests.accel.asm import A0, A1, A2, A3, A4, A5, A6, A7, REPORT, S0, S1, SET_TRAP, T0, T1, T2
from tests.accel.machines import DEVICE, RAM

INTERRUPT = 1 << 63


def enter(mode, target="there"):
    """Go on at a label in another mode."""
    return [
        asm.li(T0, 3 << 11), asm.csrc(asm.MSTATUS, T0), asm.li(T0, mode << 11), asm.csrs(asm.MSTATUS, T0),
        asm.la(T0, target), asm.csrw(asm.MEPC, T0), asm.MRET, asm.label(target),
    ]  # fmt: skip


@pytest.mark.parametrize(("mode", "cause"), [(0, 8), (1, 9), (3, 11)])
def test_ecall_to_machine_mode(bare, mode, cause):
    bare.run(asm.program(SET_TRAP, enter(mode), asm.label("call"), asm.ECALL, asm.j("halt"), REPORT))
    assert bare.vcpu.gpr(A5) == cause
    assert bare.u64(bare.vcpu.gpr(A7)) & 0xFFFF_FFFF == asm.ECALL


@pytest.mark.parametrize(
    ("instruction", "cause"),
    [(asm.EBREAK, 3), (asm.C_EBREAK, 3), (asm.ILLEGAL, 2), (asm.Half(0), 2), (asm.csrr(A0, 0x7FF), 2)],
)
def test_exceptions_point_at_their_instruction(bare, instruction, cause):
    bare.run(asm.program(SET_TRAP, asm.label("here"), instruction, asm.j("halt"), REPORT))
    assert (bare.vcpu.gpr(A5), bare.vcpu.gpr(A6), bare.vcpu.gpr(A7)) == (cause, 0, RAM + 12)
    assert bare.vcpu.halted


def test_delegated_traps_go_to_supervisor_mode(bare):
    code = asm.program(
        asm.la(T1, "super"), asm.csrw(asm.STVEC, T1), asm.li(T0, 1 << 8), asm.csrw(asm.MEDELEG, T0), SET_TRAP,
        enter(0), asm.ECALL, asm.j("halt"),
        asm.Align(4), asm.label("super"), asm.csrr(A4, asm.SCAUSE), asm.li(S0, 1), asm.EBREAK, REPORT,
    )  # fmt: skip
    bare.run(code)
    assert (bare.vcpu.gpr(A4), bare.vcpu.gpr(S0)) == (8, 1)
    assert bare.vcpu.gpr(A5) == 3


def test_firmware_of_ours_answers_ecalls_of_supervisor_mode(bare):
    calls = []

    def firmware():
        calls.append((bare.vcpu.gpr(A7), bare.vcpu.pc))
        bare.vcpu.set_gpr(A0, 0x1234)
        return bare.vcpu.gpr(A7) != 99

    bare.vcpu.on_ecall = firmware
    code = asm.program(
        SET_TRAP,
        enter(1),
        asm.li(A7, 7),
        asm.ECALL,
        asm.addi(A1, A0, 1),
        asm.li(A7, 99),
        asm.ECALL,
        asm.j("halt"),
        REPORT,
    )
    bare.run(code)
    assert [number for number, _ in calls] == [7, 99]
    assert bare.vcpu.gpr(A1) == 0x1235
    assert bare.vcpu.gpr(A5) == 9, "what firmware does not know goes to machine mode"
    bare.vcpu.on_ecall = None
    bare.run(code)
    assert len(calls) == 2
    assert bare.vcpu.gpr(A5) == 9


def test_firmware_can_go_elsewhere_and_halt(bare):
    def firmware():
        bare.vcpu.pc = RAM + 0x1000
        bare.vcpu.halt()
        return True

    bare.space.write_physical(RAM + 0x1000, asm.program(asm.li(A0, 5), asm.label("h"), asm.WFI, asm.j("h")))
    bare.vcpu.on_ecall = firmware
    assert (
        bare.run(asm.program(SET_TRAP, enter(1), asm.ECALL, asm.li(A0, 9), asm.j("halt"), REPORT))
        is Exit.HALTED
    )
    assert bare.vcpu.gpr(A0) == 0
    assert bare.vcpu.halted
    bare.vcpu.set_csr(asm.MIE, 0x80)
    bare.vcpu.set_interrupt(7, 1)
    assert not bare.vcpu.halted, "an enabled interrupt ends the wait, even where it is not taken"
    bare.vcpu.set_csr(asm.MIE, 0)
    bare.vcpu.run()
    assert bare.vcpu.gpr(A0) == 5


@pytest.mark.parametrize("bit", [3, 7, 11])
def test_interrupts_of_machine_mode(bare, bit):
    code = asm.program(
        SET_TRAP, asm.li(T0, 1 << bit), asm.csrw(asm.MIE, T0), asm.li(T0, 8), asm.csrs(asm.MSTATUS, T0),
        asm.WFI, asm.li(A0, 1), asm.j("halt"), REPORT,
    )  # fmt: skip
    assert bare.run(code) is Exit.HALTED
    assert bare.vcpu.gpr(A5) == 0
    bare.vcpu.set_interrupt(bit, 1)
    assert not bare.vcpu.halted
    bare.vcpu.run()
    assert bare.vcpu.gpr(A5) == INTERRUPT | bit
    assert bare.vcpu.gpr(A0) == 0
    assert bare.vcpu.csr(asm.MIP) == 1 << bit
    bare.vcpu.set_interrupt(bit, 0)
    assert bare.vcpu.csr(asm.MIP) == 0


def test_vectored_interrupts(bare):
    code = asm.program(
        asm.la(T1, "table"), asm.addi(T1, T1, 1), asm.csrw(asm.MTVEC, T1), asm.li(T0, 1 << 7), asm.csrw(asm.MIE, T0),
        asm.csrw(asm.MIP, T0), asm.li(T0, 8), asm.csrs(asm.MSTATUS, T0), asm.label("spin"), asm.j("spin"),
        asm.Align(64), asm.label("table"), [asm.j("bad")] * 7, asm.j("good"), asm.label("bad"), asm.li(A0, 1), asm.j("halt"),
        asm.label("good"), asm.li(A0, 2), asm.j("halt"), REPORT,
    )  # fmt: skip
    bare.start(code)
    bare.vcpu.set_interrupt(7, 1)
    assert bare.vcpu.run() is Exit.HALTED
    assert bare.vcpu.gpr(A0) == 2


def test_an_interrupt_raised_by_a_device_breaks_a_chain_of_blocks(bare):
    """The guest spins in one translated block for ever; only the interrupt gets it out."""
    bare.device.on_write = lambda offset, value, size: bare.vcpu.set_interrupt(11, 1)
    code = asm.program(
        SET_TRAP, asm.li(T0, 1 << 11), asm.csrw(asm.MIE, T0), asm.li(T0, 8), asm.csrs(asm.MSTATUS, T0),
        asm.li(A1, DEVICE), asm.store(4, A1, A1), asm.label("spin"), asm.addi(A0, A0, 1), asm.j("spin"), REPORT,
    )  # fmt: skip
    bare.run(code)
    assert bare.vcpu.gpr(A5) == INTERRUPT | 11
    assert not bare.failures


def test_masked_interrupts_wait(bare):
    code = asm.program(
        SET_TRAP, asm.li(T0, 1 << 7), asm.csrw(asm.MIE, T0), asm.li(A0, 0), asm.li(A1, 1000), asm.label("loop"),
        asm.addi(A0, A0, 1), asm.bne(A0, A1, "loop"), asm.li(T0, 8), asm.csrs(asm.MSTATUS, T0), asm.NOP, asm.j("halt"), REPORT,
    )  # fmt: skip
    bare.start(code)
    bare.vcpu.set_interrupt(7, 1)
    assert bare.vcpu.run() is Exit.HALTED
    assert bare.vcpu.gpr(A0) == 1000
    assert bare.vcpu.gpr(A5) == INTERRUPT | 7


def test_software_sets_supervisor_interrupts(bare):
    code = asm.program(
        asm.la(T1, "super"), asm.csrw(asm.STVEC, T1), asm.li(T0, 0x222), asm.csrw(asm.MIDELEG, T0), SET_TRAP,
        asm.li(T0, 1 << 5), asm.csrs(asm.MIP, T0), asm.li(T0, 1 << 5), asm.csrw(asm.MIE, T0), enter(0),
        asm.label("spin"), asm.j("spin"),
        asm.Align(4), asm.label("super"), asm.csrr(A4, asm.SCAUSE), asm.EBREAK, REPORT,
    )  # fmt: skip
    bare.run(code)
    assert bare.vcpu.gpr(A4) == INTERRUPT | 5


def test_the_time_csr_is_the_guests_clock(bare):
    code = asm.program(asm.rdtime(A0), asm.rdtime(A1), asm.label("h"), asm.WFI, asm.j("h"))
    bare.vcpu.set_clock(0, 12_345_678_900)
    bare.run(code)
    assert bare.vcpu.gpr(A0) == bare.vcpu.gpr(A1) == 123_456_789, "10 MHz, and it stands still"
    before = time.monotonic_ns()
    bare.vcpu.set_clock(5_000_000_000, None)
    bare.run(code)
    after = time.monotonic_ns()
    assert before + 5_000_000_000 <= bare.vcpu.gpr(A0) * 100 + 100 <= after + 5_000_000_100
    assert bare.vcpu.gpr(A0) <= bare.vcpu.gpr(A1)


def test_the_counters_stand_still_with_the_clock(bare):
    code = asm.program(
        asm.csrr(A0, 0xC00),
        asm.csrr(A1, 0xC02),
        asm.csrr(A2, 0xB00),
        asm.csrr(A3, 0xB02),
        asm.j("h"),
        asm.label("h"),
        asm.WFI,
    )
    bare.vcpu.set_clock(0, 123_456)
    bare.run(code)
    assert [bare.vcpu.gpr(n) for n in (A0, A1, A2, A3)] == [123_456] * 4
    bare.vcpu.set_clock(0, None)
    bare.run(code)
    assert 123_456 < bare.vcpu.gpr(A0) <= bare.vcpu.gpr(A1) <= bare.vcpu.gpr(A2) <= bare.vcpu.gpr(A3)


def test_wfi_in_user_mode_is_illegal(bare):
    bare.run(asm.program(SET_TRAP, enter(0), asm.WFI, asm.j("halt"), REPORT))
    assert bare.vcpu.gpr(A5) == 2


def test_ecalls_in_a_row_do_not_drift(bare):
    """100,000 system calls with a handler that returns behind them: the hot path of every program."""
    code = asm.program(
        SET_TRAP, asm.li(A3, 100_000), enter(0), asm.label("loop"), asm.ECALL, asm.addi(A0, A0, 1), asm.bne(A0, A3, "loop"),
        asm.EBREAK,
        asm.Align(4), asm.label("trap"), asm.csrr(T0, asm.MCAUSE), asm.addi(T0, T0, -8), asm.bnez(T0, "halt"),
        asm.csrr(T0, asm.MEPC), asm.addi(T0, T0, 4), asm.csrw(asm.MEPC, T0), asm.addi(S1, S1, 1), asm.MRET,
        asm.label("halt"), asm.WFI, asm.j("halt"),
    )  # fmt: skip
    bare.run(code)
    assert bare.vcpu.gpr(A0) == bare.vcpu.gpr(S1) == 100_000
    assert bare.vcpu.csr(asm.MCAUSE) == 3


def test_a_supervisors_floating_point_is_exact_across_traps(bare):
    code = asm.program(
        SET_TRAP, asm.li(T0, 1 << 13), asm.csrs(asm.MSTATUS, T0), asm.li(A2, 0x3FF8_0000_0000_0000), asm.li(T2, RAM + 0x8000),
        asm.store(8, A2, T2), asm.fld(1, T2), asm.ILLEGAL, asm.j("halt"), REPORT,
    )  # fmt: skip
    bare.run(code)
    assert bare.vcpu.save().f[1] == 0x3FF8_0000_0000_0000
    assert bare.vcpu.gpr(A5) == 2


def test_a_failing_firmware_is_reported_and_passes_nothing_through(bare):
    def firmware():
        raise ZeroDivisionError("a defect of the firmware")

    bare.vcpu.on_ecall = firmware
    assert (
        bare.run(asm.program(SET_TRAP, enter(1), asm.ECALL, asm.li(A0, 1), asm.j("halt"), REPORT))
        is Exit.LEFT
    )
    assert [type(error) for error in bare.failures] == [ZeroDivisionError]
    assert bare.vcpu.gpr(A0) == 0
