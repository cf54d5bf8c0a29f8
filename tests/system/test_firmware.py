"""Debian's firmware in M-mode: OpenSBI with a kernel, OpenSBI with U-Boot, U-Boot by itself."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.guests import STRESS_HASH
from tests.system.linux import OPENSBI, UBOOT, board, kernel, run, shell

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.system

PROMPT = "=> "


@pytest.mark.parametrize("firmware", ["fw_jump.bin", "fw_jump.elf", "fw_dynamic.bin", "fw_dynamic.elf"])
def test_opensbi_boots_debian(daemon: Starter, firmware: str) -> None:
    program = daemon(*kernel("-bios", str(OPENSBI / firmware)), serial=True)
    program.serial.expect(re.compile(r"Platform Name +: riscv-virtio,qemu"))
    shell(program)
    assert "OpenSBI v1" in program.serial.log.decode()
    assert "SBI implementation ID=0x1 " in "\n".join(run(program, "dmesg | grep 'SBI impl'"))
    assert run(program, "stress 1")[0] == f"STRESS 1 {STRESS_HASH}"
    program.serial.send(b"poweroff -f\r")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert program.wait() == 0


def stop_at_prompt(program: Program) -> None:
    """U-Boot waits two seconds for a key before it boots something."""
    program.serial.expect("Hit any key to stop autoboot")
    program.serial.send(b" ")
    program.serial.expect(PROMPT)


def ask(program: Program, command: str) -> str:
    return "\n".join(program.serial.command(command, prompt=PROMPT))


@pytest.mark.parametrize(
    "firmware", [("-bios", str(OPENSBI / "fw_jump.bin")), ("-bios", str(OPENSBI / "fw_dynamic.bin")), ()]
)
def test_u_boot_in_s_mode(daemon: Starter, firmware: tuple[str, ...]) -> None:
    """Over OpenSBI, which hands over as it was built to, and over the built-in firmware."""
    program = daemon(*board(*firmware, "-kernel", str(UBOOT / "qemu-riscv64_smode/u-boot.bin")), serial=True)
    stop_at_prompt(program)
    assert "U-Boot 20" in ask(program, "version")
    told = ask(program, "bdinfo")
    assert "-> start    = 0x0000000080000000" in told
    assert "-> size     = 0x0000000010000000" in told
    assert "serial@10000000 00000007 IO stdin stdout stderr" in ask(program, "coninfo")
    program.serial.send(b"reset\r")
    assert program.qmp.event("RESET")["data"] == {"guest": True, "reason": "guest-reset"}
    stop_at_prompt(program)
    program.serial.send(b"poweroff\r")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert program.wait() == 0


def test_u_boot_in_m_mode(daemon: Starter) -> None:
    program = daemon(*board("-bios", str(UBOOT / "qemu-riscv64/u-boot.bin")), serial=True)
    stop_at_prompt(program)
    assert "U-Boot 20" in ask(program, "version")
    assert "rv64imafdc" in ask(program, "cpu list")
    ask(program, "mw.l 0x80800000 0x12345678 0x40000")
    program.serial.send(b"crc32 0x80800000 0x100000\r")
    right = zlib.crc32((0x12345678).to_bytes(4, "little") * 0x40000)
    program.serial.expect(f"==> {right:08x}\r\n{PROMPT}")
    program.serial.send(b"poweroff\r")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert program.wait() == 0
