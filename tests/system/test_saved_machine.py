"""A Linux that works on its disks is saved into their images, and goes on from there: here, and in other processes."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.guests.disk import COMPILER
from tests.migration.test_snapshots import DONE_RUNNING, check, human, job, listed, make
from tests.system.debian import drive, small, to_raw
from tests.system.journal import COMMAND, SIZE, holds
from tests.system.linux import run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.system, pytest.mark.needs(COMPILER)]

FILL = "dd if=/dev/urandom of=/noise bs=1M count=16 2>/dev/null"
SUM = "sha256sum /noise"
LOADS = {"vda": COMMAND, "sda": COMMAND.replace("vda", "sda")}


def flushed(program: Program, disk: str) -> int:
    """What the guest has written to a disk and flushed by now."""
    [line] = run(program, f"tail -n 1 {disk}.log")
    return int(line.removeprefix("FLUSHED "))


def progress(program: Program) -> dict[str, int]:
    """Until the guest has written more to each disk than now; how much."""
    now = {}
    for disk in LOADS:
        before = flushed(program, disk)
        while (count := flushed(program, disk)) <= before:
            pass
        now[disk] = count
    return now


def content(image: Path, *snapshot: str) -> str:
    """A hash of the disk in an image."""
    raw = image.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", *snapshot, "-O", "raw", str(image), str(raw)], check=True)
    with raw.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("transport", ["device", "pci"])
def test_a_life(daemon: Starter, tmp_path: Path, transport: str) -> None:
    disks = {name: make(tmp_path / f"{name}.qcow2", SIZE) for name in LOADS}
    options = small(
        *drive(disks["vda"], "qcow2", "vda"),
        *drive(disks["sda"], "qcow2", "sda"),
        "-device",
        f"virtio-blk-{transport},drive=vda",
        "-device",
        f"virtio-scsi-{transport},id=scsi",
        "-device",
        "scsi-hd,drive=sda,bus=scsi.0",
    )
    given = {"vmstate": "vda", "devices": ["vda", "sda"]}
    program = daemon(*options, serial=True)
    shell(program)
    run(program, "drivers")
    for name, load in LOADS.items():
        run(program, f"{load} > {name}.log & until grep -q FLUSHED {name}.log; do sleep 0.1; done")
    run(program, f"x=kept; {FILL}")
    kept = run(program, SUM)
    before = progress(program)
    assert job(program, "snapshot-save", tag="before", **given) == (DONE_RUNNING, None)
    for _ in range(2):
        after = progress(program)
        assert all(after[name] > before[name] for name in LOADS)
        run(program, f"x=changed; {FILL}")
        assert run(program, SUM) != kept
        assert job(program, "snapshot-load", tag="before", **given) == (DONE_RUNNING, None)
        assert run(program, f"echo $x; {SUM}") == ["kept", *kept]
        progress(program)
    assert "\n--      before " in human(program, "info snapshots")
    assert human(program, "savevm later") == ""
    latest = progress(program)
    program.qmp.command("quit")
    assert program.wait() == 0
    check(*disks.values())
    assert [(name, size > 0) for name, size in listed(disks["vda"])] == [("before", True), ("later", True)]
    assert [(name, size > 0) for name, size in listed(disks["sda"])] == [("before", False), ("later", False)]
    for name in LOADS:
        holds(to_raw(disks[name]).read_bytes(), latest[name])

    # A process that only loads has the disks of that moment.
    program = daemon(*options, "-loadvm", "before", "-S", serial=True)
    assert program.qmp.command("query-status") == {"running": False, "status": "prelaunch"}
    program.qmp.command("quit")
    assert program.wait() == 0
    for path in disks.values():
        assert content(path) == content(path, "-l", "before")
    check(*disks.values())

    # And one that goes on, with writes that were on their way.
    program = daemon(*options, "-loadvm", "later", serial=True)
    assert run(program, f"echo $x; {SUM}")[-2:] == ["kept", *kept]
    latest = progress(program)
    assert run(program, "dmesg | grep -c -e 'Oops' -e 'BUG:' -e 'I/O error' -e stall") == ["0"]
    assert job(program, "snapshot-delete", tag="before", devices=["vda", "sda"])[1] is None
    latest = progress(program)
    program.qmp.command("quit")
    assert program.wait() == 0
    check(*disks.values())
    for name in LOADS:
        holds(to_raw(disks[name]).read_bytes(), latest[name])


DEVICES = (
    *("-object", "iothread,id=thread", "-device", "virtio-blk-device,drive=a,iothread=thread"),
    *("-device", "virtio-blk-pci,drive=b,num-queues=2"),
    *("-device", "virtio-scsi-device,id=scsi", "-device", "scsi-hd,drive=c,bus=scsi.0"),
    *("-device", "scsi-cd,bus=scsi.0"),
    *("-device", "pcie-root-port,id=root,chassis=1", "-netdev", "user,id=net"),
    *("-device", "virtio-net-pci,netdev=net,bus=root"),
    *("-device", "virtio-rng-pci", "-device", "virtio-balloon-device", "-device", "i6300esb"),
    *("-device", "virtio-serial-device", "-chardev", "ringbuf,id=ring"),
    *("-device", "virtserialport,chardev=ring,name=p"),
)


def test_all_devices_at_work(daemon: Starter, tmp_path: Path) -> None:
    """Disks, a network and random numbers, by all transports: every request is answered once, whenever it was saved."""
    disks = {name: make(tmp_path / f"{name}.qcow2", SIZE) for name in "abc"}
    nodes = [word for name, path in disks.items() for word in drive(path, "qcow2", name)]
    options = small(*nodes, *DEVICES)
    program = daemon(*options, serial=True)
    shell(program)
    run(program, "drivers")
    run(program, "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0")
    run(
        program,
        "w() { while :; do dd if=/dev/urandom of=/dev/$1 bs=64k count=64 conv=fsync; done 2>/dev/null; }",
    )
    run(program, "for d in vda vdb sda; do w $d & done")
    run(program, "while :; do ping -i 0.01 -c 50 10.0.2.2; done >/dev/null 2>&1 &")
    run(program, "cat /dev/hwrng >/dev/null &")
    for i in range(2):
        assert human(program, f"savevm s{i % 2}") == ""
        run(program, "echo changed > n; sleep 0.2")
        assert human(program, f"loadvm s{i % 2}") == ""
        works(program)
    program.qmp.command("quit")
    assert program.wait() == 0
    check(*disks.values())
    program = daemon(*options, "-loadvm", "s1", serial=True)
    works(program)
    assert run(program, "dd if=/dev/vdb of=/dev/null bs=1M 2>&1 | grep in")[-1] == "64+0 records in"


def works(program: Program) -> None:
    """Everything of the guest goes on, and what came later has not been."""
    assert run(program, "cat n 2>/dev/null; echo")[-1] == ""
    # The socket of a ping hears the answers to all pings, and has room for a dozen: its own one may be lost behind the others'.
    assert run(program, "until ping -c 1 -W 5 10.0.2.2 >/dev/null; do :; done; echo heard")[-1] == "heard"
    assert run(program, "for d in vda vdb sda; do sync /dev/$d && echo $d; done")[-3:] == [
        "vda",
        "vdb",
        "sda",
    ]
    assert run(program, "dmesg | grep -c -e Oops -e BUG: -e 'I/O error' -e stall")[-1] == "0"
