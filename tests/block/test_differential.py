"""The same commands and options to qemud and to QEMU: the same answers, and the same complaints."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import LIMIT, QEMU, QEMUD, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.differential, pytest.mark.needs(QEMU)]

NOTHING = ("-machine", "none", "-nodefaults", "-display", "none")
ADD = "blockdev-add"

Step = tuple[str, "dict[str, Any]"]

NODES: list[Step] = [
    (ADD, {"driver": "raw", "node-name": "a", "file": {"driver": "file", "filename": "a.img"}}),
    ("query-named-block-nodes", {}),
    ("query-named-block-nodes", {"flat": True}),
    ("query-block", {}),
    ("query-blockstats", {}),
    ("query-blockstats", {"query-nodes": True}),
    (ADD, {"driver": "raw", "node-name": "a", "file": {"driver": "file", "filename": "a.img"}}),
    (ADD, {"driver": "raw", "node-name": "1x", "file": {"driver": "file", "filename": "a.img"}}),
    (ADD, {"driver": "raw", "node-name": "x" * 32, "file": {"driver": "file", "filename": "a.img"}}),
    (ADD, {"driver": "raw", "file": {"driver": "file", "filename": "a.img"}}),
    (ADD, {"driver": "raw", "node-name": "z", "file": {"driver": "file", "filename": "nope.img"}}),
    (ADD, {"driver": "raw", "node-name": "z", "file": "nope"}),
    (ADD, {"driver": "raw", "node-name": "z"}),
    (ADD, {"driver": "file", "node-name": "z", "filename": "."}),
    (ADD, {"driver": "file", "node-name": "z", "filename": ".", "read-only": True}),
    (ADD, {"driver": "file", "node-name": "z", "filename": "/dev/fdset/77"}),
    (ADD, {"driver": "host_device", "node-name": "z", "filename": "a.img"}),
    (ADD, {"driver": "file", "node-name": "f", "filename": "a.img"}),
    (ADD, {"driver": "raw", "node-name": "r1", "file": "f", "size": 4096}),
    (ADD, {"driver": "raw", "node-name": "r2", "file": "f", "offset": 4096}),
    (ADD, {"driver": "raw", "node-name": "r3", "file": "f", "offset": 4096000}),
    (ADD, {"driver": "raw", "node-name": "r3", "file": "f", "offset": 4096, "size": 1048576}),
    (ADD, {"driver": "raw", "node-name": "r3", "file": "f", "size": 100}),
    (ADD, {"driver": "raw", "node-name": "r3", "file": "f"}),
    ("query-named-block-nodes", {"flat": True}),
    ("block_resize", {"node-name": "r1", "size": 512}),
    ("block_resize", {"node-name": "r2", "size": 512}),
    ("query-named-block-nodes", {"flat": True}),
    *[("blockdev-del", {"node-name": name}) for name in ("f", "nope", "r3", "r2", "r1", "f")],
    (ADD, {"driver": "null-co", "node-name": "n"}),
    (ADD, {"driver": "null-aio", "node-name": "n2", "size": 4096, "read-zeroes": True}),
    (ADD, {"driver": "raw", "node-name": "rn", "file": "n2", "detect-zeroes": "unmap"}),
    (ADD, {"driver": "raw", "node-name": "rn", "file": "n2", "force-share": True}),
    (
        ADD,
        {
            "driver": "raw",
            "node-name": "rn",
            "file": "n2",
            "discard": "unmap",
            "detect-zeroes": "unmap",
            "read-only": True,
            "cache": {"direct": True, "no-flush": True},
        },
    ),
    ("query-named-block-nodes", {}),
    ("block_resize", {"node-name": "a", "size": 2097152}),
    ("block_resize", {"node-name": "a", "size": -1}),
    ("block_resize", {"node-name": "n", "size": 4096}),
    ("block_resize", {"node-name": "rn", "size": 4096}),
    ("block_resize", {"device": "q", "size": 4096}),
    ("block_resize", {"size": 4096}),
    (ADD, {"driver": "raw", "node-name": "b", "file": {"driver": "file", "filename": "b.img"}}),
    ("query-named-block-nodes", {"flat": True}),
    ("block-set-write-threshold", {"node-name": "zz", "write-threshold": 5}),
    ("block-set-write-threshold", {"node-name": "b", "write-threshold": 5}),
]

FILE_B = {"driver": "file", "filename": "b.img"}
REOPENING: list[Step] = [
    (ADD, {"driver": "raw", "node-name": "b", "file": FILE_B}),
    (ADD, {"driver": "null-co", "node-name": "n"}),
    *[
        ("blockdev-reopen", {"options": [options]})
        for options in (
            {"driver": "raw", "node-name": "b", "file": FILE_B, "read-only": True},
            {"driver": "raw", "node-name": "b", "file": {"driver": "file", "filename": "a.img"}},
            {"driver": "null-co", "node-name": "b"},
            {"driver": "raw", "node-name": "bbb", "file": "n"},
            {"driver": "raw", "file": "n"},
            {"driver": "raw", "node-name": "b", "file": "b"},
            {"driver": "raw", "node-name": "b", "file": "n"},
        )
    ],
    ("query-named-block-nodes", {"flat": True}),
]

NONE = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
SOME = {**NONE, "bps": 1000, "iops_rd": 10}
THROTTLE = "block_set_io_throttle"
LIMITS: list[Step] = [
    ("query-block", {}),
    *[
        (THROTTLE, {"device": "d0", **arguments})
        for arguments in (
            {**NONE, "bps": 1, "bps_rd": 1},
            {**NONE, "bps": -1},
            {**NONE, "iops_size": 4096},
            {**SOME, "bps_max_length": 0},
            {**SOME, "bps_max_length": 5},
            {**SOME, "bps_max": 500},
            {**SOME, "bps_rd_max": 500},
            {**SOME, "bps": 1 << 60},
            {**SOME, "bps_max": 1 << 40, "bps_max_length": 1 << 30},
            {**SOME, "bps_max": 2000, "bps_max_length": 5, "iops_size": 4096},
        )
    ],
    ("query-block", {}),
    (THROTTLE, {"device": "d0", **SOME, "group": "together"}),
    (THROTTLE, {"device": "d1", **SOME, "group": "together"}),
    ("query-block", {}),
    (THROTTLE, {"device": "d1", **NONE, "iops": 5}),
    ("query-block", {}),
    (THROTTLE, {"device": "d0", **NONE}),
    (THROTTLE, {"device": "d1", **NONE}),
    ("query-block", {}),
    (THROTTLE, {"device": "empty", **NONE}),
    (THROTTLE, {"device": "nope", **NONE}),
    (THROTTLE, {"id": "nope", **NONE}),
    (THROTTLE, NONE),
]

GROUP = {"qom-type": "throttle-group", "id": "tg"}
GROUPS: list[Step] = [
    (ADD, {"driver": "throttle", "node-name": "t", "throttle-group": "tg", "file": "nope"}),
    ("object-add", {**GROUP, "limits": {"bps-total": 1, "bps-read": 1}}),
    ("object-add", {**GROUP, "limits": {"bps-total": -1}}),
    ("object-add", {**GROUP, "limits": {"bps-total": 1000}}),
    ("object-add", {**GROUP, "limits": {"bps-total": 1000}}),
    ("qom-get", {"path": "/objects/tg", "property": "limits"}),
    ("qom-set", {"path": "/objects/tg", "property": "limits", "value": {"iops-read": 7, "iops-size": 512}}),
    ("qom-set", {"path": "/objects/tg", "property": "limits", "value": {"bps-write": 7}}),
    ("qom-get", {"path": "/objects/tg", "property": "limits"}),
    (ADD, {"driver": "throttle", "node-name": "t", "throttle-group": "tg", "file": "nope"}),
    (ADD, {"driver": "null-co", "node-name": "n", "read-zeroes": True}),
    (ADD, {"driver": "throttle", "node-name": "t", "throttle-group": "tg", "file": "n"}),
    (ADD, {"driver": "throttle", "node-name": "u", "throttle-group": "other", "file": "n"}),
    (ADD, {"driver": "copy-on-read", "node-name": "c", "file": "t"}),
    (ADD, {"driver": "copy-on-read", "node-name": "d", "file": "t", "bottom": "t"}),
    (ADD, {"driver": "copy-on-read", "node-name": "d", "file": "t", "bottom": "nope"}),
    ("query-named-block-nodes", {"flat": True}),
    ("object-del", {"id": "tg"}),
    (
        "blockdev-reopen",
        {"options": [{"driver": "throttle", "node-name": "t", "throttle-group": "x", "file": "n"}]},
    ),
    *[("blockdev-del", {"node-name": name}) for name in ("t", "c", "t")],
    ("object-del", {"id": "tg"}),
]

MEDIA: list[Step] = [
    ("query-block", {}),
    ("query-blockstats", {}),
    ("eject", {"device": "q"}),
    ("eject", {}),
    ("eject", {"id": "q"}),
    ("eject", {"device": "a", "id": "b"}),
    ("eject", {"device": "d0"}),
    ("blockdev-open-tray", {"id": "q"}),
    ("blockdev-open-tray", {"device": "d0"}),
    ("blockdev-close-tray", {"id": "q"}),
    ("blockdev-close-tray", {"device": "d0"}),
    ("blockdev-remove-medium", {"id": "q"}),
    ("blockdev-insert-medium", {"id": "q", "node-name": "a"}),
    ("blockdev-change-medium", {"id": "q", "filename": "a"}),
    ("blockdev-change-medium", {"device": "q", "filename": "a"}),
    ("blockdev-change-medium", {"device": "empty", "filename": "nope"}),
    ("blockdev-change-medium", {"device": "empty", "filename": "b.img", "format": "raw"}),
    ("query-block", {}),
    ("block_resize", {"device": "empty", "size": 4096}),
    ("block_resize", {"device": "d0", "size": 4096}),
    (ADD, {"driver": "null-co", "node-name": "d0"}),
    ("block-latency-histogram-set", {"id": "d0"}),
]


LINES: list[Step] = [
    ("human-monitor-command", {"command-line": line})
    for line in (
        "info block",
        "info block -v",
        "info block -n",
        "info block d0",
        "info block f",
        "info block nope",
        "info block -x",
        "info blockstats",
        "block_resize d0 2",
        "block_resize d0 512k",
        "block_resize d0 much",
        "block_resize nope 1M",
        "info block -v d0",
        "eject nope",
        "eject -f d0",
        "change d0 b.img raw read-only",
        "info block d0",
        "change d0 a.img raw sometimes",
        "change d0 nope",
        "info block d0",
        "info block empty",
    )
]


GRAPH: list[Step] = [
    (ADD, {"driver": "null-co", "node-name": "n"}),
    (ADD, {"driver": "raw", "node-name": "part", "file": "n", "offset": 512}),
    (ADD, {"driver": "raw", "node-name": "ro", "file": "n", "read-only": True}),
    (ADD, {"driver": "copy-on-read", "node-name": "c", "file": "n"}),
    ("x-debug-query-block-graph", {}),
]


def named(graph: Any) -> Any:
    """A block graph without numbers and without order."""
    names = {each["id"]: (each["type"], each["name"]) for each in graph["nodes"]}
    edges = [
        (names[each["parent"]], names[each["child"]], each["name"], each["perm"], each["shared-perm"])
        for each in graph["edges"]
    ]
    return sorted(names.values()), sorted(edges)


def settled(value: Any) -> Any:
    """An answer without what differs by chance."""
    if isinstance(value, dict) and value.keys() == {"nodes", "edges"}:
        return named({key: settled(each) for key, each in value.items()})
    if isinstance(value, dict):
        return {key: settled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [settled(each) for each in value]
    if isinstance(value, str) and value.startswith("json:"):
        return settled(json.loads(value.removeprefix("json:")))
    return re.sub(r"#block\d+", "#block", value) if isinstance(value, str) else value


def answers(program: Program, steps: list[Step]) -> list[Any]:
    found = []
    for name, arguments in steps:
        try:
            found.append(settled(program.qmp.command(name, **arguments)))
        except QmpError as error:
            found.append([error.error_class, str(error)])
    return found


def images(folder: Path) -> None:
    (folder / "a.img").write_bytes(b"x" * (1 << 20))
    (folder / "b.img").write_bytes(bytes(1000))


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        pytest.param(NODES, (), id="nodes"),
        pytest.param(REOPENING, (), id="reopening"),
        pytest.param(
            MEDIA,
            ("-drive", "if=none,file=a.img,id=d0,format=raw", "-drive", "if=none,id=empty"),
            id="media",
        ),
        pytest.param(GROUPS, (), id="groups"),
        pytest.param(
            GRAPH, ("-drive", "if=none,file=a.img,format=raw,id=d0", "-drive", "if=none,id=e"), id="graph"
        ),
        pytest.param(
            LIMITS,
            (
                *("-drive", "if=none,file=a.img,id=d0,format=raw,throttling.iops-read=7,throttling.group=g"),
                *(
                    "-drive",
                    "if=none,file=b.img,id=d1,format=raw,bps=5000,bps_max=6000,iops_size=512,iops_wr=1",
                ),
                *("-drive", "if=none,id=empty"),
            ),
            id="limits",
        ),
        pytest.param(
            LINES,
            (
                *("-drive", "if=none,file=a.img,id=d0,format=raw,cache=none,detect-zeroes=on"),
                *("-drive", "if=none,id=empty"),
                *("-blockdev", "file,node-name=f,filename=b.img,read-only=on"),
            ),
            id="human",
        ),
    ],
)
def test_commands_have_the_same_answers(  # noqa: PLR0917 - fixtures
    daemon: Starter,
    reference: Starter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Step],
    options: tuple[str, ...],
):
    monkeypatch.chdir(tmp_path)
    given: list[list[Any]] = []
    for start in (reference, daemon):
        images(tmp_path)
        program = start(*NOTHING, *options)
        given.append(answers(program, steps))
        program.qmp.command("quit")
        program.process.wait(60)
    for step, theirs, ours in zip(steps, *given, strict=True):
        assert ours == theirs, step


DRIVES = [
    "if=none,file=a.img,id=d0,format=raw,copy-on-read=maybe",
    "if=none,file=a.img,id=d0,format=raw,cache=bad",
    "if=none,file=a.img,id=d0,format=bad",
    "if=none,file=nope.img,id=d0",
    "if=bad,file=a.img,id=d0",
    "if=ide,file=a.img,id=d0,format=raw",
    "if=none,file=a.img,id=0d",
    "if=none,file=a.img,index=1,unit=2",
    "if=none,file=a.img,unit=1,werror=bad",
    "if=none,file=a.img,unit=1,rerror=enospc",
    "if=none,file=a.img,format=raw,frob=1",
    "if=none,file=a.img,format=raw,file.frob=1",
    "if=none,format=raw",
    "if=none,file=a.img,format=raw,driver=raw",
    "if=none,file=foo:a.img,format=raw",
    "if=none,file.filename=a.img,format=raw,read-only=on,readonly=on",
    "if=none,file=a.img,format=raw,media=x",
    "if=none,file=a.img,format=raw,aio=bad",
    "if=none,file=a.img,format=raw,readonly=maybe",
    "if=none,file=a.img,format=raw,stats-intervals.0=0",
    "if=none,file=a.img,format=raw,detect-zeroes=maybe",
    "if=sd,werror=stop",
    "if=none,file=a.img,format=raw,bps=1,bps_rd=1",
    "if=none,file=a.img,format=raw,throttling.bps-max=1",
    "if=none,file=a.img,format=raw,iops=few",
]


@pytest.mark.parametrize("drive", DRIVES)
def test_drives_that_cannot_be_are_refused_in_the_same_words(tmp_path: Path, drive: str):
    images(tmp_path)
    said = []
    for program in (QEMU, QEMUD):
        words = [program, "-machine", "virt", "-nodefaults", "-display", "none", "-S", "-drive", drive]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
            stdin=subprocess.DEVNULL,
        )
        said.append((done.returncode, done.stderr.partition(": ")[2]))
    assert said[1] == said[0]
