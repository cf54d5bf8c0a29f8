"""Tokens into JSON values, one token at a time, with QEMU's error texts.

The parser is a pushdown automaton, so a message costs its time while it arrives, not at its end, and a message that is
already wrong costs no memory.  An error is only *told* when the message ends, which is for the framing to decide (when
braces and brackets balance); until then further tokens are passed over.  The first error is the one that is told.

    parser = Parser()
    for kind, text in tokens:
        parser.push(kind, text)
    value = parser.take()  # raises JsonError

What QEMU does beyond RFC 8259, and so does this: integers from -2**63 to 2**64-1 are exact, others become the nearest
double; a key may stand only once in an object; strings are modified UTF-8 (U+0000 may come as C0 80) and may hold
neither surrogates nor noncharacters.

Source: QEMU 10.0, qobject/json-parser.c and util/unicode.c (behaviour).
"""

from __future__ import annotations

import re
from typing import Any, Final

from qemud.monitor.qmp.lexer import (
    COLON,
    COMMA,
    FLOAT,
    INTEGER,
    KEYWORD,
    LEFT_BRACE,
    LEFT_BRACKET,
    RIGHT_BRACE,
    RIGHT_BRACKET,
    STRING,
)
from qemud.monitor.qmp.values import JsonError, JsonValue, integer

# --- strings

_ESCAPES: Final = {
    0x22: '"',
    0x27: "'",
    0x5C: "\\",
    0x2F: "/",
    0x62: "\b",
    0x66: "\f",
    0x6E: "\n",
    0x72: "\r",
    0x74: "\t",
}
_HEX4 = re.compile(rb"[0-9A-Fa-f]{4}").match
_RUN_TO_BACKSLASH = re.compile(rb"[^\\]*").match
_NONCHARACTER = re.compile(
    "[\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
).search
# One sequence as its first byte announces it, complete or not; or one byte that begins none.
_SEQUENCE = re.compile(
    rb"[\x01-\x7f]+|[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf7][\x80-\xbf]{0,3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc\xfd][\x80-\xbf]{0,5}|[\x80-\xff]"
).findall


def _is_noncharacter(code: int) -> bool:
    return 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE


def _utf8(run: bytes) -> str:
    """Decode modified UTF-8; JsonError for what is none, and for noncharacters."""
    if b"\xc0\x80" in run:
        run = run.replace(b"\xc0\x80", b"\x00")  # raw NULs never pass the lexer, so this is unambiguous
    try:
        text = run.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    else:
        if text.isascii() or not _NONCHARACTER(text):
            return text
    raise JsonError("JSON parse error, invalid UTF-8 sequence in string")


def lenient_text(data: bytes) -> str:
    """Bytes as a text for people, as QEMU prints a C string: up to a NUL, with U+FFFD for each malformed sequence."""
    data = data.split(b"\0", 1)[0]
    pieces = []
    for sequence in _SEQUENCE(data):
        try:
            pieces.append(_utf8(sequence))
        except JsonError:
            pieces.append("\ufffd")
    return "".join(pieces)


def _hex4(token: bytes, position: int) -> int:
    """The four hexadecimal digits at `position`, or -1."""
    found = _HEX4(token, position)
    return int(found.group(), 16) if found else -1


def string(token: bytes) -> str:
    r"""The value of a string token, its quotes included in `token`.

    JsonError for a bad escape, a code point that is none (lone surrogates, noncharacters), or broken UTF-8; the first
    of them from the left.
    """
    end = len(token) - 1
    if b"\\" not in token:
        return _utf8(token[1:end])
    pieces = []
    position = 1
    while position < end:
        run = _RUN_TO_BACKSLASH(token, position, end)
        assert run is not None  # matches the empty string
        pieces.append(_utf8(run.group()))
        start = run.end()
        if start == end:
            break
        position = start + 2
        escaped = token[start + 1]
        simple = _ESCAPES.get(escaped)
        if simple is not None:
            pieces.append(simple)
            continue
        if escaped != 0x75:
            raise JsonError("JSON parse error, invalid escape sequence in string")
        code = _hex4(token, position)
        position += 4
        if 0xD800 <= code <= 0xDBFF and token[position : position + 2] == b"\\u":
            trailing = _hex4(token, position + 2)
            if 0xDC00 <= trailing <= 0xDFFF:
                code = 0x10000 + ((code & 0x3FF) << 10 | trailing & 0x3FF)
                position += 6
        if code < 0 or 0xD800 <= code <= 0xDFFF or _is_noncharacter(code):
            shown = lenient_text(token[start:position])
            raise JsonError(f"JSON parse error, {shown} is not a valid Unicode character")
        pieces.append(chr(code))
    return "".join(pieces)


