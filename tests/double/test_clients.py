"""Clients with the double: ours, and the official one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from qemu.qmp import ConnectError as OfficialConnectError
from qemu.qmp import ExecuteError, QMPClient
from qemu.qmp.protocol import Runstate

from qemud.client import Client, ConnectError, ConnectionLost, GenericError, Reconnect
from qemud.client.events import DeviceDeletedEvent, StopEvent
from tests.client.support import run
from tests.double.support import double
from tests.programs import LIMIT

REPLY = {"step": "reply"}


def test_our_client_and_a_server_at_its_worst() -> None:
    scenario = {
        "connect": [
            {"nth": 1, "steps": [{"step": "silence"}]},
            {
                "steps": [
                    {"step": "event", "event": "STOP"},
                    {"step": "greet"},
                    {"step": "event", "event": "STOP"},
                ]
            },
        ],
        "rules": [
            {"command": "qmp_capabilities", "steps": [{"step": "event", "event": "RESUME"}, REPLY]},
            {"command": "query-name", "nth": 1, "steps": [{"step": "reply", "id": "other"}, REPLY, REPLY]},
            {"command": "query-name", "nth": 2, "steps": [{"step": "reply", "pad": 3 << 20}]},
            {"command": "query-name", "nth": 3, "steps": [{"step": "error", "desc": "third"}]},
            {"command": "query-name", "steps": [{"step": "reply", "cut": 20}, {"step": "disconnect"}]},
            {
                "command": "device_del",
                "steps": [
                    REPLY,
                    {"step": "expect", "command": "query-status"},
                    {
                        "step": "event",
                        "event": "DEVICE_DELETED",
                        "data": {"device": "$arguments.id", "path": "/x"},
                    },
                ],
            },
        ],
    }

    async def test(address: str) -> None:
        with pytest.raises(ConnectError, match="no greeting came"):
            await Client.connect(address, greeting_timeout=0.01)
        reconnect = Reconnect(delay=0, longest=0)
        async with Client.connect(address, reconnect=reconnect) as qmp:
            assert (await qmp.query_name()).name is None
            assert (await qmp.query_name()).name is None
            with pytest.raises(GenericError, match="third"):
                await qmp.query_name()
            with qmp.events(DeviceDeletedEvent) as deleted:
                await qmp.device_del(id="net0")
                waiting = asyncio.ensure_future(deleted.get())
                await qmp.query_status()
                assert (await waiting).device == "net0"
            with pytest.raises(ConnectionLost, match="in the middle of a message"):
                await qmp.query_name()
            assert (await qmp.query_status()).running  # over a new connection
            with qmp.events(StopEvent) as stops:
                await qmp.stop()
                assert (await stops.get()).event == "STOP"

    with double(scenario) as running:
        run(test(running.address))


def test_the_official_client_with_a_good_double() -> None:
    async def test(address: str) -> None:
        qmp = QMPClient("double")
        await qmp.connect(address)
        try:
            assert await qmp.execute("query-status") == {"running": True, "status": "running"}
            with qmp.listener("DEVICE_DELETED") as deleted:
                await qmp.execute("device_del", {"id": "a"})
                assert (await deleted.get()).get("data") == {
                    "device": "a",
                    "path": "/machine/peripheral/device",
                }
            with pytest.raises(ExecuteError, match="has not been found"):
                await qmp.execute("fly")
        finally:
            await qmp.disconnect()
        assert qmp.runstate is Runstate.IDLE

    with double() as running:
        run(test(running.address))


def test_the_official_client_finds_no_greeting() -> None:
    async def test(address: str) -> None:
        qmp = QMPClient("double")
        with pytest.raises(OfficialConnectError):
            await qmp.connect(address)

    with double({"connect": [{"steps": [{"step": "disconnect"}]}]}) as running:
        run(test(running.address))


def test_the_official_client_and_an_nth_error() -> None:
    scenario = {"rules": [{"command": "stop", "nth": 2, "steps": [{"step": "error", "desc": "second"}]}]}

    async def test(address: str) -> None:
        qmp = QMPClient("double")
        await qmp.connect(address)
        try:
            await qmp.execute("stop")
            with pytest.raises(ExecuteError, match="second"):
                await qmp.execute("stop")
        finally:
            await qmp.disconnect()

    with double(scenario) as running:
        run(test(running.address))


def test_the_official_shell() -> None:
    shell = Path(sys.executable).with_name("qmp-shell")
    scenario = {"rules": [{"command": "stop", "nth": 2, "steps": [{"step": "error", "desc": "second"}]}]}
    with double(scenario) as running:
        done = subprocess.run(
            [shell, running.address],
            input="query-status\nstop\nstop\nno-such-command\nquit\n",
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        said = [line.replace("(QEMU) ", "") for line in done.stdout.splitlines()]
        assert [json.loads(line) for line in said if line.startswith("{")] == [
            {"return": {"running": True, "status": "running"}},
            {"return": {}},
            {"error": {"class": "GenericError", "desc": "second"}},
            {"error": {"class": "CommandNotFound", "desc": "The command no-such-command has not been found"}},
            {"return": {}},
        ]
        assert running.process.wait(LIMIT) == 0
