"""device_add and device_del: order of checks, texts, and that a failure at any step leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qemud.machine.backends import MemoryBackend
from qemud.qapi.runtime.errors import GenericError, QmpError
from qemud.qapi.runtime.keyval import parse_keyval_type
from qemud.qom.commands import QdevHandlers
from qemud.qom.device import Device
from qemud.qom.properties import Provenance
from qemud.qom.state import save_tree
from tests.qom.machines import Recorder, Services


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def error_of(coroutine: Any) -> str:
    with pytest.raises(QmpError) as caught:
        asyncio.run(coroutine)
    return f"{caught.value.error_class}: {caught.value}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "GenericError: Parameter 'driver' is missing"),
        ({"driver": 1}, "GenericError: Parameter 'driver' is missing"),
        ({"driver": "nope"}, "GenericError: 'nope' is not a valid device model name"),
        (
            {"driver": "memory-backend-ram"},
            "GenericError: 'memory-backend-ram' is not a valid device model name",
        ),
        (
            {"driver": "sys-bus-device"},
            "GenericError: Parameter 'driver' expects a non-abstract device type",
        ),
        ({"driver": "serial-mm"}, "GenericError: Parameter 'driver' expects a pluggable device type"),
        (
            {"driver": "test-registers"},
            "GenericError: Parameter 'driver' expects a dynamic sysbus device type for the machine",
        ),
        ({"driver": "loader"}, "GenericError: Device 'loader' can not be hotplugged on this machine"),
        ({"driver": "test-plug", "bus": "nope"}, "GenericError: Bus 'nope' not found"),
        (
            {"driver": "test-plug", "bus": "cold"},
            "GenericError: Device 'test-plug' can't go on test-cold-bus bus",
        ),
        ({"driver": "test-cold-plug"}, "GenericError: Device 'test-cold-plug' does not support hotplugging"),
        ({"driver": "test-warm-plug"}, "GenericError: Bus 'cold' does not support hotplugging"),
        ({"driver": "test-plug", "id": "$"}, "GenericError: Parameter 'id' expects an identifier"),
        ({"driver": "test-plug", "id": "type"}, "GenericError: Duplicate device ID 'type'"),
        ({"driver": "test-plug", "foo": 1, "addr": "x"}, "GenericError: Property 'test-plug.foo' not found"),
        ({"driver": "test-plug", "type": "x"}, "GenericError: Property 'test-plug.type' is not writable"),
        (
            {"driver": "test-plug", "addr": "1"},
            "GenericError: Parameter 'addr' expects uint64",
        ),
        (
            {"driver": "test-plug", "force-raw": 1},
            "GenericError: Invalid parameter type for 'force-raw', expected: boolean",
        ),
        ({"driver": "test-linked-plug", "file": "nope"}, "DeviceNotFound: Device 'nope' not found"),
        (
            {"driver": "test-linked-plug", "file": "hub"},
            "GenericError: Invalid parameter type for 'file', expected: memory-backend",
        ),
        ({"driver": "test-plug", "bus": "hot/nope"}, "DeviceNotFound: Device 'nope' not found"),
        ({"driver": "test-plug", "bus": "/nope"}, "DeviceNotFound: Device 'nope' not found"),
        ({"driver": "test-plug", "bus": ""}, "GenericError: Bus '' not found"),
    ],
)
def test_refusals(services: Services, arguments: dict[str, Any], text: str) -> None:
    before = services.tree.root.walk()
    paths = [node.path for node in before]
    assert error_of(services.qdev.device_add(arguments)) == text
    assert [node.path for node in services.tree.root.walk()] == paths
    assert Recorder.log == []


def test_a_device_comes_and_goes(services: Services) -> None:
    run(services.qdev.device_add({"driver": "test-plug", "id": "p0", "addr": 5, "data": 0}))
    device = services.tree.get("p0")
    assert device.path == "/machine/peripheral/p0"
    assert Recorder.log == [
        "claim p0",
        "realize p0",
        "realize part",
        "enter part",
        "enter p0",
        "hold part",
        "hold p0",
        "exit part",
        "exit p0",
    ]
    assert services.board.hub.hot.devices == [device]
    assert device.provenance_of("addr") is Provenance.USER
    assert device.provenance_of("data") is Provenance.USER
    assert device.provenance_of("data-len") is Provenance.DEFAULT
    Recorder.log.clear()
    run(services.qdev.device_del(id="p0"))
    assert Recorder.log == ["unrealize part", "unrealize p0", "settled p0", "give up p0"]
    assert services.events == [("DEVICE_DELETED", {"device": "p0", "path": "/machine/peripheral/p0"})]
    assert services.board.hub.hot.devices == []
    assert error_of(services.qdev.device_del(id="p0")) == "DeviceNotFound: Device 'p0' not found"
    assert "/machine/peripheral/p0/part" not in save_tree(services.board)


def test_unnamed_devices_are_removed_by_path(services: Services) -> None:
    run(services.qdev.device_add({"driver": "test-plug"}))
    path = "/machine/peripheral-anon/device[0]"
    run(services.qdev.device_del(id=path))
    assert services.events == [("DEVICE_DELETED", {"path": path})]
    other = QdevHandlers(services)
    run(other.device_add({"driver": "test-plug"}))
    run(services.qdev.device_add({"driver": "test-plug"}))
    assert list(services.board.peripheral_anon.children) == ["device[1]", "device[2]"]


def test_what_cannot_be_unplugged(services: Services) -> None:
    assert error_of(services.qdev.device_del(id="nope")) == "DeviceNotFound: Device 'nope' not found"
    assert error_of(services.qdev.device_del(id="/machine/nope")) == (
        "DeviceNotFound: Device '/machine/nope' not found"
    )
    assert error_of(services.qdev.device_del(id="/machine")) == "GenericError: /machine is not a device"
    assert error_of(services.qdev.device_del(id="/machine/hub")) == (
        "GenericError: Device 'test-hub' can not be hotplugged on this machine"
    )
    assert error_of(services.qdev.device_del(id="")) == "GenericError:  is not a device"


def test_ids_and_places_run_out(services: Services) -> None:
    for number in range(3):
        run(services.qdev.device_add({"driver": "test-plug", "id": f"p{number}"}))
    assert error_of(services.qdev.device_add({"driver": "test-plug", "id": "p9"})) == (
        "GenericError: No 'test-bus' bus found for device 'test-plug'"
    )
    assert error_of(services.qdev.device_add({"driver": "test-plug", "id": "p9", "bus": "hot"})) == (
        "GenericError: Bus 'hot' is full"
    )
    run(services.qdev.device_del(id="p1"))
    assert error_of(services.qdev.device_add({"driver": "test-plug", "id": "p0"})) == (
        "GenericError: Duplicate device ID 'p0'"
    )
    run(services.qdev.device_add({"driver": "test-plug", "id": "p1"}))


def test_a_device_with_a_bus_takes_what_is_on_it_along(services: Services) -> None:
    run(services.qdev.device_add({"driver": "test-sub-hub", "id": "s"}))
    run(services.qdev.device_add({"driver": "test-plug", "id": "p", "bus": "below"}))
    run(services.qdev.device_add({"driver": "test-plug", "id": "q", "bus": "hot/s/below"}))
    run(services.qdev.device_add({"driver": "test-plug", "id": "r", "bus": "hot/test-sub-hub"}))
    assert services.tree.get("p/parent_bus") is services.tree.get("/machine/peripheral/s/below")
    assert error_of(services.qdev.device_add({"driver": "test-plug", "bus": "hot/s/nope"})) == (
        "GenericError: Bus 'nope' not found"
    )
    assert error_of(services.qdev.device_add({"driver": "test-plug", "bus": "hot/s/below/p"})) == (
        "GenericError: Device 'p' has no child bus"
    )
    Recorder.log.clear()
    run(services.qdev.device_del(id="s"))
    assert Recorder.log == [
        "unrealize part",
        "unrealize r",
        "unrealize part",
        "unrealize q",
        "unrealize part",
        "unrealize p",
        "unrealize s",
        # Backends are given back when nothing of any of them is under way.
        *("settled r", "settled q", "settled p", "settled s"),
        *("give up r", "give up q", "give up p", "give up s"),
    ]
    assert services.board.peripheral.children == {}


def test_a_bus_that_goes_while_a_device_comes(services: Services) -> None:
    run(services.qdev.device_add({"driver": "test-sub-hub", "id": "s"}))
    hub = services.tree.get("s")
    assert isinstance(hub, Device)

    def unplug_first(name: str) -> None:
        if hub.realized:
            hub.take_down()

    services.vm.mailboxes.fail = unplug_first
    assert error_of(services.qdev.device_add({"driver": "test-plug", "id": "p", "bus": "below"})) == (
        "GenericError: Bus 'below' not found"
    )
    assert list(services.board.peripheral.children) == ["s"]


def test_a_device_that_comes_while_its_bus_goes_goes_along(services: Services) -> None:
    run(services.qdev.device_add({"driver": "test-sub-hub", "id": "s"}))

    async def main() -> None:
        adding = asyncio.create_task(
            services.qdev.device_add({"driver": "test-plug", "id": "p", "bus": "below"})
        )
        removing = asyncio.create_task(services.qdev.device_del(id="s"))
        await adding
        await removing

    run(main())
    assert services.board.peripheral.children == {}
    assert [entry for entry in Recorder.log if entry.startswith("unrealize")] == [
        "unrealize part",
        "unrealize p",
        "unrealize s",
    ]


def test_backends_are_held_while_a_device_uses_them(services: Services) -> None:
    run(services.qom.object_add(backend("m0")))
    run(services.qdev.device_add({"driver": "test-linked-plug", "id": "p", "file": "m0"}))
    assert run(services.qom.qom_get(path="p", property="file")) == "/objects/m0"
    assert services.tree.get("p/file") is services.tree.get("/objects/m0")
    assert error_of(services.qom.object_del(id="m0")) == (
        "GenericError: object 'm0' is in use, can not be deleted"
    )
    run(services.qdev.device_del(id="p"))
    run(services.qom.object_del(id="m0"))


@pytest.mark.parametrize(
    "step", ["claim p", "realize p", "realize part", "enter part", "hold p", "exit p", "mailbox", "bus"]
)
def test_a_failure_at_any_step_leaves_nothing_behind(services: Services, step: str) -> None:
    run(services.qom.object_add(backend("m0")))
    held = services.tree.get("/objects/m0")
    assert isinstance(held, MemoryBackend)
    before = [node.path for node in services.tree.root.walk()]
    Recorder.failing.add(step)
    if step == "mailbox":

        def fail(name: str) -> None:
            raise GenericError("mailbox failed")

        services.vm.mailboxes.fail = fail
    if step == "bus":
        # Somebody took the last place between the check and the machine thread's turn.
        def take_places(name: str) -> None:
            services.board.hub.hot.capacity = 0

        services.vm.mailboxes.fail = take_places
    error = error_of(services.qdev.device_add({"driver": "test-linked-plug", "id": "p", "file": "m0"}))
    assert error.endswith(" failed") or error == "GenericError: Bus 'hot' is full"
    assert [node.path for node in services.tree.root.walk()] == before
    assert services.board.hub.hot.devices == []
    assert list(services.board.hub.hot.list_properties())[-1].name == "realized"
    assert held.holders == 0
    realized = sum(entry.startswith("realize ") for entry in Recorder.log)
    undone = sum(entry.startswith("unrealize ") for entry in Recorder.log)
    assert realized - undone == (1 if step.startswith("realize") else 0)  # what failed itself undid itself
    assert Recorder.log.count("claim p") - Recorder.log.count("give up p") == (1 if step == "claim p" else 0)
    assert services.events == []

    Recorder.failing.clear()
    services.vm.mailboxes.fail = lambda name: None
    services.board.hub.hot.capacity = 3
    run(services.qdev.device_add({"driver": "test-linked-plug", "id": "p", "file": "m0"}))


def test_a_client_that_goes_away_changes_nothing_of_what_it_asked_for(services: Services) -> None:
    async def main() -> None:
        asked, go = asyncio.Event(), asyncio.Event()

        async def slow(function: Any, *arguments: Any) -> Any:
            asked.set()
            await go.wait()
            return function(*arguments)

        async def give_up(coroutine: Any) -> None:
            asked.clear()
            go.clear()
            task = asyncio.create_task(coroutine)
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        async def until(condition: Any) -> None:
            go.set()
            while not condition():
                await asyncio.sleep(0)

        services.vm.mailboxes.call = slow  # type: ignore[method-assign]
        await give_up(services.qdev.device_add({"driver": "test-plug", "id": "p"}))
        with pytest.raises(GenericError, match="not realized yet"):
            await services.qdev.device_del(id="p")
        await until(lambda: services.tree.get("p").get_property("realized"))

        await give_up(services.qdev.device_del(id="p"))
        with pytest.raises(GenericError, match="Device p is already in the process of unplug"):
            await services.qdev.device_del(id="p")
        await until(lambda: services.events)
        assert services.board.peripheral.children == {}

        Recorder.failing.add("realize q")
        await give_up(services.qdev.device_add({"driver": "test-plug", "id": "q"}))
        await until(lambda: services.board.peripheral.children == {})

    run(main())


def test_the_end_of_everything_leaves_nothing_behind(services: Services) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def never(*arguments: Any) -> None:
            asked.set()
            await asyncio.Event().wait()

        services.vm.mailboxes.call = never  # type: ignore[method-assign, assignment]
        task = asyncio.create_task(services.qdev.device_add({"driver": "test-plug", "id": "p"}))
        await asked.wait()
        task.cancel()

    run(main())
    assert services.board.peripheral.children == {}


def test_the_command_line_may_add_what_cannot_be_hot_plugged(services: Services) -> None:
    maker = services.qdev.maker
    arguments = {"driver": "test-cold-plug", "id": "c"}
    device = run(maker.add(arguments, hotplug=False, parse=parse_keyval_type))
    assert not device.hotplugged
    assert Recorder.log == ["claim c", "realize c"]
    assert error_of(maker.add(arguments, hotplug=False, parse=parse_keyval_type)) == (
        "GenericError: Duplicate ID 'c' for device"
    )
    typed = run(
        maker.add(
            {"driver": "test-plug", "id": "p", "addr": "0x10", "force-raw": "on"},
            hotplug=False,
            parse=parse_keyval_type,
        )
    )
    assert (typed.options.addr, typed.options.force_raw) == (16, True)
    assert error_of(services.qdev.device_del(id="c")) == (
        "GenericError: Device 'test-cold-plug' does not support hotplugging"
    )


def test_sysbus_devices_that_the_board_allows(services: Services) -> None:
    arguments = {"driver": "test-free-registers", "id": "r"}
    assert error_of(services.qdev.device_add(arguments)) == (
        "GenericError: Bus 'main-system-bus' does not support hotplugging"
    )
    device = run(services.qdev.maker.add(arguments, hotplug=False))
    assert device in services.board.sysbus.devices
    assert error_of(services.qdev.device_del(id="r")) == (
        "GenericError: Bus 'main-system-bus' does not support hotplugging"
    )


def test_globals_are_weaker_than_what_the_user_says(services: Services) -> None:
    services.tree.root.globals += [
        ("test-plug", "addr", "7"),
        ("test-plug", "data-len", "3"),
        ("test-plug", "addr", "8"),
        ("nothing", "nope", "1"),
    ]
    run(services.qdev.device_add({"driver": "test-plug", "id": "p", "data-len": 1}))
    device = services.tree.get("p")
    assert (device.option("addr"), device.option("data-len")) == (8, 1)
    assert device.provenance_of("addr") is Provenance.GLOBAL
    services.tree.root.globals.append(("test-plug", "nope", "1"))
    assert error_of(services.qdev.device_add({"driver": "test-plug", "id": "q"})) == (
        "GenericError: can't apply global test-plug.nope=1: Property 'test-plug.nope' not found"
    )


def backend(name: str) -> Any:
    from qemud._generated.types.qom import ObjectOptionsMemoryBackendRam

    return ObjectOptionsMemoryBackendRam(id=name, size=4096)
