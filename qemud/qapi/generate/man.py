"""`qemud.1`, the manual page: `python -m qemud.qapi build --docs DIR` writes it beside the reference pages.

Names, parameters and descriptions of options are the schema's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.generate.properties import description
from qemud.qapi.model import ArrayType, EnumType, ObjectType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.qapi.generate.writer import Output
    from qemud.qapi.model import Schema, SchemaType

_HEAD = r""".TH QEMUD 1 "" "qemud" "User Commands"
.SH NAME
qemud \- machine emulator that is driven by QMP
.SH SYNOPSIS
.B qemud\-system\-riscv64
.RI [ OPTION ]\|.\|.\|.
.br
.B qemud config check
.I FILE
.br
.B qemud config schema
.br
.B qemud completion
.RB [ bash | zsh | fish ]
.br
.B qemud demo
.SH DESCRIPTION
qemud emulates a machine and is controlled over the QEMU Machine Protocol. It takes the options of QEMU 10.0 that it can serve.
.SH OPTIONS
"""
_FOOT = r""".SH EXIT STATUS
0 at an end that was asked for, 1 when the machine could not be made; a guest may give another.
.SH SEE ALSO
.BR qemu\-system\-riscv64 (1)
"""


def generate(schema: Schema, output: Output) -> None:
    """Write the page, where the schema describes a command line."""
    options = schema.entities.get("CommandLine")
    if isinstance(options, ObjectType):
        output.write("qemud.1", _HEAD + "".join(_options(options)) + _FOOT)


def _options(options: ObjectType) -> Iterator[str]:
    for member in options.members:
        kind = member.type.element if isinstance(member.type, ArrayType) else member.type
        yield f".TP\n.B {_text('-' + member.name)}{_argument(kind)}\n"
        yield _text(_described(options, member.name)) + "\n"
        if isinstance(kind, ObjectType):
            yield ".RS\n"
            for each in kind.members:
                yield f".TP\n.B {_text(each.name)}={_values(each.type)}\n"
                yield _text(_described(kind, each.name)) + "\n"
            yield ".RE\n"


def _argument(kind: SchemaType) -> str:
    if kind.name == "bool":
        return ""
    return r" \fIPARAMETER\fB=\fIVALUE\fR,..." if isinstance(kind, ObjectType) else r" \fIARGUMENT\fR"


def _values(kind: SchemaType) -> str:
    if isinstance(kind, EnumType):
        return "|".join(_text(member.name) for member in kind.members)
    return "on|off" if kind.name == "bool" else r"\fI" + _text(kind.name.upper()) + r"\fR"


def _described(entity: ObjectType, name: str) -> str:
    return description(entity, name) or name


def _text(text: str) -> str:
    """Text as roff takes it: nothing in it is a request or an escape."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return r"\&" + escaped if escaped[:1] in {".", "'"} else escaped
