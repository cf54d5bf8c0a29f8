"""Two processes and one image: each of them qemud or QEMU, one gives the image up and the other goes on with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.block.nbd.test_server import run
from tests.block.qcow2.tools import check_image, make_image
from tests.block.test_activity import HELD, changed
from tests.block.test_differential import NOTHING
from tests.programs import QEMU, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

SIZE = 8 << 20
MIB = 1 << 20
SET = "blockdev-set-active"


class Holder:
    """A process that has the image open, and writes to it by an export."""

    def __init__(self, start: Starter, folder: Path, image: Path, *, active: bool = True) -> None:
        node = (
            f"qcow2,node-name=disk,active={'on' if active else 'off'},file.driver=file,file.filename={image}"
        )
        self.program: Program = start(*NOTHING, "-S", "-blockdev", node)
        self.socket = folder / f"{self.program.process.pid}.nbd"
        where = {"type": "unix", "data": {"path": os.fspath(self.socket)}}
        self("nbd-server-start", addr=where)
        self(
            "block-export-add",
            **{"id": "e", "type": "nbd", "node-name": "disk", "writable": True, "allow-inactive": True},
        )

    def __call__(self, command: str, **arguments: Any) -> Any:
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self.program.qmp.command(command, given)

    def give(self) -> None:
        self(SET, active=False)
        assert not self.node["active"]

    def take(self) -> None:
        self(SET, active=True)
        assert self.node["active"]

    @property
    def node(self) -> dict[str, Any]:
        nodes = self("query-named-block-nodes", flat=True)
        return next(each for each in nodes if each["node-name"] == "disk")

    @property
    def bitmaps(self) -> dict[str, int]:
        return {each["name"]: each["count"] for each in self.node.get("dirty-bitmaps", [])}

    def io(self, *commands: str) -> None:
        changed(f"nbd+unix:///disk?socket={self.socket}", *commands, form="raw")

    def end(self) -> None:
        self("quit")
        self.program.process.wait(60)


@pytest.fixture(params=["qemud", "QEMU"])
def first(request: pytest.FixtureRequest) -> Starter:
    return _starter(request)


@pytest.fixture(params=["qemud", "QEMU"])
def second(request: pytest.FixtureRequest) -> Starter:
    return _starter(request)


def _starter(request: pytest.FixtureRequest) -> Starter:
    found: Starter = request.getfixturevalue("daemon" if request.param == "qemud" else "reference")
    return found


@pytest.mark.needs(QEMU)
def test_an_image_goes_over_and_comes_back(first: Starter, second: Starter, tmp_path: Path):
    image = make_image(tmp_path / "disk.qcow2", SIZE, lazy_refcounts="on")
    # As long as it does not grow: a QEMU that takes a file knows only the size that it had when it was opened.
    os.truncate(image, 8 * SIZE)
    here = Holder(first, tmp_path, image)
    here("block-dirty-bitmap-add", node="disk", name="b", persistent=True)
    here.io("write -P 1 0 1M", "write -P 2 4M 64k")
    there = Holder(second, tmp_path, image, active=False)
    assert not there.node["active"]
    here.give()
    check_image(image)
    there.take()
    assert there.bitmaps == {"b": MIB + 65536}
    there.io("read -P 1 0 1M", "read -P 2 4M 64k", "write -P 3 1M 64k", "write -P 4 4M 64k", "discard 0 64k")
    there("block-dirty-bitmap-add", node="disk", name="late", persistent=True)
    there.io("write -P 5 7M 1M")
    there.give()
    check_image(image)
    here.take()
    assert here.bitmaps == {"b": 2 * MIB + 2 * 65536, "late": MIB}
    here.io("read -P 3 1M 64k", "read -P 4 4M 64k", "read -P 5 7M 1M", "write -P 6 2M 1M")
    here.end()
    there.take()
    there.io("read -P 6 2M 1M", "write -P 7 3M 64k")
    there.end()
    check_image(image)
    run("qemu-io", "-f", "qcow2", "-r", "-c", "read -P 7 3M 64k", os.fspath(image))


@pytest.mark.needs(QEMU)
def test_nobody_takes_what_another_one_has(daemon: Starter, second: Starter, tmp_path: Path):
    image = make_image(tmp_path / "disk.qcow2", SIZE)
    here = Holder(daemon, tmp_path, image)
    there = Holder(second, tmp_path, image, active=False)
    with pytest.raises(QmpError) as caught:
        there("blockdev-set-active", active=True)
    assert str(caught.value) == HELD
    here.give()
    there.take()
    with pytest.raises(QmpError) as caught:
        here("cont")
    assert str(caught.value) == HELD
    assert here("query-status")["status"] == "prelaunch"
    there.io("write -P 8 0 8M")
    there("block-export-del", id="e", mode="hard")
    there.program.qmp.event("BLOCK_EXPORT_DELETED")
    there("block_resize", node_name="disk", size=2 * SIZE)
    there.give()
    here("cont")
    assert here.node["active"]
    assert here.node["image"]["virtual-size"] == 2 * SIZE
    here.io("read -P 8 0 8M", "write -P 9 0 64k")
    here.end()
    there.end()
    check_image(image)


def test_a_machine_whose_disk_another_one_has_waits(daemon: Starter, tmp_path: Path):
    image = make_image(tmp_path / "disk.qcow2", SIZE)
    here = Holder(daemon, tmp_path, image)
    node = f"qcow2,node-name=disk,active=off,file.driver=file,file.filename={image}"
    there = daemon(*NOTHING, "-blockdev", node)
    assert there.qmp.command("query-status")["status"] == "prelaunch"
    assert HELD in there.stderr
    shown = {"command-line": "info block disk"}
    assert "(qcow2, inactive)" in there.qmp.command("human-monitor-command", shown)
    here.end()
    there.qmp.command("cont")
    assert there.qmp.command("query-status")["running"]
    assert "(qcow2)" in there.qmp.command("human-monitor-command", shown)


def test_a_device_can_be_made_on_an_image_that_is_yet_to_come(daemon: Starter, tmp_path: Path):
    image = make_image(tmp_path / "disk.qcow2", SIZE)
    here = Holder(daemon, tmp_path, image)
    here.io("write -P 1 0 64k")
    node = f"qcow2,node-name=disk,active=off,file.driver=file,file.filename={image}"
    there = daemon(
        *("-machine", "virt", "-display", "none", "-nodefaults", "-S", "-blockdev", node),
        *("-device", "virtio-blk-device,drive=disk,id=hd"),
    )
    (drive,) = there.qmp.command("query-block")
    assert not drive["inserted"]["active"]
    with pytest.raises(QmpError, match=HELD):
        there.qmp.command("cont")
    with pytest.raises(QmpError, match="unavailable on inactive node"):
        there.qmp.command("block_resize", {"node-name": "disk", "size": 4096})
    here.give()
    there.qmp.command("cont")
    (drive,) = there.qmp.command("query-block")
    assert drive["inserted"]["active"]
    with pytest.raises(QmpError, match=HELD):
        here.take()
    there.qmp.command("stop")
    there.qmp.command(SET, {"active": False})
    here.take()
    here.end()
    there.qmp.command("quit")
    there.process.wait(60)
    check_image(image)
