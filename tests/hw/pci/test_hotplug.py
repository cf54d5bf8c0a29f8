"""Native hot-plug with a guest of ours, which plays the part of a pciehp driver, beside QEMU with the same guest.

The guest says on its serial line what it does: `+` ready, `P` it has given a device power and found it, `-` it has found none, `B` the button
was pressed and the indicator blinks, then, as it is told, `O` the slot is off, or `R` it keeps the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.accel import asm
from tests.accel.asm import A0, A1, S0, S1, S2, S3, S4, T0, T1, T2
from tests.programs import QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.differential

ECAM, UART, PLIC = 0x3000_0000, 0x1000_0000, 0xC00_0000
PORT, DEVICE = ECAM | 1 << 15, ECAM | 1 << 20
BUSES, COMMAND, MEMORY = 0x18, 0x04, 0x20
SLTCTL, SLTSTA = 0x6C, 0x6E
SOURCE = 33  # pin A of device 1
EVENTS = 0x1 | 0x8 | 0x20  # button, presence; interrupts
ON, BLINK, OFF = (EVENTS | 0xC0 | indicator for indicator in (0x100, 0x200, 0x700))
MIE, MEIE = 0x304, 1 << 11
CLAIM = PLIC + 0x20_0004


def say(letter: str) -> list[Any]:
    return [asm.li(A0, ord(letter)), asm.store(1, A0, S1)]


def control(value: int) -> list[Any]:
    return [asm.li(A0, value), asm.store(2, A0, S0, SLTCTL)]


GUEST = asm.program(
    asm.li(S0, PORT),
    asm.li(S1, UART),
    asm.li(S2, CLAIM),
    asm.li(S3, DEVICE),
    # One bus behind the port, and a window.
    asm.li(A0, 0x01_01_00),
    asm.store(4, A0, S0, BUSES),
    asm.li(A0, 0x4000_4000),
    asm.store(4, A0, S0, MEMORY),
    asm.li(A0, 7),
    asm.store(2, A0, S0, COMMAND),
    # The interrupt controller, and the slot.
    asm.li(T0, PLIC + 4 * SOURCE),
    asm.store(4, A0, T0),
    asm.li(T0, PLIC + 0x2000 + SOURCE // 32 * 4),
    asm.li(A0, 1 << SOURCE % 32),
    asm.store(4, A0, T0),
    asm.li(A0, 0x1F),
    asm.store(2, A0, S0, SLTSTA),
    asm.load(2, T0, S0, SLTSTA, unsigned=True),
    asm.li(A1, 0x40),
    0x00B2F2B3,  # and t0, t0, a1: whether a device is there
    asm.bnez(T0, "there"),
    control(OFF),
    asm.j("ready"),
    asm.label("there"),
    control(ON),
    asm.label("ready"),
    asm.li(T0, MEIE),
    asm.csrw(MIE, T0),
    say("+"),
    asm.label("wait"),
    asm.WFI,
    asm.load(4, S4, S2),
    asm.beqz(S4, "wait"),
    asm.load(2, T0, S0, SLTSTA, unsigned=True),
    asm.store(2, T0, S0, SLTSTA),
    asm.addi(T1, T0, 0),
    asm.li(A1, 0x1),
    0x00B2F2B3,  # and t0, t0, a1: the button
    asm.beqz(T0, "done"),
    asm.li(A1, 0x40),
    0x00B37333,  # and t1, t1, a1: presence
    asm.beqz(T1, "done"),
    asm.load(2, T2, S0, SLTCTL, unsigned=True),
    asm.li(A1, 0x400),
    0x00B3F3B3,  # and t2, t2, a1: power is off
    asm.beqz(T2, "pressed"),
    control(ON),
    asm.load(4, T0, S3),
    asm.li(T1, -1),
    asm.beq(T0, T1, "nothing"),
    say("P"),
    asm.j("done"),
    asm.label("nothing"),
    say("-"),
    asm.j("done"),
    asm.label("pressed"),
    control(BLINK),
    say("B"),
    asm.label("ask"),
    asm.load(1, T0, S1, 5, unsigned=True),
    asm.li(A1, 1),
    0x00B2F2B3,  # and t0, t0, a1: a character
    asm.beqz(T0, "ask"),
    asm.load(1, T0, S1, unsigned=True),
    asm.li(T1, ord("n")),
    asm.beq(T0, T1, "refuse"),
    control(OFF),
    say("O"),
    asm.j("done"),
    asm.label("refuse"),
    control(ON),
    say("R"),
    asm.label("done"),
    asm.store(4, S4, S2),
    asm.j("wait"),
)

DEVICE_DELETED = "DEVICE_DELETED"


@pytest.fixture(params=["daemon", "reference"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A machine with the guest and a root port, in qemud and in QEMU."""
    path = tmp_path / "guest"
    path.write_bytes(GUEST)
    starter: Starter = request.getfixturevalue(request.param)

    def run(*options: str) -> Program:
        board = ("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-bios", str(path))
        port = ("-device", "pcie-root-port,id=rp0,chassis=1")
        program = starter(*board, *port, *options, serial=True)
        program.serial.expect("+")
        return program

    return run


