"""One connection, against a server that the test plays."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from contextlib import closing, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.client import (
    Client,
    ClientError,
    ConnectError,
    ConnectionLost,
    DeviceNotFound,
    GenericError,
    ProtocolError,
    QmpError,
    UnexpectedReply,
)
from qemud.client.messages import Messages
from qemud.client.types import RunState
from tests.client.support import GREETING, FakeServer, faked, run


def test_typed_results_from_a_newer_server() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            assert (qmp.version.qemu.major, qmp.version.package) == (99, "fake")
            asked = asyncio.ensure_future(qmp.query_status())
            await server.serve({"running": True, "status": "levitating", "altitude": 3})
            status = await asked
            assert status.running
            assert isinstance(status.status, RunState)
            assert status.status.value == "levitating"
            assert status.status not in list(RunState)
            assert repr(status.status) == "<RunState.LEVITATING: 'levitating'>"

    run(test())


def test_commands_go_out_in_order_and_replies_find_their_callers() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            calls = [asyncio.ensure_future(qmp.execute("echo", {"n": n})) for n in range(100)]
            requests = [await server.receive() for _ in calls]
            assert [request["arguments"]["n"] for request in requests] == list(range(100))
            for request in reversed(requests):
                await server.send(
                    json.dumps({"return": request["arguments"]["n"] * 2, "id": request["id"]}).encode()
                    + b"\n"
                )
            assert await asyncio.gather(*calls) == [n * 2 for n in range(100)]

    run(test())


def test_errors_are_a_closed_tree() -> None:
    async def answer(server: FakeServer, error: dict[str, str]) -> None:
        request = await server.receive()
        await server.send(json.dumps({"error": error, "id": request["id"]}).encode() + b"\n")

    async def test() -> None:
        async with faked() as (qmp, server):
            for name, kind in (("DeviceNotFound", DeviceNotFound), ("Newfangled", GenericError)):
                asked = asyncio.ensure_future(qmp.device_del(id="x"))
                await answer(server, {"class": name, "desc": "no x"})
                with pytest.raises(kind, match=r"^no x$"):
                    await asked

    run(test())


def test_what_is_cancelled_or_late_disturbs_nobody() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            with pytest.raises(TimeoutError):
                await qmp.execute("slow", timeout=0)
            cancelled = asyncio.ensure_future(qmp.execute("slower"))
            slower = await server.receive()
            cancelled.cancel()
            asked = asyncio.ensure_future(qmp.query_name())
            await server.send(json.dumps({"return": "too late", "id": slower["id"]}).encode() + b"\n")
            await server.serve({"name": "vm"})
            assert (await asked).name == "vm"
            with pytest.raises(asyncio.CancelledError):
                await cancelled

    run(test())


def test_unknown_and_repeated_ids_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            asked = asyncio.ensure_future(qmp.query_name())
            await server.send(b'{"return": {}, "id": 77}\n{"return": {}, "id": "x"}\n{"return": {}}\n')
            request = await server.receive()
            reply = json.dumps({"return": {"name": "vm"}, "id": request["id"]}).encode() + b"\n"
            await server.send(reply + reply)
            assert (await asked).name == "vm"
            asked = asyncio.ensure_future(qmp.query_name())
            await server.serve({})
            assert (await asked).name is None

    run(test())
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "a reply to no command"
    ] * 4


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"hello\n", "what is not JSON: 'hello'"),
        (b"[1]\n", "no JSON object"),
        (b'{"x": 1}\n', "a message of no known kind"),
        (
            b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n',
            "did not understand a command",
        ),
        (GREETING, "a second greeting"),
        (b'{"event": 1}\n', "an event of no known form"),
    ],
)
def test_what_is_no_qmp_ends_the_connection(sent: bytes, text: str) -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            asked = asyncio.ensure_future(qmp.query_name())
            await server.receive()
            with qmp.events() as events:
                await server.send(sent)
                with pytest.raises(ConnectionLost, match=r"^'query-name' was not answered: ") as caught:
                    await asked
                assert text in str(caught.value)
                with pytest.raises(ProtocolError):
                    await events.get()
            assert not qmp.connected
            with pytest.raises(ConnectionLost):
                await qmp.query_name()

    run(test())


def test_a_connection_that_ends() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            asked = asyncio.ensure_future(qmp.query_name())
            request = await server.receive()
            await server.send(b'{"return": {"name": "half')
            server.socket.close()
            with pytest.raises(ConnectionLost, match="in the middle of a message"):
                await asked
            assert request["execute"] == "query-name"
            await qmp.wait_closed()

    run(test())


def test_closing_ends_commands_and_streams() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            asked = asyncio.ensure_future(qmp.query_name())
            await server.receive()
            with qmp.events() as events:
                await server.send(b'{"event": "STOP", "timestamp": {"seconds": 5, "microseconds": 500000}}\n')
                waiting = asyncio.ensure_future(_all(events))
                while not events._items and not waiting.done():
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                await qmp.close()
                assert [(event.event, event.timestamp) for event in await waiting] == [("STOP", 5.5)]
            with pytest.raises(ConnectionLost, match="the client was closed"):
                await asked
            with pytest.raises(EOFError):
                await server.receive()

    run(test())


async def _all(events: Any) -> list[Any]:
    return [event async for event in events]


def test_results_that_are_not_what_the_schema_says() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            for result, text in (
                ({"running": 1, "status": "running"}, "query-status.running is 1, expected bool"),
                ({"running": True}, "query-status lacks the member 'status'"),
                ([], "query-status is [], expected an object"),
            ):
                asked = asyncio.ensure_future(qmp.query_status())
                await server.serve(result)
                with pytest.raises(UnexpectedReply) as caught:
                    await asked
                assert str(caught.value) == text

    run(test())


def test_unknown_branches_of_a_union_keep_what_is_common() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            asked = asyncio.ensure_future(qmp.query_qmp_schema())
            await server.serve([{"name": "0", "meta-type": "wormhole", "to": "elsewhere"}])
            [info] = await asked
            assert info.name == "0"
            assert info.meta_type.value == "wormhole"

    run(test())


def test_descriptors_go_with_their_command() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            read, write = os.pipe()
            sent = asyncio.ensure_future(qmp.execute("getfd", {"fdname": "x"}, fds=[write]))
            await asyncio.sleep(0)
            data, fds, _, _ = socket.recv_fds(server.socket, 4096, 4)
            os.close(write)
            with closing(os.fdopen(read, "rb")) as file:
                os.write(fds[0], b"through")
                os.close(fds[0])
                assert file.read() == b"through"
            await server.send(json.dumps({"return": {}, "id": json.loads(data)["id"]}).encode() + b"\n")
            assert await sent == {}

    run(test())


def test_more_than_the_socket_takes_at_once() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            text = "x" * 3_000_000
            asked = asyncio.ensure_future(qmp.execute("echo", {"text": text}))
            request = await server.receive()
            assert request["arguments"]["text"] == text
            await server.send(json.dumps({"return": text, "id": request["id"]}).encode() + b"\r\n")
            assert await asked == text

    run(test())


def test_a_server_that_says_nothing() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        with closing(theirs), pytest.raises(ConnectError, match="no greeting came within 0 seconds"):
            await Client.connect(ours, greeting_timeout=0)

    run(test())


@pytest.mark.parametrize(
    ("first", "text"),
    [
        (b"", "the server closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n", "what is not JSON"),
        (b'{"QMP": {}}\n', "its greeting is {}"),
        (b'{"QMP": 1}\n', "greeting is"),
    ],
)
def test_what_is_no_qmp_server(first: bytes, text: str) -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        theirs.sendall(first)
        theirs.close()
        with pytest.raises(ConnectError) as caught:
            await Client.connect(ours)
        assert str(caught.value).startswith("no QMP server: ")
        assert text in str(caught.value)

    run(test())


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("unix:/nonexistent/qmp", "cannot connect to unix:/nonexistent/qmp: No such file or directory"),
        ("qmp", "'qmp' is no address, expected unix:PATH or tcp:HOST:PORT"),
        ("tcp:localhost:x", "'tcp:localhost:x' is no address, expected unix:PATH or tcp:HOST:PORT"),
    ],
)
def test_nobody_is_there(address: str, text: str) -> None:
    async def test() -> None:
        with pytest.raises(ConnectError) as caught:
            async with Client.connect(address):
                pass
        assert str(caught.value) == text

    run(test())


_messages = st.lists(
    st.dictionaries(st.text(), st.integers(-(1 << 63), (1 << 63) - 1) | st.text() | st.none(), max_size=4)
)


@given(_messages, st.booleans(), st.data())
def test_messages_come_out_however_they_were_cut(
    messages: list[dict[str, Any]], pretty: bool, data: st.DataObject
) -> None:
    text = "".join(json.dumps(message, indent=4 if pretty else None) + "\r\n" for message in messages)
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    reader = Messages()
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert [message for piece in pieces for message in reader.feed(piece)] == messages
    assert not reader.midway


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_strange = st.dictionaries(
    st.sampled_from(["event", "data", "timestamp", "sequence", "return", "error", "id", "QMP"]),
    _json
    | st.sampled_from(["STOP", "SHUTDOWN", 2, 3, {"seconds": 1}, {"guest": True}])
    | st.fixed_dictionaries({"class": _json, "desc": _json}),
    max_size=4,
)


@given(st.lists(_strange, max_size=6))
@settings(max_examples=60)
def test_whatever_a_server_sends_is_an_answer_or_the_end(messages: list[dict[str, Any]]) -> None:
    async def test() -> None:
        troubles: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        async with faked() as (qmp, server):
            asked = asyncio.ensure_future(qmp.query_status())
            with qmp.events() as events:
                await server.receive()
                for message in messages:
                    await server.send(json.dumps(message).encode() + b"\n")
                server.socket.close()
                with suppress(ClientError, QmpError):
                    await asked
                with suppress(ClientError):
                    while True:
                        await events.get()
                await qmp.wait_closed()
        assert troubles == []

    logging.disable(logging.WARNING)
    try:
        run(test())
    finally:
        logging.disable(logging.NOTSET)


def test_a_filter_that_fails_is_its_owners_trouble() -> None:
    async def test() -> None:
        async with faked() as (qmp, server):
            with qmp.events(where=lambda event: bool(event.data["x"])) as strict, qmp.events() as lax:
                await server.send(b'{"event": "A"}\n{"event": "B", "data": {"x": 1}}\n')
                assert (await lax.get()).event == "A"
                assert (await lax.get()).event == "B"
                with pytest.raises(KeyError):
                    await strict.get()
                assert (await strict.get()).event == "B"

    run(test())
