"""Which class every type becomes, where it lives, and how the rest of the generated code names it.

Decisions made here:

- A struct inherits from its base's class, unless importing the base's module would be circular; then its members are
  repeated.
- A union is an abstract class with the common members, and one subclass for each value of its tag.  A branch that is
  a union itself has an abstract class in between.
- An alternate is an alias for a union annotation; annotations spell it out.
- Modules name each other's classes as `_module.Class`, through lazy imports except where a class statement needs
  them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qemud.qapi.generate.writer import quoted
from qemud.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    Command,
    Condition,
    EnumType,
    Event,
    Member,
    Module,
    ObjectType,
    Schema,
    SchemaType,
)
from qemud.qapi.names import camel_case, class_name, constant_name, module_name
from qemud.qapi.runtime.shapes import BUILTIN_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.qapi.runtime.table import ConditionData


@dataclass(slots=True)
class UnionClass:
    """A class of a union: the abstract one, an intermediate one, or a leaf."""

    name: str
    parent: str | None
    union: ObjectType | None
    """The union whose tag this class's subclasses differ in; None for a leaf."""
    tag: Member | None
    """The tag member this class fixes; None for the abstract class."""
    tag_value: str | None
    nested: bool
    """Whether the fixed tag is an inner union's, a field to msgspec, which knows one tag only."""
    members: tuple[Member, ...]
    """The members this class adds, the tag excepted."""
    children: list[UnionClass] = field(default_factory=list)


@dataclass(slots=True)
class Imports:
    """What a generated module's annotations mention."""

    fields: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)


def is_empty(entity: SchemaType | None) -> bool:
    """Whether a type is the empty object type (or there is none)."""
    return entity is None or (
        isinstance(entity, ObjectType) and entity.implicit and not entity.members and entity.variants is None
    )


def condition_data(condition: Condition) -> ConditionData:
    """A condition as the run-time's data."""
    match condition.op:
        case "true":
            return None
        case "name":
            return condition.name
        case op:
            return (op, *(condition_data(operand) for operand in condition.operands))


def admits_null(entity: SchemaType) -> bool:
    """Whether JSON's null is a value of the type, so that None cannot stand for an absent one."""
    match entity:
        case BuiltinType():
            return entity.name in {"null", "any"}
        case AlternateType():
            return any(admits_null(alternative.type) for alternative in entity.alternatives)
        case _:
            return False


