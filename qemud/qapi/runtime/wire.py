"""Typed values back to JSON: as builtins, or as bytes."""

from __future__ import annotations

from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()


def to_wire(value: object) -> Any:
    """A typed value as what a JSON parser would have made of it: dicts, lists, strings, numbers, booleans, None.

    Absent members are left out, defaults are spelled out.
    """
    return msgspec.to_builtins(value)


def encode(value: object) -> bytes:
    """A typed value, or builtins with typed values in them, as JSON in UTF-8 with no line break.

    Bytes of a file name that are no UTF-8 (Python keeps them as lone surrogates) become U+FFFD, as in QEMU.
    """
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_printable(msgspec.to_builtins(value)))


def _printable(value: Any) -> Any:
    match value:
        case str():
            return _replace(value)
        case dict():
            return {_replace(key): _printable(item) for key, item in value.items()}
        case list():
            return [_printable(item) for item in value]
        case _:
            return value


def _replace(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
