"""Every misbehaviour, played to the clients of QEMU's own package qemu.qmp: the shell for people, and the library.

Some of it is more than they stand, in version 0.0.6; what they say then is what these tests expect.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from qemu.qmp import ConnectError as OfficialConnectError
from qemu.qmp import ExecInterruptedError, ExecuteError, QMPClient

from tests.client.support import run
from tests.double.support import double
from tests.programs import LIMIT

SHELL = Path(sys.executable).with_name("qmp-shell")
GREET = {"step": "greet"}
REPLY = {"step": "reply"}
STOP = {"step": "event", "event": "STOP"}
RUNNING = {"return": {"running": True, "status": "running"}}
NOTHING: dict[str, Any] = {"return": {}}


def connect(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"connect": [{"steps": list(steps)}]}


def rule(command: str, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rules": [{"command": command, "steps": list(steps), **more}]}


LATE_AND_MISSING = {
    "rules": [
        {
            "command": "device_del",
            "nth": 1,
            "steps": [
                REPLY,
                {"step": "expect", "command": "query-status", "answered": True},
                {
                    "step": "event",
                    "event": "DEVICE_DELETED",
                    "data": {"device": "$arguments.id", "path": "/machine/peripheral/gone"},
                },
            ],
        },
        {"command": "device_del", "steps": [REPLY]},
    ]
}
SLOW = rule("query-status", {"step": "sleep", "seconds": 0.2}, REPLY)
CONFUSED = rule(
    "query-name", {"step": "reply", "id": "nobody's"}, REPLY, REPLY, {"step": "reply", "without-id": True}
)
FULL = rule("cont", {"step": "error", "desc": "the disk is full"}, nth=2)
HALF = rule("query-status", {"step": "reply", "cut": 17}, {"step": "disconnect"}, nth=1)
LONG = rule("query-status", {"step": "reply", "pad": 2 << 20})
ENDLESS = rule("query-status", {"step": "reply", "pad": 20 << 20})
CRASH = rule("query-status", {"step": "exit", "status": 134})
RAW = rule("query-status", {"step": "raw", "text": "this is no JSON\n"}, REPLY)
BETWEEN = rule("query-status", STOP, REPLY)
LATE = connect({"step": "sleep", "seconds": 0.2}, GREET)
EARLY = connect(STOP, GREET)
UNASKED = connect(GREET, STOP)
SILENT = {"connect": [{"nth": 1, "steps": [{"step": "silence"}]}]}


class Case(NamedTuple):
    """A scenario, what is typed, the answers that are shown, and how the shell ends if that is its end."""

    scenario: dict[str, Any]
    typed: str
    answers: list[dict[str, Any]]
    end: str = ""


SHELLS = {
    "an event between a command and its answer": Case(
        BETWEEN, "query-status\nquery-name\n", [RUNNING, NOTHING]
    ),
    "an event before the greeting": Case(EARLY, "", [], "Did not understand Greeting"),
    "an event behind the greeting": Case(UNASKED, "", [], "Negotiation failed"),
    "a late greeting": Case(LATE, "query-status\n", [RUNNING]),
    "half a reply and the end": Case(HALF, "query-status\n", [], 'raw bytes were: b\'{"return": {"runn\''),
    "two mebibytes in a line": Case(LONG, "query-status\nquery-name\n", [RUNNING, NOTHING]),
    "more than it reads": Case(ENDLESS, "query-status\n", [], "chunk exceed the limit"),
    "DEVICE_DELETED late and never": Case(
        LATE_AND_MISSING,
        "device_del id=a\nquery-status\ndevice_del id=b\nquery-name\n",
        [NOTHING, RUNNING, NOTHING, NOTHING],
    ),
    "a slow answer": Case(SLOW, "query-status\nquery-name\n", [RUNNING, NOTHING]),
    # One command: the shell gives none an id, so what comes twice may be taken for the answer to the next.
    "ids unknown, twice and missing": Case(CONFUSED, "query-name\n", [NOTHING]),
    "an error the second time": Case(
        FULL,
        "cont\ncont\ncont\n",
        [NOTHING, {"error": {"class": "GenericError", "desc": "the disk is full"}}, NOTHING],
    ),
    "a crash": Case(CRASH, "query-status\n", [], "EOFError"),
    "no JSON": Case(RAW, "query-status\n", [], "raw bytes were: b'this is no JSON"),
}


@pytest.mark.parametrize("case", SHELLS.values(), ids=SHELLS)
def test_the_shell(case: Case) -> None:
    with double(case.scenario) as running:
        done = subprocess.run(
            [SHELL, running.address], input=case.typed, capture_output=True, text=True, timeout=LIMIT
        )
    shown = [line.replace("(QEMU) ", "") for line in done.stdout.splitlines()]
    assert [json.loads(line) for line in shown if line.startswith("{")] == case.answers
    assert case.end in done.stderr
    assert bool(done.returncode) is bool(case.end), done.stderr


def test_the_shell_waits_at_a_silent_socket(tmp_path: Path) -> None:
    """Until the double ends, which it does because a second client asks it to. Between the two stands the test, which so knows
    that the shell has connected."""
    with double(SILENT) as running, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "qmp"))
        listener.listen()
        listener.settimeout(LIMIT)
        command = [str(SHELL), str(tmp_path / "qmp")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as shell:
            connection, _ = listener.accept()
            with connection:
                beyond = running.socket()
                running.connect().command("quit")
                assert beyond.recv(1) == b""
            _, said = shell.communicate(timeout=LIMIT)
        assert "Failed to establish session" in said
        assert shell.returncode == 1


def talk(scenario: dict[str, Any], conversation: Any) -> None:
    async def test(address: str) -> None:
        qmp = QMPClient("double")
        await qmp.connect(address)
        try:
            await conversation(qmp)
        finally:
            # A connection that broke is told of again.
            await asyncio.gather(qmp.disconnect(), return_exceptions=True)

    with double(scenario) as running:
        run(test(running.address))


@pytest.mark.parametrize(
    "scenario", [BETWEEN, LATE, LONG, SLOW], ids=["an event between", "a late greeting", "long", "slow"]
)
def test_the_library_stands_it(scenario: dict[str, Any]) -> None:
    async def conversation(qmp: QMPClient) -> None:
        assert await qmp.execute("query-status") == RUNNING["return"]
        assert await qmp.execute("query-name") == {}
        if scenario is BETWEEN:
            assert (await qmp.events.get())["event"] == "STOP"

    talk(scenario, conversation)


@pytest.mark.parametrize(
    "scenario", [HALF, ENDLESS, CRASH, RAW], ids=["half", "endless", "a crash", "no JSON"]
)
def test_the_library_loses_its_connection(scenario: dict[str, Any]) -> None:
    async def conversation(qmp: QMPClient) -> None:
        with pytest.raises(ExecInterruptedError):
            await qmp.execute("query-status")

    talk(scenario, conversation)


@pytest.mark.parametrize("scenario", [EARLY, UNASKED], ids=["before the greeting", "behind the greeting"])
def test_the_library_takes_no_event_before_it_has_negotiated(scenario: dict[str, Any]) -> None:
    async def nothing(_qmp: QMPClient) -> None:
        pass

    with pytest.raises(OfficialConnectError):
        talk(scenario, nothing)


def test_the_library_at_a_silent_socket() -> None:
    async def test(address: str) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(QMPClient("double").connect(address), 0.1)

    with double(SILENT) as running:
        run(test(running.address))


def test_the_library_and_a_device_that_goes_late_or_never() -> None:
    async def conversation(qmp: QMPClient) -> None:
        with qmp.listener("DEVICE_DELETED") as deleted:
            await qmp.execute("device_del", {"id": "a"})
            assert deleted.empty()
            await qmp.execute("query-status")
            event = await deleted.get()
            assert event["data"] == {"device": "a", "path": "/machine/peripheral/gone"}
            await qmp.execute("device_del", {"id": "b"})
            await qmp.execute("query-status")
            await qmp.execute("query-name")
            assert deleted.empty()

    talk(LATE_AND_MISSING, conversation)


def test_the_library_and_confused_ids() -> None:
    async def conversation(qmp: QMPClient) -> None:
        assert await qmp.execute("query-name") == {}
        assert await qmp.execute("query-status") == RUNNING["return"]

    talk(CONFUSED, conversation)


def test_the_library_and_an_error_the_second_time() -> None:
    async def conversation(qmp: QMPClient) -> None:
        await qmp.execute("cont")
        with pytest.raises(ExecuteError, match="the disk is full"):
            await qmp.execute("cont")
        await qmp.execute("cont")

    talk(FULL, conversation)
