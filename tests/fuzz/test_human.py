"""Lines at the human monitor, made from its own table: whatever is typed is answered, and never by a defect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.monitor.hmp.table import COMMANDS, INFO
from tests.fuzz.attack import CONFINED, ODD, attack, rounds
from tests.fuzz.grammar import Grammar
from tests.fuzz.outcomes import Outcomes

if TYPE_CHECKING:
    import random
    from pathlib import Path

    import pytest

    from qemud.monitor.hmp.table import Command
    from tests.conftest import Starter

_ENDS = frozenset({"quit", "q"})
_NUMBERS = (
    "0", "1", "-1", "0x80000000", "0x10000000", "0xfffffffffffffff8", "$pc", "$x31", "$sp+4", "(1+2)*3", "~0", "1/0", "1%0",
    "0x80000000 + 0x10", "-0x8000000000000000/-1", "((((", "$nonesuch", "9" * 30, "0x", "08", "1 2", "+", "%%",
)  # fmt: skip
_FORMATS = ("/x", "/4xb", "/2i", "/8c", "/d", "/3uw", "/1og", "/0x", "/99999999999x", "/z", "/", "/xx")
_SOME_SIZES = ("1", "16", "4096", "-1", "0", "0x80000000")


class Lines:
    """The next line, and the next."""

    def __init__(self, numbers: random.Random) -> None:
        self._random = numbers
        self._grammar = Grammar(numbers)
        self._grammar.names += [
            "/machine",
            "/objects",
            "/machine/uart0",
            "type",
            "rtc",
            "serial0",
            "a",
            "virt-machine",
        ]
        self._commands = [command for command in COMMANDS.values() if command.name not in _ENDS]

    def line(self) -> str:
        """A line that is typed."""
        choose = self._random
        command = choose.choice(self._commands)
        if command.name in {"info", "help"} and choose.random() < 0.8:
            sub = choose.choice(list(INFO.values()))
            line = (
                f"{command.name if command.name == 'info' else 'help info'} {sub.name} {self._arguments(sub)}"
            )
        else:
            line = (
                f"{choose.choice([command.name, command.alias or command.name])} {self._arguments(command)}"
            )
        return self._grammar.changed(line, ' /"\\,=$-+*(%')

    def _arguments(self, command: Command) -> str:
        choose = self._random
        words = []
        for argument in filter(None, command.arguments.split(",")):
            name, _, kind = argument.partition(":")
            if choose.random() < (0.5 if kind.endswith("?") or kind[0] in "-/" else 0.03):
                continue
            words.append(self._word(command, name, kind.rstrip("?")))
        return " ".join(words)

    def _word(self, command: Command, name: str, kind: str) -> str:
        choose = self._random
        match kind:
            case "/":
                return choose.choice(_FORMATS)
            case "i" | "l":
                return choose.choice(_SOME_SIZES if name in {"size", "count"} else _NUMBERS)
            case "b":
                return choose.choice(["on", "off", "maybe"])
            case "O":
                return self._grammar.keyval(self._grammar.value("DeviceOptions"), "driver")
        if kind[0] == "-":
            return kind
        if command.name == "object_add":
            return self._grammar.keyval(self._grammar.value("ObjectOptions"), "qom-type")
        if command.name in {"chardev-add", "chardev-change"} and name == "args":
            return self._grammar.keyval(self._grammar.value("ChardevOptions"), "backend")
        word = choose.choice(self._grammar.names if choose.random() < 0.9 else ODD)
        return f'"{word}"' if choose.random() < 0.2 else word


def test_lines(daemon: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    program = daemon(
        "-machine", "virt", "-m", "16", "-S", "-serial", "null", watched=False, environment=CONFINED
    )
    outcomes = Outcomes()
    with attack() as numbers:
        lines = Lines(numbers)
        for _ in rounds(500):
            line = lines.line().encode(errors="replace").decode()
            if line.split(" ")[0].strip() in _ENDS:  # by a change
                continue
            said = program.qmp.command("human-monitor-command", {"command-line": line})
            assert "Internal error" not in said, (line, said)
            program.qmp.events.clear()
            program.qmp.log = b""
            if said.startswith(("Error: ", "unknown command", "invalid ", "unexpected ")):
                outcomes.refuse(said)
            else:
                outcomes.take()
    outcomes.check("lines of the human monitor", taken=0.2, kinds=20)
    assert program.terminate() == 0
