"""Clients that send whatever the schema allows, and more, to machines that stand still and that run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.attack import CONFINED, Messages, attack, names_of, rounds
from tests.fuzz.outcomes import Outcomes

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program, QmpClient

GROWTH = 64 << 10
"""Kilobytes by which the process may grow: objects that were made, and a guest that touched its memory."""


@pytest.mark.parametrize(
    "machine",
    [("none",), ("virt", "-S", "-serial", "null"), ("virt", "-m", "16", "-serial", "null")],
    ids=["none", "stopped", "running"],
)
def test_whatever_clients_ask(
    daemon: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: tuple[str, ...]
):
    monkeypatch.chdir(tmp_path)
    program = daemon("-machine", *machine, watched=False, environment=CONFINED)
    outcomes = Outcomes()
    before = _resident(program)
    qmp = program.qmp
    with attack() as numbers:
        messages = Messages(qmp.command("query-qmp-schema"), numbers)
        messages.names += names_of(qmp)
        for _ in rounds(700, of=3):
            message = messages.message()
            qmp.send(
                json.dumps(message, ensure_ascii=numbers.random() < 0.5).encode("utf-8", "surrogatepass")
            )
            try:
                error = qmp.reply().get("error")
            except Exception as hang:
                hang.add_note(f"to {message}")
                raise
            assert error is None or "Internal error" not in error["desc"], (message, error)
            if error is None:
                outcomes.take()
            else:
                outcomes.refuse(error["desc"])
            qmp.log = b""
            qmp.events.clear()
            if numbers.random() < 0.02:
                qmp = _come_again(program, qmp)
    qmp.command("query-status")
    assert _resident(program) - before < GROWTH
    outcomes.check("QMP messages", taken=0.15, kinds=25)
    assert program.terminate() == 0


@pytest.mark.parametrize(
    "rest", [b'{"execute":', b'{"a":[[[', b'"' + b"x" * 100_000, b"\xff\xfe{}}]", b"[" * 5000]
)
def test_half_a_message_is_nobodys(daemon: Starter, rest: bytes):
    program = daemon("-machine", "none")
    program.qmp.send(rest)
    program.qmp.close()
    with_next = program.connect()
    with_next.command("query-status")


def _come_again(program: Program, qmp: QmpClient) -> QmpClient:
    """In the middle of a command."""
    qmp.send(b'{"execute":"query-qmp-schema"}{"execute":"system_reset"}{"execute":"stop"')
    qmp.close()
    return program.connect()


def _resident(program: Program) -> int:
    """Kilobytes of memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{program.process.pid}/status").read_text())
    assert found is not None
    return int(found[1])
