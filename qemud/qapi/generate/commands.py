"""`commands/MODULE.py`, the protocols that handlers implement, and `table.py`, the command table.

A handler class inherits from its protocol explicitly, so that mypy compares every signature and a missing method shows
when the class is made:

    class Handlers(CharCommands):
        async def chardev_remove(self, *, id: str) -> None: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.generate.layout import Imports, Layout, condition_data
from qemud.qapi.generate.writer import COMMAND, Output, docstring, expression, quoted
from qemud.qapi.model import AlternateType, Command, EnumType, Module, ObjectType
from qemud.qapi.names import camel_case, module_name, python_name
from qemud.qapi.runtime.table import EARLY, LATE, CommandInfo

if TYPE_CHECKING:
    from collections.abc import Iterator


def protocol_name(module: str) -> str:
    """The name of a schema module's protocol."""
    return f"{camel_case(module)}Commands"


def command_info(command: Command) -> CommandInfo:
    """The row of a command in the table."""
    return CommandInfo(
        name=command.name,
        module=command.module,
        method=python_name(command.name),
        boxed=command.boxed,
        success_response=command.success_response,
        allow_oob=command.allow_oob,
        phases=command.phases or (EARLY if command.allow_preconfig else LATE),
        job=command.job,
        deprecated=command.has_feature("deprecated"),
        unstable=command.has_feature("unstable"),
        has_arguments=command.arguments is not None,
        gen=command.gen,
        condition=condition_data(command.condition),
    )


def generate(layout: Layout, output: Output) -> None:
    """Write the protocol of every schema module with commands, and the table."""
    output.write("commands/__init__.py", '"""Protocols of command handlers by schema module."""\n')
    for module in layout.schema.modules:
        commands = [entity for entity in module.definitions if isinstance(entity, Command)]
        if commands:
            _protocol(layout, output, module, commands)
    _table(layout, output)


def type_checking_imports(imports: Imports) -> Iterator[str]:
    """Import lines for annotations, to stand under `if TYPE_CHECKING:`."""
    if imports.fields:
        yield f"    from qemud.qapi.runtime.fields import {', '.join(sorted(imports.fields))}"
    for name in sorted(imports.modules):
        yield f"    from ..types import {module_name(name)} as _{module_name(name)}"


def _protocol(layout: Layout, output: Output, module: Module, commands: list[Command]) -> None:
    imports = Imports()
    raw = any(not command.gen for command in commands)
    methods: list[str] = []
    for command in commands:
        methods += ["", *_method(layout, command, imports)]
    head = [
        "from __future__ import annotations",
        "",
        "from abc import abstractmethod",
        "from typing import TYPE_CHECKING, Protocol"
        if imports.fields or imports.modules or raw
        else "from typing import Protocol",
    ]
    late = [*type_checking_imports(imports)]
    if raw:
        late = ["    from typing import Any", "", "    from msgspec import Raw", "", *late]
    if late:
        head += ["", "if TYPE_CHECKING:", *late]
    output.python(
        f"commands/{module_name(module.name)}.py",
        module.path,
        f"Commands of the schema module `{module.name}`.",
        [
            *head,
            "",
            "",
            f"class {protocol_name(module.name)}(Protocol):",
            f'    """Handlers of the commands of `{module.name}`."""',
            *methods,
        ],
    )


def _method(layout: Layout, command: Command, imports: Imports) -> list[str]:
    parameters = ["self"]
    if not command.gen:
        returns = "Raw"
        if command.arguments is not None:
            parameters.append("arguments: dict[str, Any]")
    else:
        # Annotations never belong to this module: types live in the types package.
        returns = "None" if command.returns is None else layout.annotation(command.returns, "", imports)
        if command.boxed and command.arguments is not None:
            parameters.append(f"arg: {layout.annotation(command.arguments, '', imports)}")
        elif command.arguments is not None and command.arguments.members:
            parameters.append("*")
            parameters += [
                f"{python_name(member.name)}: {layout.member_annotation(member, '', imports)}"
                for member in command.arguments.members
            ]
    line = f"    async def {python_name(command.name)}({', '.join(parameters)}) -> {returns}:"
    if len(line) > 110:
        line = "\n".join(
            [
                f"    async def {python_name(command.name)}(",
                *(f"        {parameter}," for parameter in parameters),
                f"    ) -> {returns}:",
            ]
        )
    return ["    @abstractmethod", line, *docstring(command.doc, "        ", f"{command.name}.")]


def _table(layout: Layout, output: Output) -> None:
    schema = layout.schema
    lines = ["from __future__ import annotations", "", "from qemud.qapi.runtime.table import CommandInfo", ""]
    lines.append("COMMANDS: dict[str, CommandInfo] = {")
    lines += [
        f"    {quoted(command.name)}: {expression(command_info(command))}," for command in schema.commands()
    ]
    lines += ["}", '"""Every command by name."""', "", "ARGUMENTS: dict[str, str] = {"]
    lines += [
        f"    {quoted(command.name)}: {quoted(command.arguments.name)},"
        for command in schema.commands()
        if command.arguments is not None
    ]
    lines += ["}", '"""The type of the arguments of every command that takes any."""', ""]
    lines.append("EVENTS: dict[str, str] = {")
    lines += [f"    {quoted(event.name)}: {quoted(event.module)}," for event in schema.events()]
    lines += ["}", '"""Every event, with its schema module."""', "", "TYPES: dict[str, str] = {"]
    lines += [
        f"    {quoted(entity.name)}: {quoted(module_name(entity.module))},"
        for entity in schema.types()
        if isinstance(entity, EnumType | ObjectType | AlternateType) and entity.module
    ]
    lines += ["}", '"""The module that has the shape (and the class) of every named type."""']
    output.write(
        "table.py",
        "\n".join(
            [
                f"# Generated by `{COMMAND}`; edits are lost.",
                '"""Commands, events and types by name."""',
                "",
                *lines,
            ]
        )
        + "\n",
    )
