"""`events/MODULE.py`: one function an event, which builds the event's data and hands it to `emit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.generate.commands import type_checking_imports
from qemud.qapi.generate.layout import Imports, Layout, admits_null
from qemud.qapi.generate.writer import Output, docstring, quoted
from qemud.qapi.model import BuiltinType, EnumType, Event, Member, Module
from qemud.qapi.names import event_function_name, module_name, python_name

if TYPE_CHECKING:
    from qemud.qapi.model import SchemaType


def generate(layout: Layout, output: Output) -> None:
    """Write the emitters of every schema module with events."""
    output.write("events/__init__.py", '"""Event emitters by schema module."""\n')
    for module in layout.schema.modules:
        events = [entity for entity in module.definitions if isinstance(entity, Event)]
        if events:
            _emitters(layout, output, module, events)


def _emitters(layout: Layout, output: Output, module: Module, events: list[Event]) -> None:
    imports = Imports()
    functions: list[str] = []
    for event in events:
        functions += ["", "", *_function(layout, event, imports)]
    needs_wire = any("to_wire(" in line for line in functions)
    needs_unset = any("UNSET" in line for line in functions)
    head = ["from __future__ import annotations", "", "from typing import TYPE_CHECKING, Any"]
    if needs_unset or needs_wire:
        head.append("")
    if needs_unset:
        head.append("from qemud.qapi.runtime.fields import UNSET")
    if needs_wire:
        head.append("from qemud.qapi.runtime.wire import to_wire")
    head += ["", "if TYPE_CHECKING:", "    from qemud.qapi.runtime.events import EmitFunction"]
    imports.fields.discard("UNSET")
    output.python(
        f"events/{module_name(module.name)}.py",
        module.path,
        f"Events of the schema module `{module.name}`.",
        [*head, *type_checking_imports(imports), *functions],
    )


def _function(layout: Layout, event: Event, imports: Imports) -> list[str]:
    name = event_function_name(event.name)
    doc = docstring(event.doc, "    ", f"Emit {event.name}.")
    if event.arguments is None:
        return [f"def {name}(emit: EmitFunction) -> None:", *doc, f"    emit({quoted(event.name)}, None)"]
    if event.boxed:
        annotation = layout.annotation(event.arguments, "", imports)
        return [
            f"def {name}(emit: EmitFunction, arg: {annotation}) -> None:",
            *doc,
            f"    emit({quoted(event.name)}, to_wire(arg))",
        ]
    members = event.arguments.members
    # Optional parameters have a default here, as the callers are this project's own.
    parameters = [_parameter(layout, member, imports) for member in members]
    line = f"def {name}(emit: EmitFunction, *, {', '.join(parameters)}) -> None:"
    signature = [line]
    if len(line) > 110:
        signature = [f"def {name}(", "    emit: EmitFunction,", "    *,"]
        signature += [*(f"    {parameter}," for parameter in parameters), ") -> None:"]
    required = ", ".join(
        f"{quoted(member.name)}: {_wire(member.type, python_name(member.name))}"
        for member in members
        if not _may_lack(member)
    )
    body = [f"    data: dict[str, Any] = {{{required}}}"]
    for member in members:
        if _may_lack(member):
            argument = python_name(member.name)
            absent = "UNSET" if admits_null(member.type) else "None"
            body.append(f"    if {argument} is not {absent}:")
            body.append(f"        data[{quoted(member.name)}] = {_wire(member.type, argument)}")
    return [*signature, *doc, *body, f"    emit({quoted(event.name)}, data)"]


def _may_lack(member: Member) -> bool:
    return member.optional and not member.has_default


def _parameter(layout: Layout, member: Member, imports: Imports) -> str:
    annotation = layout.member_annotation(member, "", imports)
    absent = ""
    if _may_lack(member):
        absent = " = UNSET" if admits_null(member.type) else " = None"
    return f"{python_name(member.name)}: {annotation}{absent}"


def _wire(entity: SchemaType, argument: str) -> str:
    match entity:
        case EnumType() if entity.module:
            return f"{argument}.value"
        case BuiltinType() | EnumType():
            return argument
        case _:
            return f"to_wire({argument})"
