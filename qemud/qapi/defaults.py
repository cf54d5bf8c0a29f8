"""Defaults in the schema: whether a value suits the type of its member.

A default is written as it would be on the wire.  Structs and unions have none: an absent one is not the same as one with
all its members absent, and a handler can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from qemud.qapi.diagnostics import SchemaError
from qemud.qapi.model import AlternateType, ArrayType, BuiltinType, EnumType, ObjectType
from qemud.qapi.runtime.shapes import INTEGER_RANGES

if TYPE_CHECKING:
    from qemud.qapi.diagnostics import Site
    from qemud.qapi.model import Member, SchemaType


def check_default(member: Member, site: Site) -> None:
    """Raise `SchemaError` when the default of `member`, a part of `site`, is none of its type."""
    reason = _misfit(member.default, member.type)
    if reason is not None:
        raise SchemaError.at(site, f"default of member '{member.name}' {reason}")


def _misfit(value: object, type_: SchemaType) -> str | None:
    """Why `value` is none of `type_`, as the end of a sentence; None when it is one."""
    match type_:
        case BuiltinType():
            return _builtin_misfit(value, type_)
        case EnumType():
            if isinstance(value, str) and any(value == member.name for member in type_.members):
                return None
            return f"must be a value of enum type '{type_.name}'"
        case ArrayType():
            if not isinstance(value, list):
                return "must be an array"
            reasons = (_misfit(element, type_.element) for element in value)
            return next((f"has an element that {reason}" for reason in reasons if reason), None)
        case AlternateType():
            if any(_misfit(value, alternative.type) is None for alternative in type_.alternatives):
                return None
            return f"must suit alternate type '{type_.name}'"
        case ObjectType():
            return "is not possible: its type is a struct or union"
        case _:
            assert_never(type_)


def _builtin_misfit(value: object, type_: BuiltinType) -> str | None:
    match type_.json_type:
        case "string":
            return None if isinstance(value, str) else "must be a string"
        case "boolean":
            return None if isinstance(value, bool) else "must be boolean"
        case "null":
            return None if value is None else "must be null"
        case "number":
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            return None if fits else "must be a number"
        case "int":
            if not isinstance(value, int) or isinstance(value, bool):
                return "must be an integer"
            low, high = INTEGER_RANGES[type_.name]
            return None if low <= value <= high else f"must be between {low} and {high}"
        case _:
            return None
