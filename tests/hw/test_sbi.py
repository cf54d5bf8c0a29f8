"""The built-in firmware, called as a supervisor calls it; expected answers are those of the SBI specification, version 2.0."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud._generated.types.hw_riscv import RiscvAclintMtimerOptions
from qemud.hw.char.ns16550a import Ns16550a
from qemud.hw.intc.clint import AclintMtimer
from qemud.hw.riscv.sbi.firmware import Firmware
from qemud.machine.memory import RamBlock
from tests.hw.support import FakeVcpu, Vm, bring_up
from tests.hw.test_ns16550a import Line

RAM = 0x8000_0000
PAGE = 4096
ALL = MASK64 = (1 << 64) - 1

BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN = (
    0x10,
    0x54494D45,
    0x735049,
    0x52464E43,
    0x48534D,
    0x53525354,
    0x4442434E,
)

OK, FAILED, NOT_SUPPORTED, INVALID_PARAM, INVALID_ADDRESS, ALREADY_AVAILABLE = 0, -1, -2, -3, -5, -6

SSIP, STIP = 1 << 1, 1 << 5


class Supervisor:
    """A kernel's side of the interface."""

    def __init__(self) -> None:
        self.vm = Vm()
        self.line = Line()
        self.uart = Ns16550a()
        self.uart.line = self.line
        bring_up(self.uart, self.vm)
        self.mtimer = AclintMtimer(RiscvAclintMtimerOptions(timebase_freq=10_000_000))
        bring_up(self.mtimer, self.vm)
        self.vm.memory.add_ram("ram", RAM, RamBlock("ram", 4 * PAGE))
        self.vcpu: FakeVcpu = self.vm.vcpus[0]
        self.sbi: Any = Firmware(self.vcpu, self.mtimer, self.uart)
        bring_up(self.sbi, self.vm)
        self.sbi.start(RAM, 0x1234)

    def ecall(self, eid: int, fid: int, *args: int) -> None:
        vcpu = self.vcpu
        for n, value in enumerate((*args, *[0xAAAA] * (6 - len(args)))):
            vcpu.set_gpr(10 + n, value)
        vcpu.set_gpr(16, fid)
        vcpu.set_gpr(17, eid)
        vcpu.pc = RAM + 0x104
        assert vcpu.on_ecall is not None
        assert vcpu.on_ecall()

    def call(self, eid: int, fid: int, *args: int) -> tuple[int, int]:
        self.ecall(eid, fid, *args)
        error, value = self.vcpu.gpr(10), self.vcpu.gpr(11)
        return error - (1 << 64) if error >> 63 else error, value

    def legacy(self, eid: int, *args: int) -> int:
        self.ecall(eid, 0x5A5A, *args)
        assert self.vcpu.gpr(11) == (args[1] if len(args) > 1 else 0xAAAA)
        value = self.vcpu.gpr(10)
        return value - (1 << 64) if value >> 63 else value


@pytest.fixture
def kernel() -> Supervisor:
    return Supervisor()


def test_the_hart_begins_as_the_boot_protocol_says(kernel: Supervisor):
    vcpu = kernel.vcpu
    assert (vcpu.pc, vcpu.mode, vcpu.x[10], vcpu.x[11]) == (RAM, 1, 0, 0x1234)
    assert vcpu.csrs[0x306] == vcpu.csrs[0x106] == 7
    assert (vcpu.csrs[0x3A0], vcpu.csrs[0x3B0]) == (0x1F, (1 << 54) - 1)
    assert vcpu.csrs[0x303] == 0x222
    # all but ecalls from S and M
    assert vcpu.csrs[0x302] & (1 << 9 | 1 << 11) == 0
    assert all(vcpu.csrs[0x302] >> cause & 1 for cause in (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 15))


def test_base(kernel: Supervisor):
    assert kernel.call(BASE, 0) == (OK, 0x0200_0000)
    assert kernel.call(BASE, 1) == (OK, 0x71656D64)
    assert kernel.call(BASE, 2)[0] == OK
    for eid in (BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN, *range(9)):
        assert kernel.call(BASE, 3, eid) == (OK, 1)
    for eid in (9, 0xF, 0x11, 0x504D55, 0x53555350, 0x4E41434C, ALL):
        assert kernel.call(BASE, 3, eid) == (OK, 0)
    kernel.vcpu.csrs |= {0xF11: 0x489, 0xF12: 0x8000_0000_0000_0007, 0xF13: 3}
    assert [kernel.call(BASE, fid) for fid in (4, 5, 6)] == [
        (OK, 0x489),
        (OK, 0x8000_0000_0000_0007),
        (OK, 3),
    ]
    assert kernel.call(BASE, 7)[0] == NOT_SUPPORTED


