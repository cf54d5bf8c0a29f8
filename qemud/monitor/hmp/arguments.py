"""The words behind a command, read as its row of the table says.

    parse("fmt:/,addr:l", "/4xw 0x1000", "x", reading)    -> {"fmt": Format("x", 4, 4), "addr": 0x1000}

The notation is QEMU's `args_type`: `name:letter` for each argument in its order, with `?` behind what may be missing.

    s   a word, or a string in double quotes       i   an expression, a number of 32 bits
    F   the same, a file's name                    l   an expression, a number of 64 bits
    S   the rest of the line                       b   on or off
    O   options of a device, key=value,…           /   a format, as in /4xw
    o   a size, in MiB without a suffix            M   an expression, a number of MiB
    -f  the flag -f

Source: QEMU 10.0, monitor/hmp.c, for the rules and the texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qemud.monitor.hmp.expression import SPACE, ExpressionError, evaluate
from qemud.qapi.runtime import qemuopts
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.qemuopts import HintedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_COUNT = (1 << 31) - 1
_INT64_MAX = (1 << 63) - 1
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8, "L": 8}
_ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


class ArgumentError(Exception):
    """The line is not what the command takes; `str` is what to print, which may be nothing."""


class Format(NamedTuple):
    """How memory or a number is shown: `kind` one of o d u x i c, `size` in bytes of each of so many `items`."""

    kind: str = "x"
    size: int = 4
    items: int = 1


class Reading:
    """What reading a line needs to know and remember.

    `registers` are those that expressions may name; `last` is the format last given, which is the next one's default;
    `warn` takes warnings.
    """

    def __init__(self, warn: Callable[[str], None] = lambda _text: None) -> None:
        self.registers: Mapping[str, int] = {}
        self.last = Format()
        self.warn = warn


class Words:
    """A text and how far it has been read."""

    def __init__(self, text: str, position: int = 0) -> None:
        self.text = text
        self.position = position

    @property
    def here(self) -> str:
        """The next character; empty at the end."""
        return self.text[self.position : self.position + 1]

    def skip_space(self) -> None:
        """Go to the next word."""
        while self.position < len(self.text) and self.text[self.position] in SPACE:
            self.position += 1

    def at_end(self) -> bool:
        """Whether no word follows."""
        self.skip_space()
        return self.position >= len(self.text)

    def word(self) -> str | None:
        """The next word, or the string in double quotes; None at the end and where a string is not one."""
        if self.at_end():
            return None
        if self.here == '"':
            return self._quoted()
        start = self.position
        while self.here and self.here not in SPACE:
            self.position += 1
        return self.text[start : self.position]

    def _quoted(self) -> str | None:
        value = ""
        self.position += 1
        while self.here not in {"", '"'}:
            character = self.here
            self.position += 1
            if character == "\\":
                character = _ESCAPES.get(self.here, "")
                if not character:
                    return None
                self.position += 1
            value += character
        if not self.here:
            return None
        self.position += 1
        return value


def split(text: str) -> list[str] | None:
    """All words; None where a string is not one."""
    words = Words(text)
    found: list[str] = []
    while not words.at_end():
        word = words.word()
        if word is None:
            return None
        found.append(word)
    return found


def parse(spec: str, text: str, command: str, reading: Reading) -> dict[str, Any]:
    """The arguments by name.  Raises ArgumentError."""
    words = Words(text)
    values: dict[str, Any] = {}
    arguments = [argument.partition(":")[::2] for argument in spec.split(",") if argument]
    flags = {kind[1] for _, kind in arguments if kind.startswith("-")}
    for name, kind in arguments:
        words.skip_space()
        if kind.startswith("-"):
            if words.here == "-" and _is_given(words, kind[1], flags, command):
                values[name] = True
                words.position += 2
        elif not (kind.endswith("?") and words.at_end()):
            value = _READERS[kind[0]](words, command, reading)
            if value is not None:
                values[name] = value
    if not words.at_end():
        raise ArgumentError(f"{command}: extraneous characters at the end of line")
    return values


def _is_given(words: Words, letter: str, flags: set[str], command: str) -> bool:
    """Whether the flag that is next is this one, and not another of the command's."""
    given = words.text[words.position + 1 : words.position + 2]
    if given not in flags:
        raise ArgumentError(f"{command}: unsupported option -{given}")
    return given == letter


