"""Scalars written as text, as command lines have them: one parser for each of the schema's scalar types.

Each returns the value or raises `ValueError` with what was expected, as QEMU's texts name it (`integer`, `a size value`).

    parse_bool("on")       → True           parse_size("1.5G")   → 1610612736
    parse_int64("-0x10")   → -16            parse_number("1e3")  → 1000.0

Source of the syntax: QEMU 10.0, util/cutils.c and qapi_bool_parse in qapi/qapi-util.c.  Integers are C's: leading space,
a sign, `0x` for hexadecimal and a leading `0` for octal.
"""

from __future__ import annotations

import math

_SPACE = " \t\n\v\f\r"
_SUFFIXES = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
_TRUE = frozenset({"on", "yes", "true", "y"})
_FALSE = frozenset({"off", "no", "false", "n"})


class OutOfRangeError(ValueError):
    """The text is a number, but beyond what its type holds."""


def parse_bool(text: str) -> bool:
    """`on` or `off`, or one of their other spellings."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("'on' or 'off'")


def parse_int64(text: str) -> int:
    """An integer of 64 bits with a sign."""
    value = _integer(text)
    if not -(1 << 63) <= value < 1 << 63:
        raise OutOfRangeError("integer")
    return value


def parse_uint64(text: str) -> int:
    """An integer of 64 bits without a sign; a negative one is refused, where C would make it a huge one."""
    value = _integer(text)
    if value < 0:
        raise OutOfRangeError("uint64")
    if value >> 64:
        raise OutOfRangeError("integer")
    return value


def parse_size(text: str, default_suffix: str = "B") -> int:
    """A number of bytes below 2^64, such as `4096`, `0x1000`, `4K` or `1.5G`.

    Suffixes are B, K, M, G, T, P and E, for powers of 1024; hexadecimal has neither suffix nor fraction.  A fraction needs a suffix that makes bytes of it; what is left of a byte is rounded, a half upward.
    """
    rest = text.lstrip(_SPACE)
    if rest.startswith("-"):
        parse_size(rest[1:], default_suffix)
        raise OutOfRangeError("a size value")
    rest = rest.removeprefix("+")
    if rest[:2] in {"0x", "0X"}:
        value = _digits(rest[2:], 16, "a size value")
    else:
        suffix = rest[-1:].upper() if rest[-1:].upper() in _SUFFIXES and rest else ""
        shift = _SUFFIXES[suffix or default_suffix]
        whole, dot, fraction = rest[: len(rest) - len(suffix)].partition(".")
        if not whole and not fraction:
            raise ValueError("a size value")
        numerator = _digits(f"{whole}{fraction}", 10, "a size value")
        denominator = 10 ** len(fraction)
        if dot and shift == 0 and numerator % denominator:
            raise ValueError("a size value")
        value = (2 * (numerator << shift) + denominator) // (2 * denominator)
    if value >> 64:
        raise OutOfRangeError("a size value")
    return value


def parse_number(text: str) -> float:
    """A finite floating-point number, decimal or hexadecimal."""
    rest = text.lstrip(_SPACE)
    try:
        value = float.fromhex(rest) if "x" in rest.lower() else float(rest)
    except (ValueError, OverflowError):
        raise ValueError("number") from None
    # Python takes underscores, other digits and space behind, C does not.
    if not math.isfinite(value) or not rest.isascii() or "_" in rest or rest[-1:].isspace():
        raise ValueError("number")
    return value


def _integer(text: str) -> int:
    rest = text.lstrip(_SPACE)
    negative = rest.startswith("-")
    digits = rest[1:] if rest[:1] in {"-", "+"} else rest
    if digits[:2] in {"0x", "0X"}:
        value = _digits(digits[2:], 16, "integer")
    else:
        value = _digits(digits, 8 if digits.startswith("0") else 10, "integer")
    return -value if negative else value


def _digits(text: str, base: int, expected: str) -> int:
    # Python's own parser takes signs, spaces and underscores too; it refuses absurdly long texts, and so is safe here.
    if not (text.isascii() and text.isalnum()):
        raise ValueError(expected)
    try:
        return int(text, base)
    except ValueError:
        raise ValueError(expected) from None
