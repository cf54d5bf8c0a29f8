"""The tests' own tools, held to Debian's QEMU and the embedded guest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qemud.demo import DEMO_GUEST
from tests.programs import QmpError

if TYPE_CHECKING:
    from tests.conftest import Starter

pytest_plugins = ["pytester"]


@pytest.mark.differential
def test_the_embedded_guest_runs_on_qemu(reference: Starter) -> None:
    program = reference("-machine", "virt", "-display", "none", "-S", "-kernel", str(DEMO_GUEST), serial=True)
    assert program.qmp.command("query-status")["status"] == "prelaunch"
    with pytest.raises(QmpError, match="Device 'nope' not found"):
        program.qmp.command("qom-get", path="nope", property="type")
    program.qmp.command("cont")
    program.qmp.event("RESUME")
    program.serial.expect("demo> ")
    assert program.serial.command("sum 2") == ["sum: 0x924c6b6d1e8f0155, 2 of 2 right"]
    assert program.serial.command("atomic 1") == ["atomic: 1000000 of 1000000 right"]
    assert program.serial.command("store") == ["fault: cause 7, address 0x18000000, precise"]
    program.serial.send(b"poweroff\r")
    assert program.wait() == 0


LOOP = """
import asyncio, time, threading
def elsewhere():
    time.sleep(0)
async def main():
    await asyncio.to_thread(elsewhere)
    {}
time.sleep(0)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("statement", "event"),
    [
        ("time.sleep(0)", "time.sleep"),
        ("__import__('socket').getaddrinfo('127.0.0.1', 1)", "socket.getaddrinfo"),
        ("__import__('subprocess').run(['true'])", "subprocess.Popen"),
        ("await asyncio.sleep(0)", None),
    ],
)
def test_calls_that_block_the_loop_are_told(statement: str, event: str | None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOP.format(statement)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).with_name("blocking"))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    first = [line for line in done.stderr.splitlines() if line.startswith("BLOCKING")][:1]
    if event is None:
        assert done.stderr == ""
    else:
        assert f": {event} " in first[0]


def test_in_ci_a_skip_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile(
        test_one="import pytest\ndef test_skips(): pytest.skip('why')\n@pytest.mark.xfail\ndef test_x(): assert 0\n",
        test_two="import pytest\npytest.importorskip('no_such_module_anywhere')\n",
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--continue-on-collection-errors")
    done.assert_outcomes(failed=1, errors=1, xfailed=1)
