"""Debian's kernel as tests boot it: options, the prompt, and how commands are typed there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qemud.demo.debian import PROMPT, Guest
from tests.guests import linux

if TYPE_CHECKING:
    from tests.programs import Program

OPENSBI = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic")
UBOOT = Path("/usr/lib/u-boot")


def board(*options: str, memory: int = 256) -> tuple[str, ...]:
    """The machine without a kernel."""
    return ("-machine", "virt", "-m", str(memory), "-display", "none", *options)


def kernel(*options: str, append: str = "console=ttyS0", guest: Guest | None = None) -> tuple[str, ...]:
    """The machine with Debian's kernel and the initramfs of `tests.guests`."""
    guest = guest or linux()
    return board("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", append, *options)


def shell(program: Program) -> None:
    """Wait for the guest's prompt."""
    program.serial.expect(PROMPT)


def run(program: Program, command: str) -> list[str]:
    """What a command typed at the guest's prompt prints."""
    return program.serial.command(command, prompt=PROMPT)


def ping(program: Program, address: str, times: int = 3) -> None:
    """The guest hears from an address so many times.

    Each packet has a process of its own: one that has heard an answer waits for the next for a second only.
    """
    for _ in range(times):
        said = "\n".join(run(program, f"ping -c 1 -W 60 {address}"))
        assert "1 packets received" in said, said
