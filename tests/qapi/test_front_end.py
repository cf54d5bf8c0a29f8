"""What the front end makes of a schema that uses the whole language."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemud.qapi.model import (
    AlternateType,
    ArrayType,
    BuiltinType,
    Command,
    Condition,
    EnumType,
    Event,
    ObjectType,
    Schema,
)
from qemud.qapi.schema import load

TOUR = Path(__file__).parent / "schemas" / "tour.json"


@pytest.fixture(scope="module")
def tour() -> Schema:
    return load(TOUR)


def struct(schema: Schema, name: str) -> ObjectType:
    entity = schema.entities[name]
    assert isinstance(entity, ObjectType)
    return entity


def command(schema: Schema, name: str) -> Command:
    entity = schema.entities[name]
    assert isinstance(entity, Command)
    return entity


def test_modules_in_the_order_of_inclusion(tour: Schema) -> None:
    assert [module.name for module in tour.modules] == ["tour", "tour/part-two"]
    assert [module.path for module in tour.modules] == [
        str(TOUR),
        str(TOUR.parent / "tour" / "part-two.json"),
    ]
    assert [module.docs for module in tour.modules] == [
        ["= The tour\n\nSome words on it."],
        ["== Commands and events"],
    ]


def test_definitions_in_the_order_of_the_text_without_implied_types(tour: Schema) -> None:
    names = [entity.name for entity in tour.modules[0].definitions]
    assert names == [
        *("Colour", "ObjectKind", "CpuFlags", "OldStyle", "Base", "Derived"),
        *("StrOrNull", "Inner", "KindBase", "Outer"),
    ]
    assert {entity.module for entity in tour.modules[0].definitions} == {"tour"}
    assert [entity.name for entity in tour.commands()] == [
        *("do-plain", "do-boxed", "do-with-struct", "do_it", "do-list")
    ]
    assert [entity.name for entity in tour.events()] == ["DONE", "DONE_WITH", "UNDONE"]


def test_builtin_types(tour: Schema) -> None:
    builtins = {entity.name: entity.json_type for entity in tour.types() if isinstance(entity, BuiltinType)}
    integers = ("int", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "size")
    assert builtins == {
        "str": "string",
        "number": "number",
        "bool": "boolean",
        "null": "null",
        "any": "value",
    } | dict.fromkeys(integers, "int")
    for name in builtins:
        array = tour.entities[f"{name}List"]
        assert isinstance(array, ArrayType)
        assert array.element is tour.entities[name]
    qtype = tour.entities["QType"]
    assert isinstance(qtype, EnumType)
    assert [member.name for member in qtype.members][:3] == ["none", "qnull", "qnum"]


def test_enum(tour: Schema) -> None:
    colour = tour.entities["Colour"]
    assert isinstance(colour, EnumType)
    assert colour.prefix == "COL"
    assert [member.name for member in colour.members] == ["red", "2nd", "__org.example_x-old"]
    assert [feature.name for feature in colour.members[2].features] == ["deprecated"]
    assert colour.features[0].condition == Condition("name", "CONFIG_C")
    both = Condition("all", operands=(Condition("name", "CONFIG_A"), Condition("name", "CONFIG_B")))
    assert colour.condition == both
    assert colour.info is not None
    assert colour.info.line == 41


@pytest.mark.parametrize(
    ("defined", "holds"),
    [((), True), (("CONFIG_A",), True), (("CONFIG_B",), False), (("CONFIG_A", "CONFIG_B"), True)],
)
def test_condition(tour: Schema, defined: tuple[str, ...], holds: bool) -> None:
    colour = tour.entities["Colour"]
    assert isinstance(colour, EnumType)
    assert colour.members[1].condition.evaluate(frozenset(defined)) is holds
    assert colour.condition.evaluate(frozenset(defined)) is (len(defined) == 2)


def test_names_outside_the_rules(tour: Schema) -> None:
    kind = tour.entities["ObjectKind"]
    assert isinstance(kind, EnumType)
    assert [member.name for member in kind.members] == ["riscv.sifive.plic", "SUNW-thing_2", "none"]
    assert [member.name for member in struct(tour, "CpuFlags").members] == ["u", "has_fpu"]


def test_struct(tour: Schema) -> None:
    derived = struct(tour, "Derived")
    assert derived.base is tour.entities["Base"]
    assert derived.version == 3
    assert struct(tour, "Base").version is None
    assert [member.name for member in derived.members[:3]] == ["name", "list-of", "self-link"]
    assert derived.members[2:] == derived.local_members
    assert derived.members[2].type is derived
    assert derived.members[1].type is tour.entities["intList"]
    assert [member.optional for member in derived.members[:3]] == [False, True, True]
    assert not derived.implicit


def test_defaults(tour: Schema) -> None:
    members = {member.name: member for member in struct(tour, "Derived").local_members}
    assert not members["self-link"].has_default
    defaults = {name: member.default for name, member in members.items() if member.has_default}
    assert defaults == {
        "more": 2**64 - 1,
        "colour": "red",
        "alternative": None,
        "numbers": [-128, 0, 127],
        "nothing": None,
        "half": 0.5,
        "text": "a\\b",
    }
    assert all(member.optional for member in members.values())
    assert struct(tour, "CpuFlags").members[0].default is True


def test_alternate(tour: Schema) -> None:
    alternate = tour.entities["StrOrNull"]
    assert isinstance(alternate, AlternateType)
    assert [(member.name, member.type.name) for member in alternate.alternatives] == [
        ("s", "str"),
        ("n", "null"),
    ]
    assert alternate.alternatives[1].condition == Condition("name", "CONFIG_A")


def test_union(tour: Schema) -> None:
    outer = struct(tour, "Outer")
    assert outer.variants is not None
    assert outer.variants.tag is outer.members[0]
    assert outer.local_members == ()
    assert [(branch.name, branch.type.name) for branch in outer.variants.branches] == [
        ("riscv.sifive.plic", "Inner"),
        ("none", "Base"),
        ("SUNW-thing_2", "q_empty"),
    ]
    assert outer.variants.branches[0].condition == Condition("name", "CONFIG_A")
    inner = struct(tour, "Inner")
    assert inner.base is tour.entities["q_obj_Inner-base"]
    assert inner.base.implicit
    assert inner.variants is not None
    # A branch that is not written has the condition of its value.
    colour = tour.entities["Colour"]
    assert isinstance(colour, EnumType)
    assert inner.variants.branches[1].condition == colour.members[1].condition


def test_commands(tour: Schema) -> None:
    plain = command(tour, "do-plain")
    assert plain.arguments is tour.entities["q_obj_do-plain-arg"]
    assert plain.arguments.implicit
    assert plain.arguments.condition == plain.condition == Condition("name", "CONFIG_A")
    assert [member.name for member in plain.arguments.members] == ["colour", "often"]
    assert plain.returns is tour.entities["Derived"]
    assert plain.has_feature("unstable")
    assert not plain.has_feature("deprecated")
    assert (plain.gen, plain.success_response) == (True, True)
    assert not any((plain.boxed, plain.allow_oob, plain.allow_preconfig, plain.coroutine, plain.job))
    boxed = command(tour, "do-boxed")
    assert boxed.boxed
    assert boxed.arguments is tour.entities["Outer"]
    assert isinstance(boxed.returns, ArrayType)
    assert boxed.returns.element is tour.entities["Derived"]
    assert boxed.returns.module == "tour"
    it = command(tour, "do_it")
    assert (it.gen, it.success_response, it.allow_oob, it.allow_preconfig) == (False, False, True, True)
    listing = command(tour, "do-list")
    assert (listing.coroutine, listing.job, listing.arguments) == (True, True, None)


def test_events(tour: Schema) -> None:
    events = {event.name: event for event in tour.events()}
    assert isinstance(events["DONE"], Event)
    assert events["DONE"].arguments is tour.entities["q_obj_DONE-arg"]
    assert events["DONE_WITH"].boxed
    assert events["UNDONE"].arguments is None


def test_documentation(tour: Schema) -> None:
    colour = tour.entities["Colour"].doc
    assert colour is not None
    assert colour.body == "A colour.\n\nMore of it."
    assert colour.members["2nd"] == "the second,\n    which goes on\n    for a while"
    assert colour.features == {"tasty": "can be tasted", "deprecated": "nobody wants it"}
    assert colour.since == "1.0"
    plain = tour.entities["do-plain"].doc
    assert plain is not None
    assert plain.returns == "what it did"
    assert plain.errors == "    - If it cannot, GenericError"
    assert plain.details == ['.. qmp-example::\n\n    -> { "execute": "do-plain" }']
    assert "more of it" not in str(plain)


def test_branches_that_meet_again_take_no_time(tmp_path: Path) -> None:
    """Forty unions, each with two branches to the next: 2^40 ways to the last."""
    text = "{ 'enum': 'Way', 'data': [ 'a', 'b' ] }\n{ 'struct': 'Last', 'data': {} }\n"
    for number in range(40):
        target = f"U{number + 1}x" if number < 39 else "Last"
        text += (
            f"{{ 'union': 'U{number}x', 'base': {{ 't{number}': 'Way' }}, 'discriminator': 't{number}',"
            f" 'data': {{ 'a': '{target}', 'b': '{target}' }} }}\n"
        )
    path = tmp_path / "s.json"
    path.write_text(text, encoding="utf-8")
    first = struct(load(path), "U0x")
    assert first.variants is not None
    assert first.variants.branches[1].type.name == "U1x"


def test_an_empty_file_is_an_empty_schema(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text("", encoding="utf-8")
    schema = load(path)
    assert [module.definitions for module in schema.modules] == [[]]
    assert list(schema.commands()) == []


def test_line_ends_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(b"##\r\n# @foo:\r#\r\n# Since: 1\n##\r{ 'command':\r\n 'foo' }")
    schema = load(path)
    doc = schema.entities["foo"].doc
    info = schema.entities["foo"].info
    assert doc is not None
    assert doc.since == "1"
    assert info is not None
    assert info.line == 6
