"""The order of the start: clients are greeted before the machine's parts are so much as imported."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.programs import LIMIT, QmpClient

if TYPE_CHECKING:
    from pathlib import Path

# The daemon itself, stopped at the door between its two phases: it tells what has been imported, and waits.
HELD = """
import sys
at_hand = set(sys.modules)  # what this environment's Python imports by itself
from qemud.daemon import startup

async def build(self, opened):
    print(*(set(sys.modules) - at_hand), flush=True)
    sys.stdin.read()
    raise startup.UsageError("held long enough")

startup.Daemon.build = build
from qemud.__main__ import main
sys.exit(main())
"""

# Each of these costs between one millisecond and a hundred. Some are for the second phase, some for certain command lines only.
HEAVY = {
    "argparse",
    "ctypes",
    "dataclasses",
    "email",
    "http",
    "importlib.metadata",
    "json",
    "jsonschema",
    "mmap",
    "multiprocessing",
    "pathlib",
    "pkg_resources",
    "structlog",
    "tempfile",
    "tomllib",
    "unicorn",
    "unittest",
    "xml",
}
ROOMS = (
    "qemud.accel",
    "qemud.daemon.help",
    "qemud.demo",
    "qemud.hw",
    "qemud.machine",
    "qemud.qom",
    "qemud.monitor.commands",
)
ALLOWED = {"qemud.machine", "qemud.machine.services"}
"""Names of parts, of which there are none yet."""


def test_a_greeting_waits_for_nothing_that_it_does_not_need(tmp_path: Path):
    address = str(tmp_path / "qmp")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(address)
        listener.listen()
        client.connect(address)
        monitor = f"socket,id=c,fd={listener.fileno()},server=on,wait=off"
        with subprocess.Popen(
            [
                *(sys.executable, "-c", HELD, "-machine", "none", "-display", "none", "-nodefaults"),
                *("-chardev", monitor, "-mon", "chardev=c,mode=control"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            text=True,
        ) as process:
            try:
                # A greeting that waits for the machine would never come here.
                assert "QMP" in QmpClient(client, negotiate=False).message()
                assert process.stdout is not None
                imported = set(process.stdout.readline().split())
                _, said = process.communicate(timeout=LIMIT)
            finally:
                process.kill()
    assert said.endswith(": held long enough\n")
    assert imported & HEAVY == set()
    assert {name for name in imported if name.startswith(ROOMS)} - ALLOWED == set()
