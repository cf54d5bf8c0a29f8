"""The UART, driven through its registers as a driver does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud._generated.types.hw_riscv import Ns16550aState, SerialMmOptions
from qemud.chardev.stream import ChardevEvent
from qemud.hw.char.ns16550a import FIFO_SIZE, MOST_ON_WIRE, WIRE_SIZE, Ns16550a
from qemud.qapi.runtime.errors import GenericError
from tests.hw.support import bring_up

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR = 3
MCR = 4
LSR = 5
MSR = 6
SCR = 7

EMPTY = 0x60


class Line:
    """The other end: what was sent, and how much may come."""

    def __init__(self) -> None:
        self.sent = b""
        self.room = 1 << 30
        self.granted = 0
        self.closed = False

    @property
    def writable(self) -> bool:
        return self.room > 0

    def write(self, data: bytes) -> None:
        self.sent += data
        self.room -= len(data)

    def grant(self, count: int) -> None:
        self.granted += count

    def close(self) -> None:
        self.closed = True


class Driver:
    """The registers, and the other end."""

    def __init__(self, **options: Any) -> None:
        self.line = Line()
        self.uart = Ns16550a(SerialMmOptions(**options))
        self.uart.line = self.line
        self.vm, self.lines = bring_up(self.uart)

    def __getitem__(self, register: int) -> int:
        return self.uart.read(register, 1)

    def __setitem__(self, register: int, value: int) -> None:
        self.uart.write(register, value, 1)

    @property
    def irq(self) -> int:
        return self.lines[0]

    def arrive(self, data: bytes) -> None:
        """Characters from outside, as far as they are granted."""
        assert len(data) <= self.line.granted
        self.line.granted -= len(data)
        self.uart.receive(data)

    def read_all(self) -> bytes:
        data = bytearray()
        while self[LSR] & 1:
            data.append(self[RBR])
        return bytes(data)


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_registers_after_a_reset(driver: Driver):
    assert [driver[n] for n in (IER, IIR, LCR, MCR, LSR, MSR, SCR)] == [0, 1, 0, 8, EMPTY, 0xB0, 0]
    assert driver.irq == 0


def test_scratch_and_divisor_and_format_are_what_was_written(driver: Driver):
    driver[SCR] = 0x5A
    driver[LCR] = 0x83
    driver[DLL] = 0x34
    driver[DLM] = 0x12
    assert (driver[DLL], driver[DLM], driver[SCR]) == (0x34, 0x12, 0x5A)
    driver[LCR] = 0x03
    assert driver[IER] == 0
    assert driver.uart.state.divider == 0x1234
    driver[IER] = 0xFF
    driver[MCR] = 0xFF
    assert (driver[IER], driver[MCR]) == (0x0F, 0x1F)
    driver[LSR] = 0
    driver[MSR] = 0
    assert driver[LSR] == EMPTY


def test_wide_accesses_reach_one_register_and_registers_can_be_spread():
    driver = Driver(regshift=2)
    assert driver.uart.mmio[0].size == 32
    driver.uart.write(SCR << 2, 0x1_5A, 4)
    assert driver.uart.read(SCR << 2, 4) == 0x5A
    assert driver.uart.read((SCR << 2) + 3, 1) == 0x5A


def test_characters_leave_at_once(driver: Driver):
    for character in b"hello":
        assert driver[LSR] & 0x20
        driver[THR] = character
    assert driver.line.sent == b"hello"


def test_the_transmitters_interrupt_goes_when_it_is_identified_or_written(driver: Driver):
    driver[IER] = 2
    assert driver.irq == 1
    assert driver[IIR] == 0x02
    assert driver.irq == 0
    assert driver[IIR] == 0x01
    driver[THR] = 65
    assert driver.irq == 1
    driver[IER] = 0
    assert driver.irq == 0
    driver[IER] = 2
    assert driver[IIR] == 0x02


def test_a_full_outside_keeps_the_transmitter_busy_and_loses_nothing(driver: Driver):
    driver[FCR] = 1
    driver[IER] = 2
    driver[IIR]
    driver.line.room = 0
    for character in b"0123456789abcdef":
        driver[THR] = character
    assert driver[LSR] & EMPTY == 0
    assert driver.irq == 0
    assert driver.line.sent == b""
    driver.line.room = 100
    driver.uart.on_writable()
    assert driver.line.sent == b"0123456789abcdef"
    assert driver[LSR] == EMPTY
    assert driver.irq == 1


def test_writing_to_a_full_transmitter_costs_the_oldest_character(driver: Driver):
    driver.line.room = 0
    driver[THR] = 65
    driver[THR] = 66
    driver.line.room = 9
    driver.uart.on_writable()
    assert driver.line.sent == b"B"


def test_input_comes_as_far_as_there_is_room_and_in_order(driver: Driver):
    assert driver.line.granted == WIRE_SIZE
    sent = bytes(range(200))
    got = b""
    left = sent
    driver[FCR] = 1
    while len(got) < len(sent):
        take = min(driver.line.granted, len(left))
        driver.arrive(left[:take])
        left = left[take:]
        assert len(driver.uart.state.recv_fifo) <= FIFO_SIZE
        got += driver.read_all()
    assert got == sent
    assert driver[LSR] == EMPTY
    assert driver.line.granted == WIRE_SIZE


def test_without_fifos_there_is_room_for_one_and_the_rest_waits_outside(driver: Driver):
    driver[IER] = 1
    driver.arrive(b"ab")
    assert driver.irq == 1
    assert driver[IIR] == 0x04
    assert driver[RBR] == ord("a")
    assert driver.irq == 1
    assert driver[RBR] == ord("b")
    assert driver.irq == 0
    assert driver[LSR] == EMPTY


def test_the_trigger_level_and_the_timeout(driver: Driver):
    driver[LCR] = 0x80
    driver[DLL] = 1
    driver[LCR] = 0x03
    driver[FCR] = 0x81
    driver[IER] = 1
    assert driver[IIR] == 0xC1
    driver.arrive(b"1234567")
    assert driver.irq == 0
    character = 10 * 10**9 // 115200
    driver.vm.pass_time(4 * character - 10)
    assert driver.irq == 0
    driver.vm.pass_time(20)
    assert driver.irq == 1
    assert driver[IIR] == 0xCC
    driver[RBR]
    assert driver.irq == 0
    driver.arrive(b"890")
    assert driver[IIR] == 0xC4
    assert driver.read_all() == b"234567890"
    assert driver.irq == 0
    driver.vm.pass_time(10**9)
    assert driver.irq == 0


@pytest.mark.parametrize(("trigger", "level"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_trigger_levels(driver: Driver, trigger: int, level: int):
    driver[IER] = 1
    driver[FCR] = trigger
    driver.arrive(bytes(level - 1))
    assert driver.irq == 0
    driver.arrive(b"x")
    assert driver.irq == 1


def test_fifos_are_reset_one_by_one_and_by_switching_them(driver: Driver):
    driver[FCR] = 1
    driver.line.room = 0
    driver[THR] = 65
    driver.arrive(b"abc")
    driver[FCR] = 0x03
    assert driver[LSR] == 0
    driver[FCR] = 0x05
    assert driver[LSR] == EMPTY
    driver.arrive(b"abc")
    driver[FCR] = 0
    assert driver[LSR] == EMPTY
    assert driver[IIR] == 0x01


def test_a_break_is_a_zero_with_the_break_bit_until_the_status_is_read(driver: Driver):
    driver[FCR] = 1
    driver[IER] = 4
    driver.uart.on_event(ChardevEvent.OPENED)
    assert driver.irq == 0
    driver.uart.on_event(ChardevEvent.BREAK)
    assert driver.irq == 1
    assert driver[IIR] == 0xC6
    assert driver[LSR] == EMPTY | 0x11
    assert driver.irq == 0
    assert driver[LSR] == EMPTY | 0x01
    assert driver[RBR] == 0


def test_priorities_of_interrupts(driver: Driver):
    driver[IER] = 0x0F
    driver[MCR] = 0x10
    driver[MCR] = 0x00
    driver.uart.receive_break()
    seen = []
    seen.append(driver[IIR])
    driver[LSR]
    seen.append(driver[IIR])
    driver[RBR]
    seen.append(driver[IIR])
    seen.append(driver[IIR])
    driver[MSR]
    seen.append(driver[IIR])
    assert seen == [0x06, 0x04, 0x02, 0x00, 0x01]
    assert driver.irq == 0


def test_loopback_joins_transmitter_to_receiver_and_outputs_to_inputs(driver: Driver):
    driver[FCR] = 1
    driver[MCR] = 0x1A
    assert driver[MSR] & 0xF0 == 0x90
    driver.arrive(b"outside")
    for character in b"0123456789abcdefX":
        driver[THR] = character
    assert driver.line.sent == b""
    assert driver[LSR] & 0x02
    assert driver.read_all() == b"0123456789abcdef"
    driver[MCR] = 0x0B
    assert driver.read_all() == b"outside"


def test_deltas_of_the_modem_lines(driver: Driver):
    driver[MCR] = 0x10
    assert driver[MSR] == 0x0B
    driver[IER] = 8
    driver[MCR] = 0x14
    assert driver.irq == 0
    assert driver[MSR] == 0x40
    driver[MCR] = 0x11
    assert driver.irq == 1
    assert driver[IIR] == 0x00
    assert driver[MSR] == 0x26
    assert driver.irq == 0


def test_an_overrun_without_fifos_keeps_the_newest(driver: Driver):
    driver[MCR] = 0x10
    driver[THR] = 1
    driver[THR] = 2
    assert driver[LSR] & 0x03 == 0x03
    assert driver[RBR] == 2


def test_input_waits_for_a_stopped_guest(driver: Driver):
    driver[FCR] = 1
    driver[IER] = 1
    driver.vm.clock.stop()
    driver.arrive(b"typed")
    driver.vm.pass_time(10**9)
    assert (driver.irq, driver[LSR]) == (0, EMPTY)
    driver.vm.clock.start()
    driver.vm.pass_time(0)
    assert driver.read_all() == b"typed"


def test_a_reset_keeps_what_waits_outside(driver: Driver):
    driver[FCR] = 1
    driver[IER] = 0x0F
    driver.arrive(bytes(range(40)))
    driver.uart.reset_enter()
    driver.uart.reset_hold()
    assert driver.irq == 0
    driver.uart.reset_exit()
    assert driver[IER] == 0
    assert driver.read_all() == bytes(range(16, 40))


def test_the_firmwares_console_keeps_the_order(driver: Driver):
    assert driver.uart.console_write(b"early") == 5
    driver.line.room = 0
    driver[THR] = 65
    assert driver.uart.console_write(b"late") == 0
    driver.line.room = 10
    driver.uart.on_writable()
    assert driver.uart.console_write(b"late") == 4
    assert driver.line.sent == b"earlyAlate"
    driver.arrive(b"xyz")
    assert driver.uart.console_read(2) == b"xy"
    assert driver.uart.console_read(2) == b"z"
    assert driver.uart.console_read(2) == b""


def test_with_nothing_connected_everything_is_taken():
    uart = Ns16550a()
    bring_up(uart)
    uart.write(THR, 65, 1)
    assert uart.read(LSR, 1) == EMPTY
    uart.unrealize()


def test_state_goes_into_another_uart_with_its_timer_and_interrupt(driver: Driver):
    driver[FCR] = 0x81
    driver[IER] = 1
    driver.line.room = 0
    driver[THR] = ord("t")
    driver.arrive(b"abc")
    other = Driver()
    other.uart.load(driver.uart.save())
    assert other.line.sent == b"t"
    assert other[LSR] == EMPTY | 1
    assert other.irq == 0
    other.vm.pass_time(10**9)
    assert other[IIR] == 0xCC
    assert other.read_all() == b"abc"
    assert other.line.granted == WIRE_SIZE


@settings(max_examples=100)
@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from(["arrive", "read", "write", "room", "stop", "go", "save"]), st.integers(0, 40)
        ),
        max_size=40,
    ),
)
def test_nothing_is_lost_or_out_of_order_for_a_driver_that_looks_first(
    fifos: bool, steps: list[tuple[str, int]]
):
    driver = Driver()
    driver[FCR] = int(fifos)
    arrived = got = written = b""
    count = 0
    for what, n in steps:
        match what:
            case "arrive":
                data = bytes((count + i) & 0xFF for i in range(min(n, driver.line.granted)))
                count += len(data)
                arrived += data
                driver.arrive(data)
            case "read":
                for _ in range(n):
                    if driver[LSR] & 1:
                        got += bytes((driver[RBR],))
            case "write":
                if driver[LSR] & 0x20:
                    data = bytes(range(n % (17 if fifos else 2)))
                    written += data
                    for character in data:
                        driver[THR] = character
            case "room":
                driver.line.room = n
                if n:
                    driver.uart.on_writable()
            case "stop":
                driver.vm.clock.stop()
            case "go":
                driver.vm.clock.start()
                driver.vm.pass_time(1)
            case _:
                other = Driver()
                other.line.sent, other.line.room = driver.line.sent, driver.line.room
                other.uart.load(driver.uart.save())
                driver = other
    driver.vm.clock.start()
    driver.vm.pass_time(1)
    driver.line.room = 1 << 30
    driver.uart.on_writable()
    assert driver.line.sent == written
    assert got + driver.read_all() == arrived


def test_states_that_no_uart_can_be_in_are_refused():
    uart = Ns16550a()
    bring_up(uart)
    for field, size in (("recv_fifo", 17), ("xmit_fifo", 17), ("wire", MOST_ON_WIRE + 1)):
        state = Ns16550aState(recv_fifo=[], xmit_fifo=[], wire=[])
        setattr(state, field, [0] * size)
        with pytest.raises(GenericError, match=f"has {size} characters"):
            uart.check_state(state)


@pytest.mark.parametrize("options", [{"regshift": 3}, {"baudbase": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]):
    with pytest.raises(GenericError, match="serial-mm: "):
        bring_up(Ns16550a(SerialMmOptions(**options)))


def test_an_unplugged_uart_lets_go_of_its_line():
    driver = Driver()
    driver[FCR] = 1
    driver.arrive(b"x")
    driver.uart.unrealize()
    assert driver.line.closed
    assert driver.vm.clock.next_deadline() is None
