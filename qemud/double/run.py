"""`qemud double`: the command."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from qemud.logs import report
from qemud.qapi.runtime.check import checker
from qemud.qapi.runtime.errors import QmpError

if TYPE_CHECKING:
    from qemud.double.scenario import Scenario


def main(words: list[str]) -> int:
    """Run the double; the result is the exit status."""
    parser = argparse.ArgumentParser(
        prog="qemud double",
        allow_abbrev=False,
        description="A server of QMP without a machine, for tests of management software.",
        epilog="ADDRESS is unix:PATH, tcp:HOST:PORT or fd:NUMBER (a listening socket); with ,server=off behind it the "
        "double connects.",
    )
    parser.add_argument("--scenario", metavar="FILE", help="how it misbehaves, in JSON or TOML")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of a scenario, and end")
    parser.add_argument(
        "-qmp", "--qmp", action="append", default=[], metavar="ADDRESS", help="where clients find it"
    )
    arguments = parser.parse_args(words)
    if arguments.schema:
        sys.stdout.write(json.dumps(scenario_schema(), indent=2) + "\n")
        return 0
    if not arguments.qmp:
        parser.error("expected -qmp ADDRESS")
    from qemud.double.scenario import load

    try:
        return asyncio.run(_serve(load(arguments.scenario), arguments.qmp))
    except QmpError as error:
        report(str(error))
        return 1


async def _serve(scenario: Scenario, addresses: list[str]) -> int:
    from qemud.double.server import Server

    return await Server(scenario).serve(addresses)


def scenario_schema() -> dict[str, Any]:
    """The JSON Schema of a scenario, with the definitions that it needs."""
    text = files("qemud._generated").joinpath(f"json-schema-{checker.target}.json").read_text("utf-8")
    document = json.loads(text)
    definitions: dict[str, Any] = {}
    pending = ["DoubleScenario"]
    while pending:
        name = pending.pop()
        if name not in definitions:
            definitions[name] = document["$defs"][name]
            pending += _references(definitions[name])
    return {
        "$schema": document["$schema"],
        "title": "A scenario of qemud double",
        "$ref": "#/$defs/DoubleScenario",
        "$defs": dict(sorted(definitions.items())),
    }


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for item in schema for name in _references(item)]
    if isinstance(schema, dict):
        own = [schema["$ref"].rpartition("/")[2]] if isinstance(schema.get("$ref"), str) else []
        return own + [name for item in schema.values() for name in _references(item)]
    return []