@pytest.mark.parametrize("eid", [9, 0xF, 0x11, 0x504D55, 0x0900_0000])
def test_unknown_extensions(kernel: Supervisor, eid: int):
    assert kernel.call(eid, 0)[0] == NOT_SUPPORTED


@pytest.mark.parametrize("eid", [TIME, IPI, SRST])
def test_unknown_functions(kernel: Supervisor, eid: int):
    assert kernel.call(eid, 1)[0] == NOT_SUPPORTED
    assert kernel.call(eid, 0xFFFF_FFFF)[0] == NOT_SUPPORTED


def test_other_registers_are_left_alone(kernel: Supervisor):
    for n in range(1, 32):
        kernel.vcpu.set_gpr(n, 0x1000 + n)
    kernel.call(TIME, 0, 1, 2, 3, 4, 5, 6)
    changed = {n for n in range(1, 32) if kernel.vcpu.gpr(n) != 0x1000 + n}
    assert changed == {*range(10, 16), 16, 17}
    assert [kernel.vcpu.gpr(n) for n in range(12, 16)] == [3, 4, 5, 6]


def test_the_timer_fires_when_mtime_reaches_it_and_not_before(kernel: Supervisor):
    assert kernel.call(TIME, 0, kernel.mtimer.time() + 100) == (OK, 0)
    kernel.vm.pass_time(9_999)
    assert kernel.vcpu.mip & STIP == 0
    kernel.vm.pass_time(1)
    assert kernel.vcpu.mip & STIP
    kernel.call(TIME, 0, kernel.mtimer.time() + 100)
    assert kernel.vcpu.mip & STIP == 0
    kernel.call(TIME, 0, 0)
    assert kernel.vcpu.mip & STIP
    kernel.call(TIME, 0, ALL)
    assert kernel.vcpu.mip & STIP == 0
    kernel.vm.pass_time(10**12)
    assert kernel.vcpu.mip & STIP == 0


def test_the_timer_follows_a_guest_that_sets_mtime(kernel: Supervisor):
    kernel.call(TIME, 0, 1_000_000)
    kernel.mtimer.write(0x7FF8, 1_000_000, 8)
    assert kernel.vcpu.mip & STIP


def test_ipis(kernel: Supervisor):
    assert kernel.call(IPI, 0, 1, 0) == (OK, 0)
    assert kernel.vcpu.mip & SSIP
    kernel.vcpu.mip = 0
    assert kernel.call(IPI, 0, 0, ALL) == (OK, 0)
    assert kernel.vcpu.mip & SSIP
    kernel.vcpu.mip = 0
    assert kernel.call(IPI, 0, 0, 0)[0] == OK
    for mask, base in ((2, 0), (1, 1), (1, 64), (1 << 63, 0), (3, 0)):
        assert kernel.call(IPI, 0, mask, base)[0] == INVALID_PARAM
    assert kernel.vcpu.mip == 0


def test_remote_fences(kernel: Supervisor):
    assert kernel.call(RFENCE, 0, 1, 0)[0] == OK
    assert kernel.vcpu.flushes == 0
    assert kernel.call(RFENCE, 1, 1, 0, 0, 0)[0] == OK
    assert kernel.call(RFENCE, 2, 0, ALL, 0x1000, ALL, 5)[0] == OK
    assert kernel.vcpu.flushes == 2
    assert kernel.call(RFENCE, 1, 1, 0, ALL - 0xFFF, 0x1000)[0] == OK
    assert kernel.call(RFENCE, 1, 1, 0, ALL - 0xFFF, 0x1001)[0] == INVALID_ADDRESS
    assert kernel.call(RFENCE, 1, 2, 0, 0, 0)[0] == INVALID_PARAM
    for fid in range(3, 8):
        assert kernel.call(RFENCE, fid, 1, 0, 0, 0)[0] == NOT_SUPPORTED


