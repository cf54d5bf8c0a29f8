"""The compiler's command line: `python -m qemud.qapi check SCHEMA…`.

Each subcommand is an `add_…` function that registers a parser and, as its `run`, a function from the parsed arguments to
the exit status: 0, or 1 with a diagnostic on standard error.  (argparse itself exits with 2 for wrong usage.)
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from qemud.qapi.diagnostics import SchemaError
from qemud.qapi.generate.build import add_build
from qemud.qapi.schema import load

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the compiler; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m qemud.qapi", description="The schema compiler")
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_check(subcommands)
    add_build(subcommands)
    namespace = parser.parse_args(arguments)
    try:
        status: int = namespace.run(namespace)
    except SchemaError as error:
        _complain(str(error))
        return 1
    return status


def _complain(text: str) -> None:
    """Write a diagnostic to standard error, whatever the file names and characters in it."""
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _add_check(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subcommands.add_parser("check", help="check schemas; says nothing when they are right")
    parser.add_argument("schemas", nargs="*", metavar="SCHEMA", help="the root file of a schema")
    parser.add_argument(
        "--bindings", action="store_true", help="check that handlers and types agree with qemud's own schema"
    )
    parser.set_defaults(run=_check, refuse=parser.error)


def _check(arguments: argparse.Namespace) -> int:
    if not arguments.schemas and not arguments.bindings:
        arguments.refuse("name a SCHEMA, or say --bindings")
    for path in arguments.schemas:
        load(path)
    if not arguments.bindings:
        return 0
    from qemud.qapi.bindings import verify

    disagreements = verify()
    for sentence in disagreements:
        _complain(sentence)
    return 1 if disagreements else 0
