"""The same SCSI devices in Debian's QEMU and in qemud: what is told, what is refused, what comes and goes."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import QEMU, QEMUD, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.differential

BOARD = ("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null", "-nodefaults")


def play(program: Program, script: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """The answers, and the events that came with them."""
    found: list[Any] = []
    for command, arguments in script:
        try:
            answer = program.qmp.command(command, **arguments)
        except QmpError as error:
            answer = f"{error.error_class}: {error}"
        if command == "qom-list":  # in no order there
            answer = sorted(answer, key=str)
        found.append((command, arguments, answer))
    return found


def add_nodes(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    script: list[tuple[str, dict[str, Any]]] = []
    for n in range(5):
        path = folder / f"{n}.img"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([n]) * (1 << 20))
        file = {"driver": "file", "filename": str(path), "node-name": f"f{n}"}
        script += [
            ("blockdev-add", file),
            ("blockdev-add", {"driver": "raw", "file": f"f{n}", "node-name": f"d{n}", "read-only": n == 4}),
        ]
    return script


def told(program: Program, name: str, count: int) -> list[Any]:
    """That many events."""
    return [program.qmp.event(name)["data"] for _ in range(count)]


COMING_AND_GOING: list[tuple[str, dict[str, Any]]] = [
    ("device_add", {"driver": "scsi-hd", "bus": "scsi0.0", "drive": "d0", "id": "a", "write-cache": "on", "device_id": "ABC", "serial": "ABC", "channel": 0, "scsi-id": 0, "lun": 0}),
    ("qom-list", {"path": "/machine/peripheral"}),
    ("qom-get", {"path": "/machine/peripheral/a", "property": "scsi-id"}),
    ("qom-get", {"path": "/machine/peripheral/a", "property": "parent_bus"}),
    ("qom-get", {"path": "/machine/peripheral/a", "property": "type"}),
    ("device_add", {"driver": "scsi-hd", "drive": "d0", "id": "b"}),
    ("device_add", {"driver": "scsi-hd", "drive": "d1", "id": "a"}),
    ("device_add", {"driver": "scsi-hd", "drive": "d1", "id": "b", "scsi-id": 0, "lun": 0}),
    ("device_add", {"driver": "scsi-hd", "drive": "d1", "id": "b", "scsi-id": 256}),
    ("device_add", {"driver": "scsi-hd", "drive": "d1", "id": "b", "lun": 16384}),
    ("device_add", {"driver": "scsi-hd", "drive": "d1", "id": "b", "channel": 1}),
    ("device_add", {"driver": "scsi-hd", "drive": "d1", "id": "b", "scsi-id": -1}),
    ("device_add", {"driver": "scsi-hd", "id": "c"}),
    ("device_add", {"driver": "scsi-hd", "id": "c", "drive": "none"}),
    ("device_add", {"driver": "scsi-hd", "id": "c", "drive": "d2", "bus": "none"}),
    ("device_add", {"driver": "scsi-hd", "id": "c", "drive": "d2", "bus": "virtio-mmio-bus.0"}),
    ("device_add", {"driver": "scsi-hd", "id": "c", "drive": "d2", "serial": "x" * 37}),
    ("device_add", {"driver": "scsi-hd", "id": "c", "drive": "d2", "serial": "x" * 21}),
    ("device_add", {"driver": "scsi-hd", "id": "c", "drive": "d2", "logical_block_size": 1000}),
    ("device_add", {"driver": "scsi-hd", "id": "c", "drive": "d2", "logical_block_size": 4096}),
    ("device_add", {"driver": "scsi-hd", "id": "c", "drive": "d2", "cyls": 70000, "heads": 1, "secs": 1}),
    ("device_add", {"driver": "scsi-hd", "id": "c", "drive": "d2", "nope": 1}),
    ("device_add", {"driver": "scsi-hd", "id": "c", "drive": "d2", "removable": "maybe"}),
    ("device_add", {"driver": "scsi-disk-base", "id": "c", "drive": "d2"}),
    ("device_add", {"driver": "scsi-device", "id": "c", "drive": "d2"}),
    ("device_add", {"driver": "virtio-scsi-device", "id": "s9"}),
    ("device_del", {"id": "c"}),
    ("blockdev-del", {"node-name": "d0"}),
    ("device_del", {"id": "a"}),
    ("qom-list", {"path": "/machine/peripheral"}),
    ("device_add", {"driver": "scsi-hd", "drive": "d1", "id": "a", "scsi-id": 3}),
    ("device_add", {"driver": "scsi-cd", "drive": "d2", "id": "cd", "scsi-id": 3}),
    ("device_add", {"driver": "scsi-cd", "id": "empty"}),
    ("qom-get", {"path": "/machine/peripheral/cd", "property": "lun"}),
    ("device_del", {"id": "/machine/peripheral/cd"}),
    ("device_del", {"id": "a"}),
    ("device_del", {"id": "scsi0"}),
]  # fmt: skip


def test_what_comes_and_goes(daemon: Starter, reference: Starter, tmp_path: Path) -> None:
    answers = []
    for name, start in (("ours", daemon), ("theirs", reference)):
        program = start(*BOARD, "-device", "virtio-scsi-device,id=scsi0")
        play(program, add_nodes(tmp_path / name))
        answers.append((play(program, COMING_AND_GOING), told(program, "DEVICE_DELETED", 3)))
    for ours, theirs in zip(answers[0][0], answers[1][0], strict=True):
        assert ours == theirs
    assert answers[0][1] == answers[1][1]


MEDIA: list[tuple[str, dict[str, Any]]] = [
    ("query-block", {}),
    ("blockdev-open-tray", {"id": "cd", "force": False}),
    ("blockdev-remove-medium", {"id": "cd"}),
    ("query-block", {}),
    ("blockdev-insert-medium", {"id": "cd", "node-name": "d4"}),
    ("blockdev-insert-medium", {"id": "cd", "node-name": "d4"}),
    ("blockdev-insert-medium", {"id": "cd", "node-name": "d3"}),
    ("blockdev-close-tray", {"id": "cd"}),
    ("blockdev-remove-medium", {"id": "cd"}),
    ("query-block", {}),
    ("blockdev-open-tray", {"id": "cd", "force": True}),
    ("blockdev-open-tray", {"id": "cd", "force": True}),
    ("blockdev-remove-medium", {"id": "cd"}),
    ("blockdev-del", {"node-name": "d4"}),
    ("blockdev-del", {"node-name": "f4"}),
    ("blockdev-close-tray", {"id": "cd"}),
    ("blockdev-close-tray", {"id": "cd"}),
    ("eject", {"id": "hd"}),
    ("blockdev-open-tray", {"id": "hd"}),
    ("blockdev-insert-medium", {"id": "hd", "node-name": "d3"}),
    ("eject", {"id": "cd"}),
    ("eject", {"id": "nope"}),
    ("blockdev-remove-medium", {"id": "scsi0"}),
    ("human-monitor-command", {"command-line": "eject nope"}),
]


def without_names(value: Any) -> Any:
    """What is not compared: nodes are told of elsewhere."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "removable" in value[0]:
        kept = ("device", "qdev", "removable", "locked", "tray_open", "io-status", "type")
        return sorted(
            (
                {key: drive[key] for key in kept if key in drive} | {"inserted": "inserted" in drive}
                for drive in value
            ),
            key=str,
        )
    return value


