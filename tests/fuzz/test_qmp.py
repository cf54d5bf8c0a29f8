"""Clients that send whatever the schema allows, and more, to machines that stand still and that run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.attack import Messages, attack, rounds

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
    program = daemon("-machine", *machine, watched=False)
    before = _resident(program)
    qmp = program.qmp
    with attack() as numbers:
        messages = Messages(qmp.command("query-qmp-schema"), numbers)
        messages.names += _names(qmp)
        for _ in rounds(700):
            message = messages.message()
            qmp.send(
                json.dumps(message, ensure_ascii=numbers.random() < 0.5).encode("utf-8", "surrogatepass")
            )
            error = qmp.reply().get("error")
            assert error is None or "Internal error" not in error["desc"], (message, error)
            qmp.log = b""
            qmp.events.clear()
            if numbers.random() < 0.02:
                qmp = _come_again(program, qmp)
    qmp.command("query-status")
    assert _resident(program) - before < GROWTH
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


def _names(qmp: QmpClient) -> list[str]:
    """Paths of the composition tree, its members, and all types."""
    names = [entry["name"] for entry in qmp.command("qom-list-types")]
    paths = ["/"]
    for path in paths:
        for member in qmp.command("qom-list", path=path):
            names.append(member["name"])
            if member["type"].startswith("child<"):
                paths.append(f"{path.rstrip('/')}/{member['name']}")
    return [*names, *paths]


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
