"""A disk that is pulled out of a running Linux while it writes as fast as it can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.guests.disk import COMPILER
from tests.system.debian import drive, small
from tests.system.linux import run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.system, pytest.mark.needs(COMPILER)]

TIMES = 10
MIB = 1 << 20


def ready(program: Program) -> None:
    shell(program)
    run(program, "drivers")


def wait_for(program: Program, condition: str) -> None:
    """Until a shell's test succeeds in the guest."""
    run(program, f"until {condition}; do sleep 0.05; done")


def test_a_disk_is_pulled_out_under_load(daemon: Starter, tmp_path: Path) -> None:
    """The guest's programs get errors, and nothing else suffers."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(64 * MIB))
    disk = {"driver": "scsi-hd", "id": "disk", "bus": "scsi.0", "drive": "disk"}
    program = daemon(*small(*drive(image, name="disk"), "-device", "virtio-scsi-device,id=scsi"), serial=True)
    ready(program)
    for _ in range(TIMES):
        program.qmp.command("device_add", disk)
        wait_for(program, "[ -b /dev/sda ]")
        program.serial.send(b"diskload randwrite /dev/sda 16 4096 10000000\r")
        program.serial.expect("LOAD begin\r\n")
        program.qmp.command("device_del", id="disk")
        program.qmp.event("DEVICE_DELETED")
        program.serial.expect("LOAD failed")
        shell(program)
        wait_for(program, "[ ! -e /dev/sda ]")
    assert run(program, "dmesg | grep -c -e 'BUG:' -e 'Oops'") == ["0"]
