"""The core-local interruptor: software interrupts and the machine timer, as the ACLINT's separate devices.

`riscv.aclint.swi`      4*h: MSIP of hart h, bit 0 interrupts it; with `sswi`, SETSSIP, which reads as 0
`riscv.aclint.mtimer`   timecmp-base + 8*h: MTIMECMP of hart h; time-base: MTIME

SiFive's CLINT is an MSWI with an MTIMER 0x4000 behind it.  MTIME is the machine's one virtual clock at `timebase-freq`; `time` is also what
`rdtime` and the built-in firmware show.

Source: RISC-V Advanced Core Local Interruptor Specification 1.0-rc4, chapters 2 to 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.hw_riscv import (
    RiscvAclintMtimerOptions,
    RiscvAclintMtimerState,
    RiscvAclintSwiOptions,
    RiscvAclintSwiState,
)
from qemud.logs import guest_error
from qemud.machine.clock import NS_PER_SECOND
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import SysBusDevice

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.clock import Timer

SWI_SIZE = 0x4000
_MAX_HARTS = 4095
_MASK64 = (1 << 64) - 1
_NEVER = _MASK64
_SIGN = 1 << 63
_LATEST = _SIGN - 1
"""No clock shows a later time, ns."""
_FARTHEST = 1 << 61
"""The most that an engine's counter is moved, ns (73 years)."""


class AclintSwi(
    SysBusDevice, type_name="riscv.aclint.swi", options=RiscvAclintSwiOptions, state=RiscvAclintSwiState
):
    """See the module.  Output line h is hart h's software interrupt."""

    options: RiscvAclintSwiOptions
    state: RiscvAclintSwiState

    def __init__(self, options: RiscvAclintSwiOptions | None = None) -> None:
        super().__init__(options)
        self.init_irq(self.options.num_harts)

    def initial_state(self) -> RiscvAclintSwiState:
        """No interrupts."""
        return RiscvAclintSwiState(msip=[0] * self.options.num_harts)

    def realize(self) -> None:
        """Claim the registers."""
        _check_harts(self.type_name, self.options.num_harts)
        self.mmio.clear()
        self.init_mmio("riscv.aclint.swi", SWI_SIZE, min_access=4, max_access=4)

    def reset_enter(self) -> None:
        """MSIP registers are 0; SETSSIP has no state."""
        self.state = self.initial_state()

    def reset_hold(self) -> None:
        """Machine software interrupts are lowered; the supervisor's belong to the harts."""
        if not self.options.sswi:
            for line in self.irqs:
                line.lower()

    def check_state(self, state: RiscvAclintSwiState) -> None:
        """One register a hart, each 0 or 1."""
        if len(state.msip) != self.options.num_harts or any(value > 1 for value in state.msip):
            raise GenericError(f"'msip' is not {self.options.num_harts} times 0 or 1")

    def after_load(self) -> None:
        """Drive the machine's lines."""
        if not self.options.sswi:
            for line, level in zip(self.irqs, self.state.msip, strict=True):
                line.set(level)

    def read(self, offset: int, size: int) -> int:
        """MSIP; SETSSIP and what is no register are 0."""
        del size
        hart = offset >> 2
        if hart < self.options.num_harts:
            return self.state.msip[hart]
        guest_error("riscv.aclint.swi", "load from no register", offset=f"{offset:#x}")
        return 0

    def write(self, offset: int, value: int, size: int) -> None:
        """Bit 0 raises or lowers MSIP; SETSSIP only raises."""
        del size
        hart = offset >> 2
        if hart >= self.options.num_harts:
            guest_error(
                "riscv.aclint.swi", "store to no register", offset=f"{offset:#x}", value=f"{value:#x}"
            )
            return
        if self.options.sswi:
            if value & 1:
                self.irqs[hart].raise_()
        else:
            self.state.msip[hart] = value & 1
            self.irqs[hart].set(value & 1)


