"""From typed arguments to what a server is sent: only what was said.

A generated struct knows the defaults of this schema, and writes them out; a server with another schema may not know those members
at all.  What is equal to its default means the same unsaid, so it is left out here.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
from msgspec import NODEFAULT, UNSET


class _Field:
    """How to write one field of a struct."""

    __slots__ = ("absent", "factory", "name", "wire")

    def __init__(self, name: str, wire: str, absent: Any, factory: Any) -> None:
        self.name = name
        self.wire = wire
        self.absent = absent
        self.factory = factory


_fields: dict[type, list[_Field]] = {}


def encode(value: Any) -> Any:
    """What a JSON parser would have made of the value, without members that are as they would be anyway."""
    if isinstance(value, msgspec.Struct):
        return _struct(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {name: encode(item) for name, item in value.items() if item is not UNSET}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def _struct(value: msgspec.Struct) -> dict[str, Any]:
    kind = type(value)
    encoded: dict[str, Any] = {}
    config = kind.__struct_config__
    if config.tag_field is not None:
        encoded[config.tag_field] = config.tag
    for field in _fields.get(kind) or _fields_of(kind):
        item = getattr(value, field.name)
        if item is UNSET or (field.absent is not NODEFAULT and item is field.absent):
            continue
        if field.factory is not None and item == field.factory():
            continue
        encoded[field.wire] = encode(item)
    return encoded


def _fields_of(kind: type[msgspec.Struct]) -> list[_Field]:
    insisted = {
        field.name
        for parent in kind.__mro__[1:]
        if issubclass(parent, msgspec.Struct) and parent is not msgspec.Struct
        for field in msgspec.structs.fields(parent)
        if field.required
    }
    found = _fields[kind] = [
        # What a union's class insists on and a branch has a value for is an inner tag: it is always said.
        _Field(field.name, field.encode_name, NODEFAULT, None)
        if field.name in insisted
        else _Field(
            field.name,
            field.encode_name,
            field.default,
            None if field.default_factory is NODEFAULT else field.default_factory,
        )
        for field in msgspec.structs.fields(kind)
    ]
    return found
