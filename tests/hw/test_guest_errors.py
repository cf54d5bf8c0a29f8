"""`-d`: what guests do wrong, and what they ask for that is not built, is told where somebody wants to know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from qemud import logs
from qemud._generated.types.hw_riscv import (
    RiscvAclintMtimerOptions,
    RiscvAclintSwiOptions,
    SifivePlicOptions,
)
from qemud.hw.intc.clint import AclintMtimer, AclintSwi
from qemud.hw.intc.plic import SifivePlic
from qemud.hw.misc.sifive_test import SifiveTest
from qemud.hw.rtc.goldfish import GoldfishRtc
from qemud.machine.memory import AddressSpace, MemoryFault
from tests.accel import asm
from tests.accel.asm import A0, S0, T1
from tests.hw.support import bring_up
from tests.hw.test_plic import VIRT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

HOLE, FINISHER, PLIC = 0x2_0000_0000, 0x10_0000, 0xC00_0000


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Records of guests' errors: room and event."""
    records: list[tuple[str, str]] = []

    class Recorder:
        def __init__(self, room: str) -> None:
            self.room = room

        def warning(self, event: str, **fields: object) -> None:
            json.dumps(fields)
            records.append((self.room, event))

    monkeypatch.setattr(logs, "Logger", Recorder)
    monkeypatch.setattr(logs, "items", {"guest_errors", "unimp"})
    return records


NO_REGISTER = {
    "plic": (lambda: SifivePlic(SifivePlicOptions(**VIRT)), 0x0F_0000),
    "plic-context": (lambda: SifivePlic(SifivePlicOptions(**VIRT)), 0x20_0008),
    "swi": (lambda: AclintSwi(RiscvAclintSwiOptions()), 0x100),
    "mtimer": (lambda: AclintMtimer(RiscvAclintMtimerOptions(timebase_freq=10_000_000)), 0x100),
    "rtc": (GoldfishRtc, 0x20),
}


@pytest.mark.parametrize("which", NO_REGISTER)
def test_devices_tell_of_accesses_to_no_register(told: list[tuple[str, str]], which: str):
    make, offset = NO_REGISTER[which]
    device: Any = make()
    bring_up(device)
    assert device.read(offset, 4) == 0
    device.write(offset, 1, 4)
    assert [room for room, _ in told] == [device.type_name] * 2
    assert [event.partition(" ")[0] for _, event in told] == ["load", "store"]


def test_devices_tell_of_values_that_mean_nothing(told: list[tuple[str, str]]):
    finisher, plic = SifiveTest(), SifivePlic(SifivePlicOptions(**VIRT))
    bring_up(finisher)
    bring_up(plic)
    finisher.write(0, 0x1234, 4)
    plic.write(0x1000, 1, 4)
    plic.write(0x20_0004, 2000, 4)
    assert told == [
        ("riscv.sifive.test", "unknown verdict"),
        ("riscv.sifive.plic", "store to a read-only register"),
        ("riscv.sifive.plic", "completion of a source that does not exist"),
    ]


def test_accesses_of_the_wrong_size_are_told(told: list[tuple[str, str]]):
    section = AddressSpace().add_mmio("clock", 0x1000, 0x1000, GoldfishRtc(), min_access=4, max_access=4)
    with pytest.raises(MemoryFault):
        section.cpu_read(0, 8)
    with pytest.raises(MemoryFault):
        section.cpu_write(0, 0, 1)
    assert told == [
        ("memory", "load of a size that is not taken"),
        ("memory", "store of a size that is not taken"),
    ]


def test_nothing_is_told_unasked(told: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logs, "items", set())
    finisher = SifiveTest()
    bring_up(finisher)
    finisher.write(0, 0x1234, 4)
    assert told == []


def test_a_guest_that_reaches_for_nothing_is_in_the_log(daemon: Starter, tmp_path: Path):
    firmware, log = tmp_path / "firmware", tmp_path / "log"
    firmware.write_bytes(
        asm.program(
            asm.la(T1, "survived"),
            asm.csrw(asm.MTVEC, T1),
            asm.li(S0, HOLE),
            asm.load(4, A0, S0),
            asm.Align(4),
            asm.label("survived"),
            asm.la(T1, "again"),
            asm.csrw(asm.MTVEC, T1),
            asm.li(A0, 7),
            asm.store(2, A0, S0),
            asm.Align(4),
            asm.label("again"),
            asm.li(S0, FINISHER),
            asm.li(A0, 0x5555),
            asm.store(4, A0, S0),
            asm.label("end"),
            asm.j("end"),
        )
    )
    program = daemon("-bios", str(firmware), "-serial", "null", "-d", "guest_errors", "-D", str(log), "-S")
    program.qmp.command("cont")
    assert program.wait() == 0
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(record["event"], record["address"], record["size"]) for record in records] == [
        ("load from nothing", f"{HOLE:#x}", 4),
        ("store to nothing", f"{HOLE:#x}", 2),
    ]
