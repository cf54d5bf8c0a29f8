"""Whatever a client does with descriptors, none is lost: each is in a set, has a name, or is closed."""

from __future__ import annotations

import asyncio
import json
import os
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qemud._generated.table import COMMANDS
from qemud.machine.descriptors import fdsets
from qemud.monitor.dispatch import Dispatcher
from qemud.monitor.qmp.server import Monitor, Turn
from qemud.monitor.version import version_text
from tests.machine.test_descriptors import open_on
from tests.qmp.fakes import FakePort, settle

HANDLERS = {
    "control": "qemud.monitor.commands:ControlHandlers",
    "descriptors": "qemud.monitor.descriptors:DescriptorsHandlers",
}

names = st.sampled_from(["a", "b", "", "1x"])
numbers = st.sampled_from([-1, 0, 1, 2])
requests = st.one_of(
    st.builds(lambda name: ("getfd", {"fdname": name}), names),
    st.builds(lambda name: ("closefd", {"fdname": name}), names),
    st.builds(lambda name: ("add_client", {"protocol": "nope", "fdname": name}), names),
    st.builds(lambda number: ("add-fd", {"fdset-id": number}), numbers),
    st.just(("add-fd", {})),
    st.builds(lambda number: ("remove-fd", {"fdset-id": number}), numbers),
    st.just(("query-fdsets", {})),
    st.just(("getfd", {"fdname": 7})),
)
steps = st.one_of(st.tuples(st.integers(0, 3), requests), st.just("hang up"))


@settings(max_examples=200)
@given(st.lists(steps, max_size=20))
def test_no_descriptor_is_lost(script: list[Any]) -> None:
    async def talk() -> None:
        services = SimpleNamespace(chardevs={}, dispatcher=None)
        dispatcher = Dispatcher(COMMANDS, HANDLERS, services)
        port = FakePort()
        monitor = Monitor(port, dispatcher.execute, version_text(), Turn())
        file = os.memfd_create("passed")
        connected = False
        for step in script:
            if not connected:
                port.open()
                port.receive(b'{"execute": "qmp_capabilities"}')
                connected = True
            if step == "hang up":
                port.hang_up()
                connected = False
            else:
                passed, (name, arguments) = step
                port.fds = [os.dup(file) for _ in range(passed)]
                port.receive(json.dumps({"execute": name, "arguments": arguments}).encode())
            session = monitor.session
            kept = len(session.passed.named) + len(session.passed.waiting) + members()
            assert open_on(file) == 1 + kept
            if not connected:
                assert not session.passed.waiting
        monitor.close()
        assert open_on(file) == 1 + members()
        for number in fdsets.members():
            fdsets.remove(number)
        assert open_on(file) == 1
        os.close(file)

    asyncio.run(talk())


def members() -> int:
    return sum(map(len, fdsets.members().values()))


def test_queued_commands_get_the_descriptors_that_came_with_them() -> None:
    """With `oob` the session reads ahead of a command that waits: each name must mean the file that was sent with it."""

    async def talk() -> None:
        services = SimpleNamespace(chardevs={}, dispatcher=None)
        dispatcher = Dispatcher(COMMANDS, HANDLERS, services)
        turn, port = Turn(), FakePort()
        monitor = Monitor(port, dispatcher.execute, version_text(), turn)
        port.open()
        port.receive(b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}')
        turn.taken = True  # somebody's command waits
        sent: dict[str, int] = {}
        for name in ("a", "b", "c"):
            sent[name] = os.open("/dev/null", os.O_RDONLY)
            port.fds = [sent[name]]
            port.receive(json.dumps({"execute": "getfd", "arguments": {"fdname": name}}).encode())
        turn.release(lambda: None)
        await settle()
        assert monitor.session.passed.named == sent
        monitor.close()

    asyncio.run(talk())
