r"""Bytes into JSON values: where a message ends, what it may cost, and how garbage is answered.

    framer = Framer()
    framer.feed(b"{'execute': 'stop'} {")
    framer.next()     # {"execute": "stop"}
    framer.next()     # NEED_DATA
    framer.feed(b"]")
    framer.next()     # JsonError("JSON parse error, expecting value"), returned, not raised

Messages are pulled one by one, so that a session decides how far ahead it reads.  There are two ways through:

- **The short way.** A piece of input that is plain ASCII without ``\u`` escapes is given to the C scanner of the
  standard library, message by message.  It takes a subset of what QEMU takes; the hooks below keep it from taking
  anything else or giving another value: duplicate keys, numbers such as ``0e1``, ``NaN``, integers beyond 64 bits,
  deep nesting.
- **The exact way**, lexer and parser, for all the rest: split messages, single quotes, other alphabets, garbage.

What the short way refuses goes the exact way, and so does the remainder of that piece of input: each byte is looked at
by each way once at most, so time is linear in the input, however it is cut.  Property tests hold the two together.

Limits, as in QEMU: 1024 levels of nesting, 2**21 tokens and 64 MiB of token text a message.

Source: QEMU 10.0, qobject/json-streamer.c (behaviour).
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from qemud.monitor.qmp.lexer import (
    LEFT_BRACE,
    LEFT_BRACKET,
    MAX_TOKEN_BYTES,
    OVERSIZE,
    RIGHT_BRACE,
    RIGHT_BRACKET,
    STRAY,
    Lexer,
)
from qemud.monitor.qmp.parser import JsonError, JsonValue, Parser, integer, lenient_text

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_NESTING: Final = 1024
MAX_TOKENS: Final = 2 << 20

# A message of this many characters cannot reach the limits for tokens and bytes, and its nesting is cheap to count.
_SHORT_WAY_LENGTH: Final = 1 << 20


class _NeedData:
    """The type of NEED_DATA."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NEED_DATA"


NEED_DATA: Final = _NeedData()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


def _fraction(text: str) -> float:
    if text.lstrip("-").startswith(("0e", "0E")):
        raise ValueError("QEMU ends the number after such a zero")
    return float(text)


def _constant(text: str) -> float:
    raise ValueError(text)


# The C scanner itself, called millions of times: `raw_decode` would wrap it for a friendlier error.
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=integer, parse_float=_fraction, parse_constant=_constant
).scan_once  # type: ignore[attr-defined]  # not in typeshed


class Framer:
    """The incremental framing of one connection.

    `short_way=False` leaves only the exact way; the other arguments are the limits.  All are for tests.
    """

    def __init__(
        self,
        *,
        short_way: bool = True,
        max_nesting: int = MAX_NESTING,
        max_tokens: int = MAX_TOKENS,
        max_bytes: int = MAX_TOKEN_BYTES,
    ) -> None:
        self._short_way = short_way
        self._max_nesting = max_nesting
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._small = min(max_nesting, max_tokens, max_bytes)  # a shorter message is within all limits
        self._waiting: deque[bytes] = deque()  # pieces behind the current one
        self._data = b""
        self._text: str | None = None  # the current piece while it goes the short way
        self._position = 0  # in _text
        self._lexer = Lexer(max_bytes)
        self._parser = Parser()
        self._braces = self._brackets = self._tokens = self._bytes = 0

    def feed(self, data: bytes) -> None:
        """Give a piece of input."""
        self._waiting.append(data)

    def next(self) -> JsonValue | JsonError | _NeedData:
        """The next message's value; a JsonError (returned) for garbage; or NEED_DATA."""
        while True:
            text = self._text
            if text is not None:
                position = self._position
                try:
                    # Blanks are counted by hand: one or two characters between messages at most, usually.
                    while text[position] in " \r\n\t":
                        position += 1
                except IndexError:
                    self._text = None
                else:
                    if text[position] == "{":
                        try:
                            value, end = _scan(text, position)
                        except (StopIteration, ValueError, RecursionError):
                            pass
                        else:
                            if end - position < self._small or self._is_modest(text, position, end):
                                self._position = end
                                return value
                    self._text = None
                    self._lexer.feed(self._data, position)
            item = self._next_exact()
            if item is not NEED_DATA:
                return item
            if not self._waiting:
                return NEED_DATA
            self._begin(self._waiting.popleft())

    def _begin(self, data: bytes) -> None:
        """Start on a piece of input, the short way if nothing is under way and the piece looks plain."""
        self._data = data
        if self._tokens == 0 and self._lexer.idle and self._is_plain(data):
            self._text = data.decode("ascii")
            self._position = 0
        else:
            self._lexer.feed(data)

    def _is_plain(self, data: bytes) -> bool:
        return self._short_way and data.isascii() and b"\\u" not in data

    def _is_modest(self, text: str, start: int, end: int) -> bool:
        """Whether a message of that length surely keeps the limits."""
        return (
            end - start < min(_SHORT_WAY_LENGTH, self._max_tokens, self._max_bytes)
            and text.count("{", start, end) + text.count("[", start, end) <= self._max_nesting
        )

    def _next_exact(self) -> JsonValue | JsonError | _NeedData:
        """What `next` returns, from the rest of the current piece, by lexer and parser."""
        lexer = self._lexer
        carried = self._tokens > 0 or not lexer.idle
        while (token := lexer.next()) is not None:
            item = self._push(*token)
            if item is not NEED_DATA:
                if carried and not isinstance(item, JsonError):
                    self._resume_short_way()
                return item
        return NEED_DATA

    def _push(self, kind: int, text: bytes) -> JsonValue | JsonError | _NeedData:
        """Take a token; the value or error of the message that ends with it, or NEED_DATA."""
        if kind == STRAY:
            self._reset()
            return JsonError(f"JSON parse error, stray '{lenient_text(text)}'")
        if kind == LEFT_BRACE:
            self._braces += 1
        elif kind == RIGHT_BRACE:
            self._braces -= 1
        elif kind == LEFT_BRACKET:
            self._brackets += 1
        elif kind == RIGHT_BRACKET:
            self._brackets -= 1
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

    def _resume_short_way(self) -> None:
        """A message begun in an earlier piece is complete: the rest of this one may go the short way."""
        position = self._lexer.position
        if position < len(self._data) and self._lexer.idle and self._is_plain(self._data):
            self._text = self._data.decode("ascii")
            self._position = position
            self._lexer.leave()

    def _excess(self, kind: int, text: bytes) -> str | None:
        """The text for the limit that a further token passes, if it passes one."""
        if kind == OVERSIZE or self._bytes + len(text) + 1 > self._max_bytes:
            return "JSON token size limit exceeded"
        if self._tokens + 1 > self._max_tokens:
            return "JSON token count limit exceeded"
        if self._braces + self._brackets > self._max_nesting:
            return "JSON nesting depth limit exceeded"
        return None

    def _reset(self) -> None:
        self._parser.reset()
        self._braces = self._brackets = self._tokens = self._bytes = 0


def parse_document(data: bytes) -> JsonValue:
    """The one JSON value that `data` holds, as QEMU reads JSON on its command line; JsonError otherwise."""
    framer = Framer()
    framer.feed(data)
    items = []
    while (item := framer.next()) is not NEED_DATA:
        items.append(item)
    items += framer.finish()
    if not items:
        raise JsonError("Expecting a JSON value")
    if isinstance(items[0], JsonError):
        raise items[0]
    if len(items) > 1:
        raise JsonError("Expecting at most one JSON value")
    return items[0]
