"""The scenario: read, checked against the schema, and asked for what holds.

scenario = load("scenario.toml")          # GenericError: scenario.toml:7: …
rule = scenario.rule("stop", nth=1, connection=1)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET

from qemud._generated.client.references import EVENT_DATA, RETURNS
from qemud._generated.table import COMMANDS, EVENTS
from qemud._generated.types.control import VersionInfo, VersionTriple
from qemud._generated.types.double import (
    DoubleConnectRule,
    DoubleRule,
    DoubleScenario,
    DoubleStep,
    DoubleStepError,
    DoubleStepEvent,
    DoubleStepExpect,
    DoubleStepReply,
)
from qemud.monitor.version import QEMU_VERSION
from qemud.qapi.runtime.document import Document, read_document

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULTS = str(Path(__file__).with_name("defaults.json"))
"""What a well-behaved server does beyond answering, as a scenario."""

MAX_PAD = 256 << 20
"""Bytes of the longest line."""

R = TypeVar("R", DoubleConnectRule, DoubleRule)


class Scenario:
    """How the double behaves: what the file says, and behind that the defaults."""

    def __init__(self, own: DoubleScenario, defaults: DoubleScenario) -> None:
        self.oob = own.oob
        self.connect: list[DoubleConnectRule] = own.connect or []
        self.rules: list[DoubleRule] = [*(own.rules or []), *(defaults.rules or [])]
        self.answers: dict[str, Any] = {
            answer.command: answer.return_ for answer in (*(defaults.answers or ()), *(own.answers or ()))
        }
        major, minor, micro = QEMU_VERSION
        self.version = VersionInfo(
            qemu=own.version or VersionTriple(major=major, minor=minor, micro=micro),
            package=own.package if own.package is not None else "qemud double",
        )

    def at_connection(self, number: int) -> list[DoubleStep] | None:
        """The steps for the connection of that number, None to greet."""
        for rule in self.connect:
            if rule.nth in {None, number}:
                return rule.steps
        return None

    def at_command(self, name: str, nth: int, connection: int) -> list[DoubleStep] | None:
        """The steps for the `nth` call of a command, None to answer it."""
        for rule in self.rules:
            if rule.command == name and rule.nth in {None, nth} and rule.connection in {None, connection}:
                return rule.steps
        return None

    def knows(self, name: str) -> bool:
        """Whether a rule is there for a command."""
        return name in self.answers or any(rule.command == name for rule in self.rules)


def load(path: str | None) -> Scenario:
    """Read a scenario, or make the one that says nothing.  GenericError names the file, the line and the place in it."""
    defaults = read_document(DEFAULTS).typed("DoubleScenario")
    if path is None:
        return Scenario(DoubleScenario(), defaults)
    document = read_document(path)
    own: DoubleScenario = document.typed("DoubleScenario")
    _check(document, own)
    return Scenario(own, defaults)


def _check(document: Document, own: DoubleScenario) -> None:
    """What types cannot say: names that exist, results that fit, steps where they have a meaning."""
    answered = set()
    for index, answer in enumerate(own.answers or ()):
        if not answer.unchecked:
            _check_return(document, answer.command, answer.return_, ("answers", index, "return"))
        answered.add(answer.command)
    for index, rule in enumerate(own.connect or ()):
        _check_number(document, rule.nth, ("connect", index, "nth"))
        _check_steps(document, None, rule.steps, ("connect", index, "steps"), answered)
    for index, command_rule in enumerate(own.rules or ()):
        _check_number(document, command_rule.nth, ("rules", index, "nth"))
        _check_number(document, command_rule.connection, ("rules", index, "connection"))
        place = ("rules", index, "steps")
        _check_steps(document, command_rule.command, command_rule.steps, place, answered)


def _check_number(document: Document, number: int | None, place: tuple[str | int, ...]) -> None:
    if number == 0:
        raise document.error(place, "is counted from 1")


def _check_steps(
    document: Document,
    command: str | None,
    steps: Iterable[DoubleStep],
    at: tuple[str | int, ...],
    answered: set[str],
) -> None:
    for index, step in enumerate(steps):
        place = (*at, index)
        if isinstance(step, DoubleStepReply | DoubleStepError) and command is None:
            raise document.error(place, f"there is no command to answer with '{step.step.value}'")
        pad = getattr(step, "pad", None)
        if pad is not None and pad > MAX_PAD:
            raise document.error((*place, "pad"), f"{pad} is too long, expected {MAX_PAD} at most")
        if isinstance(step, DoubleStepReply) and command is not None:
            if step.return_ is not UNSET:
                if not step.unchecked:
                    _check_return(document, command, step.return_, (*place, "return"))
            elif command not in COMMANDS and command not in answered:
                raise document.error(place, f"the schema has no command '{command}': say what it returns")
        if (
            isinstance(step, DoubleStepExpect)
            and step.command is None
            and (step.answered or step.bytes is None)
        ):
            raise document.error(place, "there is nothing to wait for: expected 'command' or 'bytes'")
        if isinstance(step, DoubleStepEvent) and step.data is not UNSET:
            if not isinstance(step.data, dict):
                raise document.error((*place, "data"), "an event's data are an object")
            if not step.unchecked and not _has_variables(step.data):
                _check_data(document, step.event, step.data, (*place, "data"))


def _check_return(document: Document, command: str, value: Any, place: tuple[str | int, ...]) -> None:
    if command not in COMMANDS or _has_variables(value):
        return
    reference = RETURNS.get(command)
    if reference is not None:
        document.check(reference, value, place)
    elif value != {}:
        raise document.error(place, f"the command '{command}' returns nothing, expected {{}}")


def _check_data(document: Document, event: str, data: Any, place: tuple[str | int, ...]) -> None:
    if event not in EVENTS:
        return
    if event in EVENT_DATA:
        document.check(EVENT_DATA[event][0], data, place)
    elif data:
        raise document.error(place, f"the event '{event}' has no data")


def _has_variables(value: Any) -> bool:
    match value:
        case str():
            return value.startswith("$arguments.")
        case dict():
            return any(map(_has_variables, value.values()))
        case list():
            return any(map(_has_variables, value))
        case _:
            return False


def filled_in(value: Any, arguments: dict[str, Any]) -> Any:
    """A value of the scenario with the command's arguments in the places of their names; None for one that is absent."""
    match value:
        case str() if value.startswith("$arguments."):
            return arguments.get(value.removeprefix("$arguments."))
        case dict():
            return {name: filled_in(item, arguments) for name, item in value.items()}
        case list():
            return [filled_in(item, arguments) for item in value]
        case _:
            return value
