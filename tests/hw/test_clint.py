"""Software interrupts and the machine timer, by their registers and the clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud._generated.types.hw_riscv import RiscvAclintMtimerOptions, RiscvAclintSwiOptions
from qemud.hw.intc.clint import AclintMtimer, AclintSwi
from qemud.qapi.runtime.errors import GenericError
from tests.hw.support import Lines, Vm, bring_up

MTIME = 0x7FF8
NEVER = (1 << 64) - 1


def timer(**options: Any) -> tuple[AclintMtimer, Vm, Lines]:
    device = AclintMtimer(RiscvAclintMtimerOptions(**({"timebase_freq": 10_000_000} | options)))
    return device, *bring_up(device)


def test_msip_interrupts_while_it_is_1():
    swi = AclintSwi(RiscvAclintSwiOptions(num_harts=2))
    _, lines = bring_up(swi)
    swi.write(4, 0xFFFFFFFF, 4)
    assert (lines[0], lines[1]) == (0, 1)
    assert (swi.read(0, 4), swi.read(4, 4), swi.read(8, 4)) == (0, 1, 0)
    swi.write(8, 1, 4)
    swi.write(4, 2, 4)
    assert lines[1] == 0
    swi.write(0, 1, 4)
    other = AclintSwi(RiscvAclintSwiOptions(num_harts=2))
    _, other_lines = bring_up(other)
    other.load(swi.save())
    assert other_lines[0] == 1
    swi.reset_enter()
    swi.reset_hold()
    assert (lines[0], swi.read(0, 4)) == (0, 0)


def test_setssip_only_raises_and_reads_as_0():
    swi = AclintSwi(RiscvAclintSwiOptions(sswi=1))
    _, lines = bring_up(swi)
    lines.levels[0] = 0
    swi.write(0, 0, 4)
    assert lines[0] == 0
    swi.write(0, 1, 4)
    swi.write(0, 0, 4)
    assert (lines[0], swi.read(0, 4)) == (1, 0)


def test_msip_of_another_shape_is_refused():
    swi = AclintSwi()
    bring_up(swi)
    for msip in ([], [0, 0], [2]):
        with pytest.raises(GenericError, match="'msip' is not 1 times 0 or 1"):
            swi.load({"msip": msip})


def test_mtime_is_the_virtual_clock_and_begins_at_0():
    device, vm, _ = timer()
    assert device.read(MTIME, 8) == 0
    vm.pass_time(1_234_567)
    assert device.read(MTIME, 8) == 12_345
    vm.clock.stop()
    vm.pass_time(2_000_000_000)
    assert device.read(MTIME, 8) == 12_345
    vm.clock.start()
    vm.pass_time((1 << 32) * 100)
    assert (device.read(MTIME, 4), device.read(MTIME + 4, 4)) == (12_345, 1)


def test_the_interrupt_is_pending_while_mtime_has_reached_mtimecmp():
    device, vm, lines = timer()
    assert device.read(0, 8) == NEVER
    device.write(0, 1000, 8)
    vm.pass_time(99_999)
    assert lines[0] == 0
    vm.pass_time(1)
    assert lines[0] == 1
    device.write(0, 1001, 8)
    assert lines[0] == 0
    vm.pass_time(100)
    assert lines[0] == 1
    device.write(4, 1, 4)
    assert lines[0] == 0
    assert device.read(0, 8) == 1 << 32 | 1001
    device.write(0, 0, 4)
    device.write(4, 0, 4)
    assert lines[0] == 1


def test_far_times_arm_nothing_that_breaks():
    device, vm, lines = timer()
    for value in (NEVER, NEVER - 1, 1 << 63, (1 << 63) // 100):
        device.write(0, value, 8)
        vm.pass_time(10**9)
        assert lines[0] == 0


@settings(max_examples=100)
@given(
    st.sampled_from([10_000_000, 32_768, 1_000_000_000, 3_000_001, 1]),
    st.integers(0, 10**15),
    st.integers(0, NEVER),
    st.integers(0, 10**6),
)
def test_a_deadline_is_the_first_moment_of_its_tick(frequency: int, now: int, mtime: int, ahead: int):
    device, vm, _ = timer(timebase_freq=frequency)
    vm.time.ns += now
    device.write(MTIME, mtime, 8)
    target = mtime + 1 + ahead
    if target > NEVER:
        return
    deadline = device.deadline(target)
    vm.clock.load(deadline - 1)
    assert device.time() < target
    vm.clock.load(deadline)
    assert device.time() == target


def test_the_guest_may_set_mtime_and_the_counter_follows():
    device, vm, lines = timer()
    told: list[int] = []
    device.on_time_set = lambda: told.append(device.time())
    device.write(0, 5_000_000, 8)
    device.write(MTIME, 5_000_000 - 10, 8)
    assert told == [4_999_990]
    assert lines[0] == 0
    vm.pass_time(1000)
    assert lines[0] == 1
    assert (vm.clock.now() + vm.clock.counter_delta) // 100 == device.time()
    device.write(MTIME + 4, 2, 4)
    assert device.read(MTIME + 4, 4) == 2
    device.write(MTIME, 7, 4)
    assert device.read(MTIME, 8) == 2 << 32 | 7
    device.write(MTIME, NEVER, 8)
    assert lines[0] == 1
    assert device.read(MTIME, 8) == NEVER
    vm.pass_time(200)
    assert device.read(MTIME, 8) == 1


def test_a_reset_begins_anew():
    device, vm, lines = timer()
    vm.pass_time(10**9)
    device.write(0, 0, 8)
    assert lines[0] == 1
    device.reset_enter()
    device.reset_hold()
    assert (lines[0], device.read(MTIME, 8), device.read(0, 8)) == (0, 0, NEVER)


def test_state_goes_into_another_timer():
    device, vm, _ = timer()
    vm.pass_time(10**9)
    device.write(MTIME, 5000, 8)
    device.write(0, 6000, 8)
    other, other_vm, lines = timer()
    other_vm.clock.load(vm.clock.save())
    other.load(device.save())
    assert other.read(MTIME, 8) == 5000
    assert other_vm.clock.counter_delta == vm.clock.counter_delta
    other_vm.pass_time(100_000)
    assert lines[0] == 1
    with pytest.raises(GenericError, match="'timecmp' has 2 elements, expected 1"):
        other.load({"timecmp": [0, 0]})


def test_what_is_no_register_reads_as_0():
    device, _, _ = timer()
    device.write(0x100, 1, 4)
    assert device.read(0x100, 8) == 0
    assert device.read(8, 4) == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timebase_freq": 0}, "no frequency"),
        ({"num_harts": 0}, "num-harts 0 is not in 1 to 4095"),
        ({"time_base": 4}, "registers overlap"),
        ({"aperture_size": 0x100}, "too small"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], text: str):
    with pytest.raises(GenericError, match=text):
        timer(**options)
