"""The images of a running guest are snapshotted, streamed, mirrored, committed, backed up, resized and exported, while it writes."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.guests.disk import COMPILER
from tests.system.debian import check_image, drive, small, to_raw
from tests.system.journal import COMMAND, SIZE, holds
from tests.system.linux import run, shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.system, pytest.mark.needs(COMPILER)]


def make(path: Path, size: int = SIZE) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size)], check=True)
    return path


def plug(program: Program, path: Path, name: str) -> None:
    """Add an image as a block node."""
    file = {"driver": "file", "filename": str(path)}
    program.qmp.command("blockdev-add", {"driver": "qcow2", "node-name": name, "file": file})


def job(program: Program, command: str, **arguments: Any) -> None:
    """Run a job to its end."""
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    program.qmp.command(command, {"job-id": "job", **named})
    while True:
        event = program.qmp.events.pop(0) if program.qmp.events else program.qmp.message()
        if event["event"] == "BLOCK_JOB_READY":
            program.qmp.command("block-job-complete", device="job")
        if event["event"] == "BLOCK_JOB_COMPLETED":
            assert "error" not in event["data"], event
            return


def flushed(program: Program) -> int:
    """What the guest has written and flushed by now."""
    [line] = run(program, "tail -n 1 log")
    return int(line.removeprefix("FLUSHED "))


def progress(program: Program) -> int:
    """Until the guest has written more than now."""
    before = flushed(program)
    while (now := flushed(program)) <= before:
        pass
    return now


def test_a_life(daemon: Starter, tmp_path: Path) -> None:
    base = make(tmp_path / "base.qcow2")
    options = small(*drive(base, "qcow2", "base"), "-device", "virtio-blk-device,drive=base,id=disk")
    program = daemon(*options, serial=True)
    shell(program)
    run(program, "drivers")
    run(program, f"{COMMAND} > log & until grep -q FLUSHED log; do sleep 0.1; done")

    program.qmp.command(
        "blockdev-snapshot-sync",
        {
            "node-name": "base",
            "snapshot-file": str(tmp_path / "overlay.qcow2"),
            "snapshot-node-name": "overlay",
            "format": "qcow2",
        },
    )
    at_snapshot = flushed(program)
    progress(program)
    job(program, "block-stream", device="overlay")
    progress(program)

    plug(program, make(tmp_path / "mirror.qcow2"), "mirror")
    job(program, "blockdev-mirror", device="overlay", target="mirror", sync="full")
    progress(program)

    plug(program, make(tmp_path / "top.qcow2"), "top")
    program.qmp.command("blockdev-snapshot", node="mirror", overlay="top")
    progress(program)
    job(program, "block-commit", device="top")
    program.qmp.command("blockdev-del", {"node-name": "top"})

    at_backup = progress(program)
    plug(program, make(tmp_path / "backup.qcow2"), "backup")
    job(program, "blockdev-backup", device="mirror", target="backup", sync="full")
    progress(program)

    program.qmp.command("block_resize", {"node-name": "mirror", "size": 2 * SIZE})
    run(program, f"until [ $(cat /sys/block/vda/size) = {2 * SIZE // 512} ]; do sleep 0.1; done")

    address = {"type": "unix", "data": {"path": str(tmp_path / "nbd")}}
    program.qmp.command("nbd-server-start", addr=address)
    program.qmp.command("block-export-add", {"type": "nbd", "id": "export", "node-name": "backup"})
    url = f"nbd+unix:///backup?socket={tmp_path / 'nbd'}"
    copy = tmp_path / "copy.img"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", url, str(copy)], check=True)
    program.qmp.command("nbd-server-stop")
    holds(copy.read_bytes(), at_backup)

    run(program, "killall diskload; wait")
    last = flushed(program)
    assert run(program, "dmesg | grep -c -e 'I/O error' -e 'BUG:' -e 'Oops'") == ["0"]
    program.serial.send(b"poweroff -f\r")
    assert program.wait() == 0

    for name, least in (("base", 0), ("overlay", at_snapshot), ("mirror", last), ("backup", at_backup)):
        image = tmp_path / f"{name}.qcow2"
        check_image(image)
        holds(to_raw(image).read_bytes()[:SIZE], least)