def test_hart_states(kernel: Supervisor):
    assert kernel.call(HSM, 2, 0) == (OK, 0)
    assert kernel.call(HSM, 2, 1)[0] == INVALID_PARAM
    assert kernel.call(HSM, 0, 0, RAM, 0)[0] == ALREADY_AVAILABLE
    assert kernel.call(HSM, 0, 7, RAM, 0)[0] == INVALID_PARAM
    assert kernel.call(HSM, 0, 0, 0x1000, 0)[0] == INVALID_ADDRESS
    assert kernel.call(HSM, 0, 0, RAM + 1, 0)[0] == INVALID_ADDRESS
    assert kernel.call(HSM, 4)[0] == NOT_SUPPORTED


def test_a_stopped_hart_waits_for_nothing(kernel: Supervisor):
    kernel.vcpu.csrs[0x104] = 0x222
    kernel.ecall(HSM, 1)
    assert kernel.vcpu.halted
    assert kernel.vcpu.csrs[0x104] == 0
    assert kernel.vcpu.pc == RAM + 0x100


def test_retentive_suspend_sleeps_and_returns(kernel: Supervisor):
    assert kernel.call(HSM, 3, 0, 0, 0) == (OK, 0)
    assert kernel.vcpu.halted
    assert kernel.vcpu.pc == RAM + 0x104


def test_non_retentive_suspend_goes_on_elsewhere_as_a_started_hart(kernel: Supervisor):
    kernel.vcpu.csrs |= {0x100: 0x22, 0x180: 0xA << 60 | 5}
    kernel.ecall(HSM, 3, 0x8000_0000, RAM + 0x200, 77)
    vcpu = kernel.vcpu
    assert vcpu.halted
    assert (vcpu.pc, vcpu.gpr(10), vcpu.gpr(11)) == (RAM + 0x200, 0, 77)
    assert (vcpu.csrs[0x180], vcpu.csrs[0x100]) == (0, 0x20)
    assert kernel.call(HSM, 3, 0x8000_0000, 0x10, 0)[0] == INVALID_ADDRESS
    for kind in (1, 0x1000_0000, 0x8000_0001, 0x9000_0000):
        assert kernel.call(HSM, 3, kind, RAM, 0)[0] == INVALID_PARAM


@pytest.mark.parametrize(
    ("kind", "reason", "request_"),
    [
        (0, 0, ("shutdown", "guest-shutdown", 0)),
        (0, 1, ("panic", 1)),
        (1, 0, ("reset", "guest-reset")),
        (2, 1, ("reset", "guest-reset")),
        (1 << 32, 0, ("shutdown", "guest-shutdown", 0)),
    ],
)
def test_system_reset(kernel: Supervisor, kind: int, reason: int, request_: tuple[Any, ...]):
    kernel.ecall(SRST, 0, kind, reason)
    assert kernel.vm.requests == [request_]


@pytest.mark.parametrize(("kind", "reason"), [(3, 0), (0xF000_0000, 0), (0, 2), (1, 0xE000_0000)])
def test_resets_that_are_reserved_or_not_there(kernel: Supervisor, kind: int, reason: int):
    assert kernel.call(SRST, 0, kind, reason)[0] == INVALID_PARAM
    assert kernel.vm.requests == []


def test_the_debug_console_writes_from_memory(kernel: Supervisor):
    kernel.vm.memory.write_physical(RAM + 16, b"hello")
    assert kernel.call(DBCN, 0, 5, RAM + 16, 0) == (OK, 5)
    assert kernel.call(DBCN, 0, 0, 0, 0) == (OK, 0)
    assert kernel.line.sent == b"hello"
    assert kernel.call(DBCN, 0, 3 * PAGE, RAM, 0) == (OK, 4096)
    kernel.line.room = 0
    assert kernel.call(DBCN, 0, 5, RAM + 16, 0) == (OK, 0)


@pytest.mark.parametrize(
    ("size", "low", "high"),
    [
        (1, 0, 0),
        (1, RAM - 1, 0),
        (1, RAM + 4 * PAGE, 0),
        (4 * PAGE, RAM + 1, 0),
        (ALL, RAM, 0),
        (1, ALL, 0),
        (1, RAM, 1),
    ],
)
def test_the_debug_console_refuses_what_is_not_memory(kernel: Supervisor, size: int, low: int, high: int):
    assert kernel.call(DBCN, 0, size, low, high)[0] == INVALID_PARAM
    assert kernel.call(DBCN, 1, size, low, high)[0] == INVALID_PARAM
    assert kernel.line.sent == b""


