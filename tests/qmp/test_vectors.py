"""Framing, negotiation and envelopes, held to QEMU's recorded answers within the process."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.qmp.fakes import Services, monitor


def load() -> dict[str, Any]:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20000)
    try:
        text = (Path(__file__).parents[1] / "vectors" / "qmp-10.0.jsonl").read_text()
        cases = [json.loads(line) for line in text.splitlines()]
    finally:
        sys.setrecursionlimit(limit)
    names = [case["name"] for case in cases]
    # The first part of the file is about the protocol; what follows needs objects and devices.
    return {case["name"]: case for case in cases[: names.index("qom-list-nopath") + 1]}


CASES = load()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cut", ["whole", "bytes"])
def test_conversation(name: str, cut: str) -> None:
    case = CASES[name]

    async def talk() -> None:
        _, port = monitor(Services(), negotiate=case["negotiated"])
        if not case["negotiated"]:
            assert [*port.messages()[0]] == ["QMP"]
        for step in case["steps"]:
            text = step["send"]
            data = text.encode("latin1" if all(ord(c) < 256 for c in text) else "utf-8")
            for piece in [data] if cut == "whole" else [data[i : i + 1] for i in range(len(data))]:
                port.receive(piece)
            assert port.messages() == step["replies"]

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20000)
    try:
        asyncio.run(talk())
    finally:
        sys.setrecursionlimit(limit)


def test_the_greeting_is_qemus_and_names_this_program() -> None:
    async def greeting() -> Any:
        _, port = monitor(Services(), negotiate=False)
        return port.messages()

    [message] = asyncio.run(greeting())
    version = message["QMP"]["version"]
    assert (version["qemu"]["major"], version["qemu"]["minor"]) == (10, 0)
    assert version["package"].startswith("qemud ")
    assert message["QMP"]["capabilities"] == ["oob"]
