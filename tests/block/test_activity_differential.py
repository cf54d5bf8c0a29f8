"""Images that are given up and taken again: the same commands to qemud and to QEMU have the same answers."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.block.test_activity import qemu_io
from tests.block.test_differential import ADD, NOTHING, Step, answers, settled
from tests.programs import LIMIT, QEMU

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.differential, pytest.mark.needs(QEMU)]

SET = "blockdev-set-active"
ACTIVE = "active"
"""A step that stands for: which nodes are active."""
IO = "io"
"""A step that stands for: what a client of the export is told."""
UNTIL = "until"
"""A step that stands for: wait for an event."""

NODES = (
    *("-blockdev", "file,node-name=disk-file,filename=disk.img"),
    *("-blockdev", "raw,file=disk-file,node-name=disk-fmt,active=off"),
    *("-blockdev", "file,node-name=target-file,filename=target.img"),
    *("-blockdev", "raw,file=target-file,node-name=target-fmt"),
    *("-blockdev", "file,node-name=snap-file,filename=snap.qcow2"),
    *("-blockdev", "file,node-name=snap2-file,filename=snap2.qcow2"),
    "-S",
)


def setting(node: str | None, active: bool) -> Step:
    return SET, {"active": active} | ({} if node is None else {"node-name": node})


def export(**more: Any) -> list[Step]:
    given = {"id": "exp0", "type": "nbd", "node-name": "disk-fmt", "writable": True}
    return [("block-export-add", {**given, **{name.replace("_", "-"): each for name, each in more.items()}})]


UNEXPORT: list[Step] = [("block-export-del", {"id": "exp0"}), (UNTIL, {"event": "BLOCK_EXPORT_DELETED"})]

EXPORTS: list[Step] = [
    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "nbd.sock"}}}),
    *[step for how in ({}, {"allow_inactive": False}, {"allow_inactive": True}) for step in (
        setting("disk-fmt", active=False), *export(**how), (ACTIVE, {}), *UNEXPORT,
        setting("disk-fmt", active=True), *export(**how), setting("disk-fmt", active=False), (ACTIVE, {}), *UNEXPORT,
    )],
    setting("disk-fmt", active=False),
    *export(writable=False),
    setting("disk-fmt", active=False),
    (ACTIVE, {}),
    *UNEXPORT,
    setting("disk-fmt", active=False),
    *export(allow_inactive=True),
    (IO, {"commands": ["read 0 64k", "write 0 64k", "write -z 0 64k", "write -zu 0 64k", "discard 0 64k"]}),
    (IO, {"commands": ["flush", "write -f 0 64k", "map", "length"]}),
    setting("disk-fmt", active=True),
    (IO, {"commands": ["write -P 5 0 64k", "read -P 5 0 64k"]}),
]  # fmt: skip

PARENTS: list[Step] = [
    (ACTIVE, {}),
    setting("nope", active=False),
    setting("nope", active=True),
    setting("disk-fmt", active=True),
    setting("disk-file", active=False),
    (ACTIVE, {}),
    setting("disk-fmt", active=False),
    setting("disk-file", active=False),
    (ACTIVE, {}),
    *[
        (ADD, {"driver": "raw", "file": "disk-fmt", "node-name": "above", **more})
        for more in ({}, {"active": True}, {"active": False})
    ],
    (ACTIVE, {}),
    *[
        (
            "blockdev-reopen",
            {"options": [{"driver": "raw", "file": file, "node-name": node, "read-only": True, **more}]},
        )
        for file, node, more in (
            ("disk-fmt", "above", {}),
            ("target-file", "target-fmt", {}),
            ("target-file", "target-fmt", {"active": True}),
        )
    ],
    (ACTIVE, {}),
    ("blockdev-del", {"node-name": "above"}),
    (ADD, {"driver": "raw", "node-name": "nest", "active": False, "file": {"driver": "null-co"}}),
    (
        ADD,
        {
            "driver": "raw",
            "node-name": "nest2",
            "file": {"driver": "null-co", "node-name": "n2", "active": False},
        },
    ),
    ("blockdev-del", {"node-name": "nest"}),
    ("block_resize", {"node-name": "disk-fmt", "size": 1 << 24}),
    ("query-named-block-nodes", {"flat": True}),
    setting(None, active=False),
    (ACTIVE, {}),
    setting(None, active=False),
    setting(None, active=True),
    (ACTIVE, {}),
    ("query-named-block-nodes", {}),
]

QCOW2 = {"driver": "qcow2", "node-name": "snap-fmt", "file": "snap-file"}
JOBS: list[Step] = [
    (ADD, {**QCOW2, "backing": None}),
    ("blockdev-snapshot", {"node": "disk-fmt", "overlay": "snap-fmt"}),
    (ACTIVE, {}),
    ("blockdev-del", {"node-name": "snap-fmt"}),
    (ADD, {**QCOW2, "backing": None, "active": False}),
    ("blockdev-snapshot", {"node": "disk-fmt", "overlay": "snap-fmt"}),
    ("block-stream", {"device": "snap-fmt"}),
    ("block-commit", {"job-id": "job0", "device": "snap-fmt"}),
    ("blockdev-snapshot-internal-sync", {"device": "snap-fmt", "name": "s"}),
    (
        ADD,
        {
            "driver": "qcow2",
            "file": "snap2-file",
            "backing": "snap-fmt",
            "node-name": "snap2-fmt",
            "active": False,
        },
    ),
    (ACTIVE, {}),
    ("block-commit", {"job-id": "job0", "device": "snap2-fmt", "top-node": "snap-fmt"}),
    setting("disk-fmt", active=True),
    ("block-commit", {"job-id": "job0", "device": "snap2-fmt", "top-node": "snap-fmt"}),
    ("blockdev-mirror", {"job-id": "job0", "device": "snap2-fmt", "target": "target-fmt", "sync": "full"}),
    (ACTIVE, {}),
    setting("snap2-fmt", active=True),
    setting("target-fmt", active=False),
    (ACTIVE, {}),
    ("blockdev-mirror", {"job-id": "job0", "device": "snap2-fmt", "target": "target-fmt", "sync": "full"}),
    ("blockdev-backup", {"job-id": "job0", "device": "snap2-fmt", "target": "target-fmt", "sync": "full"}),
    setting("snap2-fmt", active=False),
    setting("target-fmt", active=True),
    (ACTIVE, {}),
    ("blockdev-backup", {"job-id": "job0", "device": "snap2-fmt", "target": "target-fmt", "sync": "full"}),
    ("query-block-jobs", {}),
    ("cont", {}),
    (ACTIVE, {}),
]


def copying(command: str, **more: Any) -> list[Step]:
    given = {"job-id": "job0", "device": "disk-fmt", "target": "target-fmt", "sync": "full", **more}
    return [setting(None, active=True), (command, {**given, "filter-node-name": "filter"})]


RUNNING: list[Step] = [
    # A mirror that is ready bears it, since it is how disks go along with their machine.
    *copying("blockdev-mirror"),
    (UNTIL, {"event": "BLOCK_JOB_READY"}),
    setting("disk-fmt", active=False),
    setting("target-file", active=False),
    (ACTIVE, {}),
    setting("filter", active=False),
    (ACTIVE, {}),
    setting(None, active=False),
    (ACTIVE, {}),
    ("block-job-cancel", {"device": "job0"}),
    (UNTIL, {"event": "BLOCK_JOB_COMPLETED"}),
    (ACTIVE, {}),
    setting(None, active=True),
    (ACTIVE, {}),
    # A backup does not: it writes to its target.
    *copying("blockdev-backup", speed=1),
    (ACTIVE, {}),
    setting("target-fmt", active=False),
    setting("filter", active=False),
    setting(None, active=True),
    ("block-job-cancel", {"device": "job0"}),
    (UNTIL, {"event": "BLOCK_JOB_CANCELLED"}),
    (ACTIVE, {}),
]


def images(folder: Path) -> None:
    for words in (
        ("-f", "raw", "disk.img", "1M"),
        ("-f", "raw", "target.img", "1M"),
        ("-f", "qcow2", "-b", "disk.img", "-F", "raw", "snap.qcow2"),
        ("-f", "qcow2", "-b", "snap.qcow2", "-F", "qcow2", "snap2.qcow2"),
    ):
        subprocess.run(("qemu-img", "create", "-q", *words), cwd=folder, check=True, timeout=LIMIT)


def heard(program: Program, steps: list[Step]) -> list[Any]:
    """What a program answers; only once the export is gone for those who ask for that."""
    found: list[Any] = []
    for step in steps:
        if step[0] == ACTIVE:
            nodes = program.qmp.command("query-named-block-nodes", flat=True)
            found.append({node["node-name"]: node["active"] for node in nodes if node["node-name"][0] != "#"})
        elif step[0] == IO:
            said = qemu_io("nbd+unix:///disk-fmt?socket=nbd.sock", *step[1]["commands"], form="raw")
            assert "connect" not in said
            found.append([line for line in said.splitlines() if "/sec" not in line])
        elif step[0] == UNTIL:
            program.qmp.event(step[1]["event"])
        else:
            found += settled(answers(program, [step]))
    return found


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(each, id=name)
        for each, name in ((EXPORTS, "exports"), (PARENTS, "parents"), (JOBS, "jobs"), (RUNNING, "running"))
    ],
)
def test_nodes_are_given_up_and_taken_alike(
    daemon: Starter,
    reference: Starter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Step],
):
    monkeypatch.chdir(tmp_path)
    given: list[list[Any]] = []
    for start in (reference, daemon):
        images(tmp_path)
        program = start(*NOTHING, *NODES)
        given.append(heard(program, steps))
        program.qmp.command("quit")
        program.process.wait(60)
    told = [step for step in steps if step[0] != UNTIL]
    for step, theirs, ours in zip(told, *given, strict=True):
        assert ours == theirs, step
