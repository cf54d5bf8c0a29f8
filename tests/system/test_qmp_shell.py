"""The tool that people drive QMP with: `qmp-shell` of the package qemu.qmp, on a running guest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qemud.demo import DEMO_GUEST
from tests.programs import LIMIT

if TYPE_CHECKING:
    from tests.conftest import Starter

QMP_SHELL = Path(sys.executable).with_name("qmp-shell")
PROMPT = "(QEMU) "


def test_a_session_with_qmp_shell(daemon: Starter):
    program = daemon(
        "-machine", "virt", "-display", "none", "-kernel", str(DEMO_GUEST), serial=True, qmp=True
    )
    program.serial.expect("demo> ")
    program.qmp.close()
    typed = [
        "query-status",
        "stop",
        "query-status",
        "qom-get path=/machine/uart0 property=type",
        'chardev-add id=c0 backend={"type":"null","data":{}}',
        "chardev-remove id=c0",
        "no-such-command",
        "cont",
        "quit",
    ]
    done = subprocess.run(
        [QMP_SHELL, program.qmp_address],
        input="\n".join(typed) + "\n",
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    said = [json.loads(line) for line in done.stdout.replace(PROMPT, "").splitlines() if line.startswith("{")]
    assert "Connected to QEMU 10.0" in done.stdout
    assert said == [
        {"return": {"running": True, "status": "running"}},
        {"return": {}},
        {"return": {"running": False, "status": "paused"}},
        {"return": "serial-mm"},
        {"return": {}},
        {"return": {}},
        {"error": {"class": "CommandNotFound", "desc": "The command no-such-command has not been found"}},
        {"return": {}},
        {"return": {}},
    ]
    assert program.wait() == 0
