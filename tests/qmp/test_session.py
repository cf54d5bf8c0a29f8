"""The protocol without I/O: envelopes, modes, and what a session gives out when."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.monitor.qmp import envelope
from qemud.monitor.qmp.session import Mode, Session
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError

VERSION = b'{"qemu": {}, "package": ""}'


def session(**options: Any) -> Session:
    made = Session(VERSION, **options)
    made.opened()
    made.take_output()
    return made


def mode(made: Session) -> Mode:
    return made.mode


def sent(made: Session) -> list[Any]:
    return [json.loads(line) for line in made.take_output()]


def test_the_life_of_a_session() -> None:
    made = Session(VERSION)
    assert mode(made) is Mode.CLOSED
    made.event("STOP", b"never seen")
    made.opened()
    assert sent(made) == [{"QMP": {"version": {"qemu": {}, "package": ""}, "capabilities": ["oob"]}}]
    made.event("STOP", b"never seen either")
    made.receive(b'{"execute": "stop", "id": 0} {"execute": "qmp_capabilities"}')
    request = made.next_request()
    assert request is not None
    assert (request.name, request.arguments, request.oob) == ("qmp_capabilities", {}, False)
    [refused] = sent(made)
    assert (refused["id"], refused["error"]["class"]) == (0, "CommandNotFound")
    made.negotiate([])
    assert mode(made) is Mode.COMMAND
    made.succeed(request, b"{}")
    made.event("STOP", b'{"event": "STOP"}\r\n')
    assert sent(made) == [{"return": {}}, {"event": "STOP"}]
    made.closed()
    assert mode(made) is Mode.CLOSED
    assert made.take_output() == []


def test_one_command_at_a_time_and_late_results_go_nowhere() -> None:
    made = session()
    made.negotiate([])
    made.receive(b'{"execute": "a", "id": 1} {"execute": "b", "id": 2} , {"execute": "c", "id": 3}')
    first = made.next_request()
    assert first is not None
    assert made.next_request() is None
    assert not made.wants_input
    made.fail(first, DeviceNotFound("Device 'x' not found"))
    second = made.next_request()
    assert second is not None
    assert second.name == "b"
    assert sent(made) == [{"id": 1, "error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}]
    made.closed()
    made.opened()
    made.take_output()
    made.succeed(second, b"{}")
    assert sent(made) == []
    assert made.wants_input


def test_capabilities_that_were_not_offered_are_refused() -> None:
    made = session(offers_oob=False)
    with pytest.raises(GenericError, match="Capability oob not available"):
        made.negotiate(["oob"])
    assert mode(made) is Mode.NEGOTIATION


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(_values)
def test_values_are_written_in_ascii_and_mean_the_same(value: Any) -> None:
    for data in (envelope.encode(value), envelope.ascii_json(envelope._encode_deep(value))):
        assert data.isascii()
        assert b"\n" not in data
        assert json.loads(data) == value


def test_any_depth_can_be_written() -> None:
    value: Any = 1
    for number in range(1024):
        value = {"é": value, "n": number} if number % 2 else [value, None]
    data = envelope.encode(value)
    assert data.count(b"[") == data.count(b"{") == 512
    assert data.isascii()


def test_what_json_cannot_say() -> None:
    assert envelope.encode([math.inf, -math.inf]) == b"[null,null]"
    assert envelope.encode("\ud800x") == b'"\\uFFFDx"'
