"""Debian with systemd on a disk of its own, as tests boot it; `run` of `tests.system.linux` types commands there, too."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from qemud.demo.debian import PROMPT
from tests.guests.disk import LOGIN, debian, shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.programs import Program

PATIENCE = 600.0
"""Seconds for a boot with systemd, on a machine that has other things to do."""

_LIMITS = "systemd.default_timeout_start_sec=600 systemd.default_device_timeout_sec=600"
"""The guest itself is as patient."""

ROOT_DISK = ("-device", "virtio-blk-device,drive=root")


def drive(image: Path, driver: str = "raw", name: str = "root") -> tuple[str, ...]:
    """An image file as block node `name`."""
    file = f"driver=file,filename={image},node-name={name}-file"
    return ("-blockdev", file, "-blockdev", f"driver={driver},file={name}-file,node-name={name}")


def boot(*options: str, memory: int = 512, append: str = "console=ttyS0 TERM=dumb quiet") -> tuple[str, ...]:
    """The machine with the kernel that mounts its root from a disk; `options` have the disk."""
    guest = debian()
    return _board(guest.kernel, guest.initrd, f"{append} {_LIMITS}", memory, options)


def small(*options: str, memory: int = 256) -> tuple[str, ...]:
    """The machine with the shell in RAM that has drivers for disks, networks and ports."""
    guest = shell()
    return _board(guest.kernel, guest.initrd, "console=ttyS0 quiet", memory, options)


def _board(kernel: Path, initrd: Path, append: str, memory: int, options: tuple[str, ...]) -> tuple[str, ...]:
    board = ("-machine", "virt", "-m", str(memory), "-display", "none")
    return (*board, "-kernel", str(kernel), "-initrd", str(initrd), "-append", append, *options)


def login(program: Program) -> None:
    """Wait until systemd has started what belongs to a login, and log in as root."""
    program.serial.expect(LOGIN, PATIENCE)
    program.serial.send(b"root\r")
    program.serial.expect(PROMPT)


def power_off(program: Program) -> None:
    """The guest ends itself, and the emulator after it."""
    program.serial.send(b"poweroff\r")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert program.wait() == 0


def check_file_system(image: Path) -> None:
    """The ext4 file system in a raw image is clean."""
    done = subprocess.run(["/sbin/fsck.ext4", "-fn", str(image)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def check_image(image: Path) -> None:
    """qemu-img finds neither errors nor leaks."""
    done = subprocess.run(["qemu-img", "check", str(image)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def to_raw(image: Path) -> Path:
    """What a guest sees of an image, as a raw one beside it."""
    raw = image.with_suffix(".as-raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image), str(raw)], check=True)
    return raw
