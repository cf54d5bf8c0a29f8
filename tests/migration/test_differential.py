"""The same commands about snapshots of the machine to qemud and to QEMU: the same answers, events, complaints and tables."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.migration.test_snapshots import human
from tests.programs import QEMU

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.differential, pytest.mark.needs(QEMU)]

NOTHING = ("-machine", "none", "-nodefaults", "-display", "none")


def images(folder: Path) -> None:
    """Two disks with some snapshots, and one that can have none."""
    for name, size, tags in (("a", "1M", ("both", "only-a")), ("b", "2M", ("other", "both"))):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(folder / name), size], check=True)
        for tag in tags:
            subprocess.run(["qemu-img", "snapshot", "-c", tag, str(folder / name)], check=True)
    (folder / "raw").write_bytes(bytes(1 << 20))


def node(name: str, driver: str = "qcow2", **more: Any) -> tuple[str, str]:
    file = {"driver": "file", "filename": name, "node-name": f"{name}-file"}
    return "-blockdev", json.dumps({"driver": driver, "node-name": name, "file": file, **more})


def jobs(program: Program, steps: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """What each job told, and what it failed of."""
    found: list[Any] = []
    for command, arguments in steps:
        program.qmp.events.clear()
        if not command.startswith("snapshot"):
            found.append(program.qmp.command(command, arguments))
            continue
        program.qmp.command(command, {"job-id": "j", **arguments})
        told: list[str] = []
        while not told or told[-1] != "concluded":
            event = program.qmp.events.pop(0) if program.qmp.events else program.qmp.message()
            told.append(event["data"]["status"] if event["event"] == "JOB_STATUS_CHANGE" else event["event"])
        infos = program.qmp.command("query-jobs")
        program.qmp.command("job-dismiss", id="j")
        found.append((command, arguments, told, infos, program.qmp.command("query-status")["status"]))
    return found


def steps(*commands: tuple[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return list(commands)


AB = ["a", "b"]
STEPS = steps(
    ("snapshot-save", {"tag": "t", "vmstate": "a", "devices": []}),
    ("snapshot-save", {"tag": "t", "vmstate": "a", "devices": ["nope"]}),
    ("snapshot-save", {"tag": "t", "vmstate": "a", "devices": ["a", "nope"]}),
    ("snapshot-save", {"tag": "t", "vmstate": "a", "devices": ["a", "raw"]}),
    ("snapshot-save", {"tag": "t", "vmstate": "a", "devices": ["a", "a-file"]}),
    ("snapshot-save", {"tag": "t", "vmstate": "b", "devices": ["a"]}),
    ("snapshot-save", {"tag": "t", "vmstate": "nope", "devices": ["a"]}),
    ("snapshot-save", {"tag": "both", "vmstate": "a", "devices": AB}),
    ("snapshot-save", {"tag": "only-a", "vmstate": "a", "devices": ["a"]}),
    ("snapshot-save", {"tag": "t", "vmstate": "filter", "devices": ["filter"]}),
    ("snapshot-load", {"tag": "t", "vmstate": "a", "devices": []}),
    ("snapshot-load", {"tag": "nope", "vmstate": "a", "devices": AB}),
    ("snapshot-load", {"tag": "only-a", "vmstate": "a", "devices": AB}),
    ("snapshot-load", {"tag": "both", "vmstate": "a", "devices": AB}),
    ("snapshot-load", {"tag": "both", "vmstate": "nope", "devices": AB}),
    ("snapshot-load", {"tag": "both", "vmstate": "a", "devices": ["raw"]}),
    ("snapshot-load", {"tag": "t", "vmstate": "filter", "devices": ["filter"]}),
    ("snapshot-delete", {"tag": "both", "devices": []}),
    ("snapshot-delete", {"tag": "both", "devices": ["raw"]}),
    ("snapshot-delete", {"tag": "nope", "devices": AB}),
    ("snapshot-delete", {"tag": "only-a", "devices": AB}),
    ("snapshot-delete", {"tag": "both", "devices": ["nope"]}),
    ("snapshot-save", {"tag": "mine", "vmstate": "a", "devices": AB}),
    ("snapshot-save", {"tag": "mine", "vmstate": "a", "devices": AB}),
    ("snapshot-load", {"tag": "mine", "vmstate": "a", "devices": AB}),
    ("snapshot-load", {"tag": "mine", "vmstate": "b", "devices": AB}),
    ("cont", {}),
    ("snapshot-load", {"tag": "mine", "vmstate": "a", "devices": AB}),
    ("snapshot-load", {"tag": "nope", "vmstate": "a", "devices": AB}),
    ("cont", {}),
    ("snapshot-save", {"tag": "more", "vmstate": "b", "devices": AB}),
    ("block-dirty-bitmap-add", {"node": "b", "name": "changes"}),
    ("snapshot-load", {"tag": "mine", "vmstate": "a", "devices": ["b"]}),
    ("snapshot-load", {"tag": "more", "vmstate": "b", "devices": ["b", "a"]}),
    ("snapshot-delete", {"tag": "mine", "devices": AB}),
    ("snapshot-delete", {"tag": "more", "devices": AB}),
)


def both(
    daemon: Starter, reference: Starter, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str
) -> list[Program]:
    found = []
    made = folder / "made"
    made.mkdir()
    images(made)
    for name, start in (("theirs", reference), ("ours", daemon)):
        place = folder / name
        place.mkdir()
        for image in made.iterdir():
            (place / image.name).write_bytes(image.read_bytes())
        monkeypatch.chdir(place)
        found.append(start(*NOTHING, *options))
    return found


def test_jobs(daemon: Starter, reference: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filtered = json.dumps({"driver": "throttle", "node-name": "filter", "throttle-group": "g", "file": "c"})
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "c"), "1M"], check=True)
    one = (*node("a"), *node("b"), *node("raw", "raw"), "-object", "throttle-group,id=g")
    null = ("-blockdev", json.dumps({"driver": "null-co", "node-name": "c", "read-zeroes": True}))
    programs = both(daemon, reference, tmp_path, monkeypatch, *one, *null, "-blockdev", filtered, "-S")
    theirs, ours = (jobs(program, STEPS) for program in programs)
    for one_step, other in zip(ours, theirs, strict=True):
        assert one_step == other


LINES = (
    "info snapshots",
    "savevm both",
    "savevm t",
    "loadvm",
    "loadvm nope",
    "loadvm only-a",
    "loadvm both",
    "delvm",
    "delvm nope",
    "delvm other",
    "info snapshots",
    "savevm new",
    "loadvm new",
    "delvm new",
)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-drive", "if=none,id=hd0,file=a", "-drive", "if=none,id=hd1,file=b"),
        (*node("b"), *node("a")),
        ("-drive", "if=none,id=hd0,file=a", "-drive", "if=none,id=hd1,file=raw,format=raw"),
        ("-drive", "if=none,id=hd0,file=a", "-drive", "if=none,id=hd1,file=raw,format=raw,read-only=on"),
        ("-drive", "if=none,id=hd0,file=a,read-only=on"),
        (*node("raw", "raw"), *node("a")),
    ],
    ids=["nothing", "two", "nodes", "raw", "raw-read-only", "read-only", "raw-first"],
)
def test_by_hand(
    daemon: Starter,
    reference: Starter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    theirs, ours = both(daemon, reference, tmp_path, monkeypatch, *options)
    for line in LINES:
        one, other = (settled(human(program, line)) for program in (ours, theirs))
        assert one == other, line


def settled(text: str) -> str:
    """Without sizes of states, and times at which the two were asked."""
    text = re.sub(r" +[\d.]+ [KMG]iB \d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\d{4}:\d\d:\d\d\.\d{3}", " STATE", text)
    return re.sub(r"(?m)^(\S+ +\S+ +0 B) .*", r"\1", text) if "0000:00:00.000" not in text else text


@pytest.mark.parametrize("tag", ["nope", "both", "only-a"])
def test_at_the_start(
    daemon: Starter, reference: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    told = []
    drives = ("-drive", "if=none,id=hd0,file=a", "-drive", "if=none,id=hd1,file=b")
    for folder, start in (("theirs", reference), ("ours", daemon)):
        (tmp_path / folder).mkdir()
        images(tmp_path / folder)
        monkeypatch.chdir(tmp_path / folder)
        program = start(*NOTHING, *drives, "-loadvm", tag, qmp=False)
        told.append((program.wait(), program.stderr.partition(": ")[2]))
    assert told[0] == told[1]
