"""Wire names as Python names."""

from __future__ import annotations

import enum
import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.qapi import names

WIRE_NAMES = st.from_regex(r"(__[a-z0-9.-]+_)?[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True)


@pytest.mark.parametrize(
    ("wire", "python"),
    [
        ("chardev-add", "chardev_add"),
        ("riscv.sifive.plic", "riscv_sifive_plic"),
        ("from", "from_"),
        ("from_", "from__"),
        ("None", "None_"),
        ("match", "match"),
        ("self", "self_"),
        ("1st", "_1st"),
        ("__org.example_x-name", "org_example_x_name"),
    ],
)
def test_python_name(wire: str, python: str) -> None:
    assert names.python_name(wire) == python


@pytest.mark.parametrize(
    ("wire", "python"),
    [("guest-reset", "GUEST_RESET"), ("1-bit", "_1_BIT"), ("none", "NONE"), ("1-", "V_1_")],
)
def test_constant_name(wire: str, python: str) -> None:
    assert names.constant_name(wire) == python


def test_camel_case() -> None:
    assert names.camel_case("virtio-rng-device") == "VirtioRngDevice"
    assert names.camel_case("riscv.sifive.plic") == "RiscvSifivePlic"
    assert names.camel_case("SUNW_thing") == "SUNWThing"


def test_event_function_name() -> None:
    assert names.event_function_name("DEVICE_DELETED") == "device_deleted"


@given(WIRE_NAMES)
def test_every_name_can_be_used(wire: str) -> None:
    name = names.python_name(wire)
    namespace: dict[str, object] = {}
    exec(f"class C:\n    def method(self, *, {name}: int = 0): return {name}", namespace)
    exec(f"class D:\n    {names.class_name(wire)}: int = 0", namespace)
    assert names.python_name(wire) in vars(namespace["D"])
    exec(f"class E(enum.Enum):\n    {names.constant_name(wire)} = 1", {"enum": enum}, namespace)
    assert namespace["E"](1).name == names.constant_name(wire)  # type: ignore[operator]


@given(st.sampled_from(keyword.kwlist), st.integers(0, 3))
def test_a_keyword_and_its_escape_stay_apart(word: str, underscores: int) -> None:
    assert names.python_name(word + "_" * underscores) == word + "_" * (underscores + 1)
