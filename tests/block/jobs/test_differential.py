"""The same commands about jobs, snapshots and bitmaps to qemud and to QEMU: the same answers, events and complaints."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.block.jobs.support import qemu_img
from tests.block.test_differential import settled
from tests.programs import QEMU, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.differential, pytest.mark.needs(QEMU)]

NOTHING = ("-machine", "none", "-nodefaults", "-display", "none")
SIZE = 1 << 20

Step = tuple[str, dict[str, Any]]


def wait(event: str, job: str = "j") -> Step:
    """Not a command: until that event, or that status of a job."""
    return "wait", {"event": event, "job": job}


def file(name: str, filename: str, driver: str = "raw", **more: Any) -> Step:
    below = {"driver": "file", "filename": filename, "node-name": f"{name}-file"}
    return "blockdev-add", {"driver": driver, "node-name": name, "file": below, **more}


def job(verb: str, name: str = "j") -> Step:
    return f"job-{verb}", {"id": name}


QUERY: list[Step] = [("query-jobs", {}), ("query-block-jobs", {})]

MIRROR: list[Step] = [
    file("source", "a.img"),
    file("copy", "b.img"),
    file("small", "small.img"),
    *[
        ("blockdev-mirror", {"job-id": "j", "device": "source", "target": "copy", "sync": "full", **more})
        for more in (
            {"device": "nope"},
            {"target": "nope"},
            {"device": "source-file"},
            {"target": "source-file"},
            {"target": "source"},
            {"granularity": 256},
            {"granularity": 1 << 27},
            {"granularity": 1000},
            {"buf-size": -1},
            {"speed": -1},
            {"sync": "incremental"},
            {"sync": "bitmap"},
            {"replaces": "nope"},
            {"replaces": "copy"},
            {"replaces": "small"},
            {"job-id": "-"},
            {"filter-node-name": "copy"},
            {"filter-node-name": "1"},
        )
    ],
    ("blockdev-mirror", {"device": "source", "target": "copy", "sync": "full"}),
    (
        "blockdev-mirror",
        {"job-id": "j", "device": "source", "target": "copy", "sync": "full", "auto-dismiss": False},
    ),
    wait("ready"),
    ("blockdev-mirror", {"job-id": "k", "device": "source", "target": "small", "sync": "full"}),
    ("blockdev-mirror", {"job-id": "k", "device": "small", "target": "copy", "sync": "full"}),
    ("blockdev-mirror", {"job-id": "j", "device": "small", "target": "small", "sync": "full"}),
    ("blockdev-backup", {"job-id": "k", "device": "source", "target": "small", "sync": "full"}),
    ("block_resize", {"node-name": "source", "size": 4096}),
    ("block_resize", {"node-name": "copy", "size": 4096}),
    *[("blockdev-del", {"node-name": name}) for name in ("source", "copy", "copy-file")],
    ("query-named-block-nodes", {"flat": True}),
    *QUERY,
    job("dismiss"),
    job("finalize"),
    job("resume"),
    job("pause", "nope"),
    ("block-job-pause", {"device": "nope"}),
    ("block-job-set-speed", {"device": "nope", "speed": 0}),
    ("block-job-set-speed", {"device": "j", "speed": -1}),
    ("block-job-set-speed", {"device": "j", "speed": 5}),
    ("block-job-set-speed", {"device": "j", "speed": 0}),
    ("block-job-change", {"id": "j", "type": "mirror", "copy-mode": "background"}),
    ("block-job-change", {"id": "j", "type": "mirror", "copy-mode": "write-blocking"}),
    ("block-job-change", {"id": "j", "type": "mirror", "copy-mode": "background"}),
    ("block-job-change", {"id": "nope", "type": "mirror", "copy-mode": "background"}),
    job("pause"),
    wait("standby"),
    job("pause"),
    ("block-job-cancel", {"device": "j"}),
    job("resume"),
    wait("ready"),
    job("cancel"),
    wait("concluded"),
    *QUERY,
    job("cancel"),
    job("complete"),
    job("dismiss"),
    wait("null"),
    ("blockdev-mirror", {"job-id": "j", "device": "source", "target": "small", "sync": "full"}),
    wait("null"),
    (
        "blockdev-mirror",
        {
            "job-id": "j",
            "device": "source",
            "target": "copy",
            "sync": "full",
            "auto-finalize": False,
            "auto-dismiss": False,
            "filter-node-name": "filter",
        },
    ),
    wait("ready"),
    ("blockdev-del", {"node-name": "filter"}),
    ("block-job-complete", {"device": "j"}),
    wait("pending"),
    *QUERY,
    job("complete"),
    job("pause"),
    job("finalize"),
    wait("concluded"),
    *QUERY,
    job("dismiss"),
    ("query-named-block-nodes", {"flat": True}),
]

CHAINS: list[Step] = [
    file("base", "base.img"),
    file("low", "low.img", "qcow2", backing="base"),
    file("mid", "mid.img", "qcow2", backing="low"),
    file("top", "top.img", "qcow2", backing="mid"),
    *[
        ("block-stream", {"job-id": "j", "device": "top", **more})
        for more in (
            {"base": "x", "base-node": "low"},
            {"base": "x", "bottom": "low"},
            {"base-node": "x", "bottom": "low"},
            {"device": "nope"},
            {"base": "nope"},
            {"base-node": "nope"},
            {"base-node": "top"},
            {"base-node": "top-file"},
            {"bottom": "nope"},
            {"bottom": "top-file"},
            {"backing-file": "x"},
            {"speed": -1},
        )
    ],
    *[
        ("block-commit", {"job-id": "j", "device": "top", **more})
        for more in (
            {"device": "nope"},
            {"device": "mid"},
            {"top": "x", "top-node": "mid"},
            {"base": "x", "base-node": "low"},
            {"top": "nope"},
            {"top-node": "nope"},
            {"top-node": "top-file"},
            {"base": "nope"},
            {"base-node": "nope"},
            {"base-node": "top", "top-node": "low"},
            {"base-node": "low", "top-node": "low"},
            {"backing-file": "x"},
            {"speed": -1, "top-node": "mid"},
        )
    ],
    ("block-commit", {"job-id": "j", "device": "top", "top-node": "mid", "base-node": "low"}),
    wait("null"),
    ("query-named-block-nodes", {"flat": True}),
    ("block-stream", {"job-id": "j", "device": "top", "base-node": "base"}),
    wait("null"),
    ("query-named-block-nodes", {"flat": True}),
    ("change-backing-file", {"device": "top", "image-node-name": "top", "backing-file": "other"}),
    ("change-backing-file", {"device": "top", "image-node-name": "base", "backing-file": "other"}),
    ("change-backing-file", {"device": "top", "image-node-name": "mid", "backing-file": "other"}),
    ("change-backing-file", {"device": "nope", "image-node-name": "mid", "backing-file": "other"}),
    ("change-backing-file", {"device": "top", "image-node-name": "nope", "backing-file": "other"}),
    ("block-commit", {"job-id": "j", "device": "top"}),
    wait("ready"),
    *QUERY,
    job("complete"),
    wait("null"),
    ("query-named-block-nodes", {"flat": True}),
]

SNAPSHOT = "blockdev-snapshot"
SNAPSHOTS: list[Step] = [
    file("a", "a.img"),
    file("b", "b.img"),
    file("over", "top.img", "qcow2", backing=None),
    file("chained", "mid.img", "qcow2", backing="b"),
    (SNAPSHOT, {"node": "nope", "overlay": "over"}),
    (SNAPSHOT, {"node": "a", "overlay": "nope"}),
    (SNAPSHOT, {"node": "a", "overlay": "b"}),
    (SNAPSHOT, {"node": "a", "overlay": "chained"}),
    (SNAPSHOT, {"node": "over", "overlay": "over"}),
    (SNAPSHOT, {"node": "a", "overlay": "over"}),
    (SNAPSHOT, {"node": "b", "overlay": "over"}),
    ("query-named-block-nodes", {"flat": True}),
    ("blockdev-snapshot-sync", {"node-name": "over", "snapshot-file": "s.img"}),
    ("blockdev-snapshot-sync", {"node-name": "over", "snapshot-file": "s.img", "snapshot-node-name": "b"}),
    (
        "blockdev-snapshot-sync",
        {"node-name": "over", "snapshot-file": "s.img", "snapshot-node-name": "s", "format": "raw"},
    ),
    (
        "blockdev-snapshot-sync",
        {"node-name": "over", "snapshot-file": "s.img", "snapshot-node-name": "s", "format": "nope"},
    ),
    (
        "blockdev-snapshot-sync",
        {"node-name": "over", "snapshot-file": "no/s.img", "snapshot-node-name": "s"},
    ),
    ("blockdev-snapshot-sync", {"node-name": "over", "snapshot-file": "s.img", "snapshot-node-name": "s"}),
    ("blockdev-snapshot-sync", {"device": "nope", "snapshot-file": "s.img"}),
    ("blockdev-snapshot-sync", {"snapshot-file": "s.img"}),
    ("query-named-block-nodes", {}),
    ("transaction", {"actions": []}),
    ("transaction", {"actions": [{"type": "abort", "data": {}}]}),
    (
        "transaction",
        {"actions": [{"type": "abort", "data": {}}], "properties": {"completion-mode": "grouped"}},
    ),
]

ADD, MERGE = "block-dirty-bitmap-add", "block-dirty-bitmap-merge"
BITMAPS: list[Step] = [
    file("a", "a.img"),
    file("s", "small.img"),
    file("q", "top.img", "qcow2", backing=None),
    *[
        (ADD, {"node": "a", "name": "b0", **more})
        for more in (
            {"node": "nope"},
            {"name": ""},
            {"name": "x" * 1024},
            {"granularity": 256},
            {"granularity": 1000},
            {"persistent": True},
            {},
            {},
            {"name": "b1", "granularity": 4096, "disabled": True},
        )
    ],
    (ADD, {"node": "s", "name": "s0"}),
    (ADD, {"node": "q", "name": "p0", "persistent": True}),
    (ADD, {"node": "q", "name": "p1", "granularity": 512}),
    ("query-named-block-nodes", {"flat": True}),
    *[
        (f"block-dirty-bitmap-{verb}", {"node": node, "name": name})
        for verb in ("clear", "enable", "disable", "remove")
        for node, name in (("nope", "b0"), ("a", "nope"), ("a", "b1"))
    ],
    *[
        (MERGE, {"node": "a", "target": "b0", "bitmaps": [], **more})
        for more in (
            {"bitmaps": ["nope"]},
            {"bitmaps": [{"node": "s", "name": "nope"}]},
            {"bitmaps": [{"node": "s", "name": "s0"}]},
            {"bitmaps": [{"node": "q", "name": "p1"}, "b0"]},
            {"target": "nope"},
        )
    ],
    ("x-debug-block-dirty-bitmap-sha256", {"node": "a", "name": "b0"}),
    ("x-debug-block-dirty-bitmap-sha256", {"node": "q", "name": "p1"}),
    ("x-debug-block-dirty-bitmap-sha256", {"node": "q", "name": "nope"}),
    *[
        ("blockdev-backup", {"job-id": "j", "device": "a", "target": "q", "sync": "full", **more})
        for more in (
            {"target": "a"},
            {"target": "s"},
            {"target": "nope"},
            {"device": "nope"},
            {"sync": "incremental"},
            {"sync": "bitmap"},
            {"sync": "incremental", "bitmap": "b0", "bitmap-mode": "never"},
            {"sync": "bitmap", "bitmap": "b0"},
            {"sync": "bitmap", "bitmap": "b9", "bitmap-mode": "never"},
            {"bitmap-mode": "never"},
            {"sync": "none", "bitmap": "b0", "bitmap-mode": "always"},
            {"bitmap": "b0", "bitmap-mode": "never"},
            {"target": "s", "compress": True},
            {"x-perf": {"max-workers": 0}},
            {"x-perf": {"max-chunk": -1}},
            {"x-perf": {"max-chunk": 4096}},
            {"job-id": "1"},
        )
    ],
    (
        "blockdev-backup",
        {
            "job-id": "j",
            "device": "a",
            "target": "q",
            "sync": "bitmap",
            "bitmap": "b0",
            "bitmap-mode": "on-success",
            "auto-finalize": False,
            "auto-dismiss": False,
        },
    ),
    wait("pending"),
    *QUERY,
    *[
        (f"block-dirty-bitmap-{verb}", {"node": "a", "name": "b0"})
        for verb in ("clear", "enable", "disable", "remove")
    ],
    ("query-named-block-nodes", {"flat": True}),
    job("finalize"),
    wait("concluded"),
    job("dismiss"),
    ("block-dirty-bitmap-remove", {"node": "a", "name": "b0"}),
    ("block-dirty-bitmap-remove", {"node": "q", "name": "p0"}),
    ("query-named-block-nodes", {"flat": True}),
]

CREATE = "blockdev-create"
CREATING: list[Step] = [
    (CREATE, {"job-id": "j", "options": {"driver": "file", "filename": "new.img", "size": 65536}}),
    wait("concluded"),
    *QUERY,
    job("dismiss"),
    (CREATE, {"job-id": "j", "options": {"driver": "file", "filename": "no/new.img", "size": 65536}}),
    wait("concluded"),
    *QUERY,
    job("cancel"),
    job("dismiss"),
    (CREATE, {"job-id": "j", "options": {"driver": "host_device"}}),
    (CREATE, {"job-id": "j", "options": {"driver": "null-co"}}),
    *QUERY,
    (CREATE, {"job-id": "a b", "options": {"driver": "file", "filename": "new.img", "size": 65536}}),
    (CREATE, {"job-id": "j", "options": {"driver": "qcow2", "file": "nope", "size": 65536}}),
    wait("concluded"),
    *QUERY,
    job("dismiss"),
]

LINES: list[Step] = [
    ("human-monitor-command", {"command-line": line})
    for line in (
        "info block-jobs",
        "block_job_cancel nope",
        "block_job_pause nope",
        "block_job_resume nope",
        "block_job_complete nope",
        "block_job_set_speed nope 1M",
        "block_job_set_speed d0 much",
        "block_stream nope",
        "block_stream d0 1M nope",
        "drive_mirror nope x",
        "drive_mirror d0",
        "drive_mirror -n d0 nope.img raw",
        "drive_backup nope x",
        "drive_backup -c d0 copy.raw raw",
        "snapshot_blkdev d0",
        "snapshot_blkdev nope x",
        "snapshot_blkdev d0 x.img nope",
        "snapshot_blkdev_internal nope x",
        "snapshot_delete_blkdev_internal d0 x",
        "drive_mirror -f d0 copy.img raw",
    )
]
LINES += [
    wait("ready", "d0"),
    *[
        ("human-monitor-command", {"command-line": line})
        for line in ("info block-jobs", "block_job_pause d0", "block_job_cancel d0", "block_job_cancel -f d0")
    ],
    wait("null", "d0"),
    ("human-monitor-command", {"command-line": "snapshot_blkdev d0 over.img qcow2"}),
    ("human-monitor-command", {"command-line": "block_stream d0"}),
    wait("null", "d0"),
    ("human-monitor-command", {"command-line": "info block d0"}),
    ("human-monitor-command", {"command-line": "drive_backup -f d0 back.img qcow2"}),
    wait("null", "d0"),
    ("query-named-block-nodes", {"flat": True}),
]


def comparable(value: Any) -> Any:
    """An answer without what is each program's own: how the file system allocates, and bitmaps of jobs, which have no names."""
    if isinstance(value, dict):
        kept = {key: comparable(each) for key, each in value.items() if key != "actual-size"}
        if "dirty-bitmaps" in kept:
            named = [each for each in kept.pop("dirty-bitmaps") if "name" in each]
            return {**kept, "dirty-bitmaps": named} if named else kept
        return kept
    if isinstance(value, list):
        return [comparable(each) for each in value]
    return value


