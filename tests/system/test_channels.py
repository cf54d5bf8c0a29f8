"""Linux and what comes and goes while it runs: disks on a SCSI bus, serial ports; CDs, and memory given back."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.guests.disk import shell as shell_guest
from tests.programs import QmpError
from tests.system.embed import Embedded
from tests.system.linux import kernel, run, shell

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.system

MIB = 1 << 20
SIZE = 8 * MIB
MODERN = ("-global", "virtio-mmio.force-legacy=false")
SCSI = ("-device", "virtio-scsi-device,id=scsi0")
PATIENCE = 60
MESSAGE = random.Random(1).randbytes(200_000)


def boot(starter: Starter, *options: str) -> Program:
    program = starter(*kernel(*options, append="console=ttyS0 quiet", guest=shell_guest()), serial=True)
    shell(program)
    run(program, "drivers")
    return program


def image(folder: Path, name: str, size: int = SIZE) -> tuple[Path, bytes]:
    """A file with random content."""
    content = random.Random(name).randbytes(size)
    path = folder / name
    path.write_bytes(content)
    return path, content


def add_node(program: Program, path: Path, name: str, **more: Any) -> None:
    """As libvirt does it: two nodes."""
    program.qmp.command(
        "blockdev-add",
        {
            "driver": "file",
            "filename": str(path),
            "aio": "threads",
            "node-name": f"{name}-storage",
            "cache": {"direct": False, "no-flush": False},
            "auto-read-only": True,
            "discard": "unmap",
        },
    )
    program.qmp.command(
        "blockdev-add",
        {
            "node-name": f"{name}-format",
            "read-only": False,
            "discard": "unmap",
            "driver": "raw",
            "file": f"{name}-storage",
            **more,
        },
    )


def add_disk(program: Program, name: str, target: int = 0, device: str | None = None) -> None:
    program.qmp.command(
        "device_add",
        {
            "driver": "scsi-hd",
            "bus": "scsi0.0",
            "channel": 0,
            "scsi-id": target,
            "lun": 0,
            "device_id": "ABC",
            "drive": f"{name}-format",
            "id": device or f"scsi0-0-0-{target}",
            "write-cache": "on",
            "serial": "ABC",
        },
    )


def until(program: Program, command: str, expected: Callable[[list[str]], bool]) -> list[str]:
    """Type a command until it says what is expected."""
    end = time.monotonic() + PATIENCE
    while True:
        found = run(program, command)
        if expected(found) or time.monotonic() > end:
            assert expected(found), found
            return found


@pytest.mark.parametrize("slot", [(), MODERN], ids=["legacy", "modern"])
def test_disks_come_and_go(daemon: Starter, tmp_path: Path, slot: tuple[str, ...]) -> None:
    path, content = image(tmp_path, "disk")
    other, _ = image(tmp_path, "other", MIB)
    program = boot(daemon, *slot, *SCSI)
    add_node(program, path, "n1")
    add_node(program, other, "n2")
    for turn in range(3):
        add_disk(program, "n1")
        until(program, "ls -1 /sys/block", lambda names: "sda" in names)
        assert run(program, "cat /sys/block/sda/size") == [str(SIZE // 512)]
        assert [
            word.strip()
            for word in run(program, "cat /sys/block/sda/device/vendor /sys/block/sda/device/model")
        ] == [
            "QEMU",
            "QEMU HARDDISK",
        ]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert run(program, "sha256sum /dev/sda")[-1].split()[0] == digest
        with pytest.raises(QmpError, match="Node n1-format is in use"):
            program.qmp.command("blockdev-del", {"node-name": "n1-format"})
        with pytest.raises(QmpError, match="lun already used by 'scsi0-0-0-0'"):
            add_disk(program, "n2", device="another")
        run(program, f"dd if=/dev/zero of=/dev/sda bs=4k count=8 seek={16 * turn} conv=fsync")
        program.qmp.command("device_del", id="scsi0-0-0-0")
        assert program.qmp.event("DEVICE_DELETED")["data"] == {
            "device": "scsi0-0-0-0",
            "path": "/machine/peripheral/scsi0-0-0-0",
        }
        until(program, "ls -1 /sys/block", lambda names: "sda" not in names)
    expected = b"".join(
        bytes(8 * 4096) + content[(16 * turn + 8) * 4096 : (16 * turn + 16) * 4096] for turn in range(3)
    )
    assert path.read_bytes()[: 48 * 4096] == expected
    program.qmp.command("blockdev-del", {"node-name": "n1-format"})
    program.qmp.command("blockdev-del", {"node-name": "n1-storage"})


def test_a_disk_is_pulled_out_while_it_is_read(daemon: Starter, tmp_path: Path) -> None:
    path, _ = image(tmp_path, "disk")
    program = boot(daemon, *MODERN, *SCSI)
    add_node(program, path, "n1")
    for _ in range(5):
        add_disk(program, "n1", 3)
        until(program, "ls -1 /sys/block", lambda names: "sda" in names)
        run(program, "(while dd if=/dev/sda of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done) &")
        program.qmp.command("device_del", id="scsi0-0-0-3")
        program.qmp.event("DEVICE_DELETED")
        until(program, "ls -1 /sys/block", lambda names: "sda" not in names)
        run(program, "wait")
    assert run(program, "echo still here") == ["still here"]


def test_another_size_and_discarding(daemon: Starter, tmp_path: Path) -> None:
    path, _ = image(tmp_path, "disk")
    program = boot(daemon, *MODERN, *SCSI)
    add_node(program, path, "n1")
    add_disk(program, "n1")
    until(program, "ls -1 /sys/block", lambda names: "sda" in names)
    program.qmp.command("block_resize", {"node-name": "n1-format", "size": 2 * SIZE})
    until(program, "cat /sys/block/sda/size", lambda lines: lines == [str(2 * SIZE // 512)])
    assert run(program, "cat /sys/block/sda/queue/discard_granularity") == ["4096"]
    before = os.stat(path).st_blocks
    run(program, "blkdiscard -o 0 -l 4194304 /dev/sda")
    assert os.stat(path).st_blocks <= before - 4 * MIB // 512
    assert path.read_bytes()[: 4 * MIB] == bytes(4 * MIB)


def test_media_change(daemon: Starter, tmp_path: Path) -> None:
    first, content = image(tmp_path, "first.iso")
    second, other = image(tmp_path, "second.iso", 2 * MIB)
    program = boot(
        daemon,
        *MODERN,
        *SCSI,
        *("-drive", f"file={first},format=raw,if=none,id=cd,media=cdrom,readonly=on"),
        *("-device", "scsi-cd,drive=cd,id=cd0,bus=scsi0.0"),
    )
    until(program, "ls -1 /sys/block", lambda names: "sr0" in names)
    assert run(program, "sha256sum /dev/sr0")[-1].split()[0] == hashlib.sha256(content).hexdigest()
    qmp = program.qmp
    qmp.command("blockdev-open-tray", {"id": "cd0", "force": False})
    assert qmp.event("DEVICE_TRAY_MOVED")["data"] == {"device": "cd", "id": "cd0", "tray-open": True}
    qmp.command("blockdev-remove-medium", {"id": "cd0"})
    add_node(program, second, "n2", **{"read-only": True})
    qmp.command("blockdev-insert-medium", {"id": "cd0", "node-name": "n2-format"})
    qmp.command("blockdev-close-tray", {"id": "cd0"})
    assert qmp.event("DEVICE_TRAY_MOVED")["data"]["tray-open"] is False
    digest = hashlib.sha256(other).hexdigest()
    until(program, "sha256sum /dev/sr0", lambda lines: bool(lines) and lines[-1].split()[0] == digest)


def connect(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.settimeout(PATIENCE)
    found.connect(str(path))
    return found


def receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        assert more, data
        data += more
    return data


def test_ports_come_and_go(daemon: Starter, tmp_path: Path) -> None:
    program = boot(daemon, *MODERN, "-device", "virtio-serial-device,id=virtio-serial0")
    qmp = program.qmp
    path = tmp_path / "agent"
    for _ in range(3):
        qmp.command(
            "chardev-add",
            {
                "id": "charchannel1",
                "backend": {
                    "type": "socket",
                    "data": {
                        "addr": {"type": "unix", "data": {"path": str(path)}},
                        "wait": False,
                        "server": True,
                    },
                },
            },
        )
        qmp.command(
            "device_add",
            {
                "driver": "virtserialport",
                "bus": "virtio-serial0.0",
                "nr": 2,
                "chardev": "charchannel1",
                "id": "channel1",
                "name": "org.qemu.guest_agent.0",
            },
        )
        until(
            program,
            "cat /sys/class/virtio-ports/*/name 2>/dev/null",
            lambda lines: lines == ["org.qemu.guest_agent.0"],
        )
        [name] = run(program, "ls -1 /sys/class/virtio-ports")
        with connect(path) as connection:
            run(program, f"rm -f /ended; (cat /dev/{name} > /received; echo yes > /ended) & sleep 1")
            while qmp.event("VSERPORT_CHANGE")["data"] != {"id": "channel1", "open": True}:
                pass  # not more often than once a second, so the one before may come late
            connection.sendall(MESSAGE)
            until(program, "wc -c < /received", lambda lines: lines == [str(len(MESSAGE))])
            assert run(program, "sha256sum /received")[-1].split()[0] == hashlib.sha256(MESSAGE).hexdigest()
        # The one at the other end has gone, and so the reading ends; another one comes.
        until(program, "cat /ended", lambda lines: lines == ["yes"])
        with connect(path) as connection:
            run(program, f"echo hello > /dev/{name}")
            assert receive(connection, 6) == b"hello\n"
        qmp.command("device_del", id="channel1")
        assert qmp.event("DEVICE_DELETED")["data"]["device"] == "channel1"
        qmp.command("chardev-remove", id="charchannel1")
        until(program, "ls -1 /sys/class/virtio-ports", lambda lines: lines == [])


def test_a_console_of_its_own(daemon: Starter, tmp_path: Path) -> None:
    path = tmp_path / "console"
    program = boot(
        daemon,
        *MODERN,
        *("-chardev", f"socket,id=c0,path={path},server=on,wait=off"),
        *("-device", "virtio-serial-device", "-device", "virtconsole,chardev=c0"),
    )
    with connect(path) as connection:
        until(program, "ls /dev/hvc0", lambda lines: lines == ["/dev/hvc0"])
        run(program, "(while read line; do echo got $line; done) < /dev/hvc0 > /dev/hvc0 &")
        connection.sendall(b"one\n")
        seen = b""
        while b"got one" not in seen:
            seen += connection.recv(100)
        run(program, "(seq 1 10000 > /dev/hvc0) &")
        while b"10000" not in seen:
            seen += connection.recv(65536)
        numbers = [int(word) for word in seen.split(b"got one")[1].split()]
        assert numbers == list(range(1, 10001)), "nothing is lost while somebody reads"
        # Nobody does: the kernel goes on all the same.
        assert "done" in run(program, "seq 1 40000 > /dev/hvc0; echo done")


def figure(program: Program, name: str) -> int:
    stats = program.qmp.command("qom-get", path="/machine/peripheral/b0", property="guest-stats")
    value: int = stats["stats"][name]
    return value


def test_memory_is_given_back(daemon: Starter) -> None:
    program = boot(
        daemon, *MODERN, "-device", "virtio-balloon-device,id=b0,deflate-on-oom=on,free-page-reporting=on"
    )
    qmp = program.qmp
    assert qmp.command("query-balloon") == {"actual": 256 * MIB}
    qmp.command("qom-set", path="/machine/peripheral/b0", property="guest-stats-polling-interval", value=1)
    end = time.monotonic() + PATIENCE
    while figure(program, "stat-total-memory") == (1 << 64) - 1:
        assert time.monotonic() < end
    assert 150 * MIB < figure(program, "stat-total-memory") < 256 * MIB
    run(program, "dd if=/dev/urandom of=/tmp/filled bs=1M count=64 2>/dev/null; rm /tmp/filled; sync")
    qmp.command("balloon", value=128 * MIB)
    while qmp.command("query-balloon")["actual"] != 128 * MIB:
        assert time.monotonic() < end
        qmp.event("BALLOON_CHANGE")
    status = Path(f"/proc/{program.process.pid}/smaps").read_text()
    held = sum(
        int(line.split()[1])
        for block in status.split("VmFlags")
        if "memfd:" in block
        for line in block.splitlines()
        if line.startswith("Rss:")
    )
    assert held <= 128 * 1024, "KiB, of the guest's memory"
    assert run(program, "echo still here") == ["still here"]
    qmp.command("balloon", value=256 * MIB)
    while qmp.command("query-balloon")["actual"] != 256 * MIB:
        assert time.monotonic() < end
        qmp.event("BALLOON_CHANGE")
    run(program, "dd if=/dev/zero of=/tmp/filled bs=1M count=100 2>/dev/null; sha256sum /tmp/filled")
    assert run(program, "echo still here") == ["still here"]


def test_saved_and_loaded(tmp_path: Path) -> None:
    """In another process: the drivers go on with their disks, ports and memory."""
    path, content = image(tmp_path, "disk")
    digest = hashlib.sha256(content).hexdigest()
    options = kernel(
        *MODERN,
        *("-drive", f"file={path},format=raw,if=none,id=d0", *SCSI, "-device", "scsi-hd,drive=d0,id=hd"),
        *("-device", "scsi-cd,id=cd", "-chardev", "null,id=n0", "-device", "virtio-serial-device"),
        *("-device", "virtserialport,chardev=n0,name=a,id=p0", "-device", "virtio-balloon-device,id=b0"),
        append="console=ttyS0 quiet",
        guest=shell_guest(),
    )
    program = Embedded(*options, serial=True)
    shell(program)
    run(program, "drivers")
    assert run(program, "sha256sum /dev/sda")[-1].split()[0] == digest
    program.qmp.command("balloon", value=200 * MIB)
    while program.qmp.command("query-balloon")["actual"] != 200 * MIB:
        run(program, "true")
    program.qmp.command("stop")
    program.save(tmp_path / "state")
    program.close()
    other = Embedded(*options, "-S", serial=True)
    try:
        other.load(tmp_path / "state")
        assert other.qmp.command("query-balloon") == {"actual": 200 * MIB}
        other.qmp.command("cont")
        other.serial.send(b"\r")
        shell(other)
        run(other, "echo 3 > /proc/sys/vm/drop_caches")
        assert run(other, "sha256sum /dev/sda")[-1].split()[0] == digest
        assert run(other, "echo hello > /dev/vport*p*; echo $?") == ["0"]
        other.qmp.command("balloon", value=256 * MIB)
        while other.qmp.command("query-balloon")["actual"] != 256 * MIB:
            run(other, "true")
    finally:
        other.close()
