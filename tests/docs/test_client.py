"""The programs of docs/client.md run: against qemud, and against QEMU where the page says so."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qemud.client import errors
from tests.client.support import Wire, emulator, run
from tests.docs.transcripts import blocks
from tests.programs import LIMIT, QEMU, QEMUD

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
FILES = {
    block.text.partition("\n")[0].removeprefix("# "): block.text
    for block in blocks(PAGE)
    if block.language == "python"
}
FOR_BOTH = ("tour.py", "character_device.py")
MACHINE = ("-machine", "none", "-S")


def _play(name: str, program: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FILES[name])
    with emulator(program, *MACHINE) as (_, address):
        done = subprocess.run(
            [sys.executable, "-W", "error", path, address], capture_output=True, text=True, timeout=LIMIT
        )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_the_page_has_these_programs() -> None:
    assert list(FILES) == [*FOR_BOTH, "options.py", "watch.py"]


@pytest.mark.parametrize("name", [*FOR_BOTH, "options.py"])
def test_programs_run(name: str, tmp_path: Path) -> None:
    _play(name, QEMUD, tmp_path)


@pytest.mark.differential
@pytest.mark.parametrize("name", FOR_BOTH)
def test_programs_run_with_qemu(name: str, tmp_path: Path) -> None:
    _play(name, QEMU, tmp_path)


def test_the_watcher_sees_all_events_over_a_cut_wire(tmp_path: Path) -> None:
    path = tmp_path / "watch.py"
    path.write_text(FILES["watch.py"])

    with emulator(QEMUD, *MACHINE) as (program, address):

        async def test() -> None:
            async with Wire.to(address) as (wire, place):
                watcher = await asyncio.create_subprocess_exec(
                    sys.executable, "-W", "error", path, place, "4", stdout=subprocess.PIPE
                )
                assert watcher.stdout is not None
                assert await watcher.stdout.readline() == b"ready\n"
                program.qmp.command("cont")
                wire.cut()
                for command in ("stop", "cont", "stop"):
                    program.qmp.command(command)
                said = await watcher.stdout.read()
                assert said.decode().split("\n") == ["1 RESUME", "2 STOP", "3 RESUME", "4 STOP", ""]
                assert await watcher.wait() == 0
                assert wire.connections == 2

        run(test())


def test_the_page_names_every_exception() -> None:
    table = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    ours = {kind.__name__ for kind in errors.ClientError.__subclasses__()}
    assert table == ours | {"QmpError", "TimeoutError"}
