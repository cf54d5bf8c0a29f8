"""Kernels and firmware in other shapes: ELF files, ours and U-Boot's."""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING

import pytest

from qemud.demo import DEMO_GUEST
from tests.system.linux import UBOOT, board

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

pytestmark = pytest.mark.system

ADDRESS = 0x8020_0000
VIRTUAL = 0xFFFF_FFFF_8000_0000


def elf(code: bytes, kind: int = 2) -> bytes:
    """A program of one segment, linked for a virtual address that it does not run at; with room for its data behind."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        kind,
        243,
        1,
        VIRTUAL,
        64,
        0,
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, 7, 4096, VIRTUAL, ADDRESS, len(code), len(code) + (1 << 20), 4096)
    return (header + segment).ljust(4096, b"\0") + code


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "compressed"])
@pytest.mark.parametrize("bios", [(), ("-bios", "default")], ids=["", "default"])
def test_the_embedded_guest_as_an_elf_file(
    daemon: Starter, tmp_path: Path, pack: type[bytes], bios: tuple[str, ...]
) -> None:
    file = tmp_path / "demo.elf"
    file.write_bytes(pack(elf(DEMO_GUEST.read_bytes())))
    program = daemon(*board(*bios, "-kernel", str(file), "-append", "as ELF", memory=32), serial=True)
    program.serial.expect("command line: as ELF\r\n")
    program.serial.expect("demo> ")
    assert program.serial.command("sum 2")[-1].endswith("2 of 2 right")


def test_the_embedded_guest_as_a_raw_image_behind_firmware(daemon: Starter) -> None:
    """OpenSBI that was built to jump to 2 MiB behind the beginning of RAM finds the kernel there.

    It moves the device tree to 34 MiB, and would end in a fault with less memory.
    """
    firmware = "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.bin"
    program = daemon(*board("-bios", firmware, "-kernel", str(DEMO_GUEST), memory=64), serial=True)
    program.serial.expect("demo> ")
    program.serial.send(b"poweroff\r")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert program.wait() == 0


@pytest.mark.parametrize(
    ("option", "flavour"), [("-kernel", "qemu-riscv64_smode"), ("-bios", "qemu-riscv64")]
)
def test_u_boots_elf_file(daemon: Starter, option: str, flavour: str) -> None:
    program = daemon(*board(option, str(UBOOT / flavour / "uboot.elf"), memory=64), serial=True)
    program.serial.expect("U-Boot 20")
    program.serial.expect("DRAM:  64 MiB")
