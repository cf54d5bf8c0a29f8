"""`json-schema-TARGET.json`: JSON Schema (2020-12) of every command's arguments and result and of every event's data.

    {"$schema": …, "$defs": {TYPE: schema}, "commands": {NAME: {"arguments": …, "returns": …}}, "events": {NAME: …}}

`schema_of` cuts out one of them as a schema of its own.  `integer` means an integer as JSON text has it: `1.0` is none,
although JSON Schema takes it for one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qemud.qapi.generate.layout import is_empty
from qemud.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    EnumType,
    Member,
    ObjectType,
    Schema,
    SchemaType,
)
from qemud.qapi.runtime.shapes import INTEGER_RANGES
from qemud.qapi.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.qapi.generate.layout import Layout
    from qemud.qapi.generate.writer import Output
    from qemud.qapi.model import Command, Doc, Event

DIALECT = "https://json-schema.org/draft/2020-12/schema"
EMPTY: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
NOTHING: dict[str, Any] = {"not": {}}
"""No value at all: what is left where a target's conditions exclude every choice."""

_BUILTINS: dict[str, Any] = {
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "number": {"type": "number"},
    "null": {"type": "null"},
    "any": {},
    **{
        name: {"type": "integer", "minimum": low, "maximum": high}
        for name, (low, high) in INTEGER_RANGES.items()
    },
}


def generate(layout: Layout, output: Output) -> None:
    """Write the JSON Schema document of every target."""
    for target, defined in TARGETS.items():
        document = json_schema(layout.schema, defined, f"QMP of qemud, target {target}")
        output.write(f"json-schema-{target}.json", json.dumps(document, indent=1) + "\n")


def json_schema(schema: Schema, defined: frozenset[str], title: str) -> dict[str, Any]:
    """The document for a target that defines exactly the names in `defined`."""
    return _Document(defined).make(schema, title)


def schema_of(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """A part of a document (a command's arguments, say) as a schema of its own."""
    return {"$schema": DIALECT, "$defs": document["$defs"], **part}


class _Document:
    """One document being made."""

    def __init__(self, defined: frozenset[str]) -> None:
        self._defined = defined

    def make(self, schema: Schema, title: str) -> dict[str, Any]:
        definitions = {
            entity.name: self._definition(entity)
            for entity in schema.types()
            if isinstance(entity, EnumType | ObjectType | AlternateType)
            and not (isinstance(entity, ObjectType) and entity.implicit)
            and entity.condition.evaluate(self._defined)
        }
        return {
            "$schema": DIALECT,
            "title": title,
            "commands": {
                command.name: {
                    **_describe(command),
                    "arguments": self._arguments(command),
                    "returns": self._result(command.returns),
                }
                for command in schema.commands()
                if command.condition.evaluate(self._defined)
            },
            "events": {
                event.name: {**_describe(event), "data": self._arguments(event)}
                for event in schema.events()
                if event.condition.evaluate(self._defined)
            },
            "$defs": definitions,
        }

    def _arguments(self, entity: Command | Event) -> dict[str, Any]:
        arguments = entity.arguments
        if arguments is None:
            return EMPTY
        if not arguments.implicit:
            return self._reference(arguments)
        return self._closed(arguments.members, {}, entity.doc)

    def _result(self, entity: SchemaType | None) -> dict[str, Any]:
        return (
            EMPTY
            if entity is None or (isinstance(entity, ObjectType) and is_empty(entity))
            else self._reference(entity)
        )

    def _reference(self, entity: SchemaType) -> dict[str, Any]:
        match entity:
            case BuiltinType():
                return dict(_BUILTINS[entity.name])
            case ArrayType():
                return {"type": "array", "items": self._reference(entity.element)}
            case _:
                return {"$ref": f"#/$defs/{entity.name}"}

    def _definition(self, entity: EnumType | ObjectType | AlternateType) -> dict[str, Any]:
        match entity:
            case EnumType():
                values = [
                    member.name for member in entity.members if member.condition.evaluate(self._defined)
                ]
                # An enumeration without values is an error in JSON Schema.
                return _describe(entity) | ({"enum": values} if values else NOTHING)
            case AlternateType():
                choices = [
                    self._reference(choice.type)
                    for choice in entity.alternatives
                    if choice.condition.evaluate(self._defined)
                ]
                return _describe(entity) | ({"anyOf": choices} if choices else NOTHING)
            case ObjectType() if entity.variants is None:
                return _describe(entity) | self._closed(entity.members, {}, entity.doc)
            case _:
                leaves = [self._closed(members, tags, entity.doc) for members, tags in self._leaves(entity)]
                return _describe(entity) | ({"oneOf": leaves} if leaves else NOTHING)

    def _leaves(self, entity: ObjectType) -> Iterator[tuple[tuple[Member, ...], dict[str, str]]]:
        """Each way through a union's branches: all members, and the values that the tags on the way have."""
        if entity.variants is None:
            yield entity.members, {}
            return
        kind = entity.variants.tag.type
        assert isinstance(kind, EnumType)
        values = {value.name for value in kind.members if value.condition.evaluate(self._defined)}
        for branch in entity.variants.branches:
            if branch.name in values and branch.condition.evaluate(self._defined):
                for members, tags in self._leaves(branch.type):
                    yield entity.members + members, {entity.variants.tag.name: branch.name, **tags}

    def _closed(self, members: tuple[Member, ...], tags: dict[str, str], doc: Doc | None) -> dict[str, Any]:
        """An object with these members and no others; those in `tags` have one value."""
        properties: dict[str, Any] = {}
        required: list[str] = []
        for member in members:
            if not member.condition.evaluate(self._defined):
                continue
            if member.name in tags:
                properties[member.name] = {"const": tags[member.name]}
            else:
                properties[member.name] = self._property(member, doc)
            if not member.optional:
                required.append(member.name)
        closed: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        if required:
            closed["required"] = required
        return closed

    def _property(self, member: Member, doc: Doc | None) -> dict[str, Any]:
        schema = self._reference(member.type)
        if doc is not None and (text := " ".join(doc.members.get(member.name, "").split())):
            schema["description"] = text
        if member.has_default:
            schema["default"] = member.default
        if any(feature.name == "deprecated" for feature in member.features):
            schema["deprecated"] = True
        return schema


def _describe(entity: Command | Event | SchemaType) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if entity.doc is not None and (text := " ".join(entity.doc.body.split("\n\n", 1)[0].split())):
        described["description"] = text
    if entity.has_feature("deprecated"):
        described["deprecated"] = True
    return described
