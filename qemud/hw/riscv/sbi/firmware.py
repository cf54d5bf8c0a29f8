"""The firmware as a device of the board: it has a state, and a hart whose supervisor it serves.

    sbi = Firmware(vcpu, mtimer, console)
    board.add_child("sbi", sbi)
    ...
    sbi.start(0x8020_0000, fdt_address)     # at the end of a reset

Nothing of it lies in guest memory.  Traps that no supervisor expects to see (it has no M-mode code to emulate anything) are all
delegated; M-mode timer and software interrupts stay off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud._generated.types.hw_riscv import RiscvSbiState
from qemud.hw.riscv.sbi.extension import MASK64, NOT_SUPPORTED, Extension, Result, low32
from qemud.hw.riscv.sbi.harts import Hsm, Ipi, Rfence
from qemud.hw.riscv.sbi.legacy import EIDS as LEGACY_EIDS
from qemud.hw.riscv.sbi.legacy import Legacy
from qemud.hw.riscv.sbi.system import Base, DebugConsole, SystemReset, Time
from qemud.logs import trace, traced, unimplemented
from qemud.machine.memory import MemoryFault
from qemud.qom.device import Device

if TYPE_CHECKING:
    from qemud.hw.intc.clint import AclintMtimer
    from qemud.machine.clock import Timer
    from qemud.machine.vcpu import Vcpu

_A0, _A1, _A6, _A7 = 10, 11, 16, 17

_SSTATUS_SIE = 1 << 1

_CSR_SSTATUS = 0x100
_CSR_SIE = 0x104
_CSR_SCOUNTEREN = 0x106
_CSR_SATP = 0x180
_CSR_MEDELEG = 0x302
_CSR_MIDELEG = 0x303
_CSR_MCOUNTEREN = 0x306
_CSR_PMPCFG0 = 0x3A0
_CSR_PMPADDR0 = 0x3B0
_CSR_MVENDORID = 0xF11

_MIP_SSIP = 1
_MIP_STIP = 5

_DELEGATED_INTERRUPTS = 1 << 1 | 1 << 5 | 1 << 9
_DELEGATED_EXCEPTIONS = 0xB1FF
"""Causes 0 to 8, 12, 13 and 15: all but the ecalls of S and M."""
_PMP_ALL = 0x1F
"""NAPOT, read, write and execute."""
_COUNTERS = 0x7
"""cycle, time and instret."""

_ECALL_SIZE = 4


class Console(Protocol):
    """The serial port that is the debug console."""

    def console_write(self, data: bytes) -> int:
        """Send; how many bytes were taken."""

    def console_read(self, count: int) -> bytes:
        """What has arrived, at most `count` bytes."""


class Firmware(Device, type_name="riscv-sbi", state=RiscvSbiState):
    """See the module."""

    state: RiscvSbiState

    def __init__(self, vcpu: Vcpu, mtimer: AclintMtimer, console: Console) -> None:
        super().__init__()
        self.vcpu = vcpu
        self.mtimer = mtimer
        self.console = console
        self.hart_ids = [vcpu.index]
        extensions = (Base, Time, Ipi, Rfence, Hsm, SystemReset, DebugConsole)
        self._extensions: dict[int, Extension] = {kind.eid: kind(self) for kind in extensions}
        self._legacy = Legacy(self)
        self._timer: Timer | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    def realize(self) -> None:
        """Take the hart's ecalls."""
        self._timer = self.machine.clock.timer(self._compare)
        self.mtimer.on_time_set = self._compare
        self.vcpu.on_ecall = self._ecall

    def unrealize(self) -> None:
        """Let go of the hart."""
        assert self._timer is not None
        self._timer.cancel()
        self.mtimer.on_time_set = None
        self.vcpu.on_ecall = None

    def reset_enter(self) -> None:
        """No timer."""
        assert self._timer is not None
        self._timer.cancel()
        self.state = RiscvSbiState()

    def after_load(self) -> None:
        """The timer as the state says; its interrupt is in the hart's, so that one that is due fires when time goes on."""
        assert self._timer is not None
        if self.state.timer is None:
            self._timer.cancel()
        else:
            self._timer.arm(self.mtimer.deadline(self.state.timer))

    def start(self, address: int, fdt: int) -> None:
        """Start the hart in S-mode at `address`, as a boot loader hands over: a0 its id, a1 the device tree."""
        vcpu = self.vcpu
        vcpu.reset(pc=address, a0=vcpu.index, a1=fdt, mode=1)
        vcpu.set_csr(_CSR_PMPADDR0, (1 << 54) - 1)
        vcpu.set_csr(_CSR_PMPCFG0, _PMP_ALL)
        vcpu.set_csr(_CSR_MEDELEG, _DELEGATED_EXCEPTIONS)
        vcpu.set_csr(_CSR_MIDELEG, _DELEGATED_INTERRUPTS)
        vcpu.set_csr(_CSR_MCOUNTEREN, _COUNTERS)
        vcpu.set_csr(_CSR_SCOUNTEREN, _COUNTERS)

    # -- calls ------------------------------------------------------------------------------------------------------

    def _ecall(self) -> bool:
        vcpu = self.vcpu
        eid = low32(vcpu.gpr(_A7))
        args = tuple(vcpu.gpr(_A0 + n) for n in range(6))
        if "riscv_sbi_call" in traced:
            trace("riscv_sbi_call", extension=eid, function=low32(vcpu.gpr(_A6)), arguments=args[:3])
        result: Result | None
        if eid in LEGACY_EIDS:
            result = self._legacy.call(eid, args)
            if result is not None:
                vcpu.set_gpr(_A0, result.error & MASK64)
            return True
        extension = self._extensions.get(eid)
        if extension is None:
            unimplemented("riscv-sbi", "call of an extension that is not built", extension=f"{eid:#x}")
            result = NOT_SUPPORTED
        else:
            result = extension.call(low32(vcpu.gpr(_A6)), args)
        if result is not None:
            vcpu.set_gpr(_A0, result.error & MASK64)
            vcpu.set_gpr(_A1, result.value & MASK64)
        return True

    # -- what extensions need ---------------------------------------------------------------------------------------

    def has_extension(self, eid: int) -> bool:
        """Whether there is such an extension."""
        return eid in self._extensions or eid in LEGACY_EIDS

    def machine_id(self, index: int) -> int:
        """mvendorid, marchid or mimpid."""
        return self.vcpu.csr(_CSR_MVENDORID + index)

    def set_timer(self, ticks: int) -> None:
        """Interrupt the supervisor once mtime is `ticks`; all ones is never."""
        self.state.timer = None if ticks == MASK64 else ticks
        self._compare()

    def send_ipi(self, hart: int) -> None:
        """Make the supervisor's software interrupt pending."""
        assert hart == self.vcpu.index
        self.vcpu.set_interrupt(_MIP_SSIP, 1)

    def clear_ipi(self) -> None:
        """Take it back."""
        self.vcpu.set_interrupt(_MIP_SSIP, 0)

    def fence_i(self, hart: int) -> None:
        """Nothing to do: the engine sees what its own guest writes to its code."""
        assert hart == self.vcpu.index

    def sfence_vma(self, hart: int) -> None:
        """Forget translations of addresses, all of them."""
        assert hart == self.vcpu.index
        self.vcpu.flush_tlb()

    def sleep(self) -> None:
        """Wait for an interrupt, as WFI does, behind the call."""
        self.vcpu.halt()

    def stop_hart(self) -> None:
        """Stop the only hart there is: only a reset brings it back."""
        self.state.stopped = True
        self.vcpu.set_csr(_CSR_SIE, 0)
        self.call_again()
        self.vcpu.halt()

    def enter_supervisor(self, address: int, opaque: int) -> None:
        """Go on at `address` with address translation and interrupts off, a0 the hart's id, a1 `opaque`."""
        vcpu = self.vcpu
        vcpu.set_csr(_CSR_SATP, 0)
        vcpu.set_csr(_CSR_SSTATUS, vcpu.csr(_CSR_SSTATUS) & ~_SSTATUS_SIE)
        vcpu.set_gpr(_A0, vcpu.index)
        vcpu.set_gpr(_A1, opaque)
        vcpu.pc = address

    def call_again(self) -> None:
        """Let the hart make the same call again when it runs on."""
        self.vcpu.pc = (self.vcpu.pc - _ECALL_SIZE) & MASK64

    def guest_memory(self, address: int, size: int) -> memoryview | None:
        """RAM at a physical address, all of it; None when it is not."""
        try:
            view: memoryview = self.machine.memory.ram(address, size)
        except MemoryFault:
            return None
        return view

    def is_executable(self, address: int) -> bool:
        """Whether a supervisor can begin at that physical address."""
        return address & 1 == 0 and self.guest_memory(address, 2) is not None

    def read_mask(self, address: int) -> int | None:
        """A 64-bit number at a virtual address of the supervisor; None when it cannot be read."""
        data = bytearray()
        while len(data) < 8:
            physical = self.vcpu.translate((address + len(data)) & MASK64)
            page_left = 4096 - ((address + len(data)) & 4095)
            view = None if physical is None else self.guest_memory(physical, min(8 - len(data), page_left))
            if view is None:
                return None
            data += view
        return int.from_bytes(data, "little")

    def _compare(self) -> None:
        """STIP is pending while mtime has reached the timer."""
        assert self._timer is not None
        when = self.state.timer
        due = when is not None and self.mtimer.time() >= when
        self.vcpu.set_interrupt(_MIP_STIP, int(due))
        if when is None or due:
            self._timer.cancel()
        else:
            self._timer.arm(self.mtimer.deadline(when))
