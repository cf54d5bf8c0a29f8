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
