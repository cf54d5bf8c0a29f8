"""The watchdog's registers and its time, outside of any board."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.hw.watchdog.i6300esb import (
    CONFIG,
    LOCK,
    PCI_CLOCK_NS,
    WDT_ENABLE,
    WDT_LOCK,
    WDT_OUTPUT_ENABLE,
    WDT_PRE_SEL,
    WDT_RELOAD,
    WDT_TIMEOUT,
    WDT_TOUT_CNF,
    I6300esb,
    Reg,
)
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.state import load_tree, save_tree
from tests.hw.pci.rig import LOW, Rig

FAST = 32 * PCI_CLOCK_NS
SLOW = 32768 * PCI_CLOCK_NS
LONGEST = 0xF_FFFF
EXPIRED = [("watchdog",)]


class Watched(Rig):
    """A machine with a watchdog whose registers are mapped."""

    def __init__(self) -> None:
        super().__init__()
        self.dog: I6300esb = self.add("dog", I6300esb())
        self.base = self.config(self.dog)
        self.map()

    def map(self) -> None:
        self.write(self.base + 0x10, LOW)
        self.write(self.base + 4, 2, 2)

    def unlock(self) -> None:
        self.write(LOW + Reg.RELOAD, 0x80, 2)
        self.write(LOW + Reg.RELOAD, 0x86, 2)

    def preload(self, first: int, second: int) -> None:
        for register, value in ((Reg.PRELOAD_1, first), (Reg.PRELOAD_2, second)):
            self.unlock()
            self.write(LOW + register, value)

    def feed(self) -> None:
        self.unlock()
        self.write(LOW + Reg.RELOAD, WDT_RELOAD, 2)

    def enable(self, more: int = 0) -> None:
        self.write(self.base + LOCK, WDT_ENABLE | more, 1)

    @property
    def timed_out(self) -> bool:
        return bool(self.read(LOW + Reg.RELOAD, 2) & WDT_TIMEOUT)


def test_what_it_is() -> None:
    rig = Watched()
    assert rig.read(rig.base) == 0x25AB_8086
    assert rig.read(rig.base + 8) == 0x0880_0000
    rig.write(rig.base + 0x10, 0xFFFF_FFFF)
    assert rig.read(rig.base + 0x10) == 0xFFFF_FFF0


def test_a_guest_that_falls_silent() -> None:
    """Time is up after both stages, and everything but that it was is forgotten."""
    rig = Watched()
    rig.write(rig.base + CONFIG, WDT_PRE_SEL | 3, 2)
    assert rig.read(rig.base + CONFIG, 2) == WDT_PRE_SEL | 3
    rig.preload(100, 50)
    rig.enable()
    rig.vm.pass_time(150 * FAST - 1)
    rig.vm.pass_time(0)
    assert not rig.vm.requests
    # The second stage began when the timer of the first was served.
    rig.vm.pass_time(50 * FAST)
    assert rig.vm.requests == EXPIRED
    assert rig.timed_out
    assert rig.read(rig.base + LOCK, 1) == 0
    rig.vm.pass_time(10**12)
    assert rig.vm.requests == EXPIRED


def test_a_guest_that_feeds_it() -> None:
    rig = Watched()
    rig.preload(1, 1)
    rig.enable()
    for _ in range(100):
        rig.vm.pass_time(SLOW)
        rig.feed()
    assert not rig.vm.requests
    rig.vm.pass_time(SLOW)
    rig.vm.pass_time(SLOW)
    assert rig.vm.requests == EXPIRED


def test_the_flag_outlives_a_reset_until_it_is_cleared() -> None:
    rig = Watched()
    rig.preload(1, 1)
    rig.enable()
    for _ in range(2):
        rig.vm.pass_time(SLOW)
    rig.reset()
    rig.map()
    assert rig.read(LOW + Reg.RELOAD, 2) == 0x1200
    assert (rig.read(LOW + Reg.RELOAD), rig.read(LOW + Reg.RELOAD, 1)) == (0, 0)
    rig.unlock()
    rig.write(LOW + Reg.RELOAD, WDT_TIMEOUT, 2)
    assert not rig.timed_out


def test_a_reset_stops_it() -> None:
    rig = Watched()
    rig.preload(1, 1)
    rig.enable(WDT_LOCK)
    rig.reset()
    rig.vm.pass_time(10**12)
    rig.vm.pass_time(10**12)
    assert not rig.vm.requests
    assert rig.read(rig.base + LOCK, 1) == 0


def test_disabled_and_locked() -> None:
    rig = Watched()
    rig.preload(1, 1)
    rig.enable()
    rig.write(rig.base + LOCK, 0, 1)
    rig.vm.pass_time(10 * SLOW)
    rig.vm.pass_time(10 * SLOW)
    assert not rig.vm.requests
    rig.enable(WDT_LOCK)
    rig.write(rig.base + LOCK, 0, 1)
    assert rig.read(rig.base + LOCK, 1) == WDT_ENABLE | WDT_LOCK
    for _ in range(2):
        rig.vm.pass_time(SLOW)
    assert rig.vm.requests == EXPIRED


def test_one_that_does_nothing_and_begins_anew() -> None:
    rig = Watched()
    rig.write(rig.base + CONFIG, WDT_OUTPUT_ENABLE, 2)
    rig.preload(0, 0)  # a step at least: nobody can keep the machine busy with it
    rig.enable(WDT_TOUT_CNF)
    for _ in range(100):
        rig.vm.pass_time(SLOW)
    assert not rig.vm.requests
    assert rig.dog.state.deadline == rig.vm.clock.now() + SLOW
    rig.write(rig.base + CONFIG, 0, 2)
    for _ in range(2):
        rig.vm.pass_time(SLOW)
    assert rig.vm.requests == EXPIRED


def test_locked_registers_do_not_change() -> None:
    rig = Watched()
    rig.write(LOW + Reg.PRELOAD_1, 5)
    rig.write(LOW + Reg.RELOAD, 0x86, 2)
    rig.write(LOW + Reg.PRELOAD_1, 5)
    rig.write(LOW + Reg.RELOAD, 0x80, 2)
    rig.write(LOW + Reg.PRELOAD_1, 5)
    assert rig.dog.state.preload_1 == LONGEST
    rig.unlock()
    rig.write(LOW + Reg.PRELOAD_1, 0x123_4567)
    assert rig.dog.state.preload_1 == 0x3_4567
    rig.write(LOW + Reg.PRELOAD_2, 5)
    assert rig.dog.state.preload_2 == LONGEST


def test_unplugged_it_is_silent() -> None:
    rig = Watched()
    rig.preload(1, 1)
    rig.enable()
    rig.dog.take_down()
    for _ in range(3):
        rig.vm.pass_time(10 * SLOW)
    assert not rig.vm.requests


def test_saved_in_the_middle_of_a_stage() -> None:
    rig = Watched()
    rig.preload(3, 7)
    rig.enable(WDT_TOUT_CNF)
    rig.vm.pass_time(3 * SLOW)
    rig.vm.pass_time(SLOW)
    saved = save_tree(rig.root)
    other = Watched()
    other.vm.time.ns = rig.vm.time.ns
    load_tree(other.root, saved)
    other.vm.pass_time(6 * SLOW - 1)
    assert not other.vm.requests
    other.vm.pass_time(1)
    assert other.vm.requests == EXPIRED


@pytest.mark.parametrize(
    ("name", "value"),
    [("preload-1", 1 << 20), ("preload-2", 1 << 32), ("interrupt-type", 4), ("stage", 0), ("unlocked", 3)],
)
def test_states_that_cannot_be(name: str, value: int) -> None:
    rig = Watched()
    saved: dict[str, Any] = dict(save_tree(rig.root))
    saved[rig.dog.path]["state"][name] = value
    with pytest.raises(GenericError):
        load_tree(rig.root, saved)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["memory", "config", "time"]),
            st.integers(0, 255),
            st.integers(0, 2**32 - 1),
            st.sampled_from([1, 2, 4]),
        ),
        max_size=40,
    )
)
def test_a_guest_that_writes_anything(accesses: list[tuple[str, int, int, int]]) -> None:
    """Whatever it does, the device's state is one that can be saved and loaded."""
    rig = Watched()
    for where, offset, value, size in accesses:
        at = offset & ~(size - 1)
        if where == "time":
            rig.vm.pass_time(value)
        elif where == "config":
            rig.write(rig.base + at, value & (1 << 8 * size) - 1, size)
        else:
            rig.dog.write(at & 0xF, value & (1 << 8 * size) - 1, size)
            rig.dog.read(at & 0xF, size)
    load_tree(rig.root, save_tree(rig.root))
