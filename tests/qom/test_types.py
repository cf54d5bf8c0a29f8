"""What clients learn of types: lists and properties, from data alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from qemud._generated.types.qdev import LoaderOptions
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError
from qemud.qapi.runtime.fields import UNSET
from qemud.qom import properties
from qemud.qom import types as registry_module
from qemud.qom.device import Device
from qemud.qom.properties import Property
from qemud.qom.types import Registry, TypeEntry, types, verify_bindings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.qom.machines import Services


@pytest.fixture
def _no_test_types() -> Iterator[None]:
    """Take the types of these tests out of the registry for a while."""
    kept = {entry.name: types.find(entry.name) for entry in types if entry.name.startswith("test-")}
    for name in kept:
        types.unbind(name)
    yield
    for cls in kept.values():
        assert cls is not None
        types.bind(cls)


def names(services: Services, **arguments: object) -> set[str]:
    return {info.name for info in asyncio.run(services.qom.qom_list_types(**arguments))}  # type: ignore[arg-type]


def test_lists_of_types(services: Services) -> None:
    everything = names(services)
    assert {"container", "loader", "serial-mm", "secret", "virtio-mmio-bus", "test-plug"} <= everything
    assert not everything & {"object", "device", "user-creatable", "memory-backend"}
    assert names(services, abstract=True) > everything
    assert names(services, implements="user-creatable") == {
        "authz-list",
        "authz-list-file",
        "authz-simple",
        "filter-buffer",
        "filter-dump",
        "filter-mirror",
        "filter-redirector",
        "iothread",
        "memory-backend-file",
        "memory-backend-memfd",
        "memory-backend-ram",
        "rng-builtin",
        "rng-random",
        "secret",
        "throttle-group",
        "tls-creds-psk",
        "tls-creds-x509",
    }
    assert "memory-backend" in names(services, implements="user-creatable", abstract=True)
    assert names(services, implements="nope") == set()
    assert names(services, implements="secret") == {"secret"}
    assert "serial-mm" in names(services, implements="sys-bus-device")
    assert "loader" not in names(services, implements="sys-bus-device")

    listed = {info.name: info for info in asyncio.run(services.qom.qom_list_types(abstract=True))}
    assert (listed["device"].parent, listed["device"].abstract) == ("object", True)
    assert (listed["loader"].parent, listed["loader"].abstract) == ("device", None)
    assert (listed["object"].parent, listed["object"].abstract) == (None, True)


@pytest.mark.parametrize(
    ("typename", "error", "text"),
    [
        ("nope", DeviceNotFound, "Device 'nope' not found"),
        ("memory-backend-ram", GenericError, "Parameter 'typename' expects a non-abstract device type"),
        ("device", GenericError, "Parameter 'typename' expects a non-abstract device type"),
        ("user-creatable", GenericError, "Parameter 'typename' expects a non-abstract device type"),
    ],
)
def test_no_properties_of_what_is_no_device(
    services: Services, typename: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        asyncio.run(services.qdev.device_list_properties(typename=typename))
    assert str(caught.value) == text


def test_properties_of_devices(services: Services) -> None:
    found = {info.name: info for info in asyncio.run(services.qdev.device_list_properties(typename="loader"))}
    assert found.keys() == {"addr", "data", "data-len", "data-be", "cpu-num", "force-raw", "file"}
    assert (found["addr"].type, found["addr"].default_value) == ("uint64", 0)
    assert (found["data-be"].type, found["data-be"].default_value) == ("bool", False)
    assert (found["file"].type, found["file"].default_value) == ("str", UNSET)
    assert found["file"].description
    linked = asyncio.run(services.qdev.device_list_properties(typename="test-linked-plug"))
    assert {info.name: info.type for info in linked}["file"] == "link<memory-backend>"


def test_properties_of_other_types(services: Services) -> None:
    def of(typename: str) -> dict[str, str]:
        return {
            info.name: info.type for info in asyncio.run(services.qom.qom_list_properties(typename=typename))
        }

    assert of("object") == {"type": "string"}
    assert of("memory-backend-ram") == {
        "type": "string",
        "dump": "bool",
        "host-nodes": "uint16List",
        "merge": "bool",
        "policy": "HostMemPolicy",
        "prealloc": "bool",
        "share": "bool",
        "size": "int",
    }
    assert of("secret")["data"] == "string"
    assert {"realized", "hotpluggable", "hotplugged", "parent_bus", "addr"} <= of("loader").keys()
    with pytest.raises(DeviceNotFound, match="Class 'nope' not found"):
        of("nope")
    with pytest.raises(GenericError, match="Parameter 'typename' expects a QOM type"):
        of("user-creatable")


def test_questions_about_types_import_no_device() -> None:
    program = """