def plug(program: Program, name: str, **more: str) -> None:
    program.qmp.command("device_add", driver="virtio-rng-pci", bus="rp0", id=name, **more)


def gone(program: Program, name: str) -> None:
    """The device behind the function goes first, then the function."""
    path = f"/machine/peripheral/{name}"
    assert program.qmp.event(DEVICE_DELETED)["data"] == {"path": f"{path}/virtio-backend"}
    assert program.qmp.event(DEVICE_DELETED)["data"] == {"device": name, "path": path}


def refused(program: Program, command: str, text: str, **arguments: str) -> None:
    with pytest.raises(QmpError) as error:
        program.qmp.command(command, **arguments)
    assert str(error.value) == text


def test_a_device_comes_and_goes_and_comes_again(start: Any) -> None:
    program = start()
    for turn in range(3):
        name = f"r{turn}"
        plug(program, name)
        program.serial.expect("P")
        bridge = program.qmp.command("query-pci")[0]["devices"][1]["pci_bridge"]
        assert [device["qdev_id"] for device in bridge["devices"]] == [name]
        program.qmp.command("device_del", id=name)
        program.serial.expect("B")
        program.serial.send(b"y")
        program.serial.expect("O")
        gone(program, name)
        assert program.qmp.command("query-pci")[0]["devices"][1]["pci_bridge"]["devices"] == []
        refused(program, "device_del", f"Device '{name}' not found", id=name)


def test_a_device_that_was_there_from_the_first(start: Any) -> None:
    program = start("-device", "virtio-rng-pci,bus=rp0,id=cold")
    program.qmp.command("device_del", id="cold")
    program.serial.expect("B")
    program.serial.send(b"y")
    program.serial.expect("O")
    gone(program, "cold")
    plug(program, "warm")
    program.serial.expect("P")


def test_while_a_device_is_asked_to_leave(start: Any) -> None:
    program = start("-device", "virtio-rng-pci,bus=rp0,id=cold")
    program.qmp.command("device_del", id="cold")
    program.serial.expect("B")
    refused(program, "device_del", "Device cold is already in the process of unplug", id="cold")
    refused(
        program,
        "device_add",
        "PCI: slot 0 function 0 already occupied by virtio-rng-pci, "
        "new func virtio-rng-pci cannot be exposed to guest.",
        driver="virtio-rng-pci",
        bus="rp0",
        addr="0.1",
    )
    program.serial.send(b"y")
    gone(program, "cold")


def test_a_slot_that_is_off_is_emptied_at_once(start: Any) -> None:
    """The guest is stopped, so that it does not get to switch it on."""
    program = start()
    program.qmp.command("stop")
    plug(program, "r0")
    program.qmp.command("device_del", id="r0")
    gone(program, "r0")


def test_functions_come_with_function_0_and_go_together(start: Any) -> None:
    program = start()
    program.qmp.command("device_add", driver="virtio-rng-pci", bus="rp0", id="second", addr="0.1")
    program.qmp.command("device_del", id="second")
    gone(program, "second")
    program.qmp.command("device_add", driver="virtio-rng-pci", bus="rp0", id="second", addr="0.1")
    program.qmp.command(
        "device_add", driver="virtio-rng-pci", bus="rp0", id="first", addr="0.0", multifunction=True
    )
    program.serial.expect("P")
    program.qmp.command("device_del", id="second")
    program.serial.expect("B")
    program.serial.send(b"y")
    named = [program.qmp.event(DEVICE_DELETED)["data"].get("device") for _ in range(4)]
    assert sorted(filter(None, named)) == ["first", "second"]


def test_a_guest_that_keeps_the_device(start: Any, request: pytest.FixtureRequest) -> None:
    program = start("-device", "virtio-rng-pci,bus=rp0,id=cold")
    program.qmp.command("device_del", id="cold")
    program.serial.expect("B")
    program.serial.send(b"n")
    program.serial.expect("R")
    if "daemon" in request.node.name:
        # QEMU does not tell, and makes who asks again wait for five seconds.
        data = program.qmp.event("DEVICE_UNPLUG_GUEST_ERROR")["data"]
        assert data == {"device": "cold", "path": "/machine/peripheral/cold"}
        program.qmp.command("device_del", id="cold")
        program.serial.expect("B")
        program.serial.send(b"y")
        gone(program, "cold")
