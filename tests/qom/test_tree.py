"""Paths, properties and links, as clients see them; partial paths against a model that knows nothing of walking."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.qapi.runtime.errors import DeviceNotFound, GenericError, QmpError
from qemud.qom.object import Container, Object
from qemud.qom.properties import Provenance
from qemud.qom.tree import AmbiguousPathError, Tree, resolve

if TYPE_CHECKING:
    from tests.qom.machines import Services

NAMES = st.sampled_from(["a", "b", "c", "d[0]"])
PATHS = st.lists(NAMES, max_size=4)


def listing(services: Services, path: str) -> dict[str, str]:
    return {info.name: info.type for info in asyncio.run(services.qom.qom_list(path=path))}


def get(services: Services, path: str, name: str) -> Any:
    return asyncio.run(services.qom.qom_get(path=path, property=name))


@given(st.lists(PATHS, max_size=12), PATHS, st.booleans())
def test_paths_resolve_as_counting_says(places: list[list[str]], wanted: list[str], absolute: bool) -> None:
    tree = Tree()
    known: dict[tuple[str, ...], Object] = {}
    for node in tree.root.walk():
        known[tuple(part for part in node.path.split("/") if part)] = node
    for place in places:
        at: Object = tree.root
        for depth, name in enumerate(place):
            here = tuple(place[: depth + 1])
            if here not in known:
                known[here] = at.add_child(name, Container())
            at = known[here]

    path = ("/" if absolute else "") + "/".join(wanted)
    parts = tuple(wanted)
    if absolute:
        fitting = [node for key, node in known.items() if key == parts]
    else:
        fitting = [node for key, node in known.items() if key[len(key) - len(parts) :] == parts]

    if len(fitting) > 1:
        with pytest.raises(AmbiguousPathError):
            resolve(tree.root, path)
        with pytest.raises(GenericError, match="is ambiguous"):
            tree.get(path)
    else:
        assert resolve(tree.root, path) is (fitting[0] if fitting else None)
    for key, node in known.items():
        assert node.path == "/" + "/".join(key)
        assert tree.get(node.path) is node


@pytest.mark.parametrize("path", ["/nope", "nope", "/machine/nope", "/machine/type", "type", "/objects/type"])
def test_what_is_not_there(services: Services, path: str) -> None:
    with pytest.raises(DeviceNotFound) as caught:
        listing(services, path)
    assert str(caught.value) == f"Device '{path}' not found"
    with pytest.raises(DeviceNotFound):
        get(services, path, "type")
    with pytest.raises(DeviceNotFound):
        asyncio.run(services.qom.qom_set(path=path, property="type", value=1))
    with pytest.raises(DeviceNotFound):
        asyncio.run(services.qom.qom_list_get(paths=["/", path]))


def test_the_root_and_the_places_below_it(services: Services) -> None:
    assert listing(services, "/") == {
        "type": "string",
        "objects": "child<container>",
        "chardevs": "child<container>",
        "machine": "child<test-machine>",
    }
    assert listing(services, "//") == listing(services, "/")
    assert listing(services, "machine") == listing(services, "/machine")
    assert listing(services, "unattached") == listing(services, "/machine/unattached")
    assert listing(services, "/machine/peripheral") == {"type": "string"}
    assert get(services, "/machine", "unattached") == "/machine/unattached"


def test_links_are_followed(services: Services) -> None:
    tree = services.tree
    assert tree.get("/machine/registers/parent_bus") is services.board.sysbus
    assert tree.get("registers/parent_bus/child[0]") is services.board.registers
    assert get(services, "registers", "parent_bus") == "/machine/unattached/sysbus"
    assert get(services, "sysbus", "child[0]") == "/machine/registers"
    assert listing(services, "sysbus")["child[0]"] == "link<test-registers>"
    assert get(services, "hub", "parent_bus") == ""


def test_old_paths_lead_to_the_same_objects(services: Services) -> None:
    tree = services.tree
    tree.add_alias("/machine/unattached/device[3]", services.board.hub)
    assert tree.get("/machine/unattached/device[3]") is services.board.hub
    assert tree.get("/machine/unattached//device[3]/hot") is services.board.hub.hot
    assert tree.find("/machine/unattached/device[3]", "bus") is None
    assert listing(services, "/machine/unattached").keys() == {"type", "sysbus"}
    with pytest.raises(DeviceNotFound):
        tree.get("/machine/unattached/device[3]/nope")
    services.board.unattached.add_child("device[3]", Container())
    assert isinstance(tree.get("/machine/unattached/device[3]"), Container)


def test_errors_of_properties(services: Services) -> None:
    for name, text in [("nope", "Property 'test-machine.nope' not found")]:
        with pytest.raises(GenericError) as caught:
            get(services, "/machine", name)
        assert str(caught.value) == text
    for name, text in [
        ("nope", "Property 'test-machine.nope' not found"),
        ("type", "Property 'test-machine.type' is not writable"),
        ("hub", "Property 'test-machine.hub' is not writable"),
    ]:
        with pytest.raises(GenericError) as caught:
            asyncio.run(services.qom.qom_set(path="/machine", property=name, value="x"))
        assert str(caught.value) == text
    with pytest.raises(GenericError) as caught:
        asyncio.run(services.qom.qom_set(path="hub", property="realized", value=False))
    assert str(caught.value) == "Property 'test-hub.realized' is not writable"


def test_a_realized_device_keeps_its_properties(services: Services) -> None:
    asyncio.run(services.qdev.device_add({"driver": "test-plug", "id": "p"}))
    asyncio.run(services.qdev.device_add({"driver": "test-plug"}))
    for path, who in [("p", "device 'p'"), ("/machine/peripheral-anon/device[0]", "anonymous device")]:
        with pytest.raises(QmpError) as caught:
            asyncio.run(services.qom.qom_set(path=path, property="addr", value=1))
        assert str(caught.value) == (
            f"Attempt to set property 'addr' on {who} (type 'test-plug') after it was realized"
        )
        assert get(services, path, "addr") == 0


def test_children_number_themselves(services: Services) -> None:
    place = services.tree.objects
    assert [place.add_child("x[*]", Container()).name for _ in range(3)] == ["x[0]", "x[1]", "x[2]"]
    place.children["x[1]"].unparent()
    assert place.add_child("x[*]", Container()).name == "x[1]"
    with pytest.raises(GenericError) as caught:
        place.add_child("x[1]", Container())
    assert str(caught.value) == "attempt to add duplicate property 'x[1]' to object (type 'container')"


def test_aliases_of_properties(services: Services) -> None:
    asyncio.run(services.qdev.device_add({"driver": "test-plug", "id": "p", "addr": 7}))
    plug = services.tree.get("p")
    services.board.hub.add_alias("plug-addr", plug, "addr")
    assert listing(services, "hub")["plug-addr"] == "uint64"
    assert get(services, "hub", "plug-addr") == 7
    with pytest.raises(GenericError, match="after it was realized"):
        asyncio.run(services.qom.qom_set(path="hub", property="plug-addr", value=8))


def test_all_values_at_once(services: Services) -> None:
    asyncio.run(services.qdev.device_add({"driver": "test-plug", "id": "p", "addr": 7}))
    both = asyncio.run(services.qom.qom_list_get(paths=["p", "/"]))
    values = {each.name: each.value for each in both[0].properties}
    assert values["addr"] == 7
    assert values["file"] == ""
    assert values["realized"] is True
    assert values["hotplugged"] is True
    assert values["part"] == "/machine/peripheral/p/part"
    assert both[1].properties[0].type == "string"
    assert "_read_all" in services.vm.mailboxes.calls


def test_who_gave_a_value(services: Services) -> None:
    with pytest.raises(GenericError, match=r"Property 'test-hub\.nope' not found"):
        services.board.hub.provenance_of("nope")
    asyncio.run(services.qdev.device_add({"driver": "test-plug", "id": "p"}))
    plug = services.tree.get("p")
    assert plug.provenance_of("addr") is Provenance.DEFAULT
