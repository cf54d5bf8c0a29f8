"""A drive of `-drive` goes with the disk that it was for, and jobs on it end; block nodes and drives without a device stay.

So it is in QEMU, whatever the disk is on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = pytest.mark.differential

SLOTS = [word for n in range(3) for word in ("-device", f"pcie-root-port,id=p{n},chassis={n + 1}")]
BOARD = ("-machine", "virt", "-m", "64", "-S", "-display", "none", "-nodefaults", *SLOTS)
SCSI = ("-device", "virtio-scsi-device,id=s")
NULL = "driver=null-co,size=1048576"


def drives(program: Program) -> dict[str, Any]:
    """What there is, by name: drives with their devices, nodes, jobs."""
    return {
        "drives": [
            (each["device"], each.get("qdev"), each["inserted"]["node-name"])
            for each in program.qmp.command("query-block")
        ],
        "nodes": sorted(each["node-name"] for each in program.qmp.command("query-named-block-nodes")),
        "jobs": [each["device"] for each in program.qmp.command("query-block-jobs")],
    }


def unplug(program: Program, name: str) -> dict[str, Any]:
    program.qmp.command("device_del", id=name)
    while program.qmp.event("DEVICE_DELETED").get("data", {}).get("device") != name:
        pass
    return drives(program)


@pytest.mark.parametrize("driver", ["virtio-blk-pci", "scsi-hd"])
def test_with_its_device(daemon: Starter, reference: Starter, driver: str):
    told: list[Any] = []
    for start in (daemon, reference):
        program = start(
            *BOARD,
            *SCSI,
            *("-drive", f"if=none,id=d0,{NULL},node-name=n0", "-drive", f"if=none,id=d1,{NULL},node-name=n1"),
            *("-blockdev", f"{NULL},node-name=n2"),
        )

        def add(number: int, drive: str, program: Program = program, **more: Any) -> None:
            bus = "s.0" if driver == "scsi-hd" else f"p{number}"
            arguments = {"driver": driver, "id": f"v{number}", "bus": bus, "drive": drive}
            program.qmp.command("device_add", {**arguments, **more})

        add(0, "d0")
        add(1, "n2")
        found = [drives(program)]
        # A device that was refused has not had its drive.
        with pytest.raises(QmpError):
            add(2, "d1", logical_block_size=4096, physical_block_size=512)
        found += [drives(program), unplug(program, "v0"), unplug(program, "v1")]
        with pytest.raises(QmpError) as caught:
            add(0, "d0")
        told.append([*found, str(caught.value).partition("can't find")[2]])
        program.qmp.command("blockdev-del", {"node-name": "n2"})
    assert told[0] == told[1]
    assert [name for name, _, _ in told[0][2]["drives"]] == ["d1", ""]
    assert told[0][3]["nodes"] == ["n1", "n2"]


def test_jobs_on_it_end(daemon: Starter, reference: Starter, tmp_path: Path):
    told: list[Any] = []
    for start in (daemon, reference):
        target = tmp_path / "target.raw"
        target.write_bytes(bytes(1 << 20))
        program = start(
            *BOARD,
            *("-drive", f"if=none,id=d0,{NULL},node-name=n0"),
            *("-blockdev", f"file,node-name=target,filename={target}"),
        )
        program.qmp.command("device_add", driver="virtio-blk-pci", id="v0", bus="p0", drive="d0")
        program.qmp.command(
            "blockdev-mirror", {"job-id": "j", "device": "d0", "target": "target", "sync": "full"}
        )
        program.qmp.event("BLOCK_JOB_READY")
        program.qmp.command("device_del", id="v0")
        # Its copy was complete, and is left as it is.
        ended = program.qmp.event("BLOCK_JOB_COMPLETED")
        told.append((ended["data"], drives(program)))
    assert told[0][0] == told[1][0]
    assert told[0][1]["jobs"] == told[1][1]["jobs"] == []
