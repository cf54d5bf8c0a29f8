"""The build: every generator over one schema, and its place on the command line.

    python -m qemud.qapi build [--schema FILE] [--out DIR] [--docs [DIR]]

`build_project` is what the wheel's and the editable install's build call; see `setup.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qemud.qapi.generate import (
    catalogue,
    client,
    commands,
    docs,
    enums,
    events,
    introspect,
    json_schema,
    man,
    properties,
    results,
    shapes,
    types,
)
from qemud.qapi.generate.layout import Layout
from qemud.qapi.generate.writer import Output
from qemud.qapi.schema import load

if TYPE_CHECKING:
    import argparse

    from qemud.qapi.model import Schema

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGE = REPOSITORY / "qemud"
INSTALLED_SCHEMA = PACKAGE / "_schema" / "qapi-schema.json"
"""Where a wheel has the schema."""
ROOT_SCHEMA = INSTALLED_SCHEMA if INSTALLED_SCHEMA.is_file() else REPOSITORY / "qapi" / "qapi-schema.json"

_GENERATORS = (
    types.generate,
    properties.generate,
    enums.generate,
    shapes.generate,
    commands.generate,
    events.generate,
    results.generate,
    introspect.generate,
    json_schema.generate,
    client.generate,
)


def build(schema: Schema, out: Path) -> list[Path]:
    """Generate the package for `schema` into the directory `out`; returns the files that changed."""
    layout = Layout(schema)
    output = Output(out, Path(schema.modules[0].path).absolute().parent)
    output.write("__init__.py", '"""Generated from the schema; see `qemud.qapi.generate`."""\n')
    for generator in _GENERATORS:
        generator(layout, output)
    output.finish()
    return output.changed


def build_docs(schema: Schema, out: Path) -> list[Path]:
    """Write the reference pages for `schema` into the directory `out`; returns the files that changed."""
    output = Output(out, Path(schema.modules[0].path).absolute().parent)
    own = catalogue.COMMAND_LINE in schema.entities
    docs.generate(schema, output, catalogue.PAGES if own else None)
    if own:
        catalogue.generate(schema, output)
        man.generate(schema, output)
    output.finish()
    return output.changed


def build_project(root: Path = REPOSITORY, out: Path | None = None) -> list[Path]:
    """Generate `qemud._generated` of the source tree at `root`; returns the files that changed."""
    return build(load(root / "qapi" / "qapi-schema.json"), out or root / "qemud" / "_generated")


def add_build(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `build` with the compiler's command line."""
    parser = subcommands.add_parser("build", help="generate code from a schema")
    parser.add_argument(
        "--schema", type=Path, default=ROOT_SCHEMA, metavar="FILE", help="the root file of the schema"
    )
    parser.add_argument(
        "--out", type=Path, default=PACKAGE / "_generated", metavar="DIR", help="where the package goes"
    )
    parser.add_argument(
        "--docs",
        type=Path,
        nargs="?",
        const=Path("docs", "reference"),
        metavar="DIR",
        help="write reference pages there (docs/reference by default), and nothing else",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    schema = load(arguments.schema)
    try:
        out: Path = arguments.docs or arguments.out
        changed = build_docs(schema, out) if arguments.docs else build(schema, out)
    except OSError as error:
        sys.stderr.write(f"build: cannot write {error.filename}: {error.strerror}\n")
        return 1
    sys.stdout.write(f"{len(changed)} files changed in {out}\n")
    return 0