_KEYWORDS: Final[dict[bytes, bool | None]] = {b"true": True, b"false": False, b"null": None}


def _keyword(token: bytes) -> bool | None:
    try:
        return _KEYWORDS[token]
    except KeyError:
        # QEMU formats into 1024 bytes, the closing NUL included.
        shown = f"invalid keyword '{token.decode('ascii')}'"[:1023]
        raise JsonError(f"JSON parse error, {shown}") from None


# --- the automaton

# What the next token may be.
_VALUE, _VALUE_OR_END, _KEY, _KEY_OR_END, _COLON, _AFTER_ELEMENT, _AFTER_MEMBER, _DONE, _FAILED = range(9)

_NO_KEY: Final = object()


class Parser:
    """One message's worth of state; `take` makes it new."""

    __slots__ = ("_error", "_expect", "_keys", "_result", "_stack")

    def __init__(self) -> None:
        self._stack: list[list[JsonValue] | dict[str, JsonValue]] = []
        self._keys: list[Any] = []  # for each open container: the key whose value is awaited, or _NO_KEY
        self._expect = _VALUE
        self._error: JsonError | None = None
        self._result: JsonValue = None

    def reset(self) -> None:
        """Forget the message."""
        self._stack.clear()
        self._keys.clear()
        self._expect = _VALUE
        self._error = None
        self._result = None

    def take(self) -> JsonValue:
        """The message's value; JsonError when it had none.  Either way the parser is ready for the next message."""
        expect, error, result = self._expect, self._error, self._result
        self.reset()
        if error is not None:
            raise error
        if expect != _DONE:
            raise JsonError("JSON parse error, premature EOI")
        return result

    def _fail(self, error: JsonError) -> None:
        self._stack.clear()
        self._keys.clear()
        self._error = error
        self._expect = _FAILED

    def push(self, kind: int, text: bytes) -> None:
        """Take a token; it must not be STRAY or OVERSIZE, and none may follow a complete top-level value."""
        expect = self._expect
        if expect == _FAILED:
            return
        if expect <= _KEY_OR_END:
            if kind == LEFT_BRACE:
                self._open({}, _KEY_OR_END)
            elif kind == LEFT_BRACKET:
                self._open([], _VALUE_OR_END)
            elif kind in _LITERALS:
                try:
                    value = _LITERALS[kind](text)
                except JsonError as error:
                    self._fail(error)
                else:
                    self._complete(value)
            elif (kind == RIGHT_BRACE and expect == _KEY_OR_END) or (
                kind == RIGHT_BRACKET and expect == _VALUE_OR_END
            ):
                self._close()
            else:
                self._fail(JsonError("JSON parse error, expecting value"))
        elif expect == _COLON:
            if kind == COLON:
                self._expect = _VALUE
            else:
                self._fail(JsonError("JSON parse error, missing : in object pair"))
        elif expect == _AFTER_MEMBER:
            if kind == COMMA:
                self._expect = _KEY
            elif kind == RIGHT_BRACE:
                self._close()
            else:
                self._fail(JsonError("JSON parse error, expected separator in dict"))
        elif kind == COMMA:
            self._expect = _VALUE
        elif kind == RIGHT_BRACKET:
            self._close()
        else:
            self._fail(JsonError("JSON parse error, expected separator in list"))

    def _open(self, container: list[JsonValue] | dict[str, JsonValue], expect: int) -> None:
        self._stack.append(container)
        self._keys.append(_NO_KEY)
        self._expect = expect

    def _close(self) -> None:
        self._keys.pop()
        self._complete(self._stack.pop())

    def _complete(self, value: JsonValue) -> None:
        """A value is complete: hand it to the container that awaited it."""
        if not self._stack:
            self._result = value
            self._expect = _DONE
            return
        container = self._stack[-1]
        if isinstance(container, list):
            container.append(value)
            self._expect = _AFTER_ELEMENT
            return
        key = self._keys[-1]
        if key is _NO_KEY:
            if isinstance(value, str):
                self._keys[-1] = value
                self._expect = _COLON
            else:
                self._fail(JsonError("JSON parse error, key is not a string in object"))
        elif key in container:
            self._fail(JsonError("JSON parse error, duplicate key"))
        else:
            container[key] = value
            self._keys[-1] = _NO_KEY
            self._expect = _AFTER_MEMBER


_LITERALS: Final = {STRING: string, INTEGER: integer, FLOAT: float, KEYWORD: _keyword}
