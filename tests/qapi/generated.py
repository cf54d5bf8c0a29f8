"""What the generators' tests share: packages built from schemas, and JSON values drawn from the model."""

from __future__ import annotations

import importlib
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from qemud.qapi.generate.build import ROOT_SCHEMA, build
from qemud.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    Command,
    EnumType,
    Member,
    ObjectType,
    Schema,
    SchemaType,
)
from qemud.qapi.runtime.check import Checker
from qemud.qapi.runtime.shapes import INTEGER_RANGES
from qemud.qapi.schema import load

CONSTRUCTS = Path(__file__).parent / "constructs" / "constructs.json"

# Schemas by the name of the package that tests generate from them.
SCHEMAS = {"constructs_generated": CONSTRUCTS, "qemud_generated": ROOT_SCHEMA}


@cache
def directory() -> tempfile.TemporaryDirectory[str]:
    """Where generated packages are; on the path of imports, and gone when the process ends."""
    made = tempfile.TemporaryDirectory(prefix="qemud-generated-")
    sys.path.append(made.name)
    return made


@cache
def schema(package: str) -> Schema:
    return load(SCHEMAS[package])


@cache
def checker(package: str, target: str = "riscv64") -> Checker:
    """The input check of a freshly generated package."""
    out = Path(directory().name) / package
    build(schema(package), out)
    importlib.invalidate_caches()
    return Checker(package, target)


def import_generated(package: str, module: str) -> Any:
    """A module of a freshly generated package."""
    checker(package)
    return importlib.import_module(f"{package}.{module}")


# Values

EDGES = sorted(
    {bound + step for bounds in INTEGER_RANGES.values() for bound in bounds for step in (-1, 0, 1)}
)
integers = st.one_of(
    st.integers(-5, 5), st.sampled_from([edge for edge in EDGES if -(1 << 63) <= edge < 1 << 64])
)
floats = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1.5, 1e300, 1.8446744073709552e19]), st.floats(-1e9, 1e9))
texts = st.one_of(st.sampled_from(["", "on", "a", "red", "null", "7", "é", "\0"]), st.text(max_size=4))
scalars = st.one_of(st.none(), st.booleans(), integers, floats, texts)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
"""Any JSON value as the framing delivers it: no integer beyond 64 bits."""


class Values:
    """Strategies for JSON values of the types of a schema, for a target."""

    def __init__(self, defined: frozenset[str]) -> None:
        self._defined = defined
        self._made: dict[str, st.SearchStrategy[Any]] = {}

    def of(self, entity: SchemaType) -> st.SearchStrategy[Any]:
        """Values of a type."""
        if entity.name not in self._made:
            # Types may be recursive.
            self._made[entity.name] = st.deferred(lambda: self._make(entity))
        return self._made[entity.name]

    def arguments(self, command: Command) -> st.SearchStrategy[Any]:
        return st.just({}) if command.arguments is None else self.of(command.arguments)

    def _make(self, entity: SchemaType) -> st.SearchStrategy[Any]:
        match entity:
            case BuiltinType():
                return self._builtin(entity)
            case EnumType():
                values = [value.name for value in entity.members if value.condition.evaluate(self._defined)]
                return st.sampled_from(values) if values else st.nothing()
            case ArrayType():
                return st.lists(self.of(entity.element), max_size=2)
            case AlternateType():
                present = [one for one in entity.alternatives if one.condition.evaluate(self._defined)]
                return st.one_of([self.of(one.type) for one in present])
            case ObjectType():
                return self._object(entity)

    def _builtin(self, entity: BuiltinType) -> st.SearchStrategy[Any]:
        match entity.json_type:
            case "string":
                return texts
            case "boolean":
                return st.booleans()
            case "null":
                return st.none()
            case "number":
                return st.one_of(floats, integers)
            case "int":
                low, high = INTEGER_RANGES[entity.name]
                return st.one_of(st.integers(low, high), st.sampled_from([low, high]))
            case _:
                return anything

    def _object(self, entity: ObjectType) -> st.SearchStrategy[Any]:
        common = self._members(entity.members)
        if entity.variants is None:
            return common
        tag = entity.variants.tag
        branches = {branch.name: branch for branch in entity.variants.branches}

        def with_branch(value: dict[str, Any]) -> st.SearchStrategy[Any]:
            branch = branches[value[tag.name]].type
            return self.of(branch).map(lambda more: {**value, **more})

        return common.flatmap(with_branch)

    def _members(self, members: tuple[Member, ...]) -> st.SearchStrategy[Any]:
        present = [member for member in members if member.condition.evaluate(self._defined)]
        return st.fixed_dictionaries(
            {member.name: self.of(member.type) for member in present if not member.optional},
            optional={member.name: self.of(member.type) for member in present if member.optional},
        )


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one thing about it changed, somewhere."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(value)))
        return {**value, name: draw(damaged(value[name]))}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], draw(damaged(value[index])), *value[index + 1 :]]
    if isinstance(value, dict):
        match draw(st.integers(0, 2)):
            case 0 if value:
                name = draw(st.sampled_from(sorted(value)))
                return {key: item for key, item in value.items() if key != name}
            case 1:
                name = draw(st.one_of(st.sampled_from(["kind", "value", "name", "x"]), texts))
                return {name: draw(anything), **value}
    return draw(anything)
