"""The watchdog of Intel's 6300ESB I/O controller hub (`i6300esb`), a PCI function that acts when the guest has fallen silent.

    -device i6300esb,id=watchdog0 -action watchdog=pause

A guest that has enabled it must write WDT_RELOAD before time is up.  The time has two stages, each with its own preload value; what is
done at the end of the second is the machine's to say (`-action watchdog=`, `watchdog-set-action`).  The interrupt of the first stage
leads to lines that this machine does not have: nobody hears it.

The timers are behind a lock: 80h, then 86h, both written to the reload register, let the next store through.

Source: Intel 6300ESB I/O Controller Hub data sheet, chapter 16, for the names; QEMU 10.0, hw/watchdog/wdt_i6300esb.c, for what widths of
access do, for bit 12 of the reload register, which Linux takes for bit 9, and for what is forgotten when time is up.  There the type of
the interrupt, bits 0 and 1, reads back without bit 1; here it is what the guest has written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.watchdog import I6300esbState
from qemud.hw.pci.device import PciDevice
from qemud.logs import guest_error
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.machine.clock import Timer

SIZE = 0x10
_VENDOR_INTEL = 0x8086
_DEVICE_6300ESB_WDT = 0x25AB
_CLASS_SYSTEM_OTHER = 0x0880

# Registers in the configuration space, and the only width that reaches them.
CONFIG, CONFIG_SIZE = 0x60, 2
LOCK, LOCK_SIZE = 0x68, 1

WDT_OUTPUT_ENABLE = 1 << 5
"""Set: nothing is done when time is up."""
WDT_PRE_SEL = 1 << 2
"""Set: the timers count in steps of 2^5 clocks of PCI, clear: of 2^15."""
WDT_INT_TYPE = 3

WDT_TOUT_CNF = 1 << 2
"""Set: begin anew when time is up."""
WDT_ENABLE = 1 << 1
WDT_LOCK = 1 << 0
"""Set: the lock register cannot be written any more before the next reset."""


class Reg:
    """Offsets of the registers in memory."""

    PRELOAD_1 = 0x0
    PRELOAD_2 = 0x4
    RELOAD = 0xC


WDT_RELOAD = 1 << 8
WDT_TIMEOUT = 1 << 9
_LINUX_TIMEOUT = 1 << 12
_UNLOCK_1, _UNLOCK_2 = 0x80, 0x86
_OPEN = 2  # both of them were written
_PRELOAD_MASK = 0xF_FFFF
_STAGES = 2

PCI_CLOCK_NS = 30


class I6300esb(PciDevice, type_name="i6300esb", state=I6300esbState, user_creatable=True):
    """See the module."""

    vendor_id: ClassVar[int] = _VENDOR_INTEL
    device_id: ClassVar[int] = _DEVICE_6300ESB_WDT
    class_code: ClassVar[int] = _CLASS_SYSTEM_OTHER

    state: I6300esbState
    _timer: Timer

    def set_up(self) -> None:
        """The registers, and the timer that both stages share."""
        self._timer = self.machine.clock.timer(self._expired)
        self.state.timed_out = False
        self.add_bar(0, self, SIZE)

    def take_apart(self) -> None:
        """Nobody waits any more."""
        self._timer.cancel()

    def reset_enter(self) -> None:
        """Disabled; that time was up once outlives a reset."""
        super().reset_enter()
        self._forget()

    def _forget(self) -> None:
        self._timer.cancel()
        before = self.state
        # What belongs to any function of PCI stays.
        self.state = I6300esbState(
            config=before.config,
            irq_level=before.irq_level,
            msix_table=before.msix_table,
            msix_pending=before.msix_pending,
            timed_out=before.timed_out,
        )

    # -- time -------------------------------------------------------------------------------------------------------

    def _begin(self, stage: int) -> None:
        """Count from the stage's preload value on, which takes one step at least."""
        state = self.state
        if not state.enabled:
            return
        state.stage = stage
        preload = state.preload_2 if stage > 1 else state.preload_1
        steps = max(preload, 1) << (5 if state.fast else 15)
        state.deadline = self.machine.clock.now() + steps * PCI_CLOCK_NS
        self._timer.arm(state.deadline)

    def _expired(self) -> None:
        state = self.state
        state.deadline = None
        if state.stage <= 1:
            self._begin(2)
            return
        if state.acts:
            state.timed_out = True
            self.machine.watchdog_expired()
            self._forget()
        if self.state.free_run:
            self._begin(1)

    # -- configuration space ----------------------------------------------------------------------------------------

    def config_read(self, offset: int, size: int) -> int:
        """A load from the configuration space."""
        state = self.state
        if (offset, size) == (CONFIG, CONFIG_SIZE):
            return (
                (0 if state.acts else WDT_OUTPUT_ENABLE)
                | (WDT_PRE_SEL if state.fast else 0)
                | state.interrupt_type
            )
        if (offset, size) == (LOCK, LOCK_SIZE):
            return (
                (WDT_TOUT_CNF if state.free_run else 0)
                | (WDT_ENABLE if state.enabled else 0)
                | (WDT_LOCK if state.locked else 0)
            )
        return super().config_read(offset, size)

    def config_write(self, offset: int, value: int, size: int) -> None:
        """A store to the configuration space."""
        state = self.state
        if (offset, size) == (CONFIG, CONFIG_SIZE):
            state.acts = not value & WDT_OUTPUT_ENABLE
            state.fast = bool(value & WDT_PRE_SEL)
            state.interrupt_type = value & WDT_INT_TYPE
        elif (offset, size) == (LOCK, LOCK_SIZE):
            if not state.locked:
                self._write_lock(value)
        else:
            super().config_write(offset, value, size)

    def _write_lock(self, value: int) -> None:
        state = self.state
        was_enabled = state.enabled
        state.locked = bool(value & WDT_LOCK)
        state.free_run = bool(value & WDT_TOUT_CNF)
        state.enabled = bool(value & WDT_ENABLE)
        if not state.enabled:
            state.deadline = None
            self._timer.cancel()
        elif not was_enabled:
            self._begin(1)

    # -- registers in memory ----------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """A load: only the reload register says something, to a load of two bytes."""
        if offset == Reg.RELOAD and size == 2 and self.state.timed_out:
            return WDT_TIMEOUT | _LINUX_TIMEOUT
        return 0

    def write(self, offset: int, value: int, size: int) -> None:
        """A store: a step of unlocking, or what unlocking is for."""
        state = self.state
        if offset == Reg.RELOAD and value == _UNLOCK_1:
            state.unlocked = 1
        elif offset == Reg.RELOAD and value == _UNLOCK_2 and state.unlocked == 1:
            state.unlocked = _OPEN
        elif state.unlocked != _OPEN:
            guest_error("i6300esb", "store to a locked register", offset=f"{offset:#x}", value=f"{value:#x}")
        elif size > 1:
            state.unlocked = 0
            self._store(offset, value, size)

    def _store(self, offset: int, value: int, size: int) -> None:
        state = self.state
        if offset == Reg.RELOAD and size == 2:
            if value & WDT_RELOAD:
                self._begin(1)
            if value & (WDT_TIMEOUT | _LINUX_TIMEOUT):
                state.timed_out = False
        elif offset == Reg.PRELOAD_1 and size == 4:
            state.preload_1 = value & _PRELOAD_MASK
        elif offset == Reg.PRELOAD_2 and size == 4:
            state.preload_2 = value & _PRELOAD_MASK

    # -- state ------------------------------------------------------------------------------------------------------

    def check_state(self, state: I6300esbState) -> None:  # type: ignore[override]  # its own state only
        """Refuse what no function like this can be in."""
        super().check_state(state)
        if (
            max(state.preload_1, state.preload_2) > _PRELOAD_MASK
            or state.interrupt_type > WDT_INT_TYPE
            or not 1 <= state.stage <= _STAGES
            or state.unlocked > _OPEN
        ):
            raise GenericError("a register of the watchdog has bits that there are not")

    def after_load(self) -> None:
        """Go on waiting."""
        super().after_load()
        if self.state.deadline is not None:
            self._timer.arm(self.state.deadline)
        else:
            self._timer.cancel()
