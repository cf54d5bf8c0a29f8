"""What docs/disks.md says, happens."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.docs.transcripts import blocks, options, play
from tests.programs import QEMUD, Program

PAGE = Path(__file__).parents[2] / "docs" / "disks.md"


@pytest.mark.needs("qemu-img")
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = None
    for block in blocks(PAGE):
        if block.language == "console":
            block = block._replace(text=block.text.replace("\\\n", ""))  # noqa: PLW2901 - long lines
            if (words := options(block)) is not None:
                assert program is None
                program = Program(QEMUD, *words, negotiate=False)
            else:
                command = shlex.split(block.text.removeprefix("$ "))
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            continue
        assert program is not None
        play(program, PAGE, block)
    assert program is not None
    program.close()
    subprocess.run(["qemu-img", "check", "-q", "today.qcow2"], check=True)
