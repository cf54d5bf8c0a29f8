"""16550A UART with memory-mapped registers (`serial-mm`).

    offset  read  write   (DLAB=1)
    0       RBR   THR     DLL
    1       IER   IER     DLM
    2       IIR   FCR
    3       LCR   LCR
    4       MCR   MCR
    5       LSR
    6       MSR
    7       SCR   SCR

The line is as fast as whoever reads at its other end: a character written goes to the character device at once while that takes more,
else it waits in the transmitter FIFO and THRE stays off until there is room again.  Input is taken from the character device only as
far as there is room on this side; what is taken and does not fit into the receiver (FIFOs off, loopback) waits on "the wire".  So
nothing is lost in either direction unless the guest itself writes to a full transmitter.

Only what a guest can measure depends on the baud rate: the character timeout interrupt, after four character times of virtual time.

Source: National Semiconductor PC16550D data sheet (June 1995), sections 8.1 to 8.7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.hw_riscv import Ns16550aState, SerialMmOptions
from qemud.chardev.stream import ChardevEvent
from qemud.hw.char.registers import TRIGGER_LEVELS, Fcr, Ier, Iir, Lcr, Lsr, Mcr, Msr, Reg
from qemud.machine.clock import NS_PER_SECOND
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import SysBusDevice

if TYPE_CHECKING:
    from typing import Protocol

    from qemud.machine.clock import Timer

    class Line(Protocol):
        """The other end: `qemud.chardev.frontend.Frontend`."""

        @property
        def writable(self) -> bool:
            """Whether more can be written now."""

        def write(self, data: bytes) -> None:
            """Send to the character device."""

        def grant(self, count: int) -> None:
            """Allow it to send that many bytes more."""

        def close(self) -> None:
            """Leave the character device to others."""


FIFO_SIZE = 16
WIRE_SIZE = 64
"""How much the character device may send ahead of the guest."""
MOST_ON_WIRE = 4096
"""How much a saved state may have there: what was allowed to come before the state was loaded comes behind it."""


class Ns16550a(SysBusDevice, type_name="serial-mm", options=SerialMmOptions, state=Ns16550aState):
    """See the module.  `line` is the character device's near end; None while nothing is connected."""

    options: SerialMmOptions
    state: Ns16550aState

    def __init__(self, options: SerialMmOptions | None = None, *, line: Line | None = None) -> None:
        super().__init__(options)
        self.line = line
        self.init_irq()
        self._shift = 0
        self._granted = 0  # what the character device may still send
        self._timeout: Timer | None = None
        self._resume: Timer | None = None

    def initial_state(self) -> Ns16550aState:
        """What a reset leaves; what is on the wire stays there."""
        return Ns16550aState(recv_fifo=[], xmit_fifo=[], wire=[])

    def realize(self) -> None:
        """Claim the registers and let input come."""
        if self.options.regshift > 2:
            raise GenericError(f"serial-mm: regshift {self.options.regshift} is not one of 0, 1 and 2")
        if not self.options.baudbase:
            raise GenericError("serial-mm: baudbase 0 is no speed")
        self._shift = self.options.regshift
        self._timeout = self.machine.clock.timer(self._on_timeout)
        self._resume = self.machine.clock.timer(self._go_on)
        self.mmio.clear()
        self.init_mmio("serial", 8 << self._shift)
        self._grant()

    def unrealize(self) -> None:
        """Let go of the timers and of the character device."""
        self._cancel_timeout()
        assert self._resume is not None
        self._resume.cancel()
        if self.line is not None:
            self.line.close()

    # -- reset and state --------------------------------------------------------------------------------------------

    def reset_enter(self) -> None:
        """All registers to their values after a master reset."""
        wire = self.state.wire
        self._cancel_timeout()
        self.state = self.initial_state()
        self.state.wire = wire

    def reset_hold(self) -> None:
        """The interrupt line to low."""
        self.irqs[0].lower()

    def reset_exit(self) -> None:
        """Take in what waits on the wire."""
        self._take_in()

    def check_state(self, state: Ns16550aState) -> None:
        """FIFOs have a size."""
        for name, fifo, size in (
            ("recv-fifo", state.recv_fifo, FIFO_SIZE),
            ("xmit-fifo", state.xmit_fifo, FIFO_SIZE),
            ("wire", state.wire, MOST_ON_WIRE),
        ):
            if len(fifo) > size:
                raise GenericError(f"'{name}' has {len(fifo)} characters, expected at most {size}")

    def after_load(self) -> None:
        """Timer, interrupt line and transmitter as the state says."""
        state = self.state
        assert self._timeout is not None
        if state.timeout_deadline is None:
            self._timeout.cancel()
        else:
            self._timeout.arm(state.timeout_deadline)
        self._update_irq()
        self._go_on_when_running()

    # -- the character device's side --------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Characters from outside, at most as many as were granted."""
        self._granted -= len(data)
        self.state.wire.extend(data)
        self._go_on_when_running()

    def on_event(self, event: ChardevEvent) -> None:
        """Something happened out there: only a break reaches the wire."""
        if event is ChardevEvent.BREAK:
            self.receive_break()

    def receive_break(self) -> None:
        """A break from outside: a zero character with BI set."""
        state = self.state
        if state.fcr & Fcr.ENABLE:
            if len(state.recv_fifo) < FIFO_SIZE:
                state.recv_fifo.append(0)
        else:
            state.rbr = 0
        state.lsr |= Lsr.BI | Lsr.DR
        self._update_irq()

    def on_writable(self) -> None:
        """The character device takes more."""
        self._go_on_when_running()

    # -- the firmware's side ----------------------------------------------------------------------------------------

    def console_write(self, data: bytes) -> int:
        """Send characters past the registers, in order with what went through them; how many were taken, maybe none."""
        if not self.state.lsr & Lsr.THRE or not self._writable():
            return 0
        self._send(data)
        return len(data)

    def console_read(self, count: int) -> bytes:
        """Take up to `count` received characters."""
        taken = bytearray()
        while len(taken) < count and self.state.lsr & Lsr.DR:
            taken.append(self._read_rbr())
        return bytes(taken)

    # -- registers --------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """A load from a register; registers are 8 bits wide whatever its size."""
        del size
        state = self.state
        match offset >> self._shift:
            case Reg.LSR:  # by far the one that is read most
                value = state.lsr
                if value & Lsr.ERRORS:
                    state.lsr = value & ~Lsr.ERRORS
                    self._update_irq()
                return value
            case Reg.RBR:
                return state.divider & 0xFF if state.lcr & Lcr.DLAB else self._read_rbr()
            case Reg.IER:
                return state.divider >> 8 if state.lcr & Lcr.DLAB else state.ier
            case Reg.IIR:
                value = state.iir
                if value & Iir.IDENTITY == Iir.THR_EMPTY:
                    state.thr_pending = False
                    self._update_irq()
                return value
            case Reg.LCR:
                return state.lcr
            case Reg.MCR:
                return state.mcr
            case Reg.MSR:
                value = state.msr
                if value & Msr.DELTAS:
                    state.msr = value & ~Msr.DELTAS
                    self._update_irq()
                return value
            case _:
                return state.scr

    def write(self, offset: int, value: int, size: int) -> None:
        """A store to a register; registers are 8 bits wide whatever its size."""
        del size
        value &= 0xFF
        state = self.state
        match offset >> self._shift:
            case Reg.THR:
                if state.lcr & Lcr.DLAB:
                    state.divider = state.divider & 0xFF00 | value
                else:
                    self._write_thr(value)
            case Reg.IER:
                if state.lcr & Lcr.DLAB:
                    state.divider = state.divider & 0xFF | value << 8
                else:
                    self._write_ier(value & 0x0F)
            case Reg.FCR:
                self._write_fcr(value)
            case Reg.LCR:
                state.lcr = value
            case Reg.MCR:
                state.mcr = value & Mcr.ALL
                self._update_modem_status()
                self._take_in()
            case Reg.SCR:
                state.scr = value
            case _:  # LSR and MSR are for factory tests only
                pass

    def _read_rbr(self) -> int:
        state = self.state
        if state.fcr & Fcr.ENABLE:
            fifo = state.recv_fifo
            value = fifo.pop(0) if fifo else 0
            if fifo:
                self._arm_timeout()
            else:
                state.lsr &= ~Lsr.DR
                self._cancel_timeout()
            state.timeout_pending = False
        else:
            value = state.rbr
            state.lsr &= ~Lsr.DR
        self._take_in()
        self._update_irq()
        return value

    def _write_thr(self, value: int) -> None:
        state = self.state
        if state.mcr & Mcr.LOOP:
            self._put_received(value)
            self._transmitter_empty()
        elif state.lsr & Lsr.THRE and self._writable():
            # Empty again at once: an interrupt that was pending before is pending still.
            self._send(bytes((value,)))
            self._transmitter_empty()
        else:
            state.thr_pending = False
            # The transmitter is full of what nobody takes: a driver that looks at THRE has at most a FIFO's worth to write.
            depth = FIFO_SIZE if state.fcr & Fcr.ENABLE else 1
            if len(state.xmit_fifo) >= depth:
                del state.xmit_fifo[0]
            state.xmit_fifo.append(value)
            state.lsr &= ~Lsr.EMPTY
            self._update_irq()

    def _write_ier(self, value: int) -> None:
        state = self.state
        changed = state.ier ^ value
        state.ier = value
        if changed & Ier.ETBEI:
            # Enabling the interrupt while the transmitter is empty raises it, even if IIR was read before.
            state.thr_pending = bool(value & Ier.ETBEI and state.lsr & Lsr.THRE)
        if changed:
            self._update_irq()

    def _write_fcr(self, value: int) -> None:
        state = self.state
        if (value ^ state.fcr) & Fcr.ENABLE:
            value |= Fcr.RESET_RECEIVER | Fcr.RESET_TRANSMITTER
        if value & Fcr.RESET_RECEIVER:
            state.recv_fifo.clear()
            state.lsr &= ~(Lsr.DR | Lsr.BI)
            state.timeout_pending = False
            self._cancel_timeout()
        if value & Fcr.RESET_TRANSMITTER:
            state.xmit_fifo.clear()
            state.lsr |= Lsr.EMPTY
            state.thr_pending = True
        # DMA mode and the trigger level can only be set together with the enable bit.
        state.fcr = value & Fcr.KEPT if value & Fcr.ENABLE else 0
        self._take_in()
        self._update_irq()

    # -- receiver ---------------------------------------------------------------------------------------------------

    def _go_on_when_running(self) -> None:
        """Send and take in now, or once the machine goes on: nothing that the guest can see changes while it is stopped."""
        if self.machine.clock.running:
            self._go_on()
        else:
            assert self._resume is not None
            self._resume.arm(self.machine.clock.now())

    def _go_on(self) -> None:
        """Send what waits if the character device takes more, and take in what came."""
        state = self.state
        if not state.lsr & Lsr.THRE and self._writable():
            self._send(bytes(state.xmit_fifo))
            state.xmit_fifo.clear()
            self._transmitter_empty()
        self._take_in()

    def _take_in(self) -> None:
        """Move characters from the wire into the receiver while there is room, and ask for as many more."""
        state = self.state
        wire = state.wire
        if not wire or state.mcr & Mcr.LOOP:
            return
        if state.fcr & Fcr.ENABLE:
            count = min(len(wire), FIFO_SIZE - len(state.recv_fifo))
            state.recv_fifo.extend(wire[:count])
        else:
            count = 0 if state.lsr & Lsr.DR else 1
            if count:
                state.rbr = wire[0]
        if not count:
            return
        del wire[:count]
        self._received()
        self._grant()

    def _grant(self) -> None:
        """Let the character device send as much as the wire has room for."""
        count = WIRE_SIZE - len(self.state.wire) - self._granted
        if count > 0 and self.line is not None:
            self._granted += count
            self.line.grant(count)

    def _put_received(self, value: int) -> None:
        """One character from the own transmitter (loopback), which may overrun."""
        state = self.state
        if state.fcr & Fcr.ENABLE:
            if len(state.recv_fifo) < FIFO_SIZE:
                state.recv_fifo.append(value)
            else:
                state.lsr |= Lsr.OE
        else:
            if state.lsr & Lsr.DR:
                state.lsr |= Lsr.OE
            state.rbr = value
        self._received()

    def _received(self) -> None:
        state = self.state
        state.lsr |= Lsr.DR
        if state.fcr & Fcr.ENABLE:
            self._arm_timeout()
        self._update_irq()

    def _character_time(self) -> int:
        """How long a character takes, ns, with the format in LCR; a divisor of 0 counts as about 3500 baud."""
        state = self.state
        bits = (
            1
            + 5
            + (state.lcr & Lcr.WORD_LENGTH)
            + (2 if state.lcr & Lcr.STOP_BITS else 1)
            + (1 if state.lcr & Lcr.PARITY else 0)
        )
        if not state.divider:
            return NS_PER_SECOND * bits // 3500
        return NS_PER_SECOND * bits * state.divider // self.options.baudbase

    def _arm_timeout(self) -> None:
        assert self._timeout is not None
        deadline = self.machine.clock.now() + 4 * self._character_time()
        self.state.timeout_deadline = deadline
        self._timeout.arm(deadline)

    def _cancel_timeout(self) -> None:
        self.state.timeout_deadline = None
        if self._timeout is not None:
            self._timeout.cancel()

    def _on_timeout(self) -> None:
        self.state.timeout_deadline = None
        if self.state.recv_fifo:
            self.state.timeout_pending = True
            self._update_irq()

    # -- transmitter ------------------------------------------------------------------------------------------------

    def _writable(self) -> bool:
        return self.line is None or self.line.writable

    def _send(self, data: bytes) -> None:
        if self.line is not None and data:
            self.line.write(data)

    def _transmitter_empty(self) -> None:
        state = self.state
        state.lsr |= Lsr.EMPTY
        if not state.thr_pending:
            state.thr_pending = True
            if state.ier & Ier.ETBEI:
                self._update_irq()

    # -- modem lines and the interrupt ------------------------------------------------------------------------------

    def _update_modem_status(self) -> None:
        """MSR from the modem's lines: always connected and ready, or the own outputs in loopback."""
        state = self.state
        mcr = state.mcr
        if mcr & Mcr.LOOP:
            lines = (mcr & Mcr.RTS) << 3 | (mcr & Mcr.DTR) << 5 | (mcr & (Mcr.OUT1 | Mcr.OUT2)) << 4
        else:
            lines = Msr.DCD | Msr.DSR | Msr.CTS
        old = state.msr & Msr.LINES
        deltas = (old ^ lines) >> 4
        if lines & Msr.RI:
            deltas &= ~Msr.TERI  # only the trailing edge counts
        state.msr = lines | state.msr & Msr.DELTAS | deltas
        if deltas:
            self._update_irq()

    def _update_irq(self) -> None:
        """IIR: the pending interrupt of the highest priority, table III of the data sheet."""
        state = self.state
        ier = state.ier
        lsr = state.lsr
        cause = Iir.NO_INTERRUPT
        if ier & Ier.ELSI and lsr & Lsr.ERRORS:
            cause = Iir.LINE_STATUS
        elif ier & Ier.ERBFI and state.timeout_pending:
            cause = Iir.TIMEOUT
        elif (
            ier & Ier.ERBFI
            and lsr & Lsr.DR
            and (not state.fcr & Fcr.ENABLE or len(state.recv_fifo) >= TRIGGER_LEVELS[state.fcr >> 6])
        ):
            cause = Iir.RECEIVED_DATA
        elif ier & Ier.ETBEI and state.thr_pending:
            cause = Iir.THR_EMPTY
        elif ier & Ier.EDSSI and state.msr & Msr.DELTAS:
            cause = Iir.MODEM_STATUS
        state.iir = cause | (Iir.FIFOS_ENABLED if state.fcr & Fcr.ENABLE else 0)
        self.irqs[0].set(0 if cause & Iir.NO_INTERRUPT else 1)