def _string(words: Words, command: str, _reading: Reading) -> str:
    word = words.word()
    if word is None:
        raise ArgumentError(f"{command}: string expected")
    return word


def _filename(words: Words, command: str, _reading: Reading) -> str:
    word = words.word()
    if word is None:
        raise ArgumentError(f"{command}: filename expected")
    return word


def _rest(words: Words, command: str, _reading: Reading) -> str:
    rest = words.text[words.position :]
    if not rest:
        raise ArgumentError(f"{command}: string expected")
    words.position = len(words.text)
    return rest


def _options(words: Words, _command: str, reading: Reading) -> dict[str, str]:
    if words.at_end():
        return {}
    word = words.word()
    if word is None:
        raise ArgumentError
    try:
        return qemuopts.parse(word, implied="driver", warn=reading.warn)
    except HintedError as error:
        raise ArgumentError(f"{error}\n{error.hint}") from None


def _long(words: Words, _command: str, reading: Reading) -> int:
    try:
        value, words.position = evaluate(words.text, words.position, reading.registers)
    except ExpressionError as error:
        raise ArgumentError(str(error)) from None
    return value


def _integer(words: Words, command: str, reading: Reading) -> int:
    value = _long(words, command, reading)
    if value >> 32:
        raise ArgumentError(f"'{command}' has failed: integer is for 32-bit values")
    return value


def _mebibytes(words: Words, command: str, reading: Reading) -> int:
    value = _long(words, command, reading)
    if value < 0:
        raise ArgumentError("enter a positive value")
    # It is a number of 64 bits there, whose upper ones are lost.
    value = (value << 20) & (2 * _INT64_MAX + 1)
    return value - 2 * _INT64_MAX - 2 if value > _INT64_MAX else value


def _size(words: Words, _command: str, _reading: Reading) -> int:
    start = words.position
    while words.here and words.here not in SPACE:
        words.position += 1
    try:
        value = qemuopts.size("size", words.text[start : words.position], default_suffix="M")
    except GenericError:
        value = -1
    if not 0 <= value <= _INT64_MAX:
        raise ArgumentError("invalid size")
    return value


def _switch(words: Words, _command: str, _reading: Reading) -> bool:
    start = words.position
    while words.here and words.here not in SPACE:
        words.position += 1
    match words.text[start : words.position]:
        case "on":
            return True
        case "off":
            return False
        case _:
            raise ArgumentError("Expected 'on' or 'off'")


def _format(words: Words, _command: str, reading: Reading) -> Format:
    """`/`, a count, letters for kind and size in any order; what is not given is as it was last."""
    last = reading.last
    kind, size, count = "", 0, 1
    if words.here == "/":
        words.position += 1
        start = words.position
        while words.here.isascii() and words.here.isdigit():
            words.position += 1
        digits = words.text[start : words.position]
        if digits:
            count = int(digits) if len(digits) < 11 else MAX_COUNT
        while words.here and (words.here in "oduxic" or words.here in _SIZES):
            if words.here in _SIZES:
                size = _SIZES[words.here]
            else:
                kind = words.here
            words.position += 1
        if words.here and words.here not in SPACE:
            raise ArgumentError(f"invalid char in format: '{words.here}'")
    found = Format(kind or last.kind, size or last.size, min(count, MAX_COUNT))
    # The size of an instruction is its own: it does not become the default.
    reading.last = found._replace(items=1, size=last.size if found.kind == "i" else found.size)
    return found


_READERS: dict[str, Callable[[Words, str, Reading], Any]] = {
    "s": _string,
    "F": _filename,
    "S": _rest,
    "O": _options,
    "l": _long,
    "i": _integer,
    "M": _mebibytes,
    "o": _size,
    "b": _switch,
    "/": _format,
}
