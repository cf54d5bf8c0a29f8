"""Bytes into JSON tokens, a piece at a time, exactly where QEMU cuts them.

QMP is not made of lines.  A client may send half a string now and the rest later, or two commands in one packet, and
after garbage both sides must find together again.  So the lexer is a state machine over bytes that can stop and go
on anywhere.  It differs from plain JSON in three ways that clients can see:

- strings may stand in single quotes, and any printable character may follow a backslash (the parser judges it);
- a number or keyword ends at the first byte that cannot belong to it, so it is complete only when that byte is there;
- after a byte that fits nowhere, everything up to a structural character, a control character (except tab) or
  0xFE/0xFF is passed over.  The unfit token is reported once, with the offending byte in it.

Each state has a regular expression for the bytes that keep it (they are passed at C speed) and a table for the one
byte that does not.

    lexer = Lexer()
    lexer.feed(b'{"a": 1')
    while token := lexer.next():
        kind, text = token

Source: QEMU 10.0, qobject/json-lexer.c (behaviour), docs/interop/qmp-spec.rst, section "Forcing the JSON parser into
known-good state".
"""

from __future__ import annotations

import re
from typing import Final

# Kinds of tokens.  The six structural characters are their own kind.
LEFT_BRACE: Final = ord("{")
RIGHT_BRACE: Final = ord("}")
LEFT_BRACKET: Final = ord("[")
RIGHT_BRACKET: Final = ord("]")
COMMA: Final = ord(",")
COLON: Final = ord(":")
STRING: Final = ord('"')
INTEGER: Final = ord("0")
FLOAT: Final = ord(".")
KEYWORD: Final = ord("a")
STRAY: Final = 0  # the bytes of an unfit token
OVERSIZE: Final = 1  # a token longer than the limit; its text is not kept

MAX_TOKEN_BYTES: Final = 64 << 20

# States.
_START, _RECOVERY, _DOUBLE, _DOUBLE_ESCAPE, _SINGLE, _SINGLE_ESCAPE = range(6)
_SIGN, _ZERO, _DIGITS, _POINT, _FRACTION, _E, _E_SIGN, _EXPONENT, _WORD = range(6, 15)

# What a table says besides "go to this state and take the byte".
_ERROR: Final = 0x100  # take the byte, report the token, recover
_RESTART: Final = 0x200  # leave the byte, begin anew with it
_EMIT: Final = 0x400  # the token is complete with this byte; low bits: its kind
_END: Final = 0x800  # the token was complete before this byte; low bits: its kind

_DIGIT_BYTES = b"0123456789"
_TEXT_BYTES = bytes(range(0x20, 0xFE))


def _table(*rules: tuple[bytes, int], default: int = _ERROR) -> list[int]:
    """A row of 256 entries; later rules win."""
    row = [default] * 256
    for members, entry in rules:
        for byte in members:
            row[byte] = entry
    return row


_STRUCTURAL = b"{}[],:"
_LETTERS = bytes(range(ord("a"), ord("z") + 1))

_NEXT: Final[list[list[int]]] = [
    _table(  # _START; blanks are passed by its run
        (b'"', _DOUBLE),
        (b"'", _SINGLE),
        (b"-", _SIGN),
        (b"0", _ZERO),
        (b"123456789", _DIGITS),
        (_LETTERS, _WORD),
        *((bytes([byte]), _EMIT | byte) for byte in _STRUCTURAL),
    ),
    _table(default=_RESTART),  # _RECOVERY; what is passed over is in its run
    _table((b"\\", _DOUBLE_ESCAPE), (b'"', _EMIT | STRING)),  # _DOUBLE
    _table((_TEXT_BYTES, _DOUBLE)),  # _DOUBLE_ESCAPE
    _table((b"\\", _SINGLE_ESCAPE), (b"'", _EMIT | STRING)),  # _SINGLE
    _table((_TEXT_BYTES, _SINGLE)),  # _SINGLE_ESCAPE
    _table((b"0", _ZERO), (b"123456789", _DIGITS)),  # _SIGN
    _table((_DIGIT_BYTES, _ERROR), (b".", _POINT), default=_END | INTEGER),  # _ZERO
    _table((b".", _POINT), (b"eE", _E), default=_END | INTEGER),  # _DIGITS
    _table((_DIGIT_BYTES, _FRACTION)),  # _POINT
    _table((b"eE", _E), default=_END | FLOAT),  # _FRACTION
    _table((b"+-", _E_SIGN), (_DIGIT_BYTES, _EXPONENT)),  # _E
    _table((_DIGIT_BYTES, _EXPONENT)),  # _E_SIGN
    _table(default=_END | FLOAT),  # _EXPONENT
    _table(default=_END | KEYWORD),  # _WORD
]