import asyncio, sys
from qemud.qom.commands import QdevHandlers, QomHandlers
async def main():
    for info in await QomHandlers(None).qom_list_types():
        await QomHandlers(None).qom_list_properties(typename=info.name)
    await QdevHandlers(None).device_list_properties(typename="loader")
asyncio.run(main())
heavy = ("qemud.hw.", "qemud.accel.unicorn", "unicorn", "qemud.machine.memory", "qemud.chardev.")
data = ("qom_types", "hw.versions", "hw.virtio", "hw.virtio.functions")
print([name for name in sys.modules if name.startswith(heavy) and not name.endswith(data)])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
    assert done.stderr == ""


@pytest.mark.usefixtures("_no_test_types")
def test_lists_classes_and_schema_agree() -> None:
    assert verify_bindings() == []


class Odd(Device, type_name="test-odd", options=LoaderOptions, user_creatable=True):
    """What the next test's wrong entries are about."""


HERE = f"{__name__}:Odd"


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            TypeEntry("test-odd", "object", HERE, options="LoaderOptions", user_creatable=True),
            "type 'test-odd' is listed with parent 'object', its class has 'device'",
        ),
        (
            TypeEntry("test-odd", "nope", HERE, options="LoaderOptions", user_creatable=True),
            "type 'test-odd' has the parent 'nope', which is no type",
        ),
        (
            TypeEntry("test-odd", "device", HERE, options="Nope", user_creatable=True),
            "type 'test-odd' is bound to 'Nope', which the schema does not define",
        ),
        (
            TypeEntry("test-odd", "device", HERE, options="SecretProperties", user_creatable=True),
            "type 'test-odd' is listed with options 'SecretProperties', its class has 'LoaderOptions'",
        ),
        (
            TypeEntry("test-odd", "device", "qemud.qom.nowhere:Odd", options="LoaderOptions"),
            "type 'test-odd' has no class at qemud.qom.nowhere:Odd: No module named 'qemud.qom.nowhere'",
        ),
        (
            TypeEntry("test-odd", "device", "qemud.qom.device:Device", options="LoaderOptions"),
            "type 'test-odd' is listed at qemud.qom.device:Device, whose type is 'device'",
        ),
        (
            TypeEntry("test-odd", "device", HERE, options="LoaderOptions", links=(("nope", "device"),)),
            "type 'test-odd' has a link 'nope', which is no property of it",
        ),
        (
            TypeEntry("test-odd", "device", HERE, options="LoaderOptions", interfaces=("nope",)),
            "type 'test-odd' implements 'nope', which is no type",
        ),
        (
            TypeEntry("test-odd", "device", HERE, options="LoaderOptions", user_creatable=True),
            "type 'test-odd' can be made by users, but 'DeviceOptions' has no such driver",
        ),
    ],
)
def test_disagreements_become_sentences(
    monkeypatch: pytest.MonkeyPatch, entry: TypeEntry, sentence: str
) -> None:
    registry = Registry()
    monkeypatch.setattr(registry, "_listed", {each.name: each for each in types if "test-" not in each.name})
    registry._listed["test-odd"] = entry  # type: ignore[index]
    assert sentence in verify_bindings(registry)


@pytest.mark.usefixtures("_no_test_types")
def test_a_type_missing_from_the_schema_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    listed = {each.name: each for each in types if each.name not in {"loader", "secret"}}
    monkeypatch.setattr(registry, "_listed", listed)
    found = verify_bindings(registry)
    assert "'DeviceOptions' has the driver 'loader', which is no type that users can make" in found
    assert "'ObjectOptions' has the qom-type 'secret', which is no type that users can make" in found


def test_a_type_listed_twice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(("qemud.qom", "qemud.qom"))
    with pytest.raises(GenericError, match="type 'object' is listed twice"):
        registry.entry("object")
    assert registry_module.types.entry("nope") is None


def test_names_of_types_in_properties() -> None:
    assert Property("x", "uint16[]").qom_type(device=True) == "list"
    assert Property("x", "size").qom_type(device=True) == "size"
    assert Property("x", "str", link="device").qom_type(device=False) == "link<device>"
    assert properties.of_struct("") == ()
    with pytest.raises(LookupError):
        properties.of_struct("Nope")
