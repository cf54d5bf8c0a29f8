"""`key=value` and scalars as text.  The texts are those of QEMU 10.0's `-blockdev`, which takes this syntax."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.qapi.runtime import scalars
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_or_help, parse_keyval_type
from tests.qapi.generated import checker

PACKAGE = "constructs_generated"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1,", {"a": "1"}),
        ("a=1,b=2", {"a": "1", "b": "2"}),
        ("a=", {"a": ""}),
        ("a=1,a=2", {"a": "2"}),
        ("a=x,,y,b=,,", {"a": "x,y", "b": ","}),
        ("a=x=y", {"a": "x=y"}),
        ("a.b.c=1,a.b.d=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        ("l.1=b,l.0=a", {"l": ["a", "b"]}),
        ("l.00=a,l.0=b", {"l": ["b"]}),
        ("l.0.x=1,l.1.y=2", {"l": [{"x": "1"}, {"y": "2"}]}),
        ("l.0.0=1", {"l": [["1"]]}),
        ("__org.x_y=1,__org.x_y_2.z=3", {"__org.x_y": "1", "__org.x_y_2": {"z": "3"}}),
        ("first", {"implied": "first"}),
        ("first,b=2", {"implied": "first", "b": "2"}),
        ("b=2", {"b": "2"}),
        ("first,implied=2", {"implied": "2"}),
        ("help=1", {"help": "1"}),
        (f"{'x' * 127}=1", {"x" * 127: "1"}),
    ],
)
def test_values(text: str, values: dict[str, Any]) -> None:
    assert parse_keyval(text, "implied") == values


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a", "Expected '=' after parameter 'a'"),
        ("a=1,b", "Expected '=' after parameter 'b'"),
        ("a.0", "Expected '=' after parameter 'a.0'"),
        ("=1", "Invalid parameter ''"),
        ("a=1,=2", "Invalid parameter ''"),
        (",", "Invalid parameter ''"),
        ("9=1", "Invalid parameter '9'"),
        ("9", "Invalid parameter '9'"),
        ("_x=1", "Invalid parameter '_x'"),
        ("__x=1", "Invalid parameter '__x'"),
        ("a.=1", "Invalid parameter 'a.'"),
        ("a..b=1", "Invalid parameter 'a..b'"),
        (".a=1", "Invalid parameter '.a'"),
        ("a b=1", "Invalid parameter 'a b'"),
        ("a.1b=1", "Invalid parameter 'a.1b'"),
        ("é=1", "Invalid parameter 'é'"),
        (f"{'x' * 128}=1", f"Parameter '{'x' * 128}' is too long"),
        (f"a.{'x' * 128}=1", f"Parameter fragment '{'x' * 128}' is too long"),
        ("a=1,a.b=2", "Parameters 'a.*' used inconsistently"),
        ("a.b=1,a=2", "Parameters 'a.*' used inconsistently"),
        ("a.b.c=1,a.b=2", "Parameters 'a.b.*' used inconsistently"),
        ("a.0=1,a.b=2", "Parameters 'a.*' used inconsistently"),
        ("a.1=1", "Parameter 'a.0' missing"),
        ("a.0=1,a.99999999999999999999=1", "Parameter 'a.1' missing"),
        ("a.b.1=1,a.b.2=2", "Parameter 'a.b.0' missing"),
        ("a=1,help", "Help is not available for this option"),
        ("?", "Help is not available for this option"),
        (f"{'.'.join('a' * 100000)}=1", "Parameters are nested too deeply"),
    ],
)
def test_errors(text: str, error: str) -> None:
    with pytest.raises(GenericError) as caught:
        parse_keyval(text)
    assert str(caught.value) == error


def test_help() -> None:
    assert parse_keyval_or_help("help") == ({}, True)
    assert parse_keyval_or_help("virt,?,a=1", "type") == ({"type": "virt", "a": "1"}, True)
    assert parse_keyval_or_help("helpful", "type") == ({"type": "helpful"}, False)


keys = st.from_regex(r"[a-z]([a-z0-9-]{0,3})(\.([a-z][a-z0-9]?|[01])){0,3}", fullmatch=True)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="ab01=,._?é ", max_size=24))
def test_any_text_is_values_or_an_error(text: str) -> None:
    for implied in (None, "implied"):
        with suppress(GenericError):
            parse_keyval_or_help(text, implied)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(keys.map(lambda key: key.partition(".")[0]), st.text(max_size=6), max_size=4))
def test_flat_values_round_trip(values: dict[str, str]) -> None:
    text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in values.items())
    assert parse_keyval(text) == values


def typed(type_name: str, text: str, **keywords: Any) -> Any:
    return parse_keyval_type(type_name, parse_keyval(text), check=checker(PACKAGE), **keywords)


def test_the_same_struct_as_from_json() -> None:
    text = (
        "str=7,int=-0x10,int8=-128,uint8=010,uint16=65535,uint64=18446744073709551615,size=1.5G,number=1e3,bool=on,"
        "plain=auto"
    )
    value = {
        "str": "7",
        "int": -16,
        "int8": -128,
        "uint8": 8,
        "uint16": 65535,
        "uint64": (1 << 64) - 1,
        "size": 3 << 29,
        "number": 1000,
        "bool": True,
        "plain": "auto",
    }
    assert typed("Scalars", text) == checker(PACKAGE).parse_type("Scalars", value)
    nested = "kind=b-c,name=n,list.0=on,list.1=off"
    assert typed("Flat", nested) == checker(PACKAGE).parse_type(
        "Flat", {"kind": "b-c", "name": "n", "list": ["on", "off"]}
    )
    assert typed("Defaults", "") == checker(PACKAGE).parse_type("Defaults", {})
    assert typed("Chosen", "must=m,all.value=3,union.kind=bare") == checker(PACKAGE).parse_type(
        "Chosen", {"must": "m", "all": {"value": 3}, "union": {"kind": "bare"}}
    )


def test_values_that_are_typed_already() -> None:
    """`-global` sets one property, from text, beside others that have their types."""
    made = parse_keyval_type(
        "Scalars", {"int": 5, "bool": True, "size": "1k", "number": 2}, check=checker(PACKAGE)
    )
    assert (made.int, made.bool, made.size, made.number) == (5, True, 1024, 2.0)


@pytest.mark.parametrize(
    ("type_name", "text", "error"),
    [
        ("Scalars", "int=x", "Parameter 'int' expects integer"),
        ("Scalars", "int=9223372036854775808", "Parameter 'int' expects integer"),
        ("Scalars", "int=08", "Parameter 'int' expects integer"),
        ("Scalars", "int=1_0", "Parameter 'int' expects integer"),
        ("Scalars", "int=5 ", "Parameter 'int' expects integer"),
        ("Scalars", "int=0x", "Parameter 'int' expects integer"),
        ("Scalars", "int=", "Parameter 'int' expects integer"),
        ("Scalars", "int8=128", "Parameter 'int8' expects int8_t"),
        ("Scalars", "uint8=300", "Parameter 'uint8' expects uint8_t"),
        ("Scalars", "uint8=-1", "Parameter 'uint8' expects uint8_t"),
        ("Scalars", "uint8=18446744073709551615", "Parameter 'uint8' expects uint8_t"),
        ("Scalars", "uint8=18446744073709551616", "Parameter 'uint8' expects integer"),
        ("Scalars", "uint64=-1", "Parameter 'uint64' expects uint64"),
        ("Scalars", "size=1Q", "Parameter 'size' expects a size value"),
        ("Scalars", "size=-1", "Parameter 'size' expects a size value"),
        ("Scalars", "bool=maybe", "Parameter 'bool' expects 'on' or 'off'"),
        ("Scalars", "bool=1", "Parameter 'bool' expects 'on' or 'off'"),
        ("Scalars", "number=x", "Invalid parameter type for 'number', expected: number"),
        ("Scalars", "plain=ON", "Parameter 'plain' does not accept value 'ON'"),
        ("Scalars", "null=", "Invalid parameter type for 'null', expected: null"),
        ("Scalars", "foo=1", "Parameter 'foo' is unexpected"),
        ("Scalars", "foo.bar=1", "Parameter 'foo' is unexpected"),
        ("Scalars", "str.x=1", "Parameters 'str.*' are unexpected"),
        ("Scalars", "int.0=1", "Parameters 'int.*' are unexpected"),
        ("Scalars", "plain.x=1", "Parameters 'plain.*' are unexpected"),
        ("CapitalsInside", "nested.int=x", "Parameter 'nested.int' expects integer"),
        ("CapitalsInside", "nested=x", "Invalid parameter type for 'nested', expected: object"),
        ("Lists", "ints.0=1,ints.1=x", "Parameter 'ints.1' expects integer"),
        ("Lists", "structs.0.value=1,structs.1.next=2", "Parameter 'structs.1.value' is missing"),
        ("Lists", "strs=x", "Invalid parameter type for 'strs', expected: array"),
        ("Chosen", "must=m,number=1", "Invalid parameter type for 'number', expected: NumberOrBool"),
    ],
)
def test_type_errors(type_name: str, text: str, error: str) -> None:
    with pytest.raises(GenericError) as caught:
        typed(type_name, text)
    assert str(caught.value) == error


def test_where_the_values_belong() -> None:
    with pytest.raises(GenericError, match=r"^Parameter 'smp\.int' expects integer$"):
        typed("Scalars", "int=x", where="smp")
    with pytest.raises(GenericError, match=r"^Parameter 'smp\.x' is unexpected$"):
        typed("Scalars", "x=1", where="smp")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1", 1),
        ("12B", 12),
        ("1k", 1024),
        ("1K", 1024),
        ("1M", 1 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("1P", 1 << 50),
        ("1E", 1 << 60),
        ("0x10", 16),
        ("0x1b", 27),
        ("0xE", 14),
        ("08", 8),
        ("1.5k", 1536),
        ("1.k", 1024),
        (".5M", 1 << 19),
        ("0.0000000001k", 0),
        ("0.0005k", 1),
        ("1.0", 1),
        ("18446744073709551615", (1 << 64) - 1),
        (" 5", 5),
        ("+5", 5),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert scalars.parse_size(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k",
        ".",
        "x",
        "-1",
        "-0",
        "1Q",
        "1.5",
        "1.5B",
        "0x10k",
        "0x1.8",
        "0x",
        "16E",
        "18446744073709551616",
        "1e3",
        "1_0",
        "5 ",
        "1kk",
        "١",
        "inf",
        "1.-5k",
        "--1",
        "+ 1",
        "+",
    ],
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="a size value"):
        scalars.parse_size(text)


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1.0), ("-1.5", -1.5), ("1e3", 1000.0), ("0x10", 16.0), (" 1", 1.0), (".5", 0.5)]
)
def test_numbers(text: str, value: float) -> None:
    assert scalars.parse_number(text) == value


@pytest.mark.parametrize(
    "text", ["", "x", "1 ", "1_0", "inf", "nan", "infinity", "1e999", "0x", "1e", "١", "0x1p99999"]
)
def test_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        scalars.parse_number(text)
