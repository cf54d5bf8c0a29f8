"""The form of the tables that the exact input check walks.

`qemud._generated.shapes.MODULE.SHAPES` maps a type's name to one of these rows; built-in types have none.  A type is
referred to by name, an array as `[NAME]`, and the empty object type as `q_empty`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from qemud.qapi.runtime.table import ConditionData


EMPTY_TYPE = "q_empty"
"""The name of the type of no arguments, no result and no branch."""

INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "int": (-(1 << 63), (1 << 63) - 1),
    "int8": (-(1 << 7), (1 << 7) - 1),
    "int16": (-(1 << 15), (1 << 15) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint8": (0, (1 << 8) - 1),
    "uint16": (0, (1 << 16) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
    "size": (0, (1 << 64) - 1),
}
"""The least and the greatest value of each built-in integer type."""

QTYPES = ("none", "qnull", "qnum", "qstring", "qdict", "qlist", "qbool")
"""The values of the built-in enumeration `QType`."""

BUILTIN_NAMES = {
    "str": "Str",
    "int": "Int",
    "int8": "Int8",
    "int16": "Int16",
    "int32": "Int32",
    "int64": "Int64",
    "uint8": "Uint8",
    "uint16": "Uint16",
    "uint32": "Uint32",
    "uint64": "Uint64",
    "size": "Size",
    "number": "Number",
    "bool": "Bool",
    "null": "Null",
    "any": "AnyValue",
    "QType": "QType",
}
"""The schema's name of each built-in type, and what `qemud.qapi.runtime.fields` calls it."""


class Presence:
    """What an absent member means."""

    REQUIRED = 0
    """An error."""
    NONE = 1
    """None."""
    UNSET = 2
    """`msgspec.UNSET`, where None is JSON's null."""
    DEFAULT = 3
    """The member's default."""


class MemberShape(NamedTuple):
    """A member of an object type."""

    wire: str
    name: str
    type: str
    presence: int = Presence.REQUIRED
    condition: ConditionData = None
    default: Any = None
    """As it would stand on the wire."""


class VariantShape(NamedTuple):
    """The branches of a union."""

    tag: str
    branches: dict[str, tuple[str, Any, ConditionData]]
    """Tag value to (type, leaf, condition); the leaf is a class's name, or for a union in a union the same again
    by the inner tag's value."""


class ObjectShape(NamedTuple):
    """A struct, a union, or a command's arguments (which have no class)."""

    class_name: str
    members: tuple[MemberShape, ...] = ()
    variants: VariantShape | None = None
    fast: bool = False
    """Whether msgspec accepts no more than the exact check does."""


class EnumShape(NamedTuple):
    """An enumeration: its class, and the values that are conditional."""

    class_name: str
    conditions: dict[str, ConditionData]


class Alternative(NamedTuple):
    """One choice of an alternate."""

    type: str
    condition: ConditionData = None


class AlternateShape(NamedTuple):
    """An alternate: by kind of JSON value (`str`, `num`, `bool`, `null`, `list`, `dict`)."""

    type_name: str
    alternatives: dict[str, Alternative]
    fast: bool = False


Shape: TypeAlias = ObjectShape | EnumShape | AlternateShape
