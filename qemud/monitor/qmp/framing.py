r"""Bytes into JSON values: a fast way for plain messages, and the exact way for everything.

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
- **The exact way**, `qemud.monitor.qmp.exact`, for all the rest: split messages, single quotes, other alphabets,
  garbage.  It is imported when it is first needed, and most clients never need it.

What the short way refuses goes the exact way, and so does the remainder of that piece of input: each byte is looked at
by each way once at most, so time is linear in the input, however it is cut.  Property tests hold the two together.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from qemud.monitor.qmp.values import LATER, NEED_DATA, JsonError, JsonValue, Limits, Pending, integer
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.monitor.qmp.exact import ExactFramer

# Beyond this many characters a message goes the exact way, which is built for patience.
_SHORT_WAY_LENGTH: Final = 1 << 20


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

    `short_way=False` leaves only the exact way; it and smaller `limits` are for tests.
    """

    def __init__(self, *, short_way: bool = True, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
        self._short_way = short_way
        self._limits = limits
        self._small = min(
            limits.nesting, limits.tokens, limits.bytes
        )  # a shorter message is within all limits
        self._waiting: deque[bytes] = deque()  # pieces behind the current one
        self._data = b""
        self._text: str | None = None  # the current piece while it goes the short way
        self._position = 0  # in _text
        self._exact: ExactFramer | None = None

    def feed(self, data: bytes) -> None:
        """Give a piece of input."""
        self._waiting.append(data)

    def next(self) -> JsonValue | JsonError | Pending:
        """The next message's value; a JsonError (returned) for garbage; NEED_DATA; or LATER: ask again soon."""
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
                    self._go_exact(position)
            if self._exact is not None:
                item = self._next_exact(self._exact)
                if item is not NEED_DATA:
                    return item
            if not self._waiting:
                return NEED_DATA
            self._begin(self._waiting.popleft())

    def finish(self) -> list[JsonValue | JsonError]:
        """What the end of input completes: values and errors still owed, at most two."""
        return [] if self._exact is None else self._exact.finish()

    def _begin(self, data: bytes) -> None:
        """Start on a piece of input, the short way if nothing is under way and the piece looks plain."""
        self._data = data
        if (self._exact is None or self._exact.idle) and self._is_plain(data):
            self._text = data.decode("ascii")
            self._position = 0
        else:
            self._go_exact(0)

    def _is_plain(self, data: bytes) -> bool:
        return self._short_way and data.isascii() and b"\\u" not in data

    def _is_modest(self, text: str, start: int, end: int) -> bool:
        """Whether a message of that length surely keeps the limits: it has fewer tokens than characters."""
        return (
            end - start < min(_SHORT_WAY_LENGTH, self._limits.tokens, self._limits.bytes)
            and text.count("{", start, end) + text.count("[", start, end) <= self._limits.nesting
        )

    def _go_exact(self, position: int) -> None:
        """Let the rest of the current piece go the exact way."""
        if self._exact is None:
            from qemud.monitor.qmp.exact import ExactFramer

            self._exact = ExactFramer(self._limits)
        self._exact.feed(self._data, position)

    def _next_exact(self, exact: ExactFramer) -> JsonValue | JsonError | Pending:
        """What `next` returns, from what the exact way still has to read."""
        carried = not exact.idle
        item = exact.next()
        if (
            carried
            and not isinstance(item, JsonError | Pending)
            and exact.idle
            and exact.position < len(self._data)
            and self._is_plain(self._data)
        ):
            # A message begun in an earlier piece is complete: the rest of this one may go the short way.
            self._text = self._data.decode("ascii")
            self._position = exact.position
            exact.leave()
        return item


def parse_document(data: bytes) -> JsonValue:
    """The one JSON value that `data` holds, as QEMU reads JSON on its command line; JsonError otherwise."""
    framer = Framer()
    framer.feed(data)
    items = []
    while (item := framer.next()) is not NEED_DATA:
        if item is not LATER:
            items.append(item)
    items += framer.finish()
    if not items:
        raise JsonError("Expecting a JSON value")
    if isinstance(items[0], JsonError):
        raise items[0]
    if len(items) > 1:
        raise JsonError("Expecting at most one JSON value")
    return items[0]


def parse_option(text: str) -> dict[str, Any]:
    """An option's argument in JSON; `text` begins with a brace.  Raises GenericError with QEMU's text."""
    try:
        value = parse_document(text.encode())
    except JsonError as error:
        raise GenericError(str(error)) from None
    assert isinstance(value, dict)
    return value
