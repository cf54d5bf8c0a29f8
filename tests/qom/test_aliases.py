"""The shorter names of devices: `-device virtio-blk` is `virtio-blk-pci`, wherever a device is asked for."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from qemud.qom.types import types
from tests.programs import LIMIT, QEMU, QEMUD, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

BOARD = ("-machine", "virt", "-m", "64", "-S", "-display", "none", "-serial", "null", "-monitor", "none")
DISK = ("-blockdev", "null-co,node-name=disk,size=1048576")
PORTS = ("-device", "pcie-root-port,id=p1,chassis=1", "-device", "pcie-root-port,id=p2,chassis=2")
ALIASES = {entry.alias: entry.name for entry in types if entry.alias}


def answer(program: Program, command: str, **arguments: object) -> object:
    try:
        return program.qmp.command(command, **arguments)
    except QmpError as error:
        return f"{error.error_class}: {error}"


def test_which_there_are():
    kinds = ("balloon", "blk", "net", "rng", "scsi", "serial")
    assert {f"virtio-{kind}": f"virtio-{kind}-pci" for kind in kinds} == ALIASES


@pytest.mark.differential
def test_the_command_line_and_device_add_take_them_as_qemu_does(daemon: Starter, reference: Starter):
    asked: list[tuple[str, dict[str, object]]] = [
        ("device_add", {"driver": "virtio-balloon", "id": "late", "bus": "p1"}),
        ("qom-get", {"path": "/machine/peripheral/late", "property": "type"}),
        ("device_add", {"driver": "virtio-rng", "id": "wrong", "bus": "p2", "nope": 1}),
        ("device_add", {"driver": "virtio-blk", "id": "wrong", "bus": "p2"}),
        ("device_add", {"driver": "virtio-nope", "id": "wrong", "bus": "p2"}),
        ("device_add", {"driver": "virtio-rng", "id": "wrong", "bus": "pcie.0"}),
        ("human-monitor-command", {"command-line": "device_add virtio-rng,bus=p2,id=typed"}),
        ("qom-get", {"path": "/machine/peripheral/typed", "property": "type"}),
        # To the commands about types they are no types.
        ("device-list-properties", {"typename": "virtio-blk"}),
        ("qom-list-properties", {"typename": "virtio-blk"}),
        # On the way to a bus they are steps.
        ("device_add", {"driver": "scsi-cd", "id": "cd", "bus": "pcie.0/virtio-scsi"}),
        ("qom-get", {"path": "/machine/peripheral/cd", "property": "parent_bus"}),
    ]
    devices = [
        "virtio-blk,id=blk,drive=disk",
        "virtio-net,id=net",
        json.dumps({"driver": "virtio-rng", "id": "rng"}),
        "virtio-scsi",
        json.dumps({"driver": "virtio-serial", "id": "serial"}),
    ]
    options = [word for text in devices for word in ("-device", text)]
    told = []
    for start in (daemon, reference):
        # Debian has the code for firmware that cards bring along in a package of its own.
        rom = ("-global", "virtio-net-pci.romfile=") if start is reference else ()
        program = start(*BOARD, *DISK, *PORTS, *rom, *options)
        made = [
            answer(program, "qom-get", path=f"/machine/peripheral/{name}", property="type")
            for name in ("blk", "net", "rng", "serial")
        ]
        told.append([*made, *(answer(program, command, **arguments) for command, arguments in asked)])
    assert told[0] == told[1]
    assert told[0][:4] == ["virtio-blk-pci", "virtio-net-pci", "virtio-rng-pci", "virtio-serial-pci"]


def test_files_of_options_and_documents_take_them(daemon: Starter, tmp_path: Path):
    groups = tmp_path / "vm.cfg"
    groups.write_text('[device "one"]\n  driver = "virtio-rng"\n')
    document = tmp_path / "vm.json"
    document.write_text(
        json.dumps(
            {
                "machine": {"type": "virt", "memory": {"size": 64 << 20}},
                "devices": [{"driver": "virtio-balloon", "id": "two"}],
                "paused": True,
            }
        )
    )
    checked = subprocess.run(
        [QEMUD.replace("-system-riscv64", ""), "config", "check", str(document)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    program = daemon("-config", str(document), "-readconfig", str(groups))
    devices = program.qmp.command("query-config")["devices"]
    # What a machine is asked for shows it under the names of the types.
    assert [(each["id"], each["driver"]) for each in devices] == [
        ("two", "virtio-balloon-pci"),
        ("one", "virtio-rng-pci"),
    ]


def test_a_wrong_property_in_a_document_is_told_of_the_type(tmp_path: Path):
    document = tmp_path / "vm.json"
    document.write_text(json.dumps({"devices": [{"driver": "virtio-rng", "nope": 1}]}))
    done = subprocess.run([QEMUD, "--config", str(document)], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert "Property 'virtio-rng-pci.nope' not found" in done.stderr


@pytest.mark.differential
def test_a_global_of_one_is_for_nothing(daemon: Starter, reference: Starter):
    words = ("-global", "virtio-rng.period=5", "-global", "nope.x=1", "-device", "virtio-rng,id=rng")
    told = []
    for start in (daemon, reference):
        program = start(*BOARD, *words)
        period = program.qmp.command("qom-get", path="/machine/peripheral/rng", property="period")
        program.qmp.command("quit")
        program.process.wait(LIMIT)
        told.append((period, [line.partition("warning: ")[2] for line in program.stderr.splitlines()]))
    assert told[0] == told[1]
    assert told[0][1] == [
        "global virtio-rng.period has invalid class name",
        "global nope.x has invalid class name",
    ]


@pytest.mark.differential
def test_the_list_tells_them():
    lists = [
        subprocess.run([program, "-device", "help"], capture_output=True, text=True, timeout=LIMIT).stdout
        for program in (QEMUD, QEMU)
    ]
    for alias, name in ALIASES.items():
        for told in lists:
            assert f'name "{name}", bus PCI, alias "{alias}"\n' in told.replace(", desc", "\n")
