"""The bridge to the machine thread: with a hand-cranked one, and with real threads and the real mailboxes."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.chardev.frontend import HIGH_WATER, Frontend
from qemud.chardev.ringbuf import RingbufChardev
from qemud.chardev.stream import Chardev, ChardevEvent
from qemud.machine.mailbox import Mailboxes
from qemud.qapi.runtime.errors import GenericError
from tests.chardev.support import UnixServer, run_on

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Crank:
    """Two mailboxes that are emptied by hand."""

    def __init__(self) -> None:
        self.machine: deque[tuple[Any, ...]] = deque()
        self.loop: deque[tuple[Any, ...]] = deque()
        self.timers: deque[Callable[[], object]] = deque()
        self.rings = 0

    def post(self, fn: Callable[..., object], *args: object) -> None:
        self.rings += 1
        self.machine.append((fn, *args))

    def send(self, fn: Callable[..., object], *args: object) -> None:
        self.rings += 1
        self.loop.append((fn, *args))

    def call_later(self, _: float, fn: Callable[[], object]) -> None:
        self.timers.append(fn)

    def turn(self) -> None:
        while self.machine or self.loop or self.timers:
            if not self.machine and not self.loop:
                self.loop.append((self.timers.popleft(),))
            fn, *args = (self.loop or self.machine).popleft()
            fn(*args)


class Outside(Chardev):
    """A chardev that takes output by hand."""

    def __init__(self) -> None:
        super().__init__("c")
        self.out = b""
        self.taken = b""
        self.set_open(True)

    def transmit(self, data: bytes) -> None:
        self.out += data

    @property
    def pending(self) -> int:
        return len(self.out)

    def take(self, size: int) -> None:
        self.taken += self.out[:size]
        self.out = self.out[size:]
        self.output_drained()


class Device:
    """A device by hand."""

    def __init__(self, chardev: Chardev, mailboxes: Any) -> None:
        self.received = b""
        self.events: list[ChardevEvent | bytes] = []
        self.woken = 0
        self.frontend = Frontend(
            chardev,
            mailboxes,
            receive=self._receive,
            event=self.events.append,
            on_writable=self._writable,
            call_later=mailboxes.call_later,
        )

    def _receive(self, data: bytes) -> None:
        self.received += data
        self.events.append(data)

    def _writable(self) -> None:
        self.woken += 1


def test_a_burst_rings_once() -> None:
    crank, outside = Crank(), Outside()
    device = Device(outside, crank)
    crank.turn()
    assert device.events == [ChardevEvent.OPENED]
    crank.rings = 0
    for byte in b"hello":
        device.frontend.write(bytes([byte]))
    assert crank.rings == 1
    device.frontend.grant(50)
    device.frontend.grant(50)
    assert crank.rings == 2
    crank.turn()
    assert outside.out == b"hello"
    crank.rings = 0
    for byte in b"world":
        outside.received(bytes([byte]))
    assert crank.rings == 1
    crank.turn()
    assert device.received == b"world"


def test_a_device_waits_for_room() -> None:
    crank, outside = Crank(), Outside()
    device = Device(outside, crank)
    assert may_write(device)
    device.frontend.write(b"x" * HIGH_WATER)
    assert not may_write(device)
    crank.turn()
    assert device.woken == 0
    outside.take(10)
    crank.turn()
    assert device.woken == 1
    assert may_write(device)
    assert device.frontend.in_flight == HIGH_WATER - 10
    outside.take(HIGH_WATER)
    crank.turn()
    assert device.woken == 1  # it did not wait
    assert device.frontend.in_flight == 0


def test_events_keep_their_place_among_the_bytes() -> None:
    crank, outside = Crank(), Outside()
    device = Device(outside, crank)
    device.frontend.grant(100)
    crank.turn()
    device.events.clear()
    outside.received(b"a")
    outside.received(b"b")
    outside.happened(ChardevEvent.BREAK)
    outside.received(b"c")
    outside.set_open(False)
    crank.turn()
    assert device.events == [b"ab", ChardevEvent.BREAK, b"c", ChardevEvent.CLOSED]


def test_a_closed_front_end_says_its_last_and_hears_nothing() -> None:
    crank, outside = Crank(), Outside()
    device = Device(outside, crank)
    device.frontend.grant(100)
    crank.turn()
    with pytest.raises(GenericError, match=r"^chardev 'c' is already in use$"):
        Device(outside, crank)
    outside.received(b"too late")
    device.frontend.write(b"last words")
    device.frontend.close()
    device.frontend.write(b"from the grave")
    crank.turn()
    assert outside.out == b"last words"
    assert device.received == b""
    assert not outside.is_busy


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("write"), st.integers(0, 60_000).map(lambda size: (b"%d " % size * size)[:size])
            ),
            st.tuples(st.just("take"), st.integers(0, 100_000)),
            st.tuples(st.just("input"), st.binary(max_size=100)),
            st.tuples(st.just("grant"), st.integers(0, 100)),
            st.tuples(st.just("turn"), st.none()),
        ),
        max_size=40,
    )
)
def test_nothing_is_lost_and_no_wake_up_either(steps: list[tuple[str, Any]]) -> None:
    crank, outside = Crank(), Outside()
    device = Device(outside, crank)
    written = typed = b""
    granted, waits = 0, False
    for what, value in steps:
        match what:
            case "write":
                device.frontend.write(value)
                written += value
                waits = waits or not device.frontend.writable
            case "take":
                outside.take(value)
            case "input":
                outside.received(value) if value else None
                typed += value
            case "grant":
                device.frontend.grant(value)
                granted += value
            case _:
                crank.turn()
        assert len(device.received) <= granted
    crank.turn()
    assert device.received == typed[:granted]
    outside.take(len(written))
    crank.turn()
    assert outside.taken == written
    assert device.woken >= waits
    assert may_write(device)


def test_chardev_change_under_a_device() -> None:
    crank, outside = Crank(), Outside()
    device = Device(outside, crank)
    crank.turn()
    device.frontend.write(b"x" * HIGH_WATER)
    assert not may_write(device)
    crank.turn()
    ringbuf = RingbufChardev("r", 1024)
    outside.hand_over(ringbuf)
    ringbuf.set_open(True)
    crank.turn()
    assert device.woken == 1  # what the old one had not taken went with it
    assert device.events == [ChardevEvent.OPENED, ChardevEvent.CLOSED, ChardevEvent.OPENED]
    device.frontend.write(b"to the new one")
    crank.turn()
    assert ringbuf.take(100) == b"to the new one"
    assert not outside.is_busy


def may_write(device: Device) -> bool:
    return device.frontend.writable


class MachineThread(threading.Thread):
    """A machine thread that only empties its mailbox."""

    def __init__(self) -> None:
        super().__init__(name="machine")
        self.mailboxes = Mailboxes(lambda: None, debug=True)
        self._running = True

    def run(self) -> None:
        self.mailboxes.claim()
        while True:
            self.mailboxes.drain()
            if not self._running:
                break
            self.mailboxes.wait()
        self.mailboxes.close()

    def stop(self) -> None:
        self.mailboxes.post(setattr, self, "_running", False)
        self.join()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_echoing_device_on_real_threads(tmp_path: Path, loop: str) -> None:
    """A device with a FIFO of 16 bytes sends back all it gets, a slow terminal reads it: nothing is lost."""
    data = bytes(range(256)) * 64

    class Echo:
        def __init__(self, chardev: Chardev, thread: MachineThread) -> None:
            self.waiting = b""
            self.frontend = Frontend(chardev, thread.mailboxes, receive=self.receive, on_writable=self.pump)
            self.mailboxes = thread.mailboxes
            self.mailboxes.post(self.frontend.grant, 16)

        def receive(self, data: bytes) -> None:
            self.mailboxes.check_machine_thread()
            assert len(data) <= 16
            self.waiting += data
            self.pump()

        def pump(self) -> None:
            self.mailboxes.check_machine_thread()
            if self.waiting and self.frontend.writable:
                count = len(self.waiting)
                self.frontend.write(self.waiting)
                self.waiting = b""
                self.frontend.grant(count)

    async def main() -> None:
        rig = UnixServer(tmp_path)
        thread = MachineThread()
        thread.start()
        try:
            echo = Echo(await rig.open(), thread)
            peer = await rig.peer()
            _, got = await asyncio.gather(peer.write(data), peer.read(len(data)))
            assert got == data
            assert await thread.mailboxes.call(lambda: echo.frontend.writable)
            peer.close()
        finally:
            thread.stop()
            await rig.chardevs.close_all()

    run_on(loop, main())


@pytest.mark.parametrize("more", ["", ",mux=on"])
def test_the_last_words_of_a_guest_are_heard(tmp_path: Path, more: str) -> None:
    """Output that the loop has not looked at yet leaves when everything is closed."""

    async def main() -> None:
        rig = UnixServer(tmp_path)
        crank = Crank()
        device = Device(await rig.open(more), crank)
        peer = await rig.peer()
        while ChardevEvent.OPENED not in device.events:
            crank.turn()
            await asyncio.sleep(0)
        device.frontend.write(b"reboot: ")
        while crank.loop:
            fn, *args = crank.loop.popleft()
            fn(*args)
        device.frontend.write(b"Power down")  # the timer of the first half has not run out
        assert not crank.loop
        await rig.chardevs.close_all()
        assert await peer.read(100) == b"reboot: Power down"
        peer.close()

    run_on("asyncio", main())
