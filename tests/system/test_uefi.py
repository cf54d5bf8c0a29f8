"""EDK2 from flash memory: it runs, finds what is on the PCI bus, and remembers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.guests.firmware import edk2
from tests.system.linux import board, kernel, shell
from tests.system.linux import run as run_linux

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.system

PROMPT = "Shell> "
VARIABLE = "setvar Kept -guid 9b1a9a5e-6d6e-4a5c-9d53-0c2f1c0a5b77"


def run(program: Program, command: str, text: str) -> None:
    """Type a command in the firmware's shell, and wait for what it says."""
    program.serial.send(command.encode() + b"\r")
    program.serial.expect(text)


def test_to_its_shell_and_again_with_what_it_remembers(daemon: Starter, tmp_path: Path) -> None:
    firmware = edk2()
    variables = tmp_path / "variables"
    shutil.copyfile(firmware.variables, variables)
    options = (
        *("-blockdev", f"driver=file,node-name=code,read-only=on,filename={firmware.code}"),
        *("-blockdev", f"driver=file,node-name=variables,filename={variables}"),
        *("-machine", "pflash0=code,pflash1=variables"),
        *("-device", "virtio-rng-pci"),
    )
    for turn in range(2):
        program = daemon(*board(*options, memory=512), serial=True)
        program.serial.expect("in 5 seconds to skip")
        program.serial.send(b"\x1b")
        program.serial.expect(PROMPT)
        if turn:
            run(program, VARIABLE, "12 34 56")
        else:
            run(program, f"{VARIABLE} -nv -bs =123456", PROMPT)
        run(program, "pci", "Vendor 1AF4 Device 1005")
        program.serial.send(b"reset -s\r")
        assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
        assert program.wait() == 0


def test_it_boots_the_kernel_that_it_is_told_of(daemon: Starter, tmp_path: Path) -> None:
    firmware = edk2()
    variables = tmp_path / "variables"
    shutil.copyfile(firmware.variables, variables)
    program = daemon(
        *kernel(
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={firmware.code}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
            *("-m", "512"),
            append="console=ttyS0 by=edk2",
        ),
        serial=True,
    )
    shell(program)
    assert "by=edk2" in run_linux(program, "cat /proc/cmdline")[-1]
    assert "efi" in " ".join(run_linux(program, "ls /sys/firmware"))
    program.serial.send(b"poweroff -f\r")
    assert program.qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
