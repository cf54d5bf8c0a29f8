"""Debian with systemd from its own disk: to a login, everything running, and off again with a clean file system."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.guests.disk import NEEDS, copy, debian
from tests.system.debian import (
    ROOT_DISK,
    boot,
    check_file_system,
    check_image,
    drive,
    login,
    power_off,
    to_raw,
)
from tests.system.linux import run
from tests.system.repository import CONTENT, PACKAGE, PATH, served

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


def test_from_a_qcow2_image_with_a_network(daemon: Starter, tmp_path: Path) -> None:
    """It gets an address, and a package from an archive on the host."""
    image = copy(debian().qcow2, tmp_path)
    net = ("-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net")
    program = daemon(*boot(*drive(image, "qcow2"), *ROOT_DISK, *net), serial=True)
    login(program)
    is_running_well(program)
    run(program, "/usr/lib/systemd/systemd-networkd-wait-online --ipv4 --timeout 60")
    [address] = run(program, "ip -color=never -4 -oneline address show scope global")
    assert "10.0.2.15/24" in address
    assert "default via 10.0.2.2" in run(program, "ip -color=never route")[0]
    with served(tmp_path / "archive") as (port, asked):
        run(program, f"echo deb [trusted=yes] http://10.0.2.2:{port} ./ > /etc/apt/sources.list")
        assert run(program, "apt-get -qq update; echo status $?")[-1] == "status 0"
        assert run(program, f"apt-get -qq install {PACKAGE} > log 2>&1; echo status $?")[-1] == "status 0"
        assert f"/./{PACKAGE}_1.0_all.deb" in asked
    assert run(program, f"cat /{PATH}") == [CONTENT.strip()]
    assert run(program, "seq 1000000 | tee /root/numbers | sha256sum") == [f"{SUM}  -"]
    power_off(program)
    check_image(image)
    check_file_system(to_raw(image))
