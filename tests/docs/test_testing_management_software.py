"""The files of docs/testing-management-software.md are right, and its programs run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qemud._generated.types.double import DoubleStepKind
from qemud.double.scenario import load
from tests.docs.transcripts import blocks
from tests.programs import LIMIT

PAGE = Path(__file__).parents[2] / "docs" / "testing-management-software.md"
FILES = {block.text.partition("\n")[0].removeprefix("# "): block.text for block in blocks(PAGE)}
PROGRAMS = [name for name in FILES if name.startswith("test_")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".toml")])
def test_scenarios_are_right(name: str, folder: Path) -> None:
    load(str(folder / name))


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_run(name: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-W", "error", name],
        cwd=folder,
        env={**os.environ, "PATH": path},
        check=True,
        timeout=LIMIT,
    )


def test_the_page_names_every_step() -> None:
    assert len(FILES) >= 14
    assert len(PROGRAMS) == 4
    table = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert table == [kind.value for kind in DoubleStepKind]