class AclintMtimer(
    SysBusDevice,
    type_name="riscv.aclint.mtimer",
    options=RiscvAclintMtimerOptions,
    state=RiscvAclintMtimerState,
):
    """See the module.  Output line h is hart h's timer interrupt."""

    options: RiscvAclintMtimerOptions
    state: RiscvAclintMtimerState

    def __init__(self, options: RiscvAclintMtimerOptions | None = None) -> None:
        super().__init__(options)
        self.init_irq(self.options.num_harts)
        self._timers: list[Timer] = []
        self.on_time_set: Callable[[], None] | None = None
        """Told when MTIME jumps: when the guest writes it."""

    def initial_state(self) -> RiscvAclintMtimerState:
        """MTIMECMP is undefined after a reset; the latest time leaves a firmware that does not care in peace."""
        return RiscvAclintMtimerState(timecmp=[_NEVER] * self.options.num_harts)

    def realize(self) -> None:
        """Claim the registers and a timer a hart."""
        options = self.options
        _check_harts(self.type_name, options.num_harts)
        if not options.timebase_freq:
            raise GenericError("riscv.aclint.mtimer: timebase-freq 0 is no frequency")
        end = options.timecmp_base + 8 * options.num_harts
        if options.timecmp_base < options.time_base + 8 and options.time_base < end:
            raise GenericError("riscv.aclint.mtimer: registers overlap")
        if max(end, options.time_base + 8) > options.aperture_size:
            raise GenericError("riscv.aclint.mtimer: aperture-size is too small for the registers")
        self._timers = [self._timer(hart) for hart in range(options.num_harts)]
        self.mmio.clear()
        self.init_mmio("riscv.aclint.mtimer", options.aperture_size, min_access=4, max_access=8)

    def unrealize(self) -> None:
        """Let go of the timers."""
        for timer in self._timers:
            timer.cancel()

    def reset_enter(self) -> None:
        """MTIME begins at 0 again."""
        self.state = self.initial_state()
        self._set_delta(-self._ticks())
        for timer in self._timers:
            timer.cancel()

    def reset_hold(self) -> None:
        """Lines low."""
        for line in self.irqs:
            line.lower()

    def check_state(self, state: RiscvAclintMtimerState) -> None:
        """One MTIMECMP a hart."""
        if len(state.timecmp) != self.options.num_harts:
            raise GenericError(
                f"'timecmp' has {len(state.timecmp)} elements, expected {self.options.num_harts}"
            )

    def after_load(self) -> None:
        """Time and timers as the registers say.

        The lines' levels are in the harts' state: an interrupt that is due and not raised yet is raised when time goes on.
        """
        self._set_delta(self.state.time_delta)
        for hart, compare in enumerate(self.state.timecmp):
            if compare == _NEVER:
                self._timers[hart].cancel()
            else:
                self._timers[hart].arm(self.deadline(compare))

    # -- time -------------------------------------------------------------------------------------------------------

    def time(self) -> int:
        """MTIME: ticks, modulo 2^64."""
        return (self._ticks() + self.state.time_delta) & _MASK64

    def deadline(self, ticks: int) -> int:
        """When, in ns of the virtual clock, MTIME will be `ticks`; a time past if it is that already."""
        when = self._ticks() + ticks - self.time()  # on the clock that nobody has moved
        return min(-(-when * NS_PER_SECOND // self.options.timebase_freq), _LATEST)

    def _set_delta(self, ticks: int) -> None:
        """Move MTIME, and with it the counter that `rdtime` reads, against the virtual clock."""
        self.state.time_delta = ticks & _MASK64
        signed = (ticks + _SIGN & _MASK64) - _SIGN
        nanoseconds = signed * NS_PER_SECOND // self.options.timebase_freq
        self.machine.clock.set_counter_delta(max(-_FARTHEST, min(nanoseconds, _FARTHEST)))

    def _ticks(self) -> int:
        now: int = self.machine.clock.now()
        return now * self.options.timebase_freq // NS_PER_SECOND

    # -- registers --------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """MTIME or MTIMECMP, whole or half; what is no register is 0."""
        value = 0
        if offset & ~7 == self.options.time_base:
            value = self.time()
        elif 0 <= (hart := (offset - self.options.timecmp_base) >> 3) < self.options.num_harts:
            value = self.state.timecmp[hart]
        else:
            guest_error("riscv.aclint.mtimer", "load from no register", offset=f"{offset:#x}")
        return value if size == 8 else value >> (8 * (offset & 4)) & 0xFFFF_FFFF

    def write(self, offset: int, value: int, size: int) -> None:
        """MTIME or MTIMECMP, whole or half; what is no register ignores it."""
        if offset & ~7 == self.options.time_base:
            time = _merge(self.time(), offset, value, size)
            self._set_delta(time - self._ticks())
            for hart in range(self.options.num_harts):
                self._compare(hart)
            if self.on_time_set is not None:
                self.on_time_set()
        elif 0 <= (hart := (offset - self.options.timecmp_base) >> 3) < self.options.num_harts:
            self.state.timecmp[hart] = _merge(self.state.timecmp[hart], offset, value, size)
            self._compare(hart)
        else:
            guest_error(
                "riscv.aclint.mtimer", "store to no register", offset=f"{offset:#x}", value=f"{value:#x}"
            )

    def _compare(self, hart: int) -> None:
        """The interrupt is pending while MTIME >= MTIMECMP."""
        compare = self.state.timecmp[hart]
        due = self.time() >= compare
        self.irqs[hart].set(due)
        if due or compare == _NEVER:
            self._timers[hart].cancel()
        else:
            self._timers[hart].arm(self.deadline(compare))

    def _timer(self, hart: int) -> Timer:
        timer: Timer = self.machine.clock.timer(lambda: self._compare(hart))
        return timer


def _merge(old: int, offset: int, value: int, size: int) -> int:
    """A 64-bit register after a store of all of it or of one half."""
    if size == 8:
        return value
    if offset & 4:
        return old & 0xFFFF_FFFF | value << 32
    return old & ~0xFFFF_FFFF | value


def _check_harts(type_name: str, count: int) -> None:
    if not 0 < count <= _MAX_HARTS:
        raise GenericError(f"{type_name}: num-harts {count} is not in 1 to {_MAX_HARTS}")
