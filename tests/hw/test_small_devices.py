"""The clock, the finisher and the empty virtio slots, by their registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud.hw.misc.sifive_test import SifiveTest
from qemud.hw.rtc.goldfish import GoldfishRtc
from qemud.hw.virtio.mmio import VirtioMmio
from tests.accel import asm
from tests.hw.support import Lines, Vm, bring_up

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH = 0x00, 0x04, 0x08, 0x0C
IRQ_ENABLED, CLEAR_ALARM, ALARM_STATUS, CLEAR_INTERRUPT = 0x10, 0x14, 0x18, 0x1C

NOW = 1_700_000_000_000_000_000


def rtc() -> tuple[GoldfishRtc, Vm, Lines]:
    device = GoldfishRtc()
    vm = Vm()
    vm.host_time.ns = NOW
    return device, *bring_up(device, vm)


def read_time(device: GoldfishRtc) -> int:
    low = device.read(TIME_LOW, 4)
    return low | device.read(TIME_HIGH, 4) << 32


def set_alarm(device: GoldfishRtc, when: int) -> None:
    device.write(ALARM_HIGH, when >> 32, 4)
    device.write(ALARM_LOW, when & 0xFFFFFFFF, 4)


def test_the_time_is_the_hosts_and_its_upper_half_is_latched():
    device, vm, _ = rtc()
    low = device.read(TIME_LOW, 4)
    vm.pass_time(1 << 32)
    assert low | device.read(TIME_HIGH, 4) << 32 == NOW
    assert read_time(device) == NOW + (1 << 32)


def test_the_time_can_be_set_and_survives_a_reset():
    device, vm, _ = rtc()
    device.write(TIME_HIGH, 0x1111, 4)
    device.write(TIME_LOW, 0x2222, 4)
    assert read_time(device) == 0x1111_0000_2222
    device.reset_enter()
    vm.pass_time(5)
    assert read_time(device) == 0x1111_0000_2227


def test_clients_are_told_of_a_time_that_is_set_once_while_the_message_is_under_way():
    device, vm, _ = rtc()
    mail = vm.mailboxes
    set_time(device, NOW + 78_900_000_000)
    for ahead in (5, 6, 7):
        set_time(device, NOW - ahead * 10**9)
    assert len(mail.to_loop) == 1
    mail.run_loop()
    mail.run_machine()
    mail.run_loop()
    mail.run_machine()
    assert (mail.to_loop, mail.to_machine) == ([], [])
    assert [(name, data["offset"]) for name, data in vm.events] == [("RTC_CHANGE", 78), ("RTC_CHANGE", -7)]


def set_time(device: GoldfishRtc, time: int) -> None:
    device.write(TIME_HIGH, time >> 32, 4)
    device.write(TIME_LOW, time & 0xFFFFFFFF, 4)


def test_a_guest_sets_its_clock(daemon: Starter, tmp_path: Path):
    """A day ahead of the base that the user gave, which is not what counts."""
    firmware, when = tmp_path / "firmware", 1_700_000_000_000_000_000 + 86_400 * 10**9
    firmware.write_bytes(
        asm.program(
            asm.li(asm.S0, 0x101000),
            asm.li(asm.A0, when >> 32),
            asm.store(4, asm.A0, asm.S0, TIME_HIGH),
            asm.li(asm.A0, when & 0xFFFFFFFF),
            asm.store(4, asm.A0, asm.S0, TIME_LOW),
            asm.label("end"),
            asm.j("end"),
        )
    )
    board = ("-machine", "virt", "-m", "16", "-display", "none", "-nodefaults", "-S")
    program = daemon(*board, "-bios", str(firmware), "-rtc", "base=2023-11-14T22:13:20")
    program.qmp.command("cont")
    told = program.qmp.event("RTC_CHANGE")["data"]
    assert told["qom-path"] == "/machine/rtc"
    assert 86_400 - 60 < told["offset"] <= 86_400


def test_an_alarm_goes_off_once_and_interrupts_where_enabled():
    device, vm, lines = rtc()
    set_alarm(device, NOW + 1000)
    assert device.read(ALARM_STATUS, 4) == 1
    assert device.read(ALARM_LOW, 4) | device.read(ALARM_HIGH, 4) << 32 == NOW + 1000
    vm.pass_time(999)
    assert lines[0] == 0
    vm.pass_time(1)
    assert (lines[0], device.read(ALARM_STATUS, 4)) == (0, 0)
    device.write(IRQ_ENABLED, 1, 4)
    assert (lines[0], device.read(IRQ_ENABLED, 4)) == (1, 1)
    device.write(CLEAR_INTERRUPT, 1, 4)
    assert lines[0] == 0


def test_an_alarm_in_the_past_goes_off_at_once_and_a_cleared_one_never():
    device, vm, lines = rtc()
    device.write(IRQ_ENABLED, 1, 4)
    set_alarm(device, NOW - 1)
    assert lines[0] == 1
    device.write(CLEAR_INTERRUPT, 1, 4)
    set_alarm(device, NOW + 100)
    device.write(CLEAR_ALARM, 1, 4)
    vm.pass_time(1000)
    assert lines[0] == 0


def test_setting_the_time_moves_the_alarm():
    device, vm, lines = rtc()
    device.write(IRQ_ENABLED, 1, 4)
    set_alarm(device, NOW + (1 << 33))
    device.write(TIME_HIGH, (NOW >> 32) + 1, 4)
    vm.pass_time((1 << 32) - 1)
    assert lines[0] == 0
    vm.pass_time(1)
    assert lines[0] == 1


def test_an_alarm_goes_along_when_saved_and_goes_off_if_it_was_missed():
    device, _, _ = rtc()
    device.write(IRQ_ENABLED, 1, 4)
    set_alarm(device, NOW + 1000)
    saved = device.save()
    other, other_vm, lines = rtc()
    other.load(saved)
    other_vm.pass_time(1000)
    assert lines[0] == 1
    late, late_vm, late_lines = rtc()
    late_vm.pass_time(5000)
    late.load(saved)
    assert late_lines[0] == 1


def test_an_alarm_waits_for_a_stopped_guest():
    device, vm, lines = rtc()
    device.write(IRQ_ENABLED, 1, 4)
    set_alarm(device, NOW + 1000)
    vm.clock.stop()
    vm.pass_time(5000)
    assert lines[0] == 0
    vm.clock.start()
    vm.pass_time(0)
    assert lines[0] == 1


def test_other_registers_of_the_clock_do_nothing():
    device, _, _ = rtc()
    device.write(0x20, 1, 4)
    device.write(ALARM_STATUS, 1, 4)
    assert (device.read(0x20, 4), device.read(CLEAR_ALARM, 4), device.read(ALARM_STATUS, 4)) == (0, 0, 0)
    device.unrealize()


@pytest.mark.parametrize(
    ("value", "request_"),
    [
        (0x5555, ("shutdown", "guest-shutdown", 0)),
        (0x0007_5555, ("shutdown", "guest-shutdown", 7)),
        (0x0001_3333, ("panic", 1)),
        (0x7777, ("reset", "guest-reset")),
    ],
)
def test_verdicts(value: int, request_: tuple[object, ...]):
    device = SifiveTest()
    vm, _ = bring_up(device)
    device.write(4, value, 4)
    device.write(0, 0x1234, 4)
    assert vm.requests == []
    device.write(0, value, 4)
    assert vm.requests == [request_]
    assert device.read(0, 4) == 0


@pytest.mark.parametrize(("legacy", "version"), [(True, 1), (False, 2)])
def test_an_empty_slot_says_that_it_holds_no_device(legacy: bool, version: int):
    slot = VirtioMmio(VirtioMmioOptions(force_legacy=legacy), number=3)
    _, lines = bring_up(slot)
    assert slot.read(0, 4).to_bytes(4, "little") == b"virt"
    assert slot.read(4, 4) == version
    assert slot.read(8, 4) == 0
    assert slot.read(12, 4).to_bytes(4, "little") == b"QEMU"
    slot.write(0x70, 1, 4)
    assert slot.read(0x70, 4) == 0
    assert slot.virtio_bus.bus_name == "virtio-mmio-bus.3"
    assert slot.virtio_bus.realized
    assert lines[0] == 0