def answers(program: Program, steps: list[Step]) -> tuple[list[Any], list[Any]]:
    """What is answered, step by step, and what came as events."""
    found: list[Any] = []
    heard: list[Any] = []
    qmp = program.qmp

    def listen() -> None:
        heard.extend((event["event"], event["data"]) for event in qmp.events if "data" in event)
        qmp.events.clear()

    for name, arguments in steps:
        if name == "wait":
            wanted = {"id": arguments["job"], "status": arguments["event"]}
            while True:
                listen()
                if [each for each in heard if each == ("JOB_STATUS_CHANGE", wanted)][-1:] and (
                    heard_last(heard, arguments["job"]) == arguments["event"]
                ):
                    break
                message = qmp.message()
                assert "event" in message
                qmp.events.append(message)
            continue
        try:
            found.append((name, comparable(settled(qmp.command(name, **arguments)))))
        except QmpError as error:
            found.append((name, arguments, error.error_class, str(error)))
    listen()
    return found, heard


def heard_last(heard: list[Any], name: str) -> str:
    """The last status of a job."""
    statuses = [
        data["status"] for event, data in heard if event == "JOB_STATUS_CHANGE" and data["id"] == name
    ]
    return str(statuses[-1]) if statuses else ""


def images(folder: Path) -> None:
    data = hashlib.sha512(b"data").digest() * (SIZE // 64)
    (folder / "a.img").write_bytes(data)
    (folder / "base.img").write_bytes(data)
    (folder / "b.img").write_bytes(bytes(SIZE))
    (folder / "small.img").write_bytes(bytes(SIZE // 2))
    below, fmt = "base.img", "raw"
    for name in ("low", "mid", "top"):
        qemu_img("create", "-q", "-f", "qcow2", "-b", below, "-F", fmt, folder / f"{name}.img", SIZE)
        below, fmt = f"{name}.img", "qcow2"
    subprocess.run(
        ["qemu-io", "-c", f"write -P 7 0 {SIZE // 4}", folder / "mid.img"], check=True, capture_output=True
    )


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        pytest.param(MIRROR, (), id="mirror"),
        pytest.param(CHAINS, (), id="chains"),
        pytest.param(SNAPSHOTS, (), id="snapshots"),
        pytest.param(BITMAPS, (), id="bitmaps"),
        pytest.param(CREATING, (), id="create"),
        pytest.param(LINES, ("-drive", "if=none,file=a.img,id=d0,format=raw"), id="lines"),
    ],
)
def test_the_same_is_said(  # noqa: PLR0917 - fixtures
    daemon: Starter,
    reference: Starter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Step],
    options: tuple[str, ...],
) -> None:
    told = []
    for name, start in (("theirs", reference), ("ours", daemon)):
        folder = tmp_path / name
        folder.mkdir()
        images(folder)
        monkeypatch.chdir(folder)
        program = start(*NOTHING, *options)
        told.append(answers(program, steps))
        program.qmp.command("quit")
        program.process.wait(60)
    (theirs, their_events), (ours, our_events) = told
    for one, other in zip(ours, theirs, strict=True):
        assert one == other
    assert our_events == their_events
