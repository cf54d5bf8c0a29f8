"""At which line of a document each value stands: for errors that name the line.

    lines = json_lines(text)
    lines["rules", 0, "steps"]       # 12

The text has been parsed before and is known to be good; these scanners only follow its brackets.  A key of the result is the path of a
value: names and indices from the top.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Path: TypeAlias = tuple[str | int, ...]

_JSON = r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+'
_TOML = (
    r'#[^\n]*|"""(?:[^\\]|\\.)*?"{3,5}|'
    r"'''.*?'{3,5}|"
    r'"(?:[^"\\\n]|\\.)*"|'
    r"'[^'\n]*'|[\[\]{}=,.]|\n|[^\s\[\]{}=,.\"'#]+"
)


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of a value, or of the nearest one around it that has a line."""
    while path not in lines and path:
        path = path[:-1]
    return lines.get(path, 1)


def json_lines(text: str) -> dict[Path, int]:
    """The line of every value of a JSON document."""
    import json

    lines: dict[Path, int] = {}
    tokens = _Tokens(re.finditer(_JSON, text, re.DOTALL))

    def value(path: Path, word: str) -> None:
        lines.setdefault(path, tokens.line)
        if word == "[":
            index = 0
            while (word := tokens.next()) != "]":
                if word != ",":
                    value((*path, index), word)
                    index += 1
        elif word == "{":
            while (word := tokens.next()) != "}":
                if word != ",":
                    inner = (*path, json.loads(word))
                    lines[inner] = tokens.line
                    tokens.next()  # the colon
                    value(inner, tokens.next())

    with suppress(EOFError, RecursionError):
        value((), tokens.next())
    return lines


def toml_lines(text: str) -> dict[Path, int]:
    """The line of every value of a TOML document."""
    lines: dict[Path, int] = {(): 1}
    tokens = _Tokens(re.finditer(_TOML, text.replace("\r\n", "\n"), re.DOTALL))
    counts: dict[Path, int] = {}

    def settle(names: list[str]) -> Path:
        """A path by names, with the index of the last element of each array of tables on the way."""
        path: Path = ()
        for name in names:
            path = (*path, name)
            if path in counts:
                path = (*path, counts[path])
        return path

    def key(word: str) -> list[str]:
        names = []
        while word not in {"=", "]"}:
            if word != ".":
                names.append(_toml_name(word))
            word = tokens.next()
        return names

    def note(path: Path, names: list[str]) -> Path:
        for name in names:
            path = (*path, name)
            lines.setdefault(path, tokens.line)
        return path

    def value(path: Path) -> None:
        word = tokens.next_visible()
        lines.setdefault(path, tokens.line)
        if word == "[":
            index = 0
            while (word := tokens.next_visible()) != "]":
                if word != ",":
                    tokens.push_back()
                    value((*path, index))
                    index += 1
        elif word == "{":
            while (word := tokens.next_visible()) != "}":
                if word != ",":
                    value(note(path, key(word)))
        else:
            # A number or a date may be many tokens; nothing that ends a value is among them.
            while (word := tokens.next()) not in {",", "]", "}", "\n", ""} and not word.startswith("#"):
                pass
            tokens.push_back()

    table: Path = ()
    with suppress(EOFError, RecursionError):
        while word := tokens.next():
            if word == "\n" or word.startswith("#"):
                continue
            if word == "[":
                first = tokens.next()
                if first == "[":
                    names = key(tokens.next())
                    tokens.next()  # the second bracket
                    bare = (*settle(names[:-1]), names[-1])
                    counts[bare] = counts.get(bare, -1) + 1
                    table = (*bare, counts[bare])
                    lines.setdefault(bare, tokens.line)
                else:
                    table = settle(key(first))
                for length in range(1, len(table) + 1):
                    lines.setdefault(table[:length], tokens.line)
            else:
                value(note(table, key(word)))
    return lines


def _toml_name(word: str) -> str:
    if word.startswith('"'):
        import tomllib

        return next(iter(tomllib.loads(f"{word}=0")))
    return word.strip("'")


class _Tokens:
    """Tokens with the line of the last one; empty text at the end, and EOFError beyond it."""

    def __init__(self, matches: Iterator[re.Match[str]]) -> None:
        self._matches = matches
        self._position = 0
        self._again = False
        self._ended = False
        self._last = ""
        self.line = 1

    def next(self) -> str:
        if self._again:
            self._again = False
            return self._last
        match = next(self._matches, None)
        if match is None:
            if self._ended:
                raise EOFError
            self._ended = True
            self._last = ""
        else:
            self.line += match.string.count("\n", self._position, match.start())
            self._position = match.start()
            self._last = match[0]
        return self._last

    def next_visible(self) -> str:
        """The next token that is neither an end of line nor a comment."""
        while (word := self.next()) == "\n" or word.startswith("#"):
            pass
        return word

    def push_back(self) -> None:
        self._again = True
