"""Any sequence of requests, failures among them, leaves the tree, the buses and the backends in agreement."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qemud._generated.types.qom import ObjectOptionsMemoryBackendRam
from qemud.qapi.runtime.errors import QmpError
from qemud.qom.device import Bus, Device, reset_tree
from qemud.qom.state import load_tree, save_tree
from qemud.qom.userobjects import UserCreatable
from tests.qom.machines import Recorder, Services

IDS = st.sampled_from(["a", "b", "c"])
FAILURES = st.sampled_from(["", "", "", "realize", "enter", "hold", "exit"])


class Requests(RuleBasedStateMachine):
    """A client that asks for anything."""

    def __init__(self) -> None:
        super().__init__()
        Recorder.failing.clear()
        self.services = Services()

    def ask(self, coroutine: Any) -> bool:
        try:
            asyncio.run(coroutine)
        except QmpError:
            return False
        return True

    @rule(
        name=IDS | st.none(),
        driver=st.sampled_from(["test-plug", "test-linked-plug", "test-sub-hub", "test-warm-plug"]),
        bus=st.sampled_from([None, "hot", "below", "hot/a", "hot/b/below", "cold"]),
        backend=IDS | st.none(),
        failure=FAILURES,
    )
    def add_device(
        self, name: str | None, driver: str, bus: str | None, backend: str | None, failure: str
    ) -> None:
        arguments = {"driver": driver, "id": name, "bus": bus}
        if driver == "test-linked-plug":
            arguments["file"] = backend and f"/objects/{backend}"
        Recorder.failing.add(failure)
        self.ask(self.services.qdev.device_add({key: v for key, v in arguments.items() if v is not None}))
        Recorder.failing.clear()

    @rule(name=IDS | st.integers(0, 5).map("/machine/peripheral-anon/device[{}]".format))
    def remove_device(self, name: str) -> None:
        before = len(self.services.events)
        done = self.ask(self.services.qdev.device_del(id=name))
        assert len(self.services.events) - before == done

    @rule(name=IDS)
    def add_backend(self, name: str) -> None:
        self.ask(self.services.qom.object_add(ObjectOptionsMemoryBackendRam(id=name, size=4096)))

    @rule(name=IDS)
    def remove_backend(self, name: str) -> None:
        self.ask(self.services.qom.object_del(id=name))

    @rule()
    def reset_and_reload(self) -> None:
        reset_tree(self.services.board)
        saved = save_tree(self.services.board)
        load_tree(self.services.board, saved)
        assert save_tree(self.services.board) == saved

    @invariant()
    def all_agree(self) -> None:
        tree = self.services.tree
        nodes = list(tree.root.walk())
        for node in nodes:
            assert tree.get(node.path) is node
        devices = [node for node in nodes if isinstance(node, Device)]
        assert all(device.realized for device in devices)
        for bus in nodes:
            if isinstance(bus, Bus):
                assert bus.realized
                assert bus.devices == [bus.link(name) for name in bus.child_links()]
                assert set(bus.devices) == {device for device in devices if device.bus is bus}
                assert bus.capacity is None or len(bus.devices) <= bus.capacity
        for backend in tree.objects.children.values():
            assert isinstance(backend, UserCreatable)
            assert backend.holders == sum(backend in device.linked() for device in devices)

    def teardown(self) -> None:
        Recorder.failing.clear()
        for backend in self.services.tree.objects.children.values():
            assert isinstance(backend, UserCreatable)
            backend.close()


Requests.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestRequests = Requests.TestCase
