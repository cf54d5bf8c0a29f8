"""`shapes/MODULE.py`: the tables that the exact input check walks, plain data that loads at once.

See `qemud.qapi.runtime.shapes` for their form.  They are apart from the classes: checking the arguments of most
commands needs no class at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.qapi.generate.layout import Layout, admits_null, condition_data, is_empty
from qemud.qapi.generate.writer import expression, quoted
from qemud.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    EnumMember,
    EnumType,
    Member,
    ObjectType,
    SchemaType,
)
from qemud.qapi.names import class_name, module_name, python_name
from qemud.qapi.runtime.shapes import (
    EMPTY_TYPE,
    MARKS,
    AlternateShape,
    Alternative,
    EnumShape,
    MemberShape,
    ObjectShape,
    Presence,
    VariantShape,
)

if TYPE_CHECKING:
    from qemud.qapi.generate.writer import Output
    from qemud.qapi.runtime.table import ConditionData

KINDS = {
    "string": "str",
    "number": "num",
    "int": "num",
    "boolean": "bool",
    "null": "null",
}
"""A built-in type's JSON type as the kind of value an alternate chooses by."""


def generate(layout: Layout, output: Output) -> None:
    """Write the shapes of every schema module, and of the built-in ones."""
    output.write("shapes/__init__.py", '"""Tables of the exact input check, by schema module."""\n')
    for module in layout.modules_with_types():
        shapes = {
            entity.name: _shape(layout, entity)
            for entity in layout.schema.types()
            if entity.module == module.name
            and isinstance(entity, EnumType | ObjectType | AlternateType)
            and not (isinstance(entity, ObjectType) and is_empty(entity))
        }
        kinds = sorted(
            {"Shape"} | {type(shape).__name__ for shape in shapes.values()} | _nested_rows(shapes.values())
        )
        imports = f"from qemud.qapi.runtime.shapes import {', '.join(kinds)}"
        body = ["from __future__ import annotations", "", imports, "", "SHAPES: dict[str, Shape] = {"]
        body += [f"    {quoted(name)}: {expression(shape)}," for name, shape in sorted(shapes.items())]
        output.python(
            f"shapes/{module_name(module.name)}.py",
            module.path,
            f"Shapes of the types of the schema module `{module.name}`.",
            [*body, "}"],
        )


def type_reference(entity: SchemaType) -> str:
    """A type as shapes name it: its name, arrays as `[NAME]`."""
    if isinstance(entity, ArrayType):
        return f"[{type_reference(entity.element)}]"
    return EMPTY_TYPE if isinstance(entity, ObjectType) and is_empty(entity) else entity.name


def qtype(entity: SchemaType) -> str:
    """The kind of JSON value that chooses the type in an alternate."""
    match entity:
        case BuiltinType():
            return KINDS[entity.json_type]
        case EnumType():
            return "str"
        case ArrayType():
            return "list"
        case _:
            return "dict"


def _shape(layout: Layout, entity: EnumType | ObjectType | AlternateType) -> Any:
    name = class_name(entity.name)
    match entity:
        case EnumType():
            conditions: dict[str, ConditionData] = {
                member.name: data
                for member in entity.members
                if (data := condition_data(member.condition)) is not None
            }
            features = {member.name: marks for member in entity.members if (marks := _marks(member))}
            return EnumShape(name, conditions, features)
        case AlternateType():
            alternatives = {
                qtype(member.type): Alternative(type_reference(member.type), condition_data(member.condition))
                for member in entity.alternatives
            }
            return AlternateShape(entity.name, alternatives, fast=layout.fast(entity))
        case ObjectType():
            members = tuple(_member(member) for member in entity.members)
            fast = layout.fast(entity)
            if entity.variants is None:
                return ObjectShape("" if entity.implicit else name, members, None, fast=fast)
            leaves = layout.leaf_names(entity)
            branches = {
                branch.name: (
                    type_reference(branch.type),
                    leaves[branch.name],
                    condition_data(branch.condition),
                )
                for branch in entity.variants.branches
            }
            return ObjectShape(name, members, VariantShape(entity.variants.tag.name, branches), fast=fast)


def _member(member: Member) -> MemberShape:
    condition: ConditionData = condition_data(member.condition)
    reference = type_reference(member.type)
    name = python_name(member.name)
    if member.has_default:
        presence = Presence.DEFAULT
    elif not member.optional:
        presence = Presence.REQUIRED
    else:
        presence = Presence.UNSET if admits_null(member.type) else Presence.NONE
    return MemberShape(
        member.name,
        name,
        reference,
        presence=presence,
        condition=condition,
        default=member.default,
        features=_marks(member),
    )


def _marks(member: Member | EnumMember) -> tuple[str, ...]:
    """Which of the features that a policy can be about it has."""
    return tuple(feature.name for feature in member.features if feature.name in MARKS)


def _nested_rows(shapes: Any) -> set[str]:
    names: set[str] = set()
    for shape in shapes:
        if isinstance(shape, AlternateShape):
            names.add("Alternative")
        if isinstance(shape, ObjectShape):
            if shape.members:
                names.add("MemberShape")
            if shape.variants is not None:
                names.add("VariantShape")
    return names
