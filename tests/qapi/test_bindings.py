"""`check --bindings`: what it says of each way to disagree, and that qemud agrees with its schema."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from qemud.qapi.bindings import verify_handlers
from tests.qapi.generated import import_generated

PACKAGE = "constructs_generated"


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with a right handler class for each schema module."""
    made: Any = ModuleType("bound_handlers")
    monkeypatch.setitem(sys.modules, "bound_handlers", made)
    for module, name in (("constructs", "Constructs"), ("first", "First"), ("second", "Second")):
        protocol = getattr(import_generated(PACKAGE, f"commands.{module}"), f"{name}Commands")
        methods = dict.fromkeys(protocol.__abstractmethods__, coroutine)
        made.__dict__[name] = type(name, (protocol,), {**methods, "__module__": "bound_handlers"})
    return made


async def coroutine(self: object, **arguments: object) -> None:
    del self, arguments


REGISTRY = {name: f"bound_handlers:{name.capitalize()}" for name in ("constructs", "first", "second")}


def sentences(registry: dict[str, str] = REGISTRY) -> list[str]:
    return list(verify_handlers(PACKAGE, registry))


def test_agreement(handlers: Any) -> None:
    assert sentences() == []


def test_no_class_for_a_module(handlers: Any) -> None:
    registry = {name: place for name, place in REGISTRY.items() if name != "first"}
    assert sentences(registry) == [
        "command 'first' has no handler: the schema module 'first' has no handler class"
    ]


def test_a_class_for_no_module(handlers: Any) -> None:
    found = sentences({**REGISTRY, "third": "bound_handlers:First"})
    assert found == ["there is a handler class for the schema module 'third', which has no commands"]


@pytest.mark.parametrize("place", ["bound_handlers:Nope", "no_such_module:First", "nothing"])
def test_a_class_that_is_not_there(handlers: Any, place: str) -> None:
    (found,) = sentences({**REGISTRY, "first": place})
    assert found.startswith(f"the handler class of the schema module 'first' is not at {place}: ")


def test_a_missing_method(handlers: Any) -> None:
    handlers.First = type("First", (handlers.First.__mro__[1],), {"__module__": "bound_handlers"})
    assert sentences() == ["command 'first' has no handler: bound_handlers:First has no method 'first'"]


def test_a_method_that_is_no_coroutine(handlers: Any) -> None:
    handlers.First.first = lambda self: None
    assert sentences() == [
        "the handler of command 'first', bound_handlers:First.first, is not a coroutine function"
    ]


def test_a_handler_without_a_command(handlers: Any) -> None:
    handlers.First.extra = coroutine
    handlers.First._private = coroutine
    assert sentences() == [
        "bound_handlers:First has a public coroutine method 'extra', which is no command of 'first'"
    ]


def test_two_handlers(handlers: Any) -> None:
    handlers.First.second = coroutine
    assert "command 'second' has two handlers: the other one is in bound_handlers:First" in sentences()


def test_a_class_apart_from_its_protocol(handlers: Any) -> None:
    handlers.First = type("First", (), {"first": coroutine, "__module__": "bound_handlers"})
    assert sentences() == [
        "the handler class bound_handlers:First does not inherit from the protocol FirstCommands"
    ]


def test_a_default_that_differs(handlers: Any) -> None:
    async def take_scalars(
        self: object, *, text: str = "", number: int | None = 5, flag: bool = True
    ) -> None: ...

    handlers.Constructs.take_scalars = take_scalars
    place = "bound_handlers:Constructs.take_scalars"
    assert sentences() == [
        f"{place} has a default for 'text', which command 'take-scalars' requires or does not have",
        f"{place} has the default 5 for 'number', the schema has None",
    ]


def test_qemud_agrees_with_its_schema() -> None:
    """In a process of its own: other tests of this one make types that no schema has."""
    done = subprocess.run(
        [sys.executable, "-m", "qemud.qapi", "check", "--bindings"], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
