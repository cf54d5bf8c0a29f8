"""Transcripts in Markdown, to be played.

A page is a row of blocks.  ```console with `$ qemud-system-riscv64 …` starts the program anew; ```qmp is a conversation with it, in
which `->` begins what the client sends and `<-` what it must get, in that order.  In what it must get, `"…"` is any value, as the last
element of an array any more elements, and as a member any more members.  Time stamps are not compared.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.programs import Program

ANY = "…"


class Block(NamedTuple):
    """A fenced block: its language, its text, the line of its first line."""

    language: str
    text: str
    line: int


class Message(NamedTuple):
    """One side's message."""

    sent: bool
    value: Any
    line: int


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a page that have a language."""
    text = path.read_text("utf-8")
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)


def conversation(block: Block) -> Iterator[Message]:
    """The messages of a block in their order."""
    parts = re.split(r"^(->|<-) ", block.text, flags=re.MULTILINE)
    assert not parts[0].strip(), f"line {block.line}: a transcript begins with an arrow"
    line = block.line
    for arrow, text in zip(parts[1::2], parts[2::2], strict=True):
        yield Message(arrow == "->", json.loads(text), line)
        line += text.count("\n")


def play(program: Program, page: Path, block: Block) -> None:
    """Send what a block of a page sends; what comes is as the page says."""
    for message in conversation(block):
        if message.sent:
            program.qmp.send(json.dumps(message.value).encode() + b"\n")
            continue
        trouble = differs(message.value, found := program.qmp.message())
        assert not trouble, f"{page.name}:{message.line}: {trouble} in {found}"


def options(block: Block) -> list[str] | None:
    """The words behind the program's name in a block that starts it, without the monitor's; None for another block."""
    words = shlex.split(block.text.strip().removeprefix("$ "), comments=True)
    if words[0] != "qemud-system-riscv64":
        return None
    if "-qmp" in words:
        place = words.index("-qmp")
        del words[place : place + 2]
    return words[1:]


def differs(wanted: Any, found: Any, where: str = "") -> str:
    """Where `found` is not what the transcript says; empty when it is."""
    if wanted == ANY:
        return ""
    if isinstance(wanted, dict) and isinstance(found, dict):
        more = ANY in wanted
        for name in found:
            if name not in wanted and not more:
                return f"{where}.{name} is there"
        for name, value in wanted.items():
            if name in {ANY, "timestamp"}:
                continue
            if name not in found:
                return f"{where}.{name} is not there"
            if trouble := differs(value, found[name], f"{where}.{name}"):
                return trouble
        return ""
    if isinstance(wanted, list) and isinstance(found, list):
        more = bool(wanted) and wanted[-1] == ANY
        wanted = wanted[:-1] if more else wanted
        if len(found) < len(wanted) or (len(found) > len(wanted) and not more):
            return f"{where} has {len(found)} elements"
        for index, value in enumerate(wanted):
            if trouble := differs(value, found[index], f"{where}[{index}]"):
                return trouble
        return ""
    return "" if wanted == found and type(wanted) is type(found) else f"{where} is {found!r}"
