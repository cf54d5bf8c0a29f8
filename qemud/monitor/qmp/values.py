"""What JSON becomes, and what is said of text that is none."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

JsonValue = Any  # None, bool, int, float, str, list, dict of str


class NeedData:
    """The type of NEED_DATA."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NEED_DATA"


NEED_DATA: Final = NeedData()
"""In place of a value: the next message is not complete."""


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


class Limits(NamedTuple):
    """What one message may cost; QEMU's limits."""

    nesting: int = 1024
    """Open braces and brackets at a time."""
    tokens: int = 2 << 20
    bytes: int = 64 << 20
    """The text of all tokens together."""
