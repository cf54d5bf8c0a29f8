"""Disks and ports that come and go while Linux runs, as its own drivers see them."""

from __future__ import annotations

import hashlib
import socket
from typing import TYPE_CHECKING

import pytest

from tests.guests.disk import COMPILER
from tests.programs import LIMIT
from tests.system.debian import drive, small
from tests.system.linux import run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.system, pytest.mark.needs(COMPILER)]

TIMES = 10
MIB = 1 << 20
DATA = b"".join(b"%d\n" % number for number in range(1, 20001))


def ready(program: Program) -> None:
    shell(program)
    run(program, "drivers")


def wait_for(program: Program, condition: str) -> None:
    """Until a shell's test succeeds in the guest."""
    run(program, f"until {condition}; do sleep 0.05; done")


def test_disks(daemon: Starter, tmp_path: Path) -> None:
    """A disk is plugged in, written, pulled out, and then the next; what was written is in its file."""
    program = daemon(*small("-device", "virtio-scsi-device,id=scsi"), serial=True)
    ready(program)
    for number in range(TIMES):
        image = tmp_path / f"{number}.img"
        image.write_bytes(bytes([number]) * MIB)
        node = {"driver": "file", "node-name": f"file{number}", "filename": str(image)}
        program.qmp.command("blockdev-add", node)
        disk = {
            "driver": "scsi-hd",
            "id": "disk",
            "bus": "scsi.0",
            "drive": f"file{number}",
            "serial": f"S{number}",
        }
        program.qmp.command("device_add", disk)
        wait_for(program, "[ -b /dev/sda ]")
        assert run(program, f"head -c 1048576 /dev/sda | tr -d '\\{number:03o}' | wc -c") == ["0"]
        run(
            program,
            f"echo from the guest {number} | dd of=/dev/sda bs=512 seek=8 conv=sync,fsync 2> /dev/null",
        )
        program.qmp.command("device_del", id="disk")
        assert program.qmp.event("DEVICE_DELETED")["data"]["device"] == "disk"
        wait_for(program, "[ ! -e /dev/sda ]")
        program.qmp.command("blockdev-del", {"node-name": f"file{number}"})
        written = image.read_bytes()
        assert written[4096:4608] == f"from the guest {number}\n".encode().ljust(512, b"\0")
        assert written[:4096] == bytes([number]) * 4096
    assert run(program, "dmesg | grep -c -e 'I/O error' -e 'BUG:' -e 'Oops'") == ["0"]


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


def test_ports(daemon: Starter) -> None:
    """A port is plugged in under a name, by which programs in the guest find it, carries data both ways, and is pulled out."""
    program = daemon(*small("-device", "virtio-serial-device,id=serial"), serial=True)
    ready(program)
    for number in range(TIMES):
        here = chardev(program, f"port{number}")
        with here:
            port = {"driver": "virtserialport", "id": "port", "bus": "serial.0", "chardev": f"port{number}"}
            program.qmp.command("device_add", {**port, "name": f"org.test.{number}"})
            wait_for(program, f"grep -qs -x org.test.{number} /sys/class/virtio-ports/*/name")
            [name] = run(program, "ls /sys/class/virtio-ports")
            # One opening for both directions: a port has one user.
            program.serial.send(
                f"exec 3<>/dev/{name}; seq 20000 >&3; head -c {len(DATA)} <&3 | sha256sum; exec 3>&-\r".encode()
            )
            got = b""
            while len(got) < len(DATA):
                got += here.recv(1 << 16)
            assert got == DATA
            here.sendall(DATA)
            program.serial.expect(hashlib.sha256(DATA).hexdigest())
            shell(program)
            program.qmp.command("device_del", id="port")
            assert program.qmp.event("DEVICE_DELETED")["data"]["device"] == "port"
            wait_for(program, f"[ ! -e /dev/{name} ]")
            program.qmp.command("chardev-remove", id=f"port{number}")
    assert run(program, "dmesg | grep -c -e 'BUG:' -e 'Oops'") == ["0"]


def chardev(program: Program, name: str) -> socket.socket:
    """Add a chardev that is connected to a socket of ours."""
    here, there = socket.socketpair()
    here.settimeout(LIMIT)
    with there:
        request = b'{"execute": "getfd", "arguments": {"fdname": "port"}}\n'
        socket.send_fds(program.qmp.socket, [request], [there.fileno()])
        assert program.qmp.reply() == {"return": {}}
    address = {"type": "fd", "data": {"str": "port"}}
    backend = {"type": "socket", "data": {"addr": address, "server": False}}
    program.qmp.command("chardev-add", {"id": name, "backend": backend})
    return here
