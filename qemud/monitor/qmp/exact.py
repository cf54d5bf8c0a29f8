"""Bytes into JSON values, exactly as QEMU does it: lexer and parser, where a message ends, and what it may cost.

    exact = ExactFramer()
    exact.feed(b"{'execute': 'stop'} {")
    exact.next()     # {"execute": "stop"}
    exact.next()     # NEED_DATA

A message ends where braces and brackets balance, or where one too many is closed; until then its errors are not told.
Garbage ends it at once.  Blanks between tokens cost nothing and count for nothing.

Source: QEMU 10.0, qobject/json-streamer.c (behaviour).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qemud.monitor.qmp.lexer import (
    LEFT_BRACE,
    LEFT_BRACKET,
    OVERSIZE,
    RIGHT_BRACE,
    RIGHT_BRACKET,
    STRAY,
    Lexer,
)
from qemud.monitor.qmp.parser import Parser, lenient_text
from qemud.monitor.qmp.values import LATER, NEED_DATA, JsonError, JsonValue, Limits

if TYPE_CHECKING:
    from qemud.monitor.qmp.values import Pending

# How far the count of open braces or brackets goes when one opens or closes.
_BRACES: Final = {LEFT_BRACE: 1, RIGHT_BRACE: -1}
_BRACKETS: Final = {LEFT_BRACKET: 1, RIGHT_BRACKET: -1}


TOKENS_AT_A_TIME: Final = 1024
"""A millisecond or two of work."""


class ExactFramer:
    """The incremental framing of one connection."""

    __slots__ = ("_braces", "_brackets", "_bytes", "_lexer", "_limits", "_parser", "_tokens")

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
        self._limits = limits
        self._lexer = Lexer(limits.bytes)
        self._parser = Parser()
        self._braces = self._brackets = self._tokens = self._bytes = 0

    @property
    def idle(self) -> bool:
        """Whether no message is under way: the next byte begins one."""
        return self._tokens == 0 and self._lexer.idle

    @property
    def position(self) -> int:
        """How far the current piece has been read."""
        return self._lexer.position

    def feed(self, data: bytes, position: int = 0) -> None:
        """Give a piece of input, to be read from `position`; the last one must have been used up."""
        self._lexer.feed(data, position)

    def leave(self) -> None:
        """Forget the rest of the current piece."""
        self._lexer.leave()

    def next(self) -> JsonValue | JsonError | Pending:
        """The next message's value; a JsonError (returned) for garbage; NEED_DATA; or LATER, after many tokens."""
        lexer = self._lexer
        for _ in range(TOKENS_AT_A_TIME):
            token = lexer.next()
            if token is None:
                return NEED_DATA
            item = self._push(*token)
            if item is not NEED_DATA:
                return item
        return LATER

    def _push(self, kind: int, text: bytes) -> JsonValue | JsonError | Pending:
        """Take a token; the value or error of the message that ends with it, or NEED_DATA."""
        if kind == STRAY:
            self._reset()
            return JsonError(f"JSON parse error, stray '{lenient_text(text)}'")
        self._braces += _BRACES.get(kind, 0)
        self._brackets += _BRACKETS.get(kind, 0)
        excess = self._excess(kind, text)
        if excess is not None:
            self._reset()
            return JsonError(excess)
        self._tokens += 1
        self._bytes += len(text)
        self._parser.push(kind, text)
        braces, brackets = self._braces, self._brackets
        # Not "while both are balanced": a closing one too many ends the message as well.
        if (braces > 0 or brackets > 0) and braces >= 0 and brackets >= 0:
            return NEED_DATA
        return self._take()

    def _take(self) -> JsonValue | JsonError:
        """The value or error of the message that has ended."""
        try:
            return self._parser.take()
        except JsonError as error:
            return error
        finally:
            self._reset()

    def finish(self) -> list[JsonValue | JsonError]:
        """What the end of input completes: values and errors still owed, at most two."""
        items = []
        token = self._lexer.finish()
        if token is not None:
            item = self._push(*token)
            if item is not NEED_DATA:
                items.append(item)
        if self._tokens:
            items.append(self._take())
        return items

    def _excess(self, kind: int, text: bytes) -> str | None:
        """The text for the limit that a further token passes, if it passes one."""
        if kind == OVERSIZE or self._bytes + len(text) + 1 > self._limits.bytes:
            return "JSON token size limit exceeded"
        if self._tokens + 1 > self._limits.tokens:
            return "JSON token count limit exceeded"
        if self._braces + self._brackets > self._limits.nesting:
            return "JSON nesting depth limit exceeded"
        return None

    def _reset(self) -> None:
        self._parser.reset()
        self._braces = self._brackets = self._tokens = self._bytes = 0
