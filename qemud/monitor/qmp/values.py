"""What JSON becomes, and what is said of text that is none."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

JsonValue = Any  # None, bool, int, float, str, list, dict of str


class Pending(Enum):
    """What stands in place of a value that is not there yet."""

    NEED_DATA = "need data"  # the next message is not complete
    LATER = "later"  # it may be, but enough has been done for one turn of the loop: ask again


NEED_DATA: Final = Pending.NEED_DATA
LATER: Final = Pending.LATER


class JsonError(Exception):
    """The text is not JSON, or is too much of it; `str()` is QEMU's text for it."""


def integer(text: str | bytes) -> int | float:
    """The value of an integer token: exact within int64 and uint64, else the nearest double."""
    if len(text) < 19:
        return int(text)
    if len(text) <= 20:
        value = int(text)
        if -(1 << 63) <= value < 1 << 64:
            return value
    return float(text)


class Limits:
    """What one message may cost; by default, QEMU's limits.

    `nesting` counts open braces and brackets at a time, `bytes` the text of all tokens together.
    """

    __slots__ = ("bytes", "nesting", "tokens")

    def __init__(self, *, nesting: int = 1024, tokens: int = 2 << 20, bytes: int = 64 << 20) -> None:  # noqa: A002
        self.nesting = nesting
        self.tokens = tokens
        self.bytes = bytes
