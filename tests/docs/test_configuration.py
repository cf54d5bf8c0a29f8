"""What docs/configuration.md says, happens."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.config.test_document import own
from tests.docs.transcripts import blocks, options, play
from tests.programs import LIMIT, QEMUD, Program

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
TOOL = QEMUD.replace("-system-riscv64", "")


@pytest.mark.needs("qemu-img")
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = None
    for block in blocks(PAGE):
        if block.language == "toml":
            Path("machine.toml").write_text(block.text)
        elif block.language == "qmp":
            assert program is not None
            play(program, PAGE, block)
        elif (words := options(block)) is not None:
            program = Program(QEMUD, *words, negotiate=False)
        else:
            command = shlex.split(block.text.removeprefix("$ "))
            command[0] = TOOL if command[0] == "qemud" else command[0]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=LIMIT)
    assert program is not None
    document = own(program.qmp.command("query-config"))
    program.close()
    Path("again.json").write_text(json.dumps(document))
    with Program(QEMUD, "--config", "again.json") as again:
        assert own(again.qmp.command("query-config")) == document


def test_what_is_wrong_is_told_as_on_the_page(tmp_path: Path) -> None:
    text = next(block.text for block in blocks(PAGE) if block.language == "toml")
    lines = text.split("\n")
    lines.insert(lines.index("[[blockdevs]]") + 1, "nope = 1")
    (tmp_path / "machine.toml").write_text("\n".join(lines))
    done = subprocess.run(
        [TOOL, "config", "check", "machine.toml"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )
    told = done.stderr.partition(": ")[2].strip()
    assert f"`{told}`" in PAGE.read_text("utf-8")
