"""Debian with systemd from its own disk: to a login, everything running, and off again with a clean file system."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.guests.disk import NEEDS, copy, debian
from tests.system.debian import ROOT_DISK, boot, check_file_system, drive, login, power_off
from tests.system.linux import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.system, pytest.mark.needs(*NEEDS)]


NUMBERS = "".join(f"{number}\n" for number in range(1, 1000001)).encode()
SUM = hashlib.sha256(NUMBERS).hexdigest()


def is_running_well(program: Program) -> None:
    """Every unit has started, nothing is wrong with the kernel, and the files are those of the packages."""
    assert run(program, "systemctl is-system-running --wait") == ["running"]
    assert run(program, "systemctl list-units --failed --no-legend") == []
    assert run(program, "dmesg | grep -c -e 'Oops' -e 'BUG:' -e 'I/O error' -e 'EXT4-fs error'") == ["0"]
    # Files that were read at boot are read once more, from the disk.
    assert (
        run(program, "echo 3 > /proc/sys/vm/drop_caches; cd /; sha256sum --quiet --check root/sums; cd") == []
    )


def test_from_a_raw_image_and_again_after_a_reset(daemon: Starter, tmp_path: Path) -> None:
    """What was flushed is there after a reset in the middle of writes, which harms nothing."""
    image = copy(debian().raw, tmp_path)
    program = daemon(*boot(*drive(image), *ROOT_DISK), serial=True)
    login(program)
    is_running_well(program)
    assert run(program, "seq 1000000 | tee /root/numbers | sha256sum; sync") == [f"{SUM}  -"]
    program.serial.send(b"while true; do cp /usr/bin/perl /root/copy; sync; done\r")
    program.serial.expect("done\r\n")
    program.qmp.command("system_reset")
    login(program)
    assert run(program, "sha256sum /root/numbers") == [f"{SUM}  /root/numbers"]
    power_off(program)
    check_file_system(image)