def test_media(daemon: Starter, reference: Starter, tmp_path: Path) -> None:
    devices: list[tuple[str, dict[str, Any]]] = [
        ("device_add", {"driver": "scsi-cd", "drive": "d2", "id": "cd"}),
        ("device_add", {"driver": "scsi-hd", "drive": "d1", "id": "hd"}),
    ]
    answers = []
    for name, start in (("ours", daemon), ("theirs", reference)):
        program = start(*BOARD, "-device", "virtio-scsi-device,id=scsi0")
        play(program, [*add_nodes(tmp_path / name), *devices])
        found = [(command, given, without_names(answer)) for command, given, answer in play(program, MEDIA)]
        answers.append((found, told(program, "DEVICE_TRAY_MOVED", 4)))
    for ours, theirs in zip(answers[0][0], answers[1][0], strict=True):
        assert ours == theirs
    assert answers[0][1] == answers[1][1]


WRONG = (
    ("virtio-scsi-device,num_queues=0",),
    ("virtio-scsi-device,num_queues=1023",),
    ("virtio-scsi-device,virtqueue_size=2",),
    ("virtio-scsi-device,virtqueue_size=x",),
    ("scsi-hd",),
    ("scsi-cd,bus=nope",),
    ("virtio-scsi-device", "scsi-hd"),
    ("virtio-scsi-device", "scsi-hd,drive=nope"),
    ("virtio-scsi-device", "scsi-cd,scsi-id=300"),
    ("virtio-scsi-device", "scsi-cd,scsi-id=3,lun=5,id=x", "scsi-cd,scsi-id=3,lun=5"),
    ("virtio-scsi-device", "scsi-cd,bus=scsi.0,id=x", "scsi-cd,bus=scsi.1"),
)


@pytest.mark.parametrize("devices", WRONG, ids=" ".join)
def test_what_cannot_be_made(devices: tuple[str, ...]) -> None:
    """What is printed, and what the process ends with."""
    said = []
    for command in (QEMUD, QEMU):
        options = [option for device in devices for option in ("-device", device)]
        run = subprocess.run([command, *BOARD, *options], capture_output=True, text=True, check=False)
        said.append((run.returncode, run.stderr.replace(str(command), "qemu").splitlines()[:1]))
    assert said[0] == said[1]
