"""The syntaxes of a value: whatever it is, all give the same typed one, or all refuse it and name the member.

The words of a refusal are QEMU's for the syntax: JSON has types and text has none, so `"x"` for a boolean is an
`Invalid parameter type` here and `expects 'on' or 'off'` there.  Where the value has the right type, they are the same.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from qemud._generated.types.qdev import DeviceDriver
from qemud._generated.types.qom import ObjectType
from qemud.daemon import config, ini
from qemud.monitor.qmp.framing import parse_document
from qemud.qapi.runtime.check import parse_type
from qemud.qapi.runtime.document import read_document
from qemud.qapi.runtime.errors import QmpError
from qemud.qapi.runtime.keyval import parse_keyval_type
from qemud.qapi.runtime.qemuopts import parse
from qemud.qom.types import types
from qemud.qom.userobjects import options_from_text
from tests.config.strategies import TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

RANGES = {
    "uint8": (0, 0xFF),
    "uint32": (0, 0xFFFF_FFFF),
    "uint64": (0, (1 << 64) - 1),
    "size": (0, (1 << 64) - 1),
    "int": (-(1 << 63), (1 << 63) - 1),
}
ENUMS = ("HostMemPolicy", "QCryptoSecretFormat", "QAuthZListPolicy", "QCryptoTLSCredsEndpoint")
NUMBERS = st.one_of(
    st.integers(-300, 300),
    st.sampled_from([bound + more for pair in RANGES.values() for bound in pair for more in (-1, 0, 1)]),
)
ANY = st.one_of(NUMBERS, st.booleans(), TEXTS.filter(lambda text: not text.isspace()))
OBJECTS = sorted(each.value for each in ObjectType)
DEVICES = sorted(each.value for each in DeviceDriver)


def values(kind: str) -> st.SearchStrategy[Any]:
    """For a member of that type: right ones, and many that are not."""
    if kind in RANGES:
        return st.one_of(NUMBERS, st.sampled_from(["", "x", "1.5x"]))
    if kind == "bool":
        return st.one_of(st.booleans(), st.sampled_from(["maybe", "2", ""]))
    if kind == "str":
        return TEXTS
    return st.sampled_from(["default", "raw", "base64", "bind", "allow", "server", "sometimes", ""])


@st.composite
def given_values(draw: st.DrawFn, names: list[str], tag: str) -> dict[str, Any]:
    """A few members of one type at random, and now and then one that it has not."""
    name = draw(st.sampled_from(names))
    members = [each for each in types.properties(name) if each.type in {*RANGES, "bool", "str", *ENUMS}]
    some = st.lists(st.sampled_from(members), max_size=2, unique_by=lambda each: each.name)
    chosen = draw(some) if members else []
    made: dict[str, Any] = {tag: name, "id": "it"}
    made |= {each.name: draw(values(each.type)) for each in chosen}
    for each in types.properties(name):
        # What has to be there is there, mostly.
        if not each.optional and each.name not in made and draw(st.integers(0, 5)):
            made[each.name] = {"size": 4096, "str": "x"}.get(each.type, draw(values(each.type)))
    if not draw(st.integers(0, 7)):
        made["no-such"] = draw(ANY)
    return made


def as_text(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def as_pairs(members: dict[str, Any], tag: str) -> str:
    return ",".join(
        f"{'' if name == tag else name + '='}{as_text(value).replace(',', ',,')}"
        for name, value in members.items()
    )


def from_qmp(union: str, members: dict[str, Any]) -> Any:
    """The value as a monitor reads it: the framing has its say of large numbers, too."""
    return parse_type(union, parse_document(json.dumps(members).encode()))


def outcome(read: Callable[[], Any]) -> Struct | str:
    try:
        made = read()
    except QmpError as error:
        return str(error)
    assert isinstance(made, Struct)
    return made


def has_words_of_its_own(union: str, members: dict[str, Any]) -> bool:
    """Whether what is wrong is told differently in QEMU where values are text: types, 64-bit numbers, unknown and empty members."""
    told = str(outcome(lambda: from_qmp(union, members)))
    return (
        told.startswith(("Invalid parameter type", "Parameter 'no-such'"))
        or told.endswith(("expects uint64", "expects integer"))
        or "" in members.values()
    )


def hold_together(union: str, tag: str, members: dict[str, Any], found: dict[str, Struct | str]) -> None:
    """All are the same value, or all refuse and name a member: in the same words, unless the syntaxes have their own."""
    if any(isinstance(each, Struct) for each in found.values()):
        assert len({repr(each) for each in found.values()}) == 1, found
        return
    names = {*members, *(each.name for each in types.properties(members[tag]))}
    assert all(any(f"'{name}'" in str(each) for name in names) for each in found.values()), found
    if not has_words_of_its_own(union, members):
        assert len(set(map(str, found.values()))) == 1, found


@settings(max_examples=200, deadline=None)
@given(members=given_values(OBJECTS, "qom-type"))
def test_objects(tmp_path_factory: pytest.TempPathFactory, members: dict[str, Any]):
    folder = tmp_path_factory.getbasetemp()
    document, groups = folder / "same.json", folder / "same.cfg"
    document.write_text(json.dumps({"objects": [members]}))
    rest = "".join(f'{name} = "{as_text(value)}"\n' for name, value in members.items() if name != "id")
    groups.write_text(f'[object "it"]\n{rest}')
    ((_, from_file, _),) = ini.read(str(groups))
    assert from_file is not None

    def from_document() -> Any:
        (made,) = read_document(str(document)).typed(config.CONFIGURATION).objects
        return made

    found = {
        "QMP": outcome(lambda: from_qmp("ObjectOptions", members)),
        "k=v": outcome(lambda: options_from_text(as_pairs(members, "qom-type"), lambda _text: None)),
        "groups": outcome(lambda: options_from_text(from_file, lambda _text: None)),
        "document": outcome(from_document),
    }
    if isinstance(found["document"], str):
        found["document"] = found["document"].partition(": ")[2].replace("'objects[0].", "'")
    hold_together("ObjectOptions", "qom-type", members, found)


@settings(max_examples=150, deadline=None)
@given(members=given_values(DEVICES, "driver"))
def test_devices(members: dict[str, Any]):
    found = {
        "QMP": outcome(lambda: from_qmp("DeviceOptions", members)),
        "k=v": outcome(
            lambda: parse_keyval_type(
                "DeviceOptions", dict(parse(as_pairs(members, "driver"), implied="driver"))
            )
        ),
    }
    hold_together("DeviceOptions", "driver", members, found)
