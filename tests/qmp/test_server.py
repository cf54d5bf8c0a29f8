"""Monitors: order, waiting commands, out of band, events, clients that stop reading or leave."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
from typing import Any

import pytest

from qemud.chardev.stream import LOW_WATER
from qemud.monitor.qmp.events import Events
from qemud.monitor.qmp.server import Turn
from qemud.monitor.qmp.session import MAX_EVENT_BACKLOG, MAX_REPLY_BACKLOG
from tests.qmp.fakes import Services, command, ids, monitor, oob, run, settle

# --- order


def test_commands_that_need_not_wait_leave_in_one_write() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services)
        before = port.writes
        port.receive(b"".join(command("query-status", number) for number in range(100)))
        assert ids(port.messages()) == list(range(100))
        assert port.writes == before + 1

    run(test)


def test_after_a_burst_others_have_their_turn() -> None:
    async def test(services: Services) -> None:
        _, one = monitor(services)
        _, two = monitor(services)
        one.receive(b"".join(command("query-status", number) for number in range(1000)))
        assert len(one.messages()) < 1000
        two.receive(command("query-status", "two"))
        assert ids(two.messages()) == ["two"]
        await settle()
        await settle()
        assert ids(one.messages())[-1] == 999

    run(test)


def test_a_large_message_is_read_over_many_turns_of_the_loop() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services)
        data = command("query-name", [1] * 20_000)
        port.receive(command("query-name", 0) + data[:-5])
        port.receive(data[-5:] + command("query-name", 2))
        assert ids(port.messages()) == [0]
        turns = 0
        while not (messages := port.messages()):
            await asyncio.sleep(0)
            turns += 1
        assert turns > 10
        assert ids(messages) == [[1] * 20_000, 2]
        assert not port.paused

    run(test)


def test_a_command_that_waits_holds_up_those_behind_it() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services)
        port.receive(command("slow", 1) + command("query-name", 2) + b"{]" + command("query-name", 3))
        await settle()
        assert port.messages() == []
        services.gates[0].set_result({"done": True})
        await settle()
        first, second, garbage, third = port.messages()
        assert first == {"return": {"done": True}, "id": 1}
        assert (second["id"], third["id"]) == (2, 3)
        assert garbage == {"error": {"class": "GenericError", "desc": "JSON parse error, expecting value"}}

    run(test)


def test_in_band_commands_take_turns_over_all_monitors() -> None:
    async def test(services: Services) -> None:
        turn = Turn()
        ports = [monitor(services, turn=turn)[1] for _ in range(3)]
        ports[0].receive(command("slow", 1) + command("slow", 2))
        ports[1].receive(command("slow", 3))
        ports[2].receive(command("query-name", 4) + b",")
        await settle()
        assert services.log == ["begun"]
        assert [port.messages() for port in ports] == [[], [], []]
        services.gates[0].set_result(None)
        await settle()
        # the other monitors come before the second command of the first
        assert services.log == ["begun", "ended", "begun"]
        assert [ids(port.messages()) for port in ports] == [[1], [], []]
        services.gates[1].set_result(None)
        await settle()
        assert services.log == ["begun", "ended", "begun", "ended", "begun"]
        assert [ids(port.messages()) for port in ports] == [[], [3], [4, None]]
        services.gates[2].set_result(None)
        await settle()
        assert ids(ports[0].messages()) == [2]
        assert not turn.taken

    run(test)


def test_a_command_that_waits_goes_on_in_its_own_context() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def test(services: Services) -> None:
        seen: list[Any] = []

        async def handler() -> None:
            seen.append(variable.get())
            variable.set(variable.get() + 1)
            await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            seen.append((variable.get(), task.get_name()))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.sleep(10)

        _, port = monitor(services)
        port.receive(command("slow", 0))
        services.gates.pop().set_result(None)
        await settle()
        info, _ = services.dispatcher._methods["slow"]
        services.dispatcher._methods["slow"] = (info, handler)
        for number in (1, 2):
            port.receive(command("slow", number))
            while ids(port.messages())[-1:] != [number]:
                await asyncio.sleep(0)
        assert seen == [0, (1, "QMP slow"), 0, (1, "QMP slow")]
        assert variable.get() == 0

    run(test)


# --- out of band


def test_out_of_band_commands_overtake() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services, negotiate="oob")
        port.receive(command("slow", 1) + command("query-name", 2) + b"!" + b"\n" + oob("oob", 3))
        assert ids(port.messages()) == [3]
        port.receive(oob("query-name", 4) + oob("slow-oob", 5) + oob("oob", 6))
        refused, last = port.messages()
        assert refused == {
            "id": 4,
            "error": {"class": "GenericError", "desc": "The command query-name does not support OOB"},
        }
        assert last["id"] == 6
        services.gates[1].set_result(None)
        await settle()
        assert ids(port.messages()) == [5]
        services.gates[0].set_result(None)
        await settle()
        one, two, garbage = port.messages()
        assert (one["id"], two["id"]) == (1, 2)
        assert garbage["error"]["desc"] == "JSON parse error, stray '!'"

    run(test)


def test_eight_commands_are_queued_and_then_nothing_is_read() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services, negotiate="oob")
        port.receive(command("slow", "running"))
        for number in range(7):
            port.receive(command("query-name", number))
        port.receive(oob("oob", "in time"))
        assert ids(port.messages()) == ["in time"]
        port.receive(command("query-name", 7) + oob("oob", "too late"))
        assert ids(port.messages()) == []
        assert port.paused
        services.gates[0].set_result(None)
        await settle()
        assert ids(port.messages()) == ["running", *range(8), "too late"]
        assert not port.paused

    run(test)


def test_out_of_band_must_be_negotiated() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services, negotiate=False, offers_oob=False)
        [greeting] = port.messages()
        assert greeting["QMP"]["capabilities"] == []
        port.receive(command("qmp_capabilities", arguments={"enable": ["oob"]}))
        port.receive(command("qmp_capabilities") + command("qmp_capabilities"))
        refused, accepted, again = port.messages()
        assert refused["error"] == {"class": "GenericError", "desc": "Capability oob not available"}
        assert accepted == {"return": {}}
        assert again["error"] == {
            "class": "CommandNotFound",
            "desc": "Capabilities negotiation is already complete, command ignored",
        }

    run(test)


def test_execute_and_exec_oob_clash() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services, negotiate="oob")
        port.receive(b'{"execute":"query-name","exec-oob":"oob"}{"exec-oob":1}')
        assert [message["error"]["desc"] for message in port.messages()] == [
            "QMP input member 'exec-oob' clashes with 'execute'",
            "QMP input member 'exec-oob' must be a string",
        ]

    run(test)


# --- clients that leave, or stop reading


def test_a_client_that_leaves_does_not_stop_its_command() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services)
        port.receive(command("slow", 1) + command("slow", 2))
        port.hang_up()
        port.open()
        [greeting] = port.messages()
        assert [*greeting] == ["QMP"]
        port.receive(command("query-name", 3) + command("qmp_capabilities", 4) + command("query-name", 5))
        await settle()
        assert port.messages() == []
        services.gates[0].set_result({"for": "nobody"})
        await settle()
        # the result is discarded, the command that had not begun is dropped, the new client negotiates anew
        assert ids(port.messages()) == [3, 4, 5]
        assert services.log == ["begun", "ended"]

    run(test)


def test_a_client_that_leaves_in_mid_message_leaves_nothing_behind() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services)
        port.receive(b'{"execute": "')
        port.hang_up()
        port.open()
        port.messages()
        port.receive(command("qmp_capabilities", 1))
        assert ids(port.messages()) == [1]

    run(test)


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    async def test(services: Services) -> None:
        made, port = monitor(services)
        port.pending = LOW_WATER + 1
        port.receive(command("big", 0) + b"".join(command("query-name", number) for number in range(1, 100)))
        assert port.sent == b""
        assert MAX_REPLY_BACKLOG <= made.session.backlog < MAX_REPLY_BACKLOG + 101_000
        assert port.paused
        # another one is served meanwhile
        _, other = monitor(services)
        other.receive(command("query-name", "other"))
        assert ids(other.messages()) == ["other"]
        port.pending = 0
        port.drained()
        await settle()
        assert ids(port.messages()) == list(range(100))
        assert not port.paused

    run(test)


def test_events_for_a_client_that_does_not_read_are_bounded() -> None:
    async def test(services: Services) -> None:
        made, port = monitor(services)
        events = Events(asyncio.get_running_loop().call_later)
        events.subscribe(made.send_event)
        port.pending = LOW_WATER + 1
        count = 0
        while made.session.backlog < MAX_EVENT_BACKLOG:
            events.emit("SHUTDOWN", {"count": count, "text": "x" * 1000})
            count += 1
        for late in range(5000):
            events.emit("STOP", {"late": late})
            events.emit("RESUME", {"late": late})
        assert made.session.backlog < MAX_EVENT_BACKLOG + 2000
        port.pending = 0
        port.drained()
        messages = port.messages()
        assert [message["data"]["count"] for message in messages[:-2]] == list(range(count))
        # of those beyond the bound, the last of each name
        assert [(m["event"], m["data"]["late"]) for m in messages[-2:]] == [("STOP", 4999), ("RESUME", 4999)]
        events.emit("STOP", None)
        await settle()
        assert ids(port.messages()) == ["STOP"]

    run(test)


def test_descriptors_are_kept_until_a_command_takes_them() -> None:
    async def test(services: Services) -> None:
        made, port = monitor(services)
        first, second, third = (os.open("/dev/null", os.O_RDONLY) for _ in range(3))
        port.fds = [first]
        port.receive(b" ")
        port.fds = [second, third]
        port.receive(command("query-name"))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(first)
        assert made.session.passed.take() == second
        os.close(second)
        port.hang_up()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(third)
        assert made.session.passed.take() is None

    run(test)


def test_closing_a_monitor_sends_what_is_ready_and_ends_what_waits() -> None:
    async def test(services: Services) -> None:
        made, port = monitor(services)
        port.receive(command("slow", 1))
        made.send_event("STOP", b'{"event": "STOP"}\r\n')
        made.close()
        await settle()
        assert ids(port.messages()) == ["STOP"]
        assert port.detached
        assert services.log == ["begun", "ended"]

    run(test)


# --- events


def test_events_reach_negotiated_clients_before_the_reply_that_they_precede() -> None:
    async def test(services: Services) -> None:
        events = Events(asyncio.get_running_loop().call_later, now_ns=lambda: 1_700_000_000_123_456_789)
        made, port = monitor(services)
        waiting, early = monitor(services, negotiate=False)
        for each in (made, waiting):
            events.subscribe(each.send_event)
        services.during = lambda: events.emit("STOP", None)
        port.receive(command("query-status", 1))
        await settle()
        event, reply = port.messages()
        assert event == {"timestamp": {"seconds": 1_700_000_000, "microseconds": 123456}, "event": "STOP"}
        assert reply["id"] == 1
        assert [[*message] for message in early.messages()] == [["QMP"]]
        events.unsubscribe(made.send_event)
        events.emit("RESUME", None)
        await settle()
        assert port.messages() == []

    run(test)


def test_pretty_output_is_indented_and_the_same() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services, negotiate=False, pretty=True)
        port.receive(command("qmp_capabilities", [1, {"a": "é\n"}]))
        text = port.sent.decode("ascii")
        assert '{\r\n    "return": ' in text
        assert text.count("\n") == text.count("\r\n") > 10
        decoder = json.JSONDecoder()
        greeting, end = decoder.raw_decode(text)
        reply, _ = decoder.raw_decode(text[end:].lstrip())
        assert [*greeting] == ["QMP"]
        assert reply == {"return": {}, "id": [1, {"a": "é\n"}]}

    run(test)
