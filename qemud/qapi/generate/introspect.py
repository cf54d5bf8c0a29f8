"""`introspection-TARGET.json`: the answer to `query-qmp-schema`, ready to be sent.

As in QEMU: commands and events first, then the types that they use, found by walking; names of types are numbers, in
the order of their first mention, so that clients look at commands and events, not at types; every integer type is
`int`; what a target's conditions exclude is left out.  Numbers do not depend on the target.

Source: QEMU 10.0, docs/devel/qapi-code-gen, "Client JSON Protocol introspection".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qemud.qapi.generate.layout import is_empty
from qemud.qapi.model import (
    ALWAYS,
    AlternateType,
    ArrayType,
    BuiltinType,
    Command,
    EnumType,
    Event,
    Feature,
    Member,
    ObjectType,
    Schema,
    SchemaType,
)
from qemud.qapi.runtime.shapes import EMPTY_TYPE
from qemud.qapi.targets import TARGETS

if TYPE_CHECKING:
    from qemud.qapi.generate.layout import Layout
    from qemud.qapi.generate.writer import Output
    from qemud.qapi.model import Condition


def generate(layout: Layout, output: Output) -> None:
    """Write the introspection of every target."""
    for target, defined in TARGETS.items():
        elements = introspect(layout.schema, defined)
        output.write(f"introspection-{target}.json", json.dumps(elements, separators=(",", ":")))


def introspect(schema: Schema, defined: frozenset[str]) -> list[dict[str, Any]]:
    """The elements of the schema where exactly the names in `defined` are defined."""
    return _Introspection(defined).walk(schema)


class _Introspection:
    """One walk over the schema."""

    def __init__(self, defined: frozenset[str]) -> None:
        self._defined = defined
        self._numbers: dict[str, str] = {}
        self._queue: dict[str, SchemaType] = {}
        self._elements: list[dict[str, Any]] = []

    def walk(self, schema: Schema) -> list[dict[str, Any]]:
        for module in schema.modules:
            for entity in module.definitions:
                match entity:
                    case Command():
                        body: dict[str, Any] = {
                            "arg-type": self._object_name(entity.arguments),
                            "ret-type": self._object_name(entity.returns),
                        }
                        if entity.allow_oob:
                            body["allow-oob"] = True
                        self._add(entity.name, "command", body, entity.condition, entity.features)
                    case Event():
                        body = {"arg-type": self._object_name(entity.arguments)}
                        self._add(entity.name, "event", body, entity.condition, entity.features)
        done = 0
        while done < len(self._queue):
            # Describing a type may append to the queue.
            for name, used in list(self._queue.items())[done:]:
                self._type(name, used)
                done += 1
        return self._elements

    def _add(
        self,
        name: str,
        meta: str,
        body: dict[str, Any],
        condition: Condition,
        features: tuple[Feature, ...] = (),
    ) -> None:
        if not condition.evaluate(self._defined):
            return
        self._elements.append({"name": name, **body, "meta-type": meta, **self._features(features)})

    def _features(self, features: tuple[Feature, ...]) -> dict[str, list[str]]:
        # The list is there, if empty, where a condition excludes all that the schema has.
        if not features:
            return {}
        return {"features": [item.name for item in features if item.condition.evaluate(self._defined)]}

    def _object_name(self, entity: SchemaType | None) -> str:
        """The name of an argument's or result's type; none is the empty object type."""
        if entity is None or (isinstance(entity, ObjectType) and is_empty(entity)):
            return self._name(EMPTY_TYPE, None)
        return self._use(entity)

    def _use(self, entity: SchemaType) -> str:
        """The name of a type where it is used; it will be described."""
        match entity:
            case ArrayType():
                name = f"[{self._element_name(entity.element)}]"
                self._queue.setdefault(name, entity)
                # QEMU queues an array before its element.
                return f"[{self._use(entity.element)}]"
            case BuiltinType():
                name = "int" if entity.json_type == "int" else entity.name
                self._queue.setdefault(name, entity)
                return name
            case ObjectType() if is_empty(entity):
                return self._name(EMPTY_TYPE, None)
            case _:
                return self._name(entity.name, entity)

    def _element_name(self, entity: SchemaType) -> str:
        """The name of an array's element, before anything is queued."""
        if isinstance(entity, BuiltinType):
            return "int" if entity.json_type == "int" else entity.name
        return self._number(entity.name)

    def _number(self, name: str) -> str:
        return self._numbers.setdefault(name, str(len(self._numbers)))

    def _name(self, name: str, entity: SchemaType | None) -> str:
        number = self._number(name)
        if entity is None:
            entity = ObjectType(EMPTY_TYPE, None, None, ALWAYS, (), "", None, (), (), None, implicit=True)
        self._queue.setdefault(number, entity)
        return number

    def _type(self, name: str, entity: SchemaType) -> None:
        condition, features = entity.condition, entity.features
        match entity:
            case BuiltinType():
                self._add(name, "builtin", {"json-type": entity.json_type}, condition)
            case ArrayType():
                self._add(name, "array", {"element-type": name[1:-1]}, condition)
            case EnumType():
                present = [member for member in entity.members if member.condition.evaluate(self._defined)]
                members = [{"name": member.name, **self._features(member.features)} for member in present]
                values = [member.name for member in present]
                self._add(name, "enum", {"members": members, "values": values}, condition, features)
            case AlternateType():
                members = [
                    {"type": type_name}
                    for member in entity.alternatives
                    for type_name in [self._use(member.type)]
                    if member.condition.evaluate(self._defined)
                ]
                self._add(name, "alternate", {"members": members}, condition, features)
            case ObjectType():
                self._add(name, "object", self._object(entity), condition, features)

    def _object(self, entity: ObjectType) -> dict[str, Any]:
        # Types that only excluded members have are described all the same, as in QEMU.
        members = [(member, self._member(member)) for member in entity.members]
        body: dict[str, Any] = {
            "members": [element for member, element in members if member.condition.evaluate(self._defined)]
        }
        if entity.variants is not None:
            body["tag"] = entity.variants.tag.name
            branches = [(branch, self._object_name(branch.type)) for branch in entity.variants.branches]
            body["variants"] = [
                {"case": branch.name, "type": type_name}
                for branch, type_name in branches
                if branch.condition.evaluate(self._defined)
            ]
        return body

    def _member(self, member: Member) -> dict[str, Any]:
        element: dict[str, Any] = {"name": member.name, "type": self._use(member.type)}
        if member.optional:
            element["default"] = None
        return element | self._features(member.features)
