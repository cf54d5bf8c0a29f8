"""The front end's door: `load(path)` reads, checks and returns a schema, or says what is wrong with it.

    schema = load("qapi/qapi-schema.json")
    for command in schema.commands(): ...

Four passes, each over the whole schema, each raising `SchemaError` for the first thing it finds: reading and grammar
(`parser`, with `lexer` and `docs`), the shape of each definition (`expressions`), and what definitions mean together
(`analysis`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qemud.qapi.analysis import analyse
from qemud.qapi.diagnostics import SchemaError
from qemud.qapi.expressions import declare
from qemud.qapi.parser import parse

if TYPE_CHECKING:
    from qemud.qapi.model import Schema

__all__ = ["SchemaError", "load"]


def load(path: str | os.PathLike[str]) -> Schema:
    """The schema whose root file is `path`.

    Raises `SchemaError`, whose text is the complete diagnostic, for whatever is wrong with the file or the schema.
    """
    parsed = parse(os.fspath(path))
    return analyse(parsed, declare(parsed))
