"""`enums.py`: what the documentation says of each value of an enumeration, for help that people read.

Apart from the types, like the table of structs, so that it costs nothing where nobody asks for help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.generate.properties import plain_text
from qemud.qapi.model import EnumType

if TYPE_CHECKING:
    from qemud.qapi.generate.layout import Layout
    from qemud.qapi.generate.writer import Output


def generate(layout: Layout, output: Output) -> None:
    """Write the table."""
    lines = ["ENUMS: dict[str, dict[str, str]] = {"]
    for module in layout.schema.modules:
        for entity in layout.type_definitions(module.name):
            if isinstance(entity, EnumType) and entity.doc is not None:
                lines.append(f"    {entity.name!r}: {{")
                lines += [
                    f"        {member.name!r}: {plain_text(entity.doc.members.get(member.name) or '')!r},"
                    for member in entity.members
                ]
                lines.append("    },")
    lines.append("}")
    output.python("enums.py", "the schema", "Values of enumerations, each with its description.", lines)
