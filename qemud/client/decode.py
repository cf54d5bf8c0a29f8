"""From what a server sends to typed values, leniently: the server may be newer than this schema.

- Members that the schema does not know are left out.  (`Client.execute` returns all there is.)
- A value that an enumeration does not know becomes a member of that class all the same, equal to itself only, with the text as its
  `value`; it is not among the class's declared members.
- A branch that a union does not know becomes an instance of the union's class with the common members.

What the schema insists on has to be there: a missing member or a wrong kind of value is an UnexpectedReply that names the place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from qemud.client.errors import UnexpectedReply
from qemud.qapi.names import constant_name, python_name
from qemud.qapi.runtime.check import checker
from qemud.qapi.runtime.fields import UNKNOWN_BRANCH
from qemud.qapi.runtime.shapes import (
    EMPTY_TYPE,
    INTEGER_RANGES,
    JSON_KINDS,
    AlternateShape,
    EnumShape,
    ObjectShape,
    Presence,
)

if TYPE_CHECKING:
    from enum import Enum

    from qemud.qapi.runtime.check import Checker

_SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "QType": (str,),
    "bool": (bool,),
    "null": (type(None),),
    "number": (float, int),
    **dict.fromkeys(INTEGER_RANGES, (int,)),
}


class Decoder:
    """Makes typed values of the types of one generated package."""

    def __init__(self, types: Checker) -> None:
        self._types = types
        self._unknown_values: dict[tuple[type, str], Enum] = {}
        self._unknown_branches: dict[tuple[type, str], Any] = {}

    def decode(self, reference: str, value: Any, where: str) -> Any:
        """The typed value of the type `reference` (`[NAME]` for an array); `where` names it in errors."""
        if reference == "any":
            return value
        kinds = _SCALARS.get(reference)
        if kinds is not None:
            if type(value) not in kinds:
                _wrong(where, reference, value)
            return float(value) if reference == "number" else value
        if reference[0] == "[":
            if type(value) is not list:
                _wrong(where, "an array", value)
            element = reference[1:-1]
            return [self.decode(element, item, f"{where}[{index}]") for index, item in enumerate(value)]
        shape = self._types.shape(reference)
        if isinstance(shape, ObjectShape):
            return self._object(reference, shape, value, where)
        if isinstance(shape, EnumShape):
            if type(value) is not str:
                _wrong(where, reference, value)
            return self._enum(self._types.python_class(reference, shape.class_name), value)
        return self._alternate(shape, value, where)

    def members(self, reference: str, value: Any, where: str) -> dict[str, Any]:
        """The members of an object type without a class (an event's data), by their Python names, absent ones too."""
        shape = self._types.shape(reference)
        assert isinstance(shape, ObjectShape)
        members, _ = self._members(shape, value, where)
        return {
            member.name: members[member.name] if member.name in members else self._types.absent(member)
            for member in shape.members
        }

    def _object(self, reference: str, shape: ObjectShape, value: Any, where: str) -> Any:
        members, tags = self._members(shape, value, where)
        name: Any = shape.class_name
        if shape.variants is not None:
            name = shape.variants.branches
            for tag in tags:
                known = name.get(tag)
                if known is None:
                    tag_type = next(
                        member.type for member in shape.members if member.wire == shape.variants.tag
                    )
                    base = self._types.python_class(reference, shape.class_name)
                    return self._unknown_branch(base, shape.variants.tag, tag_type, tags[0])(**members)
                name = known[1] if isinstance(known, tuple) else known
        return self._types.python_class(reference, name)(**members)

    def _members(self, shape: ObjectShape, value: Any, where: str) -> tuple[dict[str, Any], list[str]]:
        """The members of an object, and the values of its tags, the outermost first."""
        if type(value) is not dict:
            _wrong(where, "an object", value)
        variants = shape.variants
        members: dict[str, Any] = {}
        for member in shape.members:
            if variants is not None and member.wire == variants.tag:
                if type(value.get(member.wire)) is not str:
                    _wrong(f"{where}.{member.wire}", member.type, value.get(member.wire))
            elif member.wire in value:
                members[member.name] = self.decode(member.type, value[member.wire], f"{where}.{member.wire}")
            elif member.presence == Presence.REQUIRED and member.condition is None:
                raise UnexpectedReply(f"{where} lacks the member '{member.wire}'")
        if variants is None:
            return members, []
        tag: str = value[variants.tag]
        branch = variants.branches.get(tag)
        if branch is None or branch[0] == EMPTY_TYPE:
            return members, [tag]
        inner = self._types.shape(branch[0])
        assert isinstance(inner, ObjectShape)
        more, tags = self._members(inner, value, where)
        return members | more, [tag, *tags]

    def _alternate(self, shape: AlternateShape, value: Any, where: str) -> Any:
        alternative = shape.alternatives.get(JSON_KINDS[type(value)])
        if alternative is None:
            _wrong(where, shape.type_name, value)
        return self.decode(alternative.type, value, where)

    def _enum(self, kind: type[Enum], text: str) -> Enum:
        try:
            return kind(text)
        except ValueError:
            pass
        key = kind, text
        found = self._unknown_values.get(key)
        if found is None:
            found = self._unknown_values[key] = object.__new__(kind)
            found._name_ = constant_name(text)
            found._value_ = text
        return found

    def _unknown_branch(self, union: type, tag: str, tag_type: str, text: str) -> Any:
        key = union, text
        found = self._unknown_branches.get(key)
        if found is None:
            kind = self.decode(tag_type, text, tag)
            found = self._unknown_branches[key] = msgspec.defstruct(
                f"{union.__name__}Unknown",
                [],
                bases=(union,),
                namespace={python_name(tag): kind, UNKNOWN_BRANCH: True},
                kw_only=True,
            )
        return found


def _wrong(where: str, expected: str, value: Any) -> NoReturn:
    text = repr(value)
    if len(text) > 60:
        text = f"{text[:60]}…"
    raise UnexpectedReply(f"{where} is {text}, expected {expected}")


decoder = Decoder(checker)
