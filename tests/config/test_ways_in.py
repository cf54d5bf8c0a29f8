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
