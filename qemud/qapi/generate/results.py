"""`results.py`: the types of what is sent, for those who look into it (`qemud.qapi.runtime.policy`).

It is apart from the command table, which every start reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.generate.layout import is_empty
from qemud.qapi.generate.shapes import type_reference
from qemud.qapi.generate.writer import expression, quoted
from qemud.qapi.model import ObjectType

if TYPE_CHECKING:
    from qemud.qapi.generate.layout import Layout
    from qemud.qapi.generate.writer import Output


def generate(layout: Layout, output: Output) -> None:
    """Write the tables."""
    lines = ["RETURNS: dict[str, str] = {"]
    lines += [
        f"    {quoted(command.name)}: {quoted(type_reference(command.returns))},"
        for command in layout.schema.commands()
        if command.returns is not None
        and not (isinstance(command.returns, ObjectType) and is_empty(command.returns))
    ]
    lines += ["}", '"""The type of the result of every command that has one."""', ""]
    lines.append("EVENTS: dict[str, tuple[tuple[str, ...], str]] = {")
    for event in layout.schema.events():
        features = tuple(feature.name for feature in event.features)
        reference = "q_empty" if event.arguments is None else type_reference(event.arguments)
        lines.append(f"    {quoted(event.name)}: {expression((features, reference))},")
    lines += ["}", '"""The features of every event, and the type of its data."""']
    output.python("results.py", "the schema", "Types of results and of events' data.", lines)
