"""Tokens of the schema language: JSON's punctuation, single-quoted ASCII strings, `true`, `false` and comments.

The parser asks for one token at a time, because what counts as a token depends on where it stands: a comment is one only
inside a documentation comment, and a number or `null` only where an extension of the language takes a value
(`literals=True`).  Everywhere else they are stray, as they are to QEMU.

Source: QEMU 10.0, docs/devel/qapi-code-gen, "Schema syntax".
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias

from qemud.qapi.diagnostics import SchemaError
from qemud.qapi.model import Info

TokenKind: TypeAlias = Literal["{", "}", ":", ",", "[", "]", "string", "literal", "comment", "end"]
Scalar: TypeAlias = str | bool | int | float | None

_PUNCTUATION: dict[str, TokenKind] = {"{": "{", "}": "}", ":": ":", ",": ",", "[": "[", "]": "]"}
_BLANKS = re.compile(r"[^\S\n]+")
_PLAIN_STRING = re.compile(r"[ -&(-\[\]-~]*'")
_STRAY = re.compile(r"[^\[\]{}:,\s']+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?(?![^\[\]{}:,\s'#])")
_NULL = re.compile(r"null(?![^\[\]{}:,\s'#])")

# Longer than any 64-bit number; keeps hostile input away from int()'s and float()'s own limits.
_MAX_NUMBER_LENGTH = 32
# Strays are quoted in a diagnostic, which stays readable.
_MAX_STRAY_LENGTH = 200


class Token(NamedTuple):
    """A token: its kind, its value (of strings, literals and comments), and where it starts."""

    kind: TokenKind
    value: Scalar
    offset: int
    line: int
    line_start: int  # offset of the line's first character


class Lexer:
    """Cuts `source`, the text of `file`, into tokens; `parent` is the `include` that led to the file."""

    def __init__(self, source: str, file: str, parent: Info | None) -> None:
        self._source = source if source.endswith("\n") else source + "\n"
        self._file = file
        self._parent = parent
        self._cursor = 0
        self._line = 1
        self._line_start = 0

    def info(self, token: Token) -> Info:
        """The place of `token`."""
        return Info(self._file, token.line, self._parent)

    def error(self, token: Token, text: str) -> SchemaError:
        """A syntax error at `token`."""
        return SchemaError(text, self.info(token), column=self._column(token))

    def next(self, *, comments: bool = False, literals: bool = False) -> Token:
        """The next token.

        Comments are passed over unless `comments` is set; one that starts with `##` never is.  Numbers and `null` are
        tokens only with `literals`.
        """
        source = self._source
        while True:
            blanks = _BLANKS.match(source, self._cursor)
            if blanks:
                self._cursor = blanks.end()
            start = self._cursor
            char = source[start]
            if char == "\n":
                if start + 1 == len(source):
                    return self._token("end", None, start)
                self._cursor += 1
                self._line += 1
                self._line_start = self._cursor
            elif char == "#":
                self._cursor = source.index("\n", start)
                if comments or source.startswith("##", start):
                    return self._token("comment", source[start : self._cursor], start)
            elif char in _PUNCTUATION:
                self._cursor += 1
                return self._token(_PUNCTUATION[char], None, start)
            elif char == "'":
                return self._string(start)
            elif source.startswith("true", start):
                self._cursor += 4
                return self._token("literal", value=True, start=start)
            elif source.startswith("false", start):
                self._cursor += 5
                return self._token("literal", value=False, start=start)
            else:
                token = self._extended_literal(start) if literals else None
                if token is None:
                    raise self._stray(start)
                return token

    def _token(self, kind: TokenKind, value: Scalar, start: int) -> Token:
        return Token(kind, value, start, self._line, self._line_start)

    def _string(self, start: int) -> Token:
        plain = _PLAIN_STRING.match(self._source, start + 1)
        if plain:
            self._cursor = plain.end()
            return self._token("string", self._source[start + 1 : self._cursor - 1], start)
        # There is an escape in it, or something that must not be.
        here = self._token("string", None, start)
        value = ""
        at = start + 1
        while True:
            char = self._source[at]
            escaped = char == "\\"
            if escaped:
                at += 1
                char = self._source[at]
            if char == "\n":
                raise self.error(here, 'missing terminating "\'"')
            if escaped and char != "\\":
                raise self.error(here, f"unknown escape \\{_printable(char)}")
            if char == "'" and not escaped:
                self._cursor = at + 1
                return self._token("string", value, start)
            if not " " <= char <= "~":
                raise self.error(here, "funny character in string")
            value += char
            at += 1

    def _extended_literal(self, start: int) -> Token | None:
        null = _NULL.match(self._source, start)
        if null:
            self._cursor = null.end()
            return self._token("literal", None, start)
        number = _NUMBER.match(self._source, start)
        if not number:
            return None
        text = number.group()
        here = self._token("literal", None, start)
        if len(text) > _MAX_NUMBER_LENGTH:
            raise self.error(here, "number out of range")
        value: int | float = int(text) if number.group(1) is None and number.group(2) is None else float(text)
        if value in {float("inf"), float("-inf")}:
            raise self.error(here, "number out of range")
        self._cursor = number.end()
        return self._token("literal", value, start)

    def _stray(self, start: int) -> SchemaError:
        match = _STRAY.match(self._source, start)
        assert match
        text = match.group()
        if len(text) > _MAX_STRAY_LENGTH:
            text = text[:_MAX_STRAY_LENGTH] + "..."
        # A diagnostic must not carry control characters to a terminal.
        text = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
        )
        return self.error(self._token("literal", None, start), f"stray '{text}'")

    def _column(self, token: Token) -> int:
        """The column from 1, with tabs counted as QEMU's front end counts them (back to the column modulo 8)."""
        column = 1
        for char in self._source[token.line_start : token.offset]:
            column = (column + 7) % 8 + 1 if char == "\t" else column + 1
        return column


def _printable(text: str) -> str:
    """`text` without control characters, which a diagnostic must not carry to a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
