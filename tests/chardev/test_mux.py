"""The multiplexer: focus, commands, buffers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.chardev.mux import BUFFER_SIZE, MuxChardev
from qemud.chardev.stream import UNLIMITED, Chardev, ChardevEvent
from qemud.qapi.runtime.errors import GenericError
from tests.chardev.support import User, run_on

if TYPE_CHECKING:
    from collections.abc import Callable

OPENED, CLOSED, BREAK = ChardevEvent.OPENED, ChardevEvent.CLOSED, ChardevEvent.BREAK
MUX_IN, MUX_OUT = ChardevEvent.MUX_IN, ChardevEvent.MUX_OUT


class Keyboard(Chardev):
    """A chardev below, by hand."""

    kind = "keyboard"

    def __init__(self) -> None:
        super().__init__("k")
        self.screen = b""
        self.set_open(True)

    def transmit(self, data: bytes) -> None:
        self.screen += data

    def type(self, data: bytes) -> None:
        assert len(data) <= self.allowance
        self.received(data)

    def shown(self) -> bytes:
        screen, self.screen = self.screen, b""
        return screen


def with_mux(test: Callable[[Keyboard, MuxChardev, list[str]], None]) -> None:
    async def main() -> None:
        ended: list[str] = []
        keyboard = Keyboard()
        mux = MuxChardev("m", keyboard, end=lambda: ended.append("end"))
        await mux.open()
        test(keyboard, mux, ended)
        mux.close()
        assert not keyboard.is_busy

    run_on("asyncio", main())


def test_the_last_to_start_has_the_focus_and_ctrl_a_c_moves_it() -> None:
    def test(keyboard: Keyboard, mux: MuxChardev, _: list[str]) -> None:
        monitor, serial = User(mux), User(mux)
        assert monitor.events == [MUX_IN, OPENED, MUX_OUT]
        assert serial.events == [MUX_IN, OPENED]
        keyboard.type(b"ls\n\x01cinfo\n\x01cexit\n")
        assert serial.received == b"ls\nexit\n"
        assert monitor.received == b"info\n"
        serial.port.detach()
        keyboard.type(b"hello")
        assert monitor.received == b"info\nhello"
        assert keyboard.shown() == b""

    with_mux(test)


def test_commands_may_come_in_pieces_and_ctrl_a_twice_is_ctrl_a() -> None:
    def test(keyboard: Keyboard, mux: MuxChardev, ended: list[str]) -> None:
        user = User(mux)
        user.events.clear()
        for byte in b"a\x01\x01b\x01b\x01zc\x01x":
            keyboard.type(bytes([byte]))
        assert user.received == b"a\x01bc"
        assert user.events == [BREAK]
        assert ended == ["end"]
        assert keyboard.shown() == b"QEMU: Terminated\n\r"

    with_mux(test)


def test_help_and_the_monitor_that_is_not_there() -> None:
    def test(keyboard: Keyboard, mux: MuxChardev, _: list[str]) -> None:
        user = User(mux)
        keyboard.type(b"\x01h")
        shown = keyboard.shown()
        for key in "hxtbc":
            assert b"C-a %c" % ord(key) in shown
        keyboard.type(b"\x01c")
        assert keyboard.shown() == b"\n\rThere is nothing else on this terminal.\n\r"
        assert not user.received

    with_mux(test)


def test_time_stamps() -> None:
    def test(keyboard: Keyboard, mux: MuxChardev, _: list[str]) -> None:
        user = User(mux)
        user.port.write(b"one\ntw")
        keyboard.type(b"\x01t")
        for piece in (b"o\n", b"three\n\n", b"fo", b"ur\n"):
            user.port.write(piece)
        keyboard.type(b"\x01t")
        user.port.write(b"five\n")
        stamp = rb"\[00:00:\d\d\.\d\d\d\] "
        expected = rb"one\ntwo\n" + stamp + rb"three\n" + stamp + rb"\n" + stamp + rb"four\nfive\n"
        assert re.fullmatch(expected, keyboard.shown())

    with_mux(test)


def test_commands_work_while_the_guest_reads_nothing() -> None:
    def test(keyboard: Keyboard, mux: MuxChardev, ended: list[str]) -> None:
        user = User(mux, credit=0)
        keyboard.type(b"x" * 1000 + b"\x01x")
        assert ended
        assert keyboard.allowance >= BUFFER_SIZE - 1000
        keyboard.type(b"y" * (BUFFER_SIZE - 1000))
        assert keyboard.allowance == 0  # so that what is below stops reading
        user.port.grant(UNLIMITED)
        assert user.received == b"x" * 1000 + b"y" * (BUFFER_SIZE - 1000)
        assert keyboard.allowance == BUFFER_SIZE

    with_mux(test)


def test_each_user_has_a_buffer_of_its_own() -> None:
    def test(keyboard: Keyboard, mux: MuxChardev, _: list[str]) -> None:
        first = User(mux, credit=0)
        keyboard.type(b"for the first")
        second = User(mux)
        keyboard.type(b"for the second")
        assert second.received == b"for the second"
        first.port.grant(7)
        assert first.received == b"for the"
        first.port.grant(100)
        assert first.received == b"for the first"

    with_mux(test)


def test_opened_and_closed_are_for_all_users() -> None:
    def test(keyboard: Keyboard, mux: MuxChardev, _: list[str]) -> None:
        users = [User(mux), User(mux)]
        for user in users:
            user.events.clear()
        keyboard.set_open(False)
        keyboard.set_open(True)
        for user in users:
            assert user.events == [CLOSED, OPENED]

    with_mux(test)


def test_there_is_room_for_four() -> None:
    def test(_: Keyboard, mux: MuxChardev, __: list[str]) -> None:
        for _unused in range(4):
            User(mux)
        with pytest.raises(
            GenericError, match=r"^too many uses of multiplexed chardev 'm' \(maximum is 4\)$"
        ):
            mux.attach()

    with_mux(test)


@given(st.lists(st.tuples(st.binary(max_size=50), st.integers(0, 60)), max_size=30))
def test_nothing_is_lost_or_reordered(steps: list[tuple[bytes, int]]) -> None:
    def test(keyboard: Keyboard, mux: MuxChardev, _: list[str]) -> None:
        user = User(mux, credit=0)
        typed = b""
        for data, credit in steps:
            keyboard.type(data.replace(b"\x01", b"\x01\x01"))
            typed += data
            user.port.grant(credit)
        user.port.grant(UNLIMITED)
        assert user.received == typed

    with_mux(test)
