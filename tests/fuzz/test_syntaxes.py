"""Every syntax that configuration is written in, thousands of times: a typed value or one line that says what is wrong.

In this process, where a try is cheap; whatever else is raised is a defect. `test_command_line` and `test_qmp` try programs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.options import CommandLine
from qemud.chardev.options import parse_compact, parse_options
from qemud.daemon.cmdline import UsageError, occurrences, parse
from qemud.daemon.config import check
from qemud.daemon.ini import GROUPS, written
from qemud.daemon.machine import machine_options
from qemud.net.options import netdev
from qemud.qapi.runtime.document import DocumentError, read_document
from qemud.qapi.runtime.errors import QmpError
from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_type
from qemud.qom.userobjects import options_from_text
from tests.fuzz.attack import attack, rounds
from tests.fuzz.grammar import Grammar, changed_bytes, toml
from tests.fuzz.outcomes import Outcomes

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path


def _silent(_warning: str) -> None:
    pass


def _option(name: str) -> Callable[[str], Any]:
    return lambda text: parse([f"-{name}", text])


KEYVAL: dict[str, tuple[str, str | None, Callable[[str], Any]]] = {
    "machine": ("MachineOptions", "type", lambda text: machine_options(CommandLine(machine=text))),
    "device": (
        "DeviceOptions",
        "driver",
        lambda text: parse_keyval_type("DeviceOptions", parse_keyval(text, "driver")),
    ),
    "object": ("ObjectOptions", "qom-type", lambda text: options_from_text(text, _silent)),
    "blockdev": (
        "BlockdevOptions",
        "driver",
        lambda text: parse_keyval_type("BlockdevOptions", parse_keyval(text, "driver")),
    ),
    "netdev": ("Netdev", "type", lambda text: netdev(text, _silent)),
    "chardev": ("ChardevOptions", "backend", parse_options),
    "serial": ("ChardevOptions", None, lambda text: parse_compact(text, warn=_silent)),
    "smp": ("SMPConfiguration", "cpus", _option("smp")),
    "mon": ("MonitorOptions", "chardev", _option("mon")),
    "name": ("NameOptions", "guest", _option("name")),
    "action": ("ActionOptions", None, _option("action")),
    "boot": ("BootConfiguration", "order", _option("boot")),
    "rtc": ("RtcOptions", "base", _option("rtc")),
    "icount": ("IcountOptions", "shift", _option("icount")),
    "audiodev": ("Audiodev", "driver", _option("audiodev")),
    "overcommit": ("OvercommitOptions", None, _option("overcommit")),
    "display": ("DisplayOptions", "type", _option("display")),
    "trace": ("TraceOptions", "enable", _option("trace")),
    "compat": ("CompatPolicy", None, _option("compat")),
    "global": ("GlobalProperty", None, _option("global")),
}
"""By option: the type of the schema, the implied key, and what reads the text."""

SHORT_FORMS = ("unix:", "tcp:", "tcp::", "telnet:", "file:", "pipe:", "pty:", "mon:", "null,", "stdio,", "")


def _keyval(grammar: Grammar, numbers: random.Random) -> tuple[str, str]:
    """An option and a text for it."""
    option = numbers.choice(list(KEYVAL))
    type_name, implied, _ = KEYVAL[option]
    text = grammar.keyval(grammar.value(type_name), implied)
    if option == "serial":
        text = (
            numbers.choice(SHORT_FORMS)
            + numbers.choice(["a", "127.0.0.1:0", "::1:5", "[::1]:7", ""])
            + ","
            + text
        )
        text = text.rstrip(",") if numbers.random() < 0.5 else text.partition(",")[0]
    # Half characters do not come past the words of the command line (`test_command_line`) or a document's bytes.
    return option, text.encode(errors="replace").decode()


def test_keyval():
    outcomes = Outcomes()
    with attack() as numbers:
        grammar = Grammar(numbers)
        for _ in rounds(3000):
            option, text = _keyval(grammar, numbers)
            try:
                KEYVAL[option][2](text)
            except (QmpError, UsageError) as error:
                outcomes.refuse(str(error))
            except Exception as error:
                error.add_note(f"-{option} {text!r}")
                raise
            else:
                outcomes.take()
    outcomes.check("keyval", taken=0.25, kinds=25)


def _ini(grammar: Grammar, numbers: random.Random) -> bytes:
    """Options as `-writeconfig` writes them, where it can."""
    words: list[str] = []
    for _ in range(numbers.choice([1, 2, 4])):
        option, text = _keyval(grammar, numbers)
        words += [f"-{option}", text]
    try:
        text = written(occurrences(words))
    except (UsageError, QmpError):
        group, key = (
            numbers.choice([*GROUPS, "nonesuch", "S", "append"]),
            numbers.choice(["argument", "id", "size"]),
        )
        text = f'[{group} "{numbers.choice(grammar.names)}"]\n  {key} = "{words[1]}"\n'
    return changed_bytes(text.encode("utf-8", "surrogatepass"), numbers, b'[]"=\n #,')


def _document(grammar: Grammar, numbers: random.Random, *, in_toml: bool) -> bytes:
    value = grammar.value("Configuration")
    if isinstance(value, dict):
        # One mistake spoils all of it: short ones have a chance.
        value = {name: part for name, part in value.items() if numbers.random() < 0.6}
    text = toml(value) if in_toml else json.dumps(value, ensure_ascii=numbers.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass")
    return data if numbers.random() < 0.6 else changed_bytes(data, numbers, b'{}[]",:=\n#.-0123456789eT\\')


def test_ini(tmp_path: Path):
    path = tmp_path / "vm.cfg"
    outcomes = Outcomes()
    with attack() as numbers:
        grammar = Grammar(numbers)
        for _ in rounds(1500):
            path.write_bytes(data := _ini(grammar, numbers))
            try:
                parse(["-readconfig", str(path)])
            except UsageError as error:
                outcomes.refuse(str(error))
            except Exception as error:
                error.add_note(repr(data))
                raise
            else:
                outcomes.take()
    outcomes.check("INI", taken=0.2, kinds=15)


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_documents(tmp_path: Path, suffix: str):
    """Whatever `qemud config check` takes, the option takes; and it refuses in one line that begins with the file's name."""
    path = tmp_path / f"vm.{suffix}"
    outcomes = Outcomes()
    with attack() as numbers:
        grammar = Grammar(numbers)
        for number in rounds(700, of=2):
            path.write_bytes(data := _document(grammar, numbers, in_toml=suffix == "toml"))
            try:
                line = parse(["--config", str(path)])
                if number % 10 == 0:
                    check(read_document(str(path)))
                if line.machine is not None:
                    machine_options(line)
            except (UsageError, DocumentError, QmpError) as error:
                outcomes.refuse(str(error))
            except Exception as error:
                error.add_note(repr(data))
                raise
            else:
                outcomes.take()
    outcomes.check(f"documents in {suffix}", taken=0.2, kinds=20)
