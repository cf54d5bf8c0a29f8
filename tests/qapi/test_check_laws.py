"""The law of the input check: the fast way accepts only what the exact way accepts, and JSON Schema agrees with it."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from qemud.qapi.generate.json_schema import json_schema, schema_of
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.wire import encode, to_wire
from qemud.qapi.targets import TARGETS
from tests.qapi.generated import SCHEMAS, Values, anything, checker, damaged, schema

TARGET = "riscv64"
PACKAGES = sorted(SCHEMAS)

# JSON text tells 1 from 1.0, and booleans are no numbers.
Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: type(value) is int
    ).redefine("number", lambda _, value: type(value) in (int, float)),
)

relaxed = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@cache
def document(package: str) -> dict[str, Any]:
    return json_schema(schema(package), TARGETS[TARGET], "test")


@cache
def validator(package: str, kind: str, name: str) -> Any:
    parts = document(package)
    part = parts["commands"][name]["arguments"] if kind == "command" else {"$ref": f"#/$defs/{name}"}
    return Validator(schema_of(parts, part))


@cache
def values(package: str) -> Values:
    del package
    return Values(TARGETS[TARGET])


@cache
def checked_commands(package: str) -> list[str]:
    """Commands of the target whose arguments are checked."""
    return [
        command.name
        for command in schema(package).commands()
        if command.gen and command.condition.evaluate(TARGETS[TARGET])
    ]


@cache
def type_names(package: str) -> list[str]:
    """Types that JSON Schema defines, and that have values at all."""
    return [
        name
        for name, definition in document(package)["$defs"].items()
        if definition.get("not") != {} and name != "QType"
    ]


def outcome(check: Any, *arguments: Any) -> tuple[bool, Any]:
    try:
        return True, check(*arguments)
    except GenericError as error:
        return False, str(error)


def assert_same(one: Any, other: Any) -> None:
    """Equal, and not just equal as 1, 1.0 and True are."""
    assert one == other
    assert repr(one) == repr(other)


@pytest.mark.parametrize("package", PACKAGES)
@relaxed
@given(st.data())
def test_types(package: str, data: st.DataObject) -> None:
    """For any value: fast ⊆ exact with equal results; JSON Schema = exact; what goes out comes in again."""
    check = checker(package)
    name = data.draw(st.sampled_from(type_names(package)))
    entity = schema(package).entities[name]
    value = data.draw(values(package).of(entity))  # type: ignore[arg-type]
    valid = data.draw(st.integers(0, 3)) == 0
    if not valid:
        value = data.draw(damaged(value))

    accepted, result = outcome(check.parse_exactly, name, value)
    assert accepted or not valid, result
    assert outcome(check.parse_type, name, value)[0] == accepted
    fast = check.fast(name)
    if fast is not None:
        try:
            fast_result = fast(value)
        except msgspec.ValidationError:
            pass
        else:
            assert accepted, f"the fast way takes {value!r}: {result}"
            assert_same(fast_result, result)
    assert validator(package, "type", name).is_valid(value) == accepted, (value, result)
    if accepted:
        wire = to_wire(result)
        assert validator(package, "type", name).is_valid(wire)
        assert_same(check.parse_exactly(name, wire), result)
        assert msgspec.json.decode(encode(result)) == wire


@pytest.mark.parametrize("package", PACKAGES)
@relaxed
@given(st.data())
def test_arguments(package: str, data: st.DataObject) -> None:
    """The same for the arguments of commands."""
    check = checker(package)
    name = data.draw(st.sampled_from(checked_commands(package)))
    command = schema(package).entities[name]
    value = data.draw(values(package).arguments(command))  # type: ignore[arg-type]
    valid = data.draw(st.integers(0, 3)) == 0
    if not valid:
        value = data.draw(damaged(value))
        if not isinstance(value, dict):
            value = data.draw(st.dictionaries(st.text(max_size=3), anything, max_size=2))
    accepted, result = outcome(check.parse_arguments, name, value)
    exactly, exact_result = outcome(check.parse_arguments_exactly, name, value)
    assert accepted == exactly
    assert_same(result, exact_result)
    assert accepted or not valid, result
    assert validator(package, "command", name).is_valid(value) == accepted, (value, result)


@pytest.mark.parametrize("package", PACKAGES)
def test_documents_are_json_schema(package: str) -> None:
    parts = document(package)
    everything = dict(parts["$defs"])
    for kind, keys in (("commands", ("arguments", "returns")), ("events", ("data",))):
        for name, element in parts[kind].items():
            everything |= {f"{name} {key}": element[key] for key in keys}
    Draft202012Validator.check_schema({"$schema": parts["$schema"], "$defs": everything})


def test_the_fast_way_is_used() -> None:
    """Most types can be trusted to msgspec; the law would hold trivially if none were."""
    for package in PACKAGES:
        names = type_names(package)
        fast = [name for name in names if checker(package).fast(name) is not None]
        assert len(fast) > len(names) / 2
