"""Disks: what a guest gets out of a raw and of a qcow2 image, jobs that copy images, and images that are large.

The guest does direct I/O with ``diskload`` (see `tests.guests.disk`) in a file of `SIZE` that is full of data and in the host's
page cache, through virtio-blk on virtio-mmio with the default cache mode; the host stamps the lines of its console.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.startup import resident
from bench.table import Row
from qemud.demo.debian import PROMPT
from tests.guests.disk import LOGIN, copy, debian
from tests.programs import Program
from tests.system.debian import PATIENCE, ROOT_DISK, boot, drive, small

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 1 << 30
MIB = 1 << 20
LOADS = {
    # name: what diskload is told
    "read": ("read", 1, MIB, 1024),
    "write": ("write", 1, MIB, 1024),
    "randread1": ("randread", 1, 4096, 8000),
    "randread16": ("randread", 16, 4096, 16000),
    "randwrite1": ("randwrite", 1, 4096, 8000),
    "randwrite16": ("randwrite", 16, 4096, 16000),
}
_TITLES = {
    "read": "sequential reads of 1 MiB, O_DIRECT",
    "write": "sequential writes of 1 MiB, O_DIRECT",
    "randread1": "random reads of 4 KiB, depth 1",
    "randread16": "random reads of 4 KiB, depth 16",
    "randwrite1": "random writes of 4 KiB, depth 1",
    "randwrite16": "random writes of 4 KiB, depth 16",
}
_TARGETS = {
    "raw": {
        "read": 0.9,
        "write": 1.0,
        "randread1": 1.0,
        "randread16": 0.8,
        "randwrite1": 0.7,
        "randwrite16": 0.7,
    },
    "qcow2": {"read": 0.8, "write": 0.8}
    | dict.fromkeys(("randread1", "randread16", "randwrite1", "randwrite16"), 0.7),
}

ROWS = (
    Row("login", "Debian with systemd from qcow2 to the login prompt, wall", "s", 1.1),
    *(
        Row(
            f"{image}-{load}",
            f"guest, {image}: {_TITLES[load]}",
            "MiB/s" if LOADS[load][2] == MIB else "/s",
            target,
            at_least=True,
        )
        for image, targets in _TARGETS.items()
        for load, target in targets.items()
    ),
    Row("mirror", "mirror of a qcow2 image with 1 GiB of data", "MiB/s", 0.5, at_least=True),
    Row("backup", "backup of a qcow2 image with 1 GiB of data", "MiB/s", 0.5, at_least=True),
    Row("open", "a sparse qcow2 image of 1 TiB: `blockdev-add`", "ms", 50, absolute=True),
    Row("open-memory", "the same: resident memory", "MiB", 20, absolute=True),
)
JOBS = {"mirror": "blockdev-mirror", "backup": "blockdev-backup"}


def sample(program: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="qemud-bench-") as name:
        folder = Path(name)
        figures = {"login": to_login(program, folder)}
        for format_, image in images(folder).items():
            figures |= loads(program, image, format_)
        source = folder / "data.qcow2"
        figures |= {job: copied(program, job, source, folder / f"{job}.qcow2") for job in JOBS}
        return figures | huge(program, folder)


def to_login(program: str, folder: Path) -> float:
    """Seconds."""
    image = copy(debian().qcow2, folder)
    with timed(program, *boot(*drive(image, "qcow2"), *ROOT_DISK, append="console=ttyS0 TERM=dumb")) as (
        running,
        start,
    ):
        running.serial.expect(LOGIN, PATIENCE)
        return time.perf_counter() - start


@contextlib.contextmanager
def timed(program: str, *options: str) -> Iterator[tuple[Program, float]]:
    """A running program with a serial port, and when it was started."""
    start = [0.0]

    def now() -> None:
        start[0] = time.perf_counter()

    with Program(program, *options, serial=True, watched=False, before=now) as running:
        yield running, start[0]


def images(folder: Path) -> dict[str, Path]:
    """Two images with the same data, which does not repeat itself."""
    raw, qcow2 = folder / "data.img", folder / "data.qcow2"
    with raw.open("wb") as file:
        for _ in range(SIZE // MIB):
            file.write(os.urandom(MIB))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2)], check=True)
    return {"raw": raw, "qcow2": qcow2}


def loads(program: str, image: Path, format_: str) -> dict[str, float]:
    """Throughputs of all loads, one after another in one guest."""
    figures = {}
    disk = ("-device", "virtio-blk-device,drive=disk")
    with Program(
        program, *small(*drive(image, format_, "disk"), *disk), serial=True, watched=False
    ) as running:
        running.serial.expect(PROMPT)
        running.serial.command("drivers", prompt=PROMPT)
        for name, (kind, depth, block, count) in LOADS.items():
            running.serial.send(f"diskload {kind} /dev/vda {depth} {block} {count}\r".encode())
            running.serial.expect("LOAD begin\r\n")
            begin = time.perf_counter()
            running.serial.expect("LOAD end\r\n")
            seconds = time.perf_counter() - begin
            running.serial.expect(PROMPT)
            figures[f"{format_}-{name}"] = count / seconds
    return figures


def copied(program: str, job: str, source: Path, target: Path) -> float:
    """MiB/s of a job that copies all of `source` into a new image, while no guest runs."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(target), str(SIZE)], check=True)
    nodes = (*drive(source, "qcow2", "source"), *drive(target, "qcow2", "target"))
    with Program(
        program, "-machine", "none", "-nodefaults", "-display", "none", *nodes, watched=False
    ) as running:
        start = time.perf_counter()
        running.qmp.command(
            JOBS[job], {"job-id": "job", "device": "source", "target": "target", "sync": "full"}
        )
        running.qmp.event("BLOCK_JOB_READY" if job == "mirror" else "BLOCK_JOB_COMPLETED")
        seconds = time.perf_counter() - start
        if job == "mirror":
            running.qmp.command("block-job-complete", device="job")
            running.qmp.event("BLOCK_JOB_COMPLETED")
    subprocess.run(["qemu-img", "compare", "-q", str(source), str(target)], check=True)
    target.unlink()
    return SIZE / MIB / seconds


def huge(program: str, folder: Path) -> dict[str, float]:
    """What a large image costs that holds nothing."""
    image = folder / "huge.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1T"], check=True)
    with Program(program, "-machine", "none", "-nodefaults", "-display", "none", watched=False) as running:
        running.qmp.command("query-status")
        before = resident(running.process.pid)
        start = time.perf_counter()
        running.qmp.command(
            "blockdev-add",
            {"driver": "qcow2", "node-name": "huge", "file": {"driver": "file", "filename": str(image)}},
        )
        seconds = time.perf_counter() - start
        return {"open": seconds * 1e3, "open-memory": resident(running.process.pid) - before}
