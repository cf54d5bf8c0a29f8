"""Guests that write anything anywhere: no device fails, and what each shows stays what its data sheet allows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud._generated.types.hw_riscv import VirtMachineOptions
from qemud.hw.boards import default_board, make_machine
from qemud.hw.riscv.virt import VirtMachine
from qemud.machine.memory import MemoryFault, Section, SectionKind
from qemud.qom.device import reset_tree
from qemud.qom.state import load_tree, save_tree
from qemud.qom.tree import Tree
from tests.hw.support import Vm

VALUES = st.one_of(
    st.integers(0, (1 << 64) - 1), st.integers(0, 0xFF), st.just((1 << 64) - 1), st.just(0x10000)
)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["read", "write"]),
            st.integers(0, 1 << 23) | st.integers(0, 0x30),
            st.sampled_from([1, 2, 4, 8]),
            VALUES,
        ),
        st.tuples(st.just("time"), st.just(0), st.just(0), st.integers(0, 10**12)),
        st.tuples(st.just("input"), st.just(0), st.just(0), st.integers(0, 64)),
        st.tuples(st.just("reset"), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=40,
)


def make() -> tuple[VirtMachine, Vm]:
    machine = make_machine(default_board(), VirtMachineOptions(aclint=True, firmware="none"))
    assert isinstance(machine, VirtMachine)
    machine.ram_size = 4 << 20
    vm = Vm()
    Tree().set_machine(machine)
    machine.bring_up(vm)
    reset_tree(machine)
    return machine, vm


def registers(vm: Vm) -> dict[str, Section]:
    found = [section for section in vm.memory if section.kind is SectionKind.MMIO]
    return {section.name.split("/")[2]: section for section in found}


@pytest.mark.parametrize(
    "name", ["uart0", "plic", "mswi0", "mtimer0", "sswi0", "rtc", "test", "virtio-mmio[0]"]
)
@settings(max_examples=40)
@given(steps=STEPS)
def test_no_access_fails(name: str, steps: list[tuple[str, int, int, int]]):
    machine, vm = make()
    section = registers(vm)[name]
    granted = 64
    for what, anywhere, size, value in steps:
        offset = anywhere % section.size
        try:
            match what:
                case "read" if offset + size <= section.size:
                    assert 0 <= section.cpu_read(offset, size) < 1 << 8 * size
                case "write" if offset + size <= section.size:
                    section.cpu_write(offset, value, size)
                case "time":
                    vm.pass_time(value)
                case "input":
                    count = min(value, granted)
                    granted -= count
                    machine.uart.receive(bytes(count))
                case "reset":
                    reset_tree(machine)
                case _:
                    pass
        except MemoryFault:
            assert section.min_access > 1
    uart = machine.uart.state
    assert len(uart.recv_fifo) <= 16
    assert len(uart.xmit_fifo) <= 16
    assert vm.vcpus[0].mip & ~(1 << 1 | 1 << 3 | 1 << 7 | 1 << 9 | 1 << 11) == 0


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["uart0", "plic", "mswi0", "mtimer0", "rtc"]),
            st.integers(0, 0x40) | st.integers(0, 1 << 21),
            VALUES,
        ),
        max_size=30,
    )
)
def test_whatever_a_guest_has_done_can_be_saved_and_loaded(writes: list[tuple[str, int, int]]):
    machine, vm = make()
    sections = registers(vm)
    for name, word, value in writes:
        section = sections[name]
        size = section.min_access
        offset = word * size % section.size
        section.cpu_write(offset, value, size)
    vm.clock.stop()
    saved = save_tree_without_harts(machine)
    other, other_vm = make()
    other_vm.clock.stop()
    other_vm.clock.load(vm.clock.save())
    other_vm.host_time.ns = vm.host_time.ns
    load_tree_without_harts(other, saved)
    assert save_tree_without_harts(other) == saved
    assert other.mtimer.time() == machine.mtimer.time()


def devices(machine: VirtMachine) -> list[Any]:
    return [machine.uart, machine.plic, machine.mswi, machine.mtimer, machine.rtc]


def save_tree_without_harts(machine: VirtMachine) -> dict[str, Any]:
    saved: dict[str, Any] = {}
    for device in devices(machine):
        saved |= save_tree(device)
    return saved


def load_tree_without_harts(machine: VirtMachine, saved: dict[str, Any]) -> None:
    for device in devices(machine):
        load_tree(device, {device.path: saved[device.path]})
