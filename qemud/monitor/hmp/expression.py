"""Numbers as people type them: C's operators on signed 64-bit integers, and registers.

    evaluate("(1 + 2) * 0x10 rest", 0, {})         -> (48, 17)
    evaluate("$pc + 4", 0, {"pc": 0x80000000})     -> (0x80000004, 7)

Binary operators, those of the strongest binding first: `* / %`, then `& | ^`, then `+ -`.  An expression ends where no
operator follows.

Source: QEMU 10.0, monitor/hmp.c, for the grammar (it is not C's) and the texts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SPACE = " \t\n\v\f\r"
"""What separates words."""

_MAX_DEPTH = 100
_NUMBER = "0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*"
"""A leading zero makes a number octal, and ends it before a digit that is none."""
_REGISTER = "[a-zA-Z0-9_.]*"


class ExpressionError(Exception):
    """The text is no expression; what is wrong with it."""


def evaluate(text: str, position: int, registers: Mapping[str, int]) -> tuple[int, int]:
    """The value of the expression that begins at `position`, as a signed 64-bit number, and where it ends.

    Raises ExpressionError.
    """
    reader = _Reader(text, position, registers)
    return reader.sum(), reader.position


def signed(value: int) -> int:
    """The lowest 64 bits as a signed number."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


class _Reader:
    """Recursive descent over one text."""

    def __init__(self, text: str, position: int, registers: Mapping[str, int]) -> None:
        self._text = text
        self.position = position
        self._registers = registers
        self._depth = 0
        self._skip_space()

    def sum(self) -> int:
        """`+` and `-`."""
        return self._binary("+-", self._logic)

    def _logic(self) -> int:
        return self._binary("&|^", self._product)

    def _product(self) -> int:
        return self._binary("*/%", self._unary)

    def _binary(self, operators: str, operand: Callable[[], int]) -> int:
        value = operand()
        while (operator := self._here()) and operator in operators:
            self._next()
            value = _apply(operator, value, operand())
        return value

    def _unary(self) -> int:
        sign = self._here()
        if not sign or sign not in "+-~(":
            return self._primary(sign)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ExpressionError("expression is nested too deeply")
        self._next()
        if sign == "(":
            value = self.sum()
            if self._here() != ")":
                raise ExpressionError("')' expected")
            self._next()
        else:
            value = self._unary()
            value = signed({"+": value, "-": -value, "~": ~value}[sign])
        self._depth -= 1
        return value

    def _primary(self, first: str) -> int:
        match first:
            case "":
                raise ExpressionError("unexpected end of expression")
            case "'":
                return self._character()
            case "$":
                name = self._take(_REGISTER, 1)
                if name not in self._registers:
                    raise ExpressionError("unknown register")
                return signed(self._registers[name])
            case _:
                digits = self._take(_NUMBER)
                if not digits:
                    raise ExpressionError(f"invalid char '{first}' in expression")
                return _number(digits)

    def _character(self) -> int:
        rest = self._text[self.position + 1 : self.position + 3]
        if not rest:
            raise ExpressionError("character constant expected")
        if rest[1:] != "'":
            raise ExpressionError("missing terminating ' character")
        self.position += 3
        self._skip_space()
        return ord(rest[0])

    def _take(self, pattern: str, skip: int = 0) -> str:
        """What matches here (`skip` characters on), and leave it and the space behind it."""
        found = re.compile(pattern, re.ASCII).match(self._text, self.position + skip)
        if found is None:
            return ""
        self.position = found.end()
        self._skip_space()
        return found[0]

    def _here(self) -> str:
        return self._text[self.position : self.position + 1]

    def _next(self) -> None:
        self.position += 1
        self._skip_space()

    def _skip_space(self) -> None:
        while self.position < len(self._text) and self._text[self.position] in SPACE:
            self.position += 1


def _number(digits: str) -> int:
    if len(digits) > 24:
        raise ExpressionError("number too large")
    base = 16 if digits[:2] in {"0x", "0X"} else 8 if digits.startswith("0") else 10
    value = int(digits, base)
    if value >> 64:
        raise ExpressionError("number too large")
    return signed(value)


def _apply(operator: str, left: int, right: int) -> int:
    match operator:
        case "+":
            value = left + right
        case "-":
            value = left - right
        case "*":
            value = left * right
        case "&":
            value = left & right
        case "|":
            value = left | right
        case "^":
            value = left ^ right
        case _:
            if right == 0:
                raise ExpressionError("division by zero")
            # As in C: towards zero, and the remainder has the sign of what is divided.
            quotient = abs(left) // abs(right)
            quotient = quotient if (left < 0) == (right < 0) else -quotient
            value = quotient if operator == "/" else left - quotient * right
    return signed(value)