_NOTHING = re.compile(rb"").match
_DIGIT_RUN = re.compile(rb"[0-9]*").match
_RUN: Final = [
    re.compile(rb"[ \t\r\n]*").match,  # _START
    re.compile(rb"[^\x00-\x08\x0a-\x1f\[\]{}:,\xfe\xff]*").match,  # _RECOVERY
    re.compile(rb'[^"\\\x00-\x1f\xfe\xff]*(?:\\[\x20-\xfd][^"\\\x00-\x1f\xfe\xff]*)*+').match,  # _DOUBLE
    _NOTHING,  # _DOUBLE_ESCAPE
    re.compile(rb"[^'\\\x00-\x1f\xfe\xff]*(?:\\[\x20-\xfd][^'\\\x00-\x1f\xfe\xff]*)*+").match,  # _SINGLE
    _NOTHING,  # _SINGLE_ESCAPE
    _NOTHING,  # _SIGN
    _NOTHING,  # _ZERO
    _DIGIT_RUN,  # _DIGITS
    _NOTHING,  # _POINT
    _DIGIT_RUN,  # _FRACTION
    _NOTHING,  # _E
    _NOTHING,  # _E_SIGN
    _DIGIT_RUN,  # _EXPONENT
    re.compile(rb"[a-z]*").match,  # _WORD
]

Token = tuple[int, bytes]


class Lexer:
    """The state machine; `max_token_bytes` bounds what it holds of an unfinished token."""

    __slots__ = ("_data", "_held", "_limit", "_position", "_state")

    def __init__(self, max_token_bytes: int = MAX_TOKEN_BYTES) -> None:
        self._limit = max_token_bytes
        self._state = _START
        self._held = bytearray()  # the unfinished token's bytes from earlier pieces
        self._data = b""
        self._position = 0

    def feed(self, data: bytes, position: int = 0) -> None:
        """Give the next piece, to be read from `position`; the last one must have been used up."""
        assert self._position == len(self._data), "the last piece was not used up"
        self._data = data
        self._position = position

    @property
    def position(self) -> int:
        """How far the current piece has been read."""
        return self._position

    @property
    def idle(self) -> bool:
        """Whether no token is under way: the next byte begins one."""
        return self._state == _START

    def leave(self) -> None:
        """Forget the rest of the current piece."""
        self._data = b""
        self._position = 0

    def next(self) -> Token | None:
        """The next token as (kind, bytes), or None: more bytes are needed."""
        data = self._data
        end = len(data)
        start = position = self._position
        state = self._state
        held = self._held
        while position < end:
            run = _RUN[state](data, position)
            assert run is not None  # every run matches the empty string
            position = run.end()
            if state <= _RECOVERY:
                start = position  # blanks and what recovery passes over belong to no token
            elif len(held) + position - start > self._limit:
                return self._oversize(start)
            if position == end:
                break
            entry = _NEXT[state][data[position]]
            if entry < _ERROR:
                state = entry
                position += 1
                continue
            if entry == _RESTART:
                state = _START
                continue
            if entry & _END:
                stop = position
            else:
                position += 1
                stop = position
            text = data[start:stop]
            if held:
                text = bytes(held) + text
                self._held = bytearray()
            self._position = position
            if entry == _ERROR:
                self._state = _RECOVERY
                return STRAY, text
            self._state = _START
            return entry & 0xFF, text
        self._position = position
        self._state = state
        if state > _RECOVERY:
            held += data[start:position]
            if len(held) > self._limit:
                self._position -= len(held) - self._limit - 1
                held.clear()
                self._state = _START
                return OVERSIZE, b""
        return None

    def _oversize(self, start: int) -> Token:
        """Give the token up at the first byte over the limit; what follows is read as a new one, as QEMU does."""
        self._position = start + self._limit + 1 - len(self._held)
        self._held = bytearray()
        self._state = _START
        return OVERSIZE, b""

    def finish(self) -> Token | None:
        """The token that the end of input completes or makes unfit, if one is under way."""
        state, self._state = self._state, _START
        text = bytes(self._held)
        self._held = bytearray()
        if state <= _RECOVERY:
            return None
        entry = _NEXT[state][0]
        return (entry & 0xFF, text) if entry & _END else (STRAY, text)
