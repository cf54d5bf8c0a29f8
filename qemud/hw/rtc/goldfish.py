"""Goldfish real-time clock (`goldfish_rtc`): the time of day in nanoseconds, and an alarm.

    0x00 TIME_LOW         reading latches TIME_HIGH
    0x04 TIME_HIGH
    0x08 ALARM_LOW        writing sets the alarm
    0x0C ALARM_HIGH       is written first
    0x10 IRQ_ENABLED
    0x14 CLEAR_ALARM      write only
    0x18 ALARM_STATUS     read only
    0x1C CLEAR_INTERRUPT  write only

It shows the host's wall clock, moved by what the guest has written; that goes on while the machine stands still.  What the guest
writes is told to clients (RTC_CHANGE), for a manager that keeps the time of a machine from one start to the next; QEMU's does not.

Source: Android emulator, docs/GOLDFISH-VIRTUAL-HARDWARE.TXT, section VI; Linux 6.12, include/linux/../drivers/rtc/rtc-goldfish.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.events.hw_riscv import rtc_change
from qemud._generated.types.hw_riscv import GoldfishRtcState
from qemud.logs import guest_error
from qemud.machine.clock import NS_PER_SECOND
from qemud.qom.device import SysBusDevice

if TYPE_CHECKING:
    from qemud.machine.clock import Timer

SIZE = 0x24
_MASK64 = (1 << 64) - 1
_LOW = 0xFFFF_FFFF


class Reg:
    """Offsets of the registers."""

    TIME_LOW = 0x00
    TIME_HIGH = 0x04
    ALARM_LOW = 0x08
    ALARM_HIGH = 0x0C
    IRQ_ENABLED = 0x10
    CLEAR_ALARM = 0x14
    ALARM_STATUS = 0x18
    CLEAR_INTERRUPT = 0x1C


class GoldfishRtc(SysBusDevice, type_name="goldfish_rtc", state=GoldfishRtcState):
    """See the module."""

    state: GoldfishRtcState

    def __init__(self) -> None:
        super().__init__()
        self.init_irq()
        self._timer: Timer | None = None
        self._moment: Timer | None = None
        self._telling = False  # of a change, while its message is under way
        self._changed = False  # again meanwhile

    def realize(self) -> None:
        """Claim the registers and a timer of the wall clock."""
        # The alarm goes off in the guest's own time: not while it is stopped, but when it goes on.
        clock = self.machine.clock
        self.state.tick_offset = self.machine.rtc_offset & _MASK64
        self._moment = moment = clock.timer(self._on_alarm)
        self._timer = self.machine.host_clock.timer(lambda: moment.arm(clock.now()))
        self.mmio.clear()
        self.init_mmio("goldfish_rtc", SIZE, min_access=4, max_access=4)

    def unrealize(self) -> None:
        """Let go of the timers."""
        self._cancel()

    def reset_enter(self) -> None:
        """No alarm; the time goes on, as in a machine with a battery."""
        self._cancel()
        self.state = GoldfishRtcState(tick_offset=self.state.tick_offset)

    def reset_hold(self) -> None:
        """The interrupt line to low."""
        self.irqs[0].lower()

    def after_load(self) -> None:
        """The alarm, which may have been missed meanwhile, and the line."""
        self._cancel()
        if self.state.alarm_running:
            self._set_alarm()
        self._update_irq()

    def time(self) -> int:
        """The guest's time of day, ns since 1970, modulo 2^64."""
        now: int = self.machine.host_clock.now()
        return (now + self.state.tick_offset) & _MASK64

    def read(self, offset: int, size: int) -> int:
        """A load from a register; those that cannot be read are 0."""
        del size
        state = self.state
        match offset:
            case Reg.TIME_LOW:
                time = self.time()
                state.time_high = time >> 32
                return time & _LOW
            case Reg.TIME_HIGH:
                return state.time_high
            case Reg.ALARM_LOW:
                return state.alarm_next & _LOW
            case Reg.ALARM_HIGH:
                return state.alarm_next >> 32
            case Reg.IRQ_ENABLED:
                return int(state.irq_enabled)
            case Reg.ALARM_STATUS:
                return int(state.alarm_running)
            case _:
                guest_error("goldfish_rtc", "load from no readable register", offset=f"{offset:#x}")
                return 0

    def write(self, offset: int, value: int, size: int) -> None:
        """A store to a register; those that cannot be written ignore it."""
        del size
        state = self.state
        match offset:
            case Reg.TIME_LOW:
                time = self.time()
                self._set_time(time & ~_LOW | value)
                self._tell()  # drivers write the upper half first
            case Reg.TIME_HIGH:
                time = self.time()
                self._set_time(time & _LOW | value << 32)
            case Reg.ALARM_LOW:
                state.alarm_next = state.alarm_next & ~_LOW | value
                self._set_alarm()
            case Reg.ALARM_HIGH:
                state.alarm_next = state.alarm_next & _LOW | value << 32
            case Reg.IRQ_ENABLED:
                state.irq_enabled = bool(value & 1)
                self._update_irq()
            case Reg.CLEAR_ALARM:
                self._clear_alarm()
            case Reg.CLEAR_INTERRUPT:
                state.irq_pending = False
                self._update_irq()
            case _:
                guest_error("goldfish_rtc", "store to no writable register", offset=f"{offset:#x}")

    def _set_time(self, time: int) -> None:
        state = self.state
        state.tick_offset = (state.tick_offset + time - self.time()) & _MASK64
        if state.alarm_running:
            self._set_alarm()

    def _tell(self) -> None:
        """Let clients know of the new time; one message is under way at most, however often the guest sets it."""
        if self._telling:
            self._changed = True
            return
        self._telling = True
        ahead = (self.state.tick_offset - self.machine.rtc_offset) & _MASK64
        seconds = (ahead - (ahead >> 63 << 64)) // NS_PER_SECOND
        self.machine.mailboxes.send(self._send_change, seconds)

    def _send_change(self, seconds: int) -> None:
        """On the event loop."""
        rtc_change(self.machine.emit, offset=seconds, qom_path=self.path)
        self.machine.mailboxes.post(self._told)

    def _told(self) -> None:
        self._telling = False
        if self._changed:
            self._changed = False
            self._tell()

    def _set_alarm(self) -> None:
        ahead = self.state.alarm_next - self.time()
        if ahead <= 0:
            self._on_alarm()
        else:
            assert self._timer is not None
            self.state.alarm_running = True
            self._timer.arm(self.machine.host_clock.now() + ahead)

    def _clear_alarm(self) -> None:
        self._cancel()
        self.state.alarm_running = False

    def _cancel(self) -> None:
        assert self._timer is not None
        assert self._moment is not None
        self._timer.cancel()
        self._moment.cancel()

    def _on_alarm(self) -> None:
        self._clear_alarm()
        self.state.irq_pending = True
        self._update_irq()

    def _update_irq(self) -> None:
        self.irqs[0].set(self.state.irq_pending and self.state.irq_enabled)
