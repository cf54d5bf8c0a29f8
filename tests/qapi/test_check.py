"""The input check's results and texts.  The texts are QEMU 10.0's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from msgspec import UNSET

from qemud.qapi.runtime.check import Checker
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.wire import encode, to_wire
from tests.qapi.generated import checker, import_generated

PACKAGE = "constructs_generated"


def types() -> Any:
    return import_generated(PACKAGE, "types.constructs")


def refusal(type_name: str, value: Any, target: str | None = None) -> str:
    check = checker(PACKAGE) if target is None else Checker(PACKAGE, target)
    with pytest.raises(GenericError) as caught:
        check.parse_type(type_name, value)
    return str(caught.value)


def arguments_refusal(command: str, value: Any) -> str:
    with pytest.raises(GenericError) as caught:
        checker(PACKAGE).parse_arguments(command, value)
    return str(caught.value)


FLAT = {"kind": "a", "value": 1}


@pytest.mark.parametrize(
    ("type_name", "value", "text"),
    [
        # One of each type, with the words that QEMU has for it.
        ("Scalars", {"str": 1}, "Invalid parameter type for 'str', expected: string"),
        ("Scalars", {"str": None}, "Invalid parameter type for 'str', expected: string"),
        ("Scalars", {"int": "1"}, "Invalid parameter type for 'int', expected: integer"),
        ("Scalars", {"int": 1.0}, "Invalid parameter type for 'int', expected: integer"),
        ("Scalars", {"int": True}, "Invalid parameter type for 'int', expected: integer"),
        ("Scalars", {"int": 1 << 63}, "Invalid parameter type for 'int', expected: integer"),
        ("Scalars", {"int8": 128}, "Parameter 'int8' expects int8_t"),
        ("Scalars", {"int8": -129}, "Parameter 'int8' expects int8_t"),
        ("Scalars", {"int8": 1 << 63}, "Invalid parameter type for 'int8', expected: integer"),
        ("Scalars", {"int32": "x"}, "Invalid parameter type for 'int32', expected: integer"),
        ("Scalars", {"uint8": 256}, "Parameter 'uint8' expects uint8_t"),
        ("Scalars", {"uint8": -1}, "Parameter 'uint8' expects uint8_t"),
        ("Scalars", {"uint16": 65536}, "Parameter 'uint16' expects uint16_t"),
        ("Scalars", {"uint32": 1 << 32}, "Parameter 'uint32' expects uint32_t"),
        ("Scalars", {"uint32": "x"}, "Parameter 'uint32' expects uint64"),
        ("Scalars", {"uint64": 1.0}, "Parameter 'uint64' expects uint64"),
        ("Scalars", {"uint64": -1}, "Parameter 'uint64' expects uint64"),
        ("Scalars", {"size": "1M"}, "Parameter 'size' expects uint64"),
        ("Scalars", {"size": -1}, "Parameter 'size' expects uint64"),
        ("Scalars", {"number": "1"}, "Invalid parameter type for 'number', expected: number"),
        ("Scalars", {"number": False}, "Invalid parameter type for 'number', expected: number"),
        ("Scalars", {"bool": 1}, "Invalid parameter type for 'bool', expected: boolean"),
        ("Scalars", {"null": 0}, "Invalid parameter type for 'null', expected: null"),
        ("Scalars", {"plain": "ON"}, "Parameter 'plain' does not accept value 'ON'"),
        ("Scalars", {"plain": 1}, "Invalid parameter type for 'plain', expected: string"),
        ("Scalars", {"qtype": "nope"}, "Parameter 'qtype' does not accept value 'nope'"),
        # Whole values.
        ("Scalars", [], "Invalid parameter type for '<anonymous>', expected: object"),
        ("[int]", 1, "Invalid parameter type for '<anonymous>', expected: array"),
        ("[int]", ["x"], "Invalid parameter type for '[0]', expected: integer"),
        # Paths; texts about values have the last name only.
        (
            "CapitalsInside",
            {"nested": {"int": "x"}},
            "Invalid parameter type for 'nested.int', expected: integer",
        ),
        ("CapitalsInside", {"nested": {"int8": 128}}, "Parameter 'int8' expects int8_t"),
        ("CapitalsInside", {"nested": {"size": -1}}, "Parameter 'nested.size' expects uint64"),
        ("CapitalsInside", {"nested": {"x": 1}}, "Parameter 'nested.x' is unexpected"),
        ("CapitalsInside", {"nested": {"plain": "x"}}, "Parameter 'plain' does not accept value 'x'"),
        ("Lists", {"strs": "x"}, "Invalid parameter type for 'strs', expected: array"),
        ("Lists", {"strs": ["a", 1]}, "Invalid parameter type for 'strs[1]', expected: string"),
        ("Lists", {"u8s": [1, 256]}, "Parameter 'null' expects uint8_t"),
        ("Lists", {"plains": ["on", "nope"]}, "Parameter 'null' does not accept value 'nope'"),
        ("Lists", {"structs": [{}]}, "Parameter 'structs[0].value' is missing"),
        ("Lists", {"alternates": ["a", 1]}, "Invalid parameter type for 'null', expected: StrOrNull"),
        (
            "Leafy",
            {"value": 1, "next": {"value": 2, "next": {"value": 3, "y": 0}}},
            "Parameter 'next.next.y' is unexpected",
        ),
        # Order: members as in the schema, a base's first, then what is left over.
        ("Derived", {"x": 1, "size": "x"}, "Parameter 'name' is missing"),
        ("Derived", {"x": 1, "size": "x", "name": "n"}, "Parameter 'size' expects uint64"),
        ("Derived", {"y": 1, "x": 1, "size": 0, "name": "n"}, "Parameter 'y' is unexpected"),
        ("Required", {}, "Parameter 'class' is missing"),
        # Unions: common members, the tag among them, then the branch.
        ("Flat", {}, "Parameter 'kind' is missing"),
        ("Flat", {"kind": 1}, "Invalid parameter type for 'kind', expected: string"),
        ("Flat", {"kind": "nope", "x": 1}, "Parameter 'kind' does not accept value 'nope'"),
        ("Flat", {"kind": "nope", "common": 1}, "Invalid parameter type for 'common', expected: string"),
        ("Flat", {"kind": "a"}, "Parameter 'value' is missing"),
        ("Flat", {"kind": "bare", "value": 1}, "Parameter 'value' is unexpected"),
        ("Flat", {"kind": "b-c", "name": "n", "list": ["x"]}, "Parameter 'null' does not accept value 'x'"),
        ("OnlyOne", {"value": 1}, "Parameter 'kind' is missing"),
        ("Outer", {"outer": "on"}, "Parameter 'inner-kind' is missing"),
        ("Outer", {"outer": "on", "inner-kind": "a"}, "Parameter 'value' is missing"),
        ("Outer", {"outer": "on", "inner-kind": "bare", "value": 1}, "Parameter 'value' is unexpected"),
        ("Lists", {"unions": [FLAT, {"kind": "b-c"}]}, "Parameter 'unions[1].name' is missing"),
        # Alternates.
        ("Chosen", {"must": 1}, "Invalid parameter type for 'must', expected: StrOrNull"),
        ("Chosen", {"must": "", "all": 256}, "Parameter 'all' expects uint8_t"),
        ("Chosen", {"must": "", "all": "x"}, "Parameter 'all' does not accept value 'x'"),
        ("Chosen", {"must": "", "all": True}, "Invalid parameter type for 'all', expected: Everything"),
        ("Chosen", {"must": "", "all": {}}, "Parameter 'all.value' is missing"),
        ("Chosen", {"must": "", "all": [1]}, "Invalid parameter type for 'all[0]', expected: string"),
        ("Chosen", {"must": "", "union": {"kind": "x"}}, "Parameter 'kind' does not accept value 'x'"),
    ],
)
def test_refusals(type_name: str, value: Any, text: str) -> None:
    assert refusal(type_name, value) == text


def test_structs_hold_what_the_wire_had() -> None:
    value = {
        "class": "c",
        "u8": 255,
        "i16": -1,
        "number": 2,
        "null": None,
        "any": {"x": [1]},
        "colour": "2-tone",
    }
    made = checker(PACKAGE).parse_type("Required", value)
    assert made.class_ == "c"
    assert made.number == 2.0
    assert isinstance(made.number, float)
    assert made.any == {"x": [1]}
    assert made.colour is types().Colour._2_TONE
    assert to_wire(made) == value


def test_absent_null_and_default_are_three_things() -> None:
    check = checker(PACKAGE)
    empty = check.parse_type("Scalars", {})
    assert empty.str is None
    assert empty.any is UNSET
    assert empty.null is UNSET
    assert to_wire(empty) == {}
    assert to_wire(check.parse_type("Scalars", {"any": None, "null": None})) == {"any": None, "null": None}
    defaults = check.parse_type("Defaults", {})
    assert defaults == types().Defaults()
    assert defaults.choice is None
    assert defaults.far is import_generated(PACKAGE, "types.first").FirstEnum.TWO
    assert to_wire(defaults) == {
        "count": 7,
        "ratio": 1.0,
        "on": True,
        "name": 'a "quoted" \\ name',
        "plain": "auto",
        "plains": ["on", "off"],
        "empty": [],
        "choice": None,
        "far": "two",
    }
    # A default is made anew: one instance's list is not another's.
    defaults.plains.clear()
    assert len(types().Defaults().plains) == 2


def test_unions_are_classes() -> None:
    check = checker(PACKAGE)
    made = check.parse_type("Flat", {"kind": "b-c", "name": "n", "common": "x"})
    kinds = types()
    assert isinstance(made, kinds.Flat)
    assert type(made) is kinds.FlatBC
    assert made.kind is kinds.FlatKind.B_C
    assert (made.name, made.common, made.list) == ("n", "x", None)
    assert to_wire(made) == {"kind": "b-c", "name": "n", "common": "x"}
    assert type(check.parse_type("Device", {"driver": "riscv.plic"})) is kinds.DeviceRiscvPlic
    assert type(check.parse_type("Device", {"driver": "Upper", "id": "x"})) is kinds.DeviceUpper


def test_unions_in_unions() -> None:
    check = checker(PACKAGE)
    kinds = types()
    made = check.parse_type("Outer", {"outer": "on", "inner-kind": "a", "value": 5})
    assert type(made) is kinds.OuterOnA
    assert isinstance(made, kinds.OuterOn)
    assert isinstance(made, kinds.Outer)
    assert made.outer is kinds.Plain.ON
    assert made.inner_kind is kinds.FlatKind.A
    assert to_wire(made) == {"outer": "on", "inner-kind": "a", "value": 5}
    assert to_wire(kinds.OuterOnOther(outer_note="n"))["inner-kind"] == "other"


def test_state_structs_have_a_version() -> None:
    assert types().CounterState.__state_version__ == 3
    assert to_wire(types().CounterState(count=1, history=[2])) == {"count": 1, "history": [2]}


def test_conditions_follow_the_target() -> None:
    check = Checker(PACKAGE)
    assert check.parse_type("Conditional", {"here": "x", "colour": "only-riscv"}).here == "x"
    assert refusal("Conditional", {"elsewhere": "x"}) == "Parameter 'elsewhere' is unexpected"
    assert refusal("Conditional", {"colour": "never"}) == "Parameter 'colour' does not accept value 'never'"
    assert check.available(check.commands["riscv-only"])
    assert not check.available(check.commands["arm-only"])
    check.use_target("arm", frozenset({"TARGET_ARM"}))
    assert check.parse_type("Conditional", {"elsewhere": "x"}).elsewhere == "x"
    with pytest.raises(GenericError, match="Parameter 'here' is unexpected"):
        check.parse_type("Conditional", {"here": "x"})
    assert check.available(check.commands["arm-only"])
    assert not check.available(check.commands["riscv-only"])


def test_arguments_are_complete() -> None:
    check = checker(PACKAGE)
    assert check.parse_arguments("take-scalars", {"text": "t"}) == {"text": "t", "number": None, "flag": True}
    assert check.parse_arguments("simple", {}) == {}
    assert check.parse_arguments("start-work", {"class": "c"}) == {"class_": "c"}
    fast = check.parse_arguments("take-fast", {})
    assert fast["maybe_null"] is UNSET
    assert fast["default"] is types().Plain.ON
    assert check.parse_arguments("take-fast", {"maybe-null": None})["maybe_null"] is None
    assert check.parse_arguments("named-arguments", {"name": "n", "size": 1})["note"] is None
    boxed = check.parse_arguments("boxed-struct", {"name": "n", "size": 1})
    assert boxed == types().Derived(name="n", size=1)
    assert check.parse_arguments("unchecked", {"x": 1}) == {"arguments": {"x": 1}}


def test_arguments_refused() -> None:
    assert arguments_refusal("simple", {"x": 1}) == "Parameter 'x' is unexpected"
    assert arguments_refusal("take-scalars", {}) == "Parameter 'text' is missing"
    assert arguments_refusal("take-scalars", {"text": "t", "number": None}) == (
        "Invalid parameter type for 'number', expected: integer"
    )
    assert arguments_refusal("boxed-struct", {}) == "Parameter 'name' is missing"


@pytest.mark.parametrize("levels", [500, 1000, 20000])
def test_depth_is_no_crash(levels: int) -> None:
    value: dict[str, Any] = {"value": 0}
    for _ in range(levels):
        value = {"value": 0, "next": value}
    check = checker(PACKAGE)
    for name, nested in (("Leafy", value), ("OnlyOne", {"kind": "one", **value})):
        with suppress(GenericError):
            check.parse_type(name, nested)


def test_lone_surrogates_do_not_break_the_encoder() -> None:
    """File names that are no UTF-8 come from command lines."""
    check = checker(PACKAGE)
    name = b"/tmp/\xff".decode("utf-8", "surrogateescape")
    made = check.parse_type("Derived", {"name": name, "size": 0})
    assert made.name == name
    assert encode({"x": [made]}) == '{"x":[{"name":"/tmp/\ufffd","size":0}]}'.encode()


def test_modules_may_name_each_other_in_a_circle() -> None:
    check = checker(PACKAGE)
    made = check.parse_arguments("first", {"union": {"tag": "x", "in-first": 1}, "choice": {"which": "one"}})
    assert made["union"].in_first == 1
    assert made["choice"].which.value == "one"
    second = check.parse_arguments("second", {"tag": "one", "in-second": "s"})
    assert type(second).__name__ == "SecondUnionOne"


def test_importing_one_module_imports_no_other() -> None:
    """Types are made when they are needed, a schema module at a time."""
    program = (
        "import sys\n"
        "from qemud.qapi.runtime.check import parse_arguments\n"
        "from qemud._generated.table import COMMANDS\n"
        "parse_arguments('qom-list', {'path': '/'})\n"
        "assert not [name for name in sys.modules if name.startswith('qemud._generated.types')], 'types'\n"
        "assert not {'jsonschema', 'asyncio', 'qemud.qapi.model', 'qemud.qapi.runtime.keyval'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_handlers_must_be_complete() -> None:
    """A handler class that lacks a command cannot be made."""
    protocol: Any = import_generated(PACKAGE, "commands.first").FirstCommands

    class Incomplete(protocol):  # type: ignore[misc]  # a class made at run time
        pass

    class Complete(protocol):  # type: ignore[misc]
        async def first(self, *, union: Any, choice: Any) -> Any:
            return (union, choice)

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()
    arguments = checker(PACKAGE).parse_arguments("first", {})
    assert asyncio.run(Complete().first(**arguments)) == (None, None)


def test_events() -> None:
    events = import_generated(PACKAGE, "events.constructs")
    kinds = types()
    seen: list[Any] = []

    def emit(name: str, data: dict[str, Any] | None) -> None:
        seen.append((name, data))

    events.bare_event(emit)
    events.data_event(emit, count=1)
    events.data_event(emit, count=2, plain=kinds.Plain.ON, leaf=kinds.Leafy(value=3), text=None)
    events.boxed_event(emit, kinds.FlatA(value=1))
    expected: list[Any] = [
        ("BARE_EVENT", None),
        ("DATA_EVENT", {"count": 1}),
        ("DATA_EVENT", {"count": 2, "plain": "on", "leaf": {"value": 3}, "text": None}),
        ("BOXED_EVENT", {"kind": "a", "value": 1}),
    ]
    assert seen == expected
