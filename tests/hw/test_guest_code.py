"""Small supervisors on the real engine: what the board and its firmware are to code that runs on them."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, cast

from qemud._generated.types.hw_riscv import VirtMachineOptions
from qemud._generated.types.run_state import ShutdownCause
from qemud.accel import create_vcpu
from qemud.hw.boards import default_board, make_machine
from qemud.machine.thread import MachineThread
from qemud.machine.vm import VirtualMachine
from qemud.qom.device import reset_tree
from qemud.qom.tree import Tree
from tests.accel.asm import (
    A0,
    A1,
    A6,
    A7,
    ECALL,
    S0,
    S1,
    S2,
    SCAUSE,
    SEPC,
    SIE,
    SRET,
    SSTATUS,
    STVAL,
    STVEC,
    T0,
    T1,
    ZERO,
    add,
    addi,
    bnez,
    csrr,
    csrw,
    j,
    la,
    label,
    li,
    load,
    program,
    rdtime,
    store,
)
from tests.hw.test_ns16550a import Line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

RAM = 0x8000_0000
NOTES = 0x8010_0000
"""Where guests write what they found, 64 bits each."""

TIME, HSM, SRST = 0x54494D45, 0x48534D, 0x53525354
PLIC, UART, CLINT, MTIME = 0xC000000, 0x10000000, 0x2000000, 0x200BFF8
STIE = 1 << 5
MILLISECOND = 10_000
"""In ticks of mtime."""


class Guest:
    """One machine with a program, from reset to whatever it asks for."""

    def __init__(self, path: Path, code: bytes, ended: asyncio.Future[int]) -> None:
        self.events: list[str] = []
        self.failures: list[str] = []
        self.ended = ended
        image = path / "kernel"
        image.write_bytes(code)
        self.thread = MachineThread()
        self.vm = VirtualMachine(self.thread, lambda name, _data: self.events.append(name), ended.set_result)
        self.call = self.vm.mailboxes.call
        self.board = cast("Any", make_machine(default_board(), VirtMachineOptions(kernel=str(image))))
        self.board.ram_size = 8 << 20
        Tree().set_machine(self.board)
        self.line = Line()

    async def start(self) -> None:
        self.thread.start()
        self.thread.on_failure = self.failures.append
        for clock in (self.vm.clock, self.vm.host_clock):
            await self.call(self.thread.attach_clock, clock)
        vcpu = await self.call(create_vcpu, self.vm.memory)
        self.vm.vcpus.append(vcpu)
        await self.call(self.thread.attach, vcpu)
        await self.call(self.board.bring_up, self.vm)
        self.board.uart.line = self.line
        self.vm.reset_devices = lambda: reset_tree(self.board)
        await self.call(self.vm.reset_devices)
        await self.vm.cont()

    def notes(self, count: int) -> tuple[int, ...]:
        """What the guest wrote."""
        return struct.unpack(f"<{count}Q", self.vm.memory.read_physical(NOTES, 8 * count))


def run(path: Path, *code: Any, during: Callable[[Guest], Awaitable[None]] | None = None) -> Guest:
    """Run a program until it shuts the machine down (or `during` is done), and no longer than that."""

    async def main() -> Guest:
        guest = Guest(path, program(*code), asyncio.get_running_loop().create_future())
        try:
            await guest.start()
            async with asyncio.timeout(60):
                await (guest.ended if during is None else during(guest))
        finally:
            await guest.thread.end()
        assert guest.failures == []
        return guest

    return asyncio.run(main())


def call(eid: int, fid: int = 0) -> list[Any]:
    return [li(A7, eid), li(A6, fid), ECALL]


SHUTDOWN = [li(A0, 0), li(A1, 0), call(SRST)]


def note(register: int) -> list[Any]:
    """Write a register down; S0 is where."""
    return [store(8, register, S0), addi(S0, S0, 8)]


BEGIN = li(S0, NOTES)

COUNT_FAULTS = [
    # Every trap is noted by cause and address, and passed over.
    label("trap"),
    csrr(T0, SCAUSE),
    note(T0),
    csrr(T0, STVAL),
    note(T0),
    csrr(T0, SEPC),
    addi(T0, T0, 4),
    csrw(SEPC, T0),
    SRET,
]


def test_accesses_of_sizes_that_a_register_does_not_take_are_faults(tmp_path: Path):
    guest = run(
        tmp_path,
        BEGIN,
        la(T0, "trap"),
        csrw(STVEC, T0),
        li(S1, PLIC),
        li(S2, 0x2_0000_0000),
        load(8, T1, S1, 8),
        load(1, T1, S1, 4),
        store(8, ZERO, S1, 16),
        load(4, T1, S2),
        store(4, ZERO, S2, 8),
        load(4, T1, S1, 4),
        SHUTDOWN,
        COUNT_FAULTS,
    )
    assert guest.notes(12) == (
        *(5, PLIC + 8),
        *(5, PLIC + 4),
        *(7, PLIC + 16),
        *(5, 0x2_0000_0000),
        *(7, 0x2_0000_0008),
        *(0, 0),
    )
    assert guest.events == ["RESUME", "SHUTDOWN"]


def test_rdtime_and_mtime_and_the_firmwares_timer_are_one_clock(tmp_path: Path):
    guest = run(
        tmp_path,
        BEGIN,
        li(S1, MTIME),
        rdtime(T0),
        note(T0),
        load(8, T0, S1),
        note(T0),
        rdtime(T0),
        note(T0),
        # set mtime far ahead: the counter goes with it
        li(T0, 1 << 40),
        store(8, T0, S1),
        rdtime(T0),
        note(T0),
        load(8, T0, S1),
        note(T0),
        SHUTDOWN,
    )
    times = guest.notes(5)
    assert list(times) == sorted(times)
    assert times[2] < 1 << 40 <= times[3]
    assert times[4] < (1 << 40) + 60 * 10_000_000


def test_a_suspended_hart_sleeps_until_the_timer(tmp_path: Path):
    guest = run(
        tmp_path,
        BEGIN,
        li(T0, STIE),
        csrw(SIE, T0),
        rdtime(S1),
        li(T0, 5 * MILLISECOND),
        add(A0, S1, T0),
        call(TIME),
        li(A0, 0),
        call(HSM, 3),
        note(A0),
        rdtime(T0),
        note(S1),
        note(T0),
        csrr(T0, 0x144),
        note(T0),
        SHUTDOWN,
    )
    error, before, after, pending = guest.notes(4)
    assert error == 0
    assert after - before >= 5 * MILLISECOND
    assert pending & STIE


def test_a_hart_that_keeps_nothing_goes_on_where_it_said(tmp_path: Path):
    guest = run(
        tmp_path,
        BEGIN,
        li(T0, STIE),
        csrw(SIE, T0),
        li(A0, 0),
        call(TIME),
        li(A0, 0x8000_0000),
        la(A1, "resumed"),
        li(12, 0x55AA),
        call(HSM, 3),
        label("never"),
        j("never"),
        label("resumed"),
        BEGIN,
        note(A0),
        note(A1),
        csrr(T0, SSTATUS),
        note(T0),
        SHUTDOWN,
    )
    hart, opaque, sstatus = guest.notes(3)
    assert (hart, opaque, sstatus & 2) == (0, 0x55AA, 0)


def test_a_stopped_hart_does_nothing_until_a_reset(tmp_path: Path):
    async def watch(guest: Guest) -> None:
        while not guest.board.children["sbi"].state.stopped:
            await asyncio.sleep(0.01)
        vcpu = guest.vm.vcpus[0]
        assert await guest.call(lambda: vcpu.halted)
        assert guest.notes(1) == (1,)
        await guest.vm.reset(ShutdownCause.HOST_QMP_SYSTEM_RESET)
        await guest.ended

    guest = run(
        tmp_path,
        BEGIN,
        load(8, T0, S0),
        addi(T0, T0, 1),
        store(8, T0, S0),
        addi(T0, T0, -2),
        # the first time stop, the second time shut down
        bnez(T0, "stop"),
        SHUTDOWN,
        label("stop"),
        li(T0, STIE),
        csrw(SIE, T0),
        li(A0, 0),
        call(TIME),
        call(HSM, 1),
        li(T0, 99),
        store(8, T0, S0),
        during=watch,
    )
    assert guest.notes(1) == (2,)
    assert guest.events == ["RESUME", "RESET", "SHUTDOWN"]


def test_time_begins_at_0_after_a_reset(tmp_path: Path):
    async def reset_late(guest: Guest) -> None:
        while guest.notes(1)[0] < 200 * MILLISECOND:
            await asyncio.sleep(0.01)
        await guest.vm.stop()
        await guest.vm.reset(ShutdownCause.HOST_QMP_SYSTEM_RESET)
        guest.vm.memory.write_physical(NOTES, bytes(8))
        await guest.vm.cont()
        while guest.notes(1)[0] == 0:
            await asyncio.sleep(0)

    guest = run(
        tmp_path,
        li(S0, NOTES),
        label("loop"),
        rdtime(T0),
        store(8, T0, S0),
        j("loop"),
        during=reset_late,
    )
    assert 0 < guest.notes(1)[0] < 10**9
    assert guest.board.mtimer.time() < 60 * 10_000_000


def test_characters_go_through_the_uarts_registers(tmp_path: Path):
    guest = run(
        tmp_path,
        li(S0, UART),
        [[li(T0, character), store(1, T0, S0)] for character in b"hi"],
        SHUTDOWN,
    )
    assert guest.line.sent == b"hi"
