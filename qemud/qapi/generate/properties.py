"""`properties.py`: every struct's members as plain data, what the object model shows of them as properties.

Structs of saved state are left out: what is in them is nobody's property.  The table is apart from the types so that a
question about a type's properties costs no class.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qemud.qapi.model import ArrayType, Member, ObjectType, SchemaType

if TYPE_CHECKING:
    from qemud.qapi.generate.layout import Layout
    from qemud.qapi.generate.writer import Output


_REFERENCE = re.compile(r"@([A-Za-z][\w-]*)")
"""A member's name in documentation; people read it without the mark."""


def generate(layout: Layout, output: Output) -> None:
    """Write the table."""
    lines = ["from typing import Any", "", "STRUCTS: dict[str, tuple[tuple[Any, ...], ...]] = {"]
    for module in layout.schema.modules:
        for entity in layout.type_definitions(module.name):
            if isinstance(entity, ObjectType) and entity.variants is None and entity.version is None:
                lines.append(f"    {entity.name!r}: (")
                lines += [f"        {_row(entity, member)!r}," for member in entity.members]
                lines.append("    ),")
    lines.append("}")
    output.python(
        "properties.py", "the schema", "Members of structs: rows of `qemud.qom.properties.Property`.", lines
    )


def _row(entity: ObjectType, member: Member) -> tuple[object, ...]:
    """Name, type, optional, has default, default, description, features."""
    return (
        member.name,
        _type_name(member.type),
        member.optional,
        member.has_default,
        member.default,
        description(entity, member.name),
        tuple(feature.name for feature in member.features),
    )


def _type_name(entity: SchemaType) -> str:
    return _type_name(entity.element) + "[]" if isinstance(entity, ArrayType) else entity.name


def description(entity: ObjectType, name: str) -> str:
    """What the documentation says of a member, where it is defined; "" for nothing."""
    if entity.doc is not None and entity.doc.members.get(name):
        return plain_text(entity.doc.members[name])
    for owner in (*entity.mixins, *((entity.base,) if entity.base is not None else ())):
        if text := description(owner, name):
            return text
    return ""


def plain_text(text: str) -> str:
    """A description as people read it: one line, without the marks of members."""
    return _REFERENCE.sub(r"\1", " ".join(text.split()))
