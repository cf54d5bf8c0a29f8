"""One wrong value, given in every way there is: the same complaint."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.programs import LIMIT, QEMUD, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

NONE = ("-machine", "none", "-display", "none", "-nodefaults", "-S")
WRONG = [
    (
        {"qom-type": "memory-backend-ram", "id": "m", "size": 4096, "policy": "sometimes"},
        "does not accept value 'sometimes'",
    ),
    ({"qom-type": "memory-backend-ram", "id": "m", "size": -1}, "size"),
    ({"qom-type": "memory-backend-ram", "id": "m"}, "Parameter 'size' is missing"),
    ({"qom-type": "memory-backend-ram", "id": "m", "size": 4096, "nope": "x"}, "nope"),
    ({"qom-type": "memory-backend-ram", "id": "1", "size": 4096}, "Parameter 'id' expects an identifier"),
    ({"qom-type": "nope", "id": "m"}, "Parameter 'qom-type' does not accept value 'nope'"),
]


def failure(*arguments: str) -> str:
    done = subprocess.run([QEMUD, *arguments], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(("wrong", "told"), WRONG)
def test_objects(daemon: Starter, tmp_path: Path, wrong: dict[str, object], told: str):
    program = daemon(*NONE)
    with pytest.raises(QmpError) as caught:
        program.qmp.command("object-add", **wrong)
    assert told in str(caught.value)
    assert str(caught.value) in failure(*NONE, "-object", json.dumps(wrong))
    pairs = ",".join(f"{'' if key == 'qom-type' else key + '='}{value}" for key, value in wrong.items())
    assert told in failure(*NONE, "-object", pairs)
    assert told in program.qmp.command("human-monitor-command", **{"command-line": f"object_add {pairs}"})
    group = "\n".join(f'{key} = "{value}"' for key, value in wrong.items() if key != "id")
    (tmp_path / "vm.cfg").write_text(f'[object "{wrong["id"]}"]\n{group}\n')
    assert told in failure(*NONE, "-readconfig", str(tmp_path / "vm.cfg"))
    document = tmp_path / "vm.json"
    document.write_text(json.dumps({"machine": {"type": "none"}, "objects": [wrong]}))
    said = failure("--config", str(document))
    # In a document the parameter has its path.
    assert told in said.replace("'objects[0].", "'").replace("objects[0].", "")


WRONG_DEVICES = [
    (
        {"driver": "loader", "id": "l", "addr": 0x80000000, "data": 1, "data-len": 300},
        "data-len' expects uint8_t",
    ),
    ({"driver": "loader", "id": "l", "cpu-num": -1}, "Parameter 'cpu-num' expects uint32_t"),
    ({"driver": "loader", "id": "l", "addr": -1}, "Parameter 'addr' expects uint64"),
    ({"driver": "loader", "id": "l", "nope": 1}, "Property 'loader.nope' not found"),
    ({"driver": "loader", "id": "l", "realized": True}, "Property 'loader.realized' is not writable"),
    ({"driver": "loader", "id": "1", "addr": 0x80000000}, "Parameter 'id' expects an identifier"),
    ({"driver": "loader", "id": "l", "bus": "nope"}, "Bus 'nope' not found"),
    ({"driver": "loader", "id": "l", "data": 1}, "Both data and data-len must be specified"),
    (
        {"driver": "loader", "id": "l", "addr": 0x80000000, "data": 1, "data-len": 9},
        "data-len cannot be greater then 8 bytes",
    ),
    ({"driver": "loader", "id": "l", "file": "/nonexistent"}, "Cannot load specified image /nonexistent"),
    ({"driver": "nope", "id": "l"}, "'nope' is not a valid device model name"),
    ({"driver": "device", "id": "l"}, "Parameter 'driver' expects a non-abstract device type"),
    ({"driver": "serial-mm", "id": "l"}, "Parameter 'driver' expects a pluggable device type"),
]
VIRT = ("-machine", "virt", "-m", "64", "-display", "none", "-nodefaults", "-S")


@pytest.mark.parametrize(("wrong", "told"), WRONG_DEVICES)
def test_devices(daemon: Starter, tmp_path: Path, wrong: dict[str, object], told: str):
    program = daemon(*VIRT, "-preconfig")
    with pytest.raises(QmpError) as caught:
        program.qmp.command("device_add", **wrong)
    assert told in str(caught.value)
    text = {name: "on" if value is True else value for name, value in wrong.items()}
    pairs = ",".join(f"{'' if key == 'driver' else key + '='}{value}" for key, value in text.items())
    assert told in program.qmp.command("human-monitor-command", **{"command-line": f"device_add {pairs}"})
    assert told in failure(*VIRT, "-device", json.dumps(wrong))
    assert told in failure(*VIRT, "-device", pairs)
    lines = "\n".join(f'{key} = "{value}"' for key, value in text.items() if key != "id")
    groups = tmp_path / "vm.cfg"
    groups.write_text(f'[device "{wrong["id"]}"]\n{lines}\n')
    assert f"{groups}:1: {told}" in failure(*VIRT, "-readconfig", str(groups)).replace(
        "Parameter 'data-len", "data-len"
    )
    document = tmp_path / "vm.json"
    document.write_text(
        json.dumps({"paused": True, "machine": {"type": "virt"}, "devices": [wrong]}, indent=1)
    )
    said = failure("--config", str(document))
    assert told in said.replace("'devices[0].", "'")
    assert f"{document}:" in said
    assert "devices[0]" in said
    checked = subprocess.run(
        [QEMUD.replace("-system-riscv64", ""), "config", "check", str(document)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    # What is wrong in itself, a check without a machine finds, too, in the same words.
    if checked.returncode:
        assert checked.stderr.partition(": ")[2] == said.partition(": ")[2]