class Layout:
    """The classes of a schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.unions: dict[str, UnionClass] = {}
        self._taken = {class_name(name) for name in schema.entities}
        self._imports_at_top: dict[str, set[str]] = {module.name: set() for module in schema.modules}
        self.inherits: dict[str, ObjectType] = {}
        """Structs that inherit from their base's class."""
        for entity in schema.types():
            if isinstance(entity, ObjectType) and entity.variants is not None:
                self.unions[entity.name] = self._union(entity)
                if (tag := entity.variants.tag.type).module:
                    self._imports_at_top[entity.module].add(tag.module)
        for entity in schema.types():
            if isinstance(entity, ObjectType) and entity.variants is None and not entity.implicit:
                self._consider_base(entity)

    def type_definitions(self, module: str) -> Iterator[EnumType | ObjectType | AlternateType]:
        """The types of a schema module that become classes or aliases, in the schema's order."""
        for entity in self.schema.types():
            if isinstance(entity, EnumType | ObjectType | AlternateType) and entity.module == module:
                if isinstance(entity, ObjectType) and entity.implicit:
                    continue
                yield entity

    def modules_with_types(self) -> list[Module]:
        """The schema modules that define types, implicit ones of arguments included."""
        names = {entity.module for entity in self.schema.types()}
        return [module for module in self.schema.modules if module.name in names]

    def imports_at_top(self, module: str) -> list[str]:
        """Other schema modules that class statements of `module` need."""
        return sorted(self._imports_at_top[module] - {module})

    def annotation(self, entity: SchemaType, module: str, imports: Imports) -> str:
        """The annotation of a value of the type in generated code for `module`; notes what it needs."""
        match entity:
            case BuiltinType() | EnumType() if entity.name in BUILTIN_NAMES:
                name = BUILTIN_NAMES[entity.name]
                imports.fields.add(name)
                return name
            case ArrayType():
                imports.fields.add("List")
                return f"List[{self.annotation(entity.element, module, imports)}]"
            case AlternateType():
                parts = [self.annotation(member.type, module, imports) for member in entity.alternatives]
                return " | ".join(dict.fromkeys(parts))
            case ObjectType() if entity.variants is not None:
                imports.fields.add("OneOf")
                return f"OneOf[{self.reference(entity, module, imports)}]"
            case _:
                return self.reference(entity, module, imports)

    def reference(self, entity: SchemaType, module: str, imports: Imports) -> str:
        """The class of an enumeration or object type as `module` names it."""
        name = class_name(entity.name)
        if entity.module == module:
            return name
        imports.modules.add(entity.module)
        return f"_{module_name(entity.module)}.{name}"

    def member_annotation(self, member: Member, module: str, imports: Imports) -> str:
        """The annotation of a member, and of the argument of the same name."""
        annotation = self.annotation(member.type, module, imports)
        if not member.optional or member.has_default:
            return annotation
        if admits_null(member.type):
            imports.fields.add("UnsetType")
            return f"{annotation} | UnsetType"
        imports.fields.add("Maybe")
        return f"Maybe[{annotation}]"

    def literal(self, entity: SchemaType, value: Any, module: str, imports: Imports) -> tuple[str, bool]:
        """A default as an expression, and whether it must be evaluated late (and anew for each instance)."""
        match entity:
            case EnumType() if entity.module:
                return f"{self.reference(entity, module, imports)}.{constant_name(value)}", True
            case ArrayType() if isinstance(value, list):
                parts = [self.literal(entity.element, element, module, imports)[0] for element in value]
                return f"[{', '.join(parts)}]", True
            case AlternateType():
                return self.literal(self._alternative(entity, value), value, module, imports)
            case BuiltinType() if entity.name == "number":
                return repr(float(value)), False
            case _:
                literal = quoted(value) if isinstance(value, str) else repr(value)
                return literal, isinstance(value, list | dict)

    def leaf_names(self, entity: ObjectType) -> dict[str, Any]:
        """Tag value to leaf class name; for a nested union, to a dict of the same kind."""

        def walk(node: UnionClass) -> dict[str, Any]:
            return {
                child.tag_value or "": walk(child) if child.union is not None else child.name
                for child in node.children
            }

        return walk(self.unions[entity.name])

    def fast(self, entity: SchemaType) -> bool:
        """Whether msgspec alone can be trusted with the type: it accepts nothing that the exact check refuses.

        It cannot where a condition is in reach, where unions nest, and where a union has one leaf, whose tag msgspec
        would not insist on.
        """
        return self._fast(entity, set())

    def _fast(self, entity: SchemaType, seen: set[str]) -> bool:
        if entity.name in seen:
            return True
        seen.add(entity.name)
        match entity:
            case BuiltinType():
                return True
            case EnumType():
                return all(member.condition.op == "true" for member in entity.members)
            case ArrayType():
                return self._fast(entity.element, seen)
            case AlternateType():
                return self._fast_members(entity.alternatives, seen)
            case ObjectType():
                if not self._fast_members(entity.members, seen):
                    return False
                if entity.variants is None:
                    return True
                branches = entity.variants.branches
                return len(branches) > 1 and all(
                    branch.condition.op == "true"
                    and branch.type.variants is None
                    and self._fast(branch.type, seen)
                    for branch in branches
                )

    def _fast_members(self, members: tuple[Member, ...], seen: set[str]) -> bool:
        return all(member.condition.op == "true" and self._fast(member.type, seen) for member in members)

    @staticmethod
    def _alternative(entity: AlternateType, value: Any) -> SchemaType:
        """The alternative that a default belongs to; the front end has checked that there is one."""
        kinds: dict[type, tuple[str, ...]] = {
            str: ("string",),
            bool: ("boolean",),
            int: ("int", "number"),
            float: ("number",),
            type(None): ("null",),
        }
        for alternative in entity.alternatives:
            match alternative.type:
                case BuiltinType() if alternative.type.json_type in kinds.get(type(value), ()):
                    return alternative.type
                case EnumType() if isinstance(value, str):
                    return alternative.type
                case ArrayType() if isinstance(value, list):
                    return alternative.type
        return entity.alternatives[0].type

    def _consider_base(self, entity: ObjectType) -> None:
        base = entity.base
        if base is None or base.implicit or base.variants is not None:
            return
        if base.module != entity.module:
            if entity.module in self._reachable(base.module):
                return
            self._imports_at_top[entity.module].add(base.module)
        self.inherits[entity.name] = base

    def _reachable(self, module: str) -> set[str]:
        """Modules that importing `module` imports."""
        seen: set[str] = set()
        todo = [module]
        while todo:
            for other in self._imports_at_top[todo.pop()]:
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return seen

    def _union(self, entity: ObjectType) -> UnionClass:
        assert entity.variants is not None
        tag = entity.variants.tag
        root = UnionClass(
            name=class_name(entity.name),
            parent=None,
            union=entity,
            tag=None,
            tag_value=None,
            nested=False,
            members=tuple(member for member in entity.members if member.name != tag.name),
        )
        self._branches(root, nested=False)
        return root

    def _branches(self, node: UnionClass, *, nested: bool) -> None:
        assert node.union is not None
        assert node.union.variants is not None
        for branch in node.union.variants.branches:
            inner = branch.type.variants
            child = UnionClass(
                name=self._unique(node.name + camel_case(branch.name)),
                parent=node.name,
                union=branch.type if inner is not None else None,
                tag=node.union.variants.tag,
                tag_value=branch.name,
                nested=nested,
                members=tuple(
                    member for member in branch.type.members if inner is None or member.name != inner.tag.name
                ),
            )
            node.children.append(child)
            if inner is not None:
                self._branches(child, nested=True)

    def _unique(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def arguments_of(entity: Command | Event) -> tuple[Member, ...]:
    """The members a command or event takes, none if it takes none."""
    return entity.arguments.members if entity.arguments is not None else ()
