"""The form of the tables that the exact input check walks.

`qemud._generated.shapes.MODULE.SHAPES` maps a type's name to one of these rows; built-in types have none.  A type is
referred to by name, an array as `[NAME]`, and the empty object type as `q_empty`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from qemud.qapi.runtime.table import Row

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

JSON_KINDS: dict[type, str] = {
    str: "str",
    int: "num",
    float: "num",
    bool: "bool",
    type(None): "null",
    list: "list",
    dict: "dict",
}
"""The kind of JSON value that a Python type stands for, as `AlternateShape.alternatives` names it."""

MARKS = ("deprecated", "unstable")
"""The features that a policy (`qemud.qapi.runtime.policy`) can be about, in the order in which they are looked at."""

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


class MemberShape(Row):
    """A member of an object type.

    `wire` and `name` are its names in JSON and in Python, `type` a reference; `presence` is one of `Presence`;
    `default` is as it would stand on the wire; `features` are `deprecated` and `unstable`, where it has them.
    """

    __slots__ = ("condition", "default", "features", "name", "presence", "type", "wire")

    def __init__(
        self,
        wire: str,
        name: str,
        type: str,  # noqa: A002 - what the schema calls it
        *,
        presence: int = Presence.REQUIRED,
        condition: ConditionData = None,
        default: Any = None,
        features: tuple[str, ...] = (),
    ) -> None:
        self.features = features
        self.wire = wire
        self.name = name
        self.type = type
        self.presence = presence
        self.condition = condition
        self.default = default


class VariantShape(Row):
    """The branches of a union.

    `branches` maps each value of the tag to (type, leaf, condition); the leaf is a class's name, or for a union in a
    union the same again by the inner tag's value.
    """

    __slots__ = ("branches", "tag")

    def __init__(self, tag: str, branches: dict[str, tuple[str, Any, ConditionData]]) -> None:
        self.tag = tag
        self.branches = branches


class ObjectShape(Row):
    """A struct, a union, or a command's arguments (which have no class).

    `fast` says that msgspec accepts no more than the exact check does.
    """

    __slots__ = ("class_name", "fast", "members", "variants")

    def __init__(
        self,
        class_name: str,
        members: tuple[MemberShape, ...] = (),
        variants: VariantShape | None = None,
        *,
        fast: bool = False,
    ) -> None:
        self.class_name = class_name
        self.members = members
        self.variants = variants
        self.fast = fast


class EnumShape(Row):
    """An enumeration: its class, the values that are conditional, and those that are deprecated or unstable."""

    __slots__ = ("class_name", "conditions", "features")

    def __init__(
        self,
        class_name: str,
        conditions: dict[str, ConditionData],
        features: dict[str, tuple[str, ...]] = {},  # noqa: B006  nobody changes a row
    ) -> None:
        self.features = features
        self.class_name = class_name
        self.conditions = conditions


class Alternative(Row):
    """One choice of an alternate."""

    __slots__ = ("condition", "type")

    def __init__(self, type: str, condition: ConditionData = None) -> None:  # noqa: A002 - what the schema calls it
        self.type = type
        self.condition = condition


class AlternateShape(Row):
    """An alternate: its choices by the kind of JSON value (`str`, `num`, `bool`, `null`, `list`, `dict`)."""

    __slots__ = ("alternatives", "fast", "type_name")

    def __init__(self, type_name: str, alternatives: dict[str, Alternative], *, fast: bool = False) -> None:
        self.type_name = type_name
        self.alternatives = alternatives
        self.fast = fast


Shape: TypeAlias = ObjectShape | EnumShape | AlternateShape
