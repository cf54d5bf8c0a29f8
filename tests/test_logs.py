"""What is logged, and in which form: for people, for the journal, for programs."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from qemud.logs import log_to
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from pathlib import Path

SAY = """
from qemud.logs import Logger, guest_error, items, log_to
import sys
if len(sys.argv) > 1:
    log_to(sys.argv[1])
guest_error("plic", "nobody asked for this")
items.add("guest_errors")
guest_error("plic", "write to a read-only register", offset=4)
try:
    1 / 0
except ZeroDivisionError:
    Logger("monitor").exception("handler failed", command="stop")
"""


def say(*arguments: str, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "JOURNAL_STREAM"}}
    done = subprocess.run(
        [sys.executable, "-c", SAY, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**kept, **environment},
    )
    assert done.stdout == ""
    return done.stderr


def test_programs_read_one_json_object_a_line():
    first, second = map(json.loads, say().splitlines())
    assert first["event"] == "write to a read-only register"
    assert (first["level"], first["room"], first["offset"]) == ("warning", "plic", 4)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", first["timestamp"])
    assert second["command"] == "stop"
    assert second["exception"].endswith("ZeroDivisionError: division by zero")


def test_the_journal_gets_priorities_on_every_line():
    lines = say(JOURNAL_STREAM="8:1").splitlines()
    assert lines[0] == "<4>write to a read-only register room=plic offset=4"
    assert lines[1] == "<3>handler failed room=monitor command=stop"
    assert all(line.startswith("<3>") for line in lines[1:])
    assert lines[-1] == "<3>ZeroDivisionError: division by zero"


def test_a_file_takes_the_place_of_standard_error(tmp_path: Path):
    path = tmp_path / "log"
    assert say(str(path), JOURNAL_STREAM="8:1") == ""
    assert json.loads(path.read_text().splitlines()[0])["room"] == "plic"


def test_another_file_takes_its_place_at_once(tmp_path: Path):
    """Not only for what has not logged yet; and a disk that is full in between fails nobody."""
    first, second = tmp_path / "first", tmp_path / "second"
    script = """
import sys
from qemud.logs import Logger, log_to
log = Logger("monitor")
for path in sys.argv[1:]:
    log_to(path)
    log.warning(path)
"""
    paths = [str(first), "/dev/full", str(second)]
    subprocess.run([sys.executable, "-Werror", "-c", script, *paths], check=True, stderr=subprocess.PIPE)
    assert [json.loads(path.read_text())["event"] for path in (first, second)] == [str(first), str(second)]


@pytest.mark.parametrize("bad", ["missing/log", "zero\0byte", "fifo"])
def test_what_cannot_be_a_log_file_is_refused(tmp_path: Path, bad: str):
    """Nobody reads from the FIFO, and nobody waits for a reader."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(GenericError, match=r"^Error opening logfile "):
        log_to(str(tmp_path / bad))


def test_people_get_colour_unless_they_do_not_want_it():
    assert "\x1b[" in on_a_terminal()
    plain = on_a_terminal(NO_COLOR="1")
    assert "\x1b[" not in plain
    assert "write to a read-only register" in plain


def on_a_terminal(**environment: str) -> str:
    controller, terminal = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    try:
        subprocess.run(
            [sys.executable, "-c", SAY], stderr=terminal, check=True, env={**kept, **environment}, timeout=60
        )
        return os.read(controller, 1 << 16).decode()
    finally:
        os.close(controller)
        os.close(terminal)
