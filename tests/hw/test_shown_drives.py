"""What the property `drive` of a device shows after the disk has become another one: as in QEMU, what is there now."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import LIMIT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.differential, pytest.mark.needs("qemu-img")]

DEVICES = (
    "virtio-scsi-device,id=s",
    "virtio-blk-device,id=blk,drive=n0",
    "virtio-blk-pci,id=pci,drive=n1",
    "virtio-blk-pci,id=named,drive=d0",
    "scsi-hd,id=hd,drive=n2",
    "scsi-cd,id=cd",
    "virtio-net-device,id=net,netdev=u0",
)


def raw(path: Path) -> str:
    """An image of zeroes."""
    path.write_bytes(bytes(1 << 20))
    return str(path)


def shown(program: Program) -> dict[str, Any]:
    names = ["blk", "pci", "pci/virtio-backend", "named", "hd", "cd"]
    found = {
        name: program.qmp.command("qom-get", path=f"/machine/peripheral/{name}", property="drive")
        for name in names
    }
    found["net"] = program.qmp.command("qom-get", path="/machine/peripheral/net", property="netdev")
    return found


def story(start: Starter, folder: Path) -> list[dict[str, Any]]:
    """What is shown after each of a few changes."""
    folder.mkdir()
    nodes = [
        word
        for number in range(3)
        for word in ("-blockdev", f"file,node-name=n{number},filename={raw(folder / f'{number}.raw')}")
    ]
    program = start(
        *("-machine", "virt", "-m", "64", "-S", "-display", "none", "-nodefaults"),
        *nodes,
        *("-blockdev", "null-co,node-name=medium,size=1048576,read-only=on"),
        *("-drive", f"if=none,id=d0,format=raw,file={raw(folder / 'd0.raw')}"),
        *("-netdev", "user,id=u0"),
        *(word for text in DEVICES for word in ("-device", text)),
    )
    command = program.qmp.command
    found = [shown(program)]
    # Snapshots.
    for name in ("n0", "n1", "n2"):
        overlay = {"snapshot-file": str(folder / f"{name}.qcow2"), "snapshot-node-name": f"top-{name}"}
        command("blockdev-snapshot-sync", {"node-name": name, **overlay})
    command("blockdev-snapshot-sync", {"device": "d0", "snapshot-file": str(folder / "d0.qcow2")})
    found.append(shown(program))
    # A mirror whose copy is used from then on.
    command(
        "blockdev-add",
        {"driver": "file", "node-name": "copy", "filename": raw(folder / "copy.raw")},
    )
    command("blockdev-mirror", {"job-id": "j", "device": "top-n1", "target": "copy", "sync": "full"})
    program.qmp.event("BLOCK_JOB_READY")
    command("block-job-complete", {"device": "j"})
    program.qmp.event("BLOCK_JOB_COMPLETED")
    found.append(shown(program))
    # Media.
    command("blockdev-open-tray", {"id": "cd"})
    command("blockdev-insert-medium", {"id": "cd", "node-name": "medium"})
    command("blockdev-close-tray", {"id": "cd"})
    found.append(shown(program))
    command("blockdev-open-tray", {"id": "cd"})
    command("blockdev-remove-medium", {"id": "cd"})
    # A card is still named after the network that it has lost.
    command("netdev_del", {"id": "u0"})
    found.append(shown(program))
    return found


def test_a_drive_is_shown_as_it_is_now(daemon: Starter, reference: Starter, tmp_path: Path):
    ours, theirs = story(daemon, tmp_path / "ours"), story(reference, tmp_path / "theirs")
    assert ours == theirs
    assert [each["blk"] for each in ours[:2]] == ["n0", "top-n0"]
    assert [each["pci"] for each in ours[1:3]] == ["top-n1", "copy"]
    assert [each["cd"] for each in ours] == ["", "", "", "medium", ""]


def test_flash_memory_is_shown_with_what_is_in_it_now(daemon: Starter, reference: Starter, tmp_path: Path):
    told = []
    for name, start in (("ours", daemon), ("theirs", reference)):
        flash, overlay = tmp_path / f"{name}.raw", tmp_path / f"{name}.qcow2"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "raw", str(flash), "32M"], check=True, timeout=LIMIT
        )
        program = start(
            *("-display", "none", "-nodefaults", "-S", "-m", "64"),
            *("-blockdev", f"file,node-name=flash,filename={flash}", "-machine", "virt,pflash1=flash"),
        )
        command = program.qmp.command
        values = []
        for _ in range(2):
            values.append(command("qom-get", path="/machine/virt.flash1", property="drive"))
            if len(values) == 1:
                command(
                    "blockdev-snapshot-sync",
                    {
                        "node-name": "flash",
                        "snapshot-file": str(overlay),
                        "snapshot-node-name": "top",
                    },
                )
        told.append(values)
    assert told[0] == told[1]
