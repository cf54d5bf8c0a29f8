"""What docs/qmp-by-example.md says, happens."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.docs.transcripts import ANY, Block, blocks, conversation, differs, options
from tests.programs import QEMUD, Program

PAGE = Path(__file__).parents[2] / "docs" / "qmp-by-example.md"


def sessions(path: Path) -> list[tuple[list[str], list[Block]]]:
    """Each start of the program on a page, and the conversations with it."""
    found: list[tuple[list[str], list[Block]]] = []
    for block in blocks(path):
        if block.language == "qmp":
            found[-1][1].append(block)
        elif block.language == "console" and (words := options(block)) is not None:
            found.append((words, []))
    return found


SESSIONS = sessions(PAGE)


@pytest.mark.parametrize("number", range(len(SESSIONS)))
def test_the_page(number: int) -> None:
    words, talks = SESSIONS[number]
    with contextlib.ExitStack() as cleanup:
        program = cleanup.enter_context(Program(QEMUD, *words, negotiate=False))
        for block in talks:
            for message in conversation(block):
                if message.sent:
                    program.qmp.send(json.dumps(message.value).encode() + b"\n")
                    continue
                found = program.qmp.message()
                trouble = differs(message.value, found)
                assert not trouble, f"{PAGE.name}:{message.line}: {trouble} in {found}"


def test_there_is_something_to_play() -> None:
    assert len(SESSIONS) == 2
    assert sum(len(list(conversation(block))) for _, talks in SESSIONS for block in talks) > 50


@pytest.mark.parametrize(
    ("wanted", "found", "trouble"),
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": 1}, {"a": True}, ".a is True"),
        ({"a": 1}, {"a": 1, "b": 2}, ".b is there"),
        ({"a": 1, ANY: ANY}, {"a": 1, "b": 2}, ""),
        ({"a": 1}, {}, ".a is not there"),
        ({"timestamp": 1, "event": "X"}, {"timestamp": 2, "event": "X"}, ""),
        ([1, ANY], [1, 2, 3], ""),
        ([1, ANY], [], " has 0 elements"),
        ([1], [1, 2], " has 2 elements"),
        ({"a": [{"b": ANY}]}, {"a": [{"b": [1]}]}, ""),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, ".a[0].b is 2"),
    ],
)
def test_comparing(wanted: Any, found: Any, trouble: str) -> None:
    assert differs(wanted, found) == trouble
