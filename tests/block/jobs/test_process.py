"""Jobs in a process of their own: it ends while they are at work, and leaves nothing undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.block.jobs.support import MIB, image, qemu_img

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

NOTHING = ("-machine", "none", "-nodefaults", "-display", "none")


@pytest.mark.parametrize("end", ["quit", "SIGTERM"])
@pytest.mark.parametrize("command", ["blockdev-mirror", "blockdev-backup"])
def test_it_ends_while_a_job_is_at_work(daemon: Starter, tmp_path: Path, command: str, end: str) -> None:
    data = image(tmp_path / "disk.img", MIB)
    for name in ("disk", "copy"):
        qemu_img("create", "-q", "-f", "qcow2", tmp_path / name, MIB)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", tmp_path / "disk.img", tmp_path / "disk")
    program = daemon(*NOTHING)
    for name in ("disk", "copy"):
        file = {"driver": "file", "filename": str(tmp_path / name)}
        program.qmp.command("blockdev-add", {"node-name": name, "driver": "qcow2", "file": file})
    arguments = {"job-id": "j", "device": "disk", "target": "copy", "sync": "full", "speed": 65536}
    program.qmp.command(command, arguments)
    if end == "quit":
        program.qmp.command("quit")
    else:
        program.process.terminate()
    event = program.qmp.event("BLOCK_JOB_CANCELLED")
    assert event["data"]["device"] == "j"
    assert program.process.wait(60) == 0
    for name in ("disk", "copy"):
        qemu_img("check", "-q", tmp_path / name)
    qemu_img("convert", "-f", "qcow2", "-O", "raw", tmp_path / "disk", tmp_path / "again.img")
    assert (tmp_path / "again.img").read_bytes() == data
