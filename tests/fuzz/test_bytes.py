"""Bytes at a QMP socket that nearly are messages: each one that is whole is answered, and the connection goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.fuzz.attack import CONFINED, Messages, attack, names_of, rounds
from tests.fuzz.grammar import changed_bytes
from tests.fuzz.outcomes import Outcomes

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.conftest import Starter
    from tests.programs import QmpClient

LETTERS = b"{}[]\"':,\\\xff\x00\x1b\n u0-9eE.tfn%"


def test_bytes_that_nearly_are_messages(daemon: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    program = daemon("-machine", "virt", "-S", "-serial", "null", watched=False, environment=CONFINED)
    qmp = program.qmp
    outcomes = Outcomes()
    with attack() as numbers:
        messages = Messages(qmp.command("query-qmp-schema"), numbers)
        messages.names += names_of(qmp)
        for number in rounds(500):
            data = b"".join(
                changed_bytes(json.dumps(messages.message()).encode(), numbers, LETTERS)
                for _ in range(numbers.choice([1, 1, 3]))
            )
            # QEMU's way out of any half message; what follows is understood.
            qmp.send(data + b"\xff\n")
            _count(outcomes, _until_asked(qmp, number), data)
            qmp.log = b""
            qmp.events.clear()
    outcomes.check("QMP bytes", taken=0.015, kinds=40)
    assert program.terminate() == 0


def _until_asked(qmp: QmpClient, number: int) -> list[dict[str, Any]]:
    """What comes before the answer to a question of our own."""
    qmp.send(json.dumps({"execute": "query-name", "id": ["ours", number]}).encode())
    replies = []
    while (reply := qmp.reply()).get("id") != ["ours", number]:
        replies.append(reply)
    assert "return" in reply, reply
    return replies


def _count(outcomes: Outcomes, replies: list[dict[str, Any]], data: bytes) -> None:
    for reply in replies:
        if "return" in reply:
            outcomes.take()
        else:
            assert "Internal error" not in reply["error"]["desc"], (data, reply)
            outcomes.refuse(reply["error"]["desc"])
