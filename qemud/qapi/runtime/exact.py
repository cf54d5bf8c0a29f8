"""The exact input check: JSON to typed values, with QEMU's error texts.

It visits a value in the order in which QEMU's visitors do, because the order decides which of two errors is reported:
members in the schema's order (a base's first, a union's branch last), then whatever was not visited.  Names in texts
are as QEMU has them: most carry the whole path (`backend.data.addr`, `a[0].b`), but those about ranges, enumerations
and alternates carry the member's own name only, which is `null` for an element of an array.

Source: QEMU 10.0, qapi/qobject-input-visitor.c and qapi/qapi-visit-core.c; the one difference, negative numbers for
unsigned members, is docs/decisions/0002-negative-for-unsigned.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from msgspec import UNSET

from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.shapes import (
    EMPTY_TYPE,
    INTEGER_RANGES,
    JSON_KINDS,
    QTYPES,
    AlternateShape,
    EnumShape,
    MemberShape,
    ObjectShape,
    Presence,
)
from qemud.qapi.runtime.table import holds

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import Enum
    from typing import Protocol

    from qemud.qapi.runtime.shapes import Shape

    class Types(Protocol):
        """Where shapes and classes come from; the generated package behind it is loaded piece by piece."""

        def shape(self, name: str) -> Shape:
            """The shape of a named type."""

        def python_class(self, type_name: str, class_name: str) -> Any:
            """A class made for the type `type_name`."""


# Where a value stands: (where its container stands, member name or list index); None for the root.
Where: TypeAlias = tuple[Any, str | int] | None

# The kind of a JSON value as alternates tell them apart.


class ExactVisitor:
    """Checks values as they come from JSON.

    `defined` is what the schema's conditions find defined: what they exclude does not exist.
    """

    def __init__(self, types: Types, defined: frozenset[str]) -> None:
        self._types = types
        self._defined = defined
        self._scalars: dict[str, Callable[[Any, Where], Any]] = {
            "str": self._string,
            "bool": self._boolean,
            "number": self._number,
            "null": self._null,
            "any": self._any,
            "int": self._int64,
            "int64": self._int64,
            "uint64": self._uint64,
            "size": self._size,
            "QType": self._qtype,
        }

    def visit(self, reference: str, value: Any, where: Where) -> Any:
        """The typed value of the type `reference` that `value` stands for.

        Raises `GenericError` with QEMU's text for the first thing that is wrong.
        """
        scalar = self._scalars.get(reference)
        if scalar is not None:
            return scalar(value, where)
        if reference[0] == "[":
            return self._list(reference[1:-1], value, where)
        if reference in INTEGER_RANGES:
            return self._ranged(reference, value, where)
        shape = self._types.shape(reference)
        if isinstance(shape, ObjectShape):
            return self._object(reference, shape, value, where)
        if isinstance(shape, EnumShape):
            return self._enum(reference, shape, value, where)
        return self._alternate(shape, value, where)

    def arguments(self, reference: str, value: Any) -> dict[str, Any]:
        """The keyword arguments of a handler: every member by its Python name, absent ones too."""
        shape = self._types.shape(reference)
        assert isinstance(shape, ObjectShape)
        members: dict[str, Any] = {}
        seen: set[str] = set()
        self._members(shape, value, None, members, seen)
        self._check_unseen(value, seen, None)
        return {
            member.name: members[member.name] if member.name in members else self.absent(member)
            for member in shape.members
        }

    def absent(self, member: MemberShape) -> Any:
        """What stands for an absent member."""
        if member.presence == Presence.DEFAULT:
            # A default is as JSON has it, whatever the source of the other members.
            return ExactVisitor.visit(self._for_defaults(), member.type, member.default, None)
        return UNSET if member.presence == Presence.UNSET else None

    def _for_defaults(self) -> ExactVisitor:
        return self

    # Containers

    def _object(self, reference: str, shape: ObjectShape, value: Any, where: Where) -> Any:
        if type(value) is not dict:
            self._wrong_type(where, "object")
        members: dict[str, Any] = {}
        seen: set[str] = set()
        tags = self._members(shape, value, where, members, seen)
        self._check_unseen(value, seen, where)
        leaf: Any = shape.class_name
        if shape.variants is not None:
            leaf = shape.variants.branches[tags[-1]][1]
            for tag in tags[-2::-1]:
                leaf = leaf[tag]
        return self._types.python_class(reference, leaf)(**members)

    def _members(
        self, shape: ObjectShape, value: dict[str, Any], where: Where, members: dict[str, Any], seen: set[str]
    ) -> list[str]:
        """Visit the members of an object type into `members`; the values of its tags, the innermost first."""
        variants = shape.variants
        tag_name = variants.tag if variants is not None else None
        tag: Any = None
        for member in shape.members:
            wire = member.wire
            if member.condition is not None and not holds(member.condition, self._defined):
                continue
            if wire in value:
                seen.add(wire)
                self._admit(member)
                result = self.visit(member.type, value[wire], (where, wire))
                if wire == tag_name:
                    tag = result
                else:
                    members[member.name] = result
            elif member.presence == Presence.REQUIRED:
                raise GenericError(f"Parameter '{self._full((where, wire))}' is missing")
        if variants is None:
            return []
        tag_value: str = tag.value
        branch, _, condition = variants.branches[tag_value]
        if condition is not None and not holds(condition, self._defined):
            self._not_accepted((where, variants.tag), tag_value)
        if branch == EMPTY_TYPE:
            return [tag_value]
        branch_shape = self._types.shape(branch)
        assert isinstance(branch_shape, ObjectShape)
        return [*self._members(branch_shape, value, where, members, seen), tag_value]

    def _admit(self, member: MemberShape) -> None:
        """Raise GenericError when a member that is there must not be."""

    def _check_unseen(self, value: dict[str, Any], seen: set[str], where: Where) -> None:
        if len(seen) != len(value):
            name = next(name for name in value if name not in seen)
            self._unexpected((where, name))

    def _list(self, element: str, value: Any, where: Where) -> list[Any]:
        if type(value) is not list:
            self._wrong_type(where, "array")
        return [self.visit(element, item, (where, index)) for index, item in enumerate(value)]

    def _alternate(self, shape: AlternateShape, value: Any, where: Where) -> Any:
        alternative = shape.alternatives.get(JSON_KINDS.get(type(value), ""))
        if alternative is None or not holds(alternative.condition, self._defined):
            raise GenericError(
                f"Invalid parameter type for '{self._own(where)}', expected: {shape.type_name}"
            )
        return self.visit(alternative.type, value, where)

    # Scalars

    def _enum(self, reference: str, shape: EnumShape, value: Any, where: Where) -> Enum:
        text = self._string(value, where)
        try:
            member: Enum = self._types.python_class(reference, shape.class_name)(text)
        except ValueError:
            self._not_accepted(where, text)
        condition = shape.conditions.get(text)
        if condition is not None and not holds(condition, self._defined):
            self._not_accepted(where, text)
        return member

    def _string(self, value: Any, where: Where) -> str:
        if type(value) is not str:
            self._wrong_type(where, "string")
        return value

    def _boolean(self, value: Any, where: Where) -> bool:
        if type(value) is not bool:
            self._wrong_type(where, "boolean")
        return value

    def _number(self, value: Any, where: Where) -> float:
        if type(value) is not float and type(value) is not int:
            self._wrong_type(where, "number")
        return float(value)

    def _null(self, value: Any, where: Where) -> None:
        if value is not None:
            self._wrong_type(where, "null")

    def _any(self, value: Any, where: Where) -> Any:
        del where
        return value

    def _int64(self, value: Any, where: Where) -> int:
        if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
            self._wrong_type(where, "integer")
        return value

    def _uint64(self, value: Any, where: Where) -> int:
        if type(value) is not int or not 0 <= value < 1 << 64:
            self._expects(self._full(where), "uint64")
        return value

    def _size(self, value: Any, where: Where) -> int:
        return self._uint64(value, where)

    def _ranged(self, reference: str, value: Any, where: Where) -> int:
        """An integer narrower than 64 bits: read as one of 64, then held to its range."""
        low, high = INTEGER_RANGES[reference]
        # QEMU reads negative numbers as huge ones here, and then finds them out of range.
        fits = type(value) is int and low <= value <= high
        if not fits:
            if low == 0 and not (type(value) is int and -(1 << 63) <= value < 0):
                self._uint64(value, where)
            elif low < 0:
                self._int64(value, where)
            self._expects(self._own(where), f"{reference}_t")
        result: int = value
        return result

    def _qtype(self, value: Any, where: Where) -> str:
        text = self._string(value, where)
        if text not in QTYPES:
            self._not_accepted(where, text)
        return text

    # Texts

    def _index(self, index: int) -> str:
        return f"[{index}]"

    def _full(self, where: Where) -> str:
        """The whole path of a place."""
        if where is None:
            return "<anonymous>"
        parts: list[str] = []
        place: Where = where
        while place is not None:
            place, name = place
            parts.append(f".{name}" if isinstance(name, str) else self._index(name))
        return "".join(reversed(parts)).removeprefix(".")

    def _own(self, where: Where) -> str:
        """The name that QEMU's texts without a path have."""
        return where[1] if where is not None and isinstance(where[1], str) else "null"

    def _wrong_type(self, where: Where, expected: str) -> NoReturn:
        raise GenericError(f"Invalid parameter type for '{self._full(where)}', expected: {expected}")

    def _expects(self, name: str, expected: str) -> NoReturn:
        raise GenericError(f"Parameter '{name}' expects {expected}")

    def _not_accepted(self, where: Where, value: str) -> NoReturn:
        raise GenericError(f"Parameter '{self._own(where)}' does not accept value '{value}'")

    def _unexpected(self, where: Where) -> NoReturn:
        raise GenericError(f"Parameter '{self._full(where)}' is unexpected")