def test_the_debug_console_reads_what_is_there(kernel: Supervisor):
    assert kernel.call(DBCN, 1, 8, RAM, 0) == (OK, 0)
    kernel.uart.receive(b"abcdef")
    assert kernel.call(DBCN, 1, 4, RAM, 0) == (OK, 4)
    assert kernel.call(DBCN, 1, 9, RAM + 4, 0) == (OK, 2)
    assert kernel.vm.memory.read_physical(RAM, 7) == b"abcdef\0"


def test_writing_a_byte_waits_by_making_the_call_again(kernel: Supervisor):
    assert kernel.call(DBCN, 2, 0x141) == (OK, 0)
    assert kernel.line.sent == b"A"
    kernel.line.room = 0
    kernel.ecall(DBCN, 2, 0x42, 7)
    assert (kernel.vcpu.pc, kernel.vcpu.gpr(10), kernel.vcpu.gpr(11)) == (RAM + 0x100, 0x42, 7)
    assert kernel.call(DBCN, 3)[0] == NOT_SUPPORTED


def test_the_legacy_console_and_timer_and_shutdown(kernel: Supervisor):
    assert kernel.legacy(1, ord("x")) == 0
    assert kernel.line.sent == b"x"
    assert kernel.legacy(2) == -1
    kernel.uart.receive(b"y")
    assert kernel.legacy(2) == ord("y")
    kernel.legacy(0, 0)
    assert kernel.vcpu.mip & STIP
    kernel.line.room = 0
    kernel.ecall(1, 0, 0x42)
    assert kernel.vcpu.pc == RAM + 0x100
    kernel.ecall(8, 0)
    assert kernel.vm.requests == [("shutdown", "guest-shutdown", 0)]


def test_legacy_calls_to_harts_take_masks_from_the_callers_addresses(kernel: Supervisor):
    base = 0xFFFF_FFC0_0000_0000
    kernel.vcpu.mapped = {base >> 12: RAM >> 12, (base >> 12) + 1: (RAM >> 12) + 3}
    kernel.vm.memory.write_physical(RAM, b"\x01")
    assert kernel.legacy(4, base) == 0
    assert kernel.vcpu.mip & SSIP
    kernel.legacy(3)
    assert kernel.vcpu.mip & SSIP == 0
    assert kernel.legacy(4, base + 8) == 0
    assert kernel.vcpu.mip & SSIP == 0
    assert kernel.legacy(4, 0) == 0
    assert kernel.vcpu.mip & SSIP
    assert kernel.legacy(4, base + PAGE - 4) == 0
    assert kernel.legacy(4, 0x5000) == INVALID_ADDRESS
    assert kernel.legacy(4, base + 2 * PAGE - 4) == INVALID_ADDRESS
    assert kernel.legacy(5, 0) == 0
    assert kernel.legacy(6, 0, 0, 0) == 0
    assert kernel.legacy(7, 0, 0, 0, 0) == 0
    assert kernel.vcpu.flushes == 2


def test_state_goes_into_other_firmware(kernel: Supervisor):
    kernel.call(TIME, 0, kernel.mtimer.time() + 1000)
    other = Supervisor()
    other.vm.clock.load(kernel.vm.clock.save())
    other.mtimer.load(kernel.mtimer.save())
    other.sbi.load(kernel.sbi.save())
    other.vm.pass_time(99_999)
    assert other.vcpu.mip & STIP == 0
    other.vm.pass_time(1)
    assert other.vcpu.mip & STIP


def test_a_reset_forgets_the_timer(kernel: Supervisor):
    kernel.call(TIME, 0, kernel.mtimer.time() + 1000)
    kernel.sbi.reset_enter()
    kernel.vm.pass_time(10**9)
    assert kernel.vcpu.mip & STIP == 0
    kernel.sbi.unrealize()
    assert kernel.vcpu.on_ecall is None


WORDS = st.one_of(
    st.integers(0, 16),
    st.integers(0, MASK64),
    st.sampled_from([RAM, RAM + 4 * PAGE, RAM - 1, ALL, 1 << 63, 0x8000_0000, 1 << 32]),
)


@settings(max_examples=200)
@given(
    st.sampled_from([BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN, *range(10)]),
    st.integers(0, 8),
    st.lists(WORDS, min_size=6, max_size=6),
)
def test_no_call_fails_whatever_its_arguments(eid: int, fid: int, args: list[int]):
    kernel = Supervisor()
    kernel.ecall(eid, fid, *args)
    assert all(0 <= kernel.vcpu.gpr(n) <= MASK64 for n in range(32))
