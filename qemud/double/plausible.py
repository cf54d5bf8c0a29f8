"""Results out of thin air: values of a type of the schema, as small as they may be.

Optional members are left out; a text is the name of its member, a number 0, a choice the first there is; an array has one element at
the top and none further down.
"""

from __future__ import annotations

from typing import Any

from qemud.qapi.runtime.check import checker
from qemud.qapi.runtime.shapes import (
    EMPTY_TYPE,
    INTEGER_RANGES,
    AlternateShape,
    EnumShape,
    ObjectShape,
    Presence,
)
from qemud.qapi.runtime.table import holds


def plausible(reference: str, name: str = "value", *, nested: bool = False) -> Any:
    """A value, as JSON has it, of the type `reference`; `name` is what it is called."""
    if reference[0] == "[":
        return [] if nested else [plausible(reference[1:-1], name, nested=True)]
    if reference == "str":
        return name
    if reference in INTEGER_RANGES or reference == "number":
        return 0
    if reference == "bool":
        return False
    if reference in {"null", "any"}:
        return None
    if reference == "QType":
        return "none"
    shape = checker.shape(reference)
    if isinstance(shape, EnumShape):
        kind = checker.type_class(reference)
        return next(
            value.value for value in kind if holds(shape.conditions.get(value.value), checker.defined)
        )
    if isinstance(shape, AlternateShape):
        return plausible(next(iter(shape.alternatives.values())).type, name, nested=True)
    return _object(shape)


def _object(shape: ObjectShape) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for member in shape.members:
        if member.presence == Presence.REQUIRED and holds(member.condition, checker.defined):
            value[member.wire] = plausible(member.type, member.wire, nested=True)
    if shape.variants is not None:
        tag, (branch, _, _) = next(
            (tag, branch)
            for tag, branch in shape.variants.branches.items()
            if holds(branch[2], checker.defined)
        )
        value[shape.variants.tag] = tag
        if branch != EMPTY_TYPE:
            inner = checker.shape(branch)
            assert isinstance(inner, ObjectShape)
            value |= _object(inner)
    return value
