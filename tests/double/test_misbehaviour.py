"""Each kind of misbehaviour, seen from a raw socket."""

from __future__ import annotations

import json
import socket

import pytest

from tests.double.support import double
from tests.programs import QmpError

GREET = {"step": "greet"}
REPLY = {"step": "reply"}


def test_a_double_without_a_scenario_behaves() -> None:
    with double() as running:
        qmp = running.connect()
        assert qmp.greeting["version"]["package"] == "qemud double"
        assert qmp.greeting["capabilities"] == ["oob"]
        assert qmp.command("query-status") == {"running": True, "status": "running"}
        qmp.command("stop")
        assert [event["event"] for event in qmp.events] == ["STOP"]
        with pytest.raises(QmpError, match=r"^Parameter 'path' is missing$"):
            qmp.command("qom-list")
        with pytest.raises(QmpError, match="The command fly has not been found"):
            qmp.command("fly")
        qmp.send(b'{"execute"}')
        assert qmp.reply()["error"]["desc"].startswith("JSON parse error")
        qmp.command("device_del", {"id": "disk0"})
        assert qmp.event("DEVICE_DELETED")["data"]["device"] == "disk0"
        qmp.command("quit")
        assert qmp.event("SHUTDOWN")["data"]["reason"] == "host-qmp-quit"
        assert running.process.wait() == 0


def test_every_query_is_answered_with_what_the_schema_says() -> None:
    from qemud._generated.client.references import RETURNS
    from qemud._generated.table import ARGUMENTS
    from qemud.qapi.runtime.check import parse_type

    with double() as running:
        qmp = running.connect()
        names = {info["name"] for info in qmp.command("query-commands")}
        simple = sorted(names - ARGUMENTS.keys() - {"quit", "qmp_capabilities"})
        assert len(simple) > 20
        for name in simple:
            result = qmp.command(name)
            if name not in RETURNS:
                assert result == {}
            elif name != "query-qmp-schema":  # it is ready JSON text
                parse_type(RETURNS[name], result)


def test_the_double_needs_no_engine() -> None:
    with double() as running:
        running.connect().command("query-status")
        with open(f"/proc/{running.process.pid}/maps") as maps:
            assert "unicorn" not in maps.read()


def test_a_silent_socket() -> None:
    scenario = {"connect": [{"nth": 1, "steps": [{"step": "silence"}]}]}
    with double(scenario) as running:
        silent = running.socket()
        silent.sendall(b'{"execute": "qmp_capabilities"}\n')
        # The second client is served, so the first one's bytes have been there for long.
        assert running.connect().command("query-name") == {}
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.recv(1)


def test_a_late_greeting() -> None:
    scenario = {"connect": [{"steps": [{"step": "expect", "bytes": 5}, GREET]}]}
    with double(scenario) as running:
        qmp = running.connect(negotiate=False)
        qmp.send(b'{"execute": "qmp_capabilities"} {"execute": "query-name", "id": 1}')
        assert [sorted(qmp.message()) for _ in range(3)] == [["QMP"], ["return"], ["id", "return"]]


def test_events_between_greeting_and_replies() -> None:
    scenario = {
        "connect": [
            {"steps": [{"step": "event", "event": "STOP"}, GREET, {"step": "event", "event": "RESUME"}]}
        ],
        "rules": [
            {"command": "qmp_capabilities", "steps": [{"step": "event", "event": "NEWFANGLED"}, REPLY]}
        ],
    }
    with double(scenario) as running:
        qmp = running.connect(negotiate=False)
        assert qmp.message()["event"] == "STOP"
        assert "QMP" in qmp.message()
        assert qmp.message()["event"] == "RESUME"
        qmp.send(b'{"execute": "qmp_capabilities"}')
        assert qmp.message()["event"] == "NEWFANGLED"
        assert qmp.message() == {"return": {}}


def test_half_a_reply_and_the_end() -> None:
    scenario = {
        "rules": [
            {
                "command": "query-status",
                "nth": 2,
                "steps": [{"step": "reply", "cut": 12}, {"step": "disconnect"}],
            }
        ]
    }
    with double(scenario) as running:
        qmp = running.connect()
        qmp.command("query-status")
        with pytest.raises(EOFError):
            qmp.command("query-status")
        assert qmp.log.endswith(b'\n{"return": {')
        again = running.connect()
        assert again.command("query-status")["running"]


@pytest.mark.parametrize("step", ["reply", "event", "error"])
def test_a_line_over_a_mebibyte(step: str) -> None:
    size = (1 << 20) + 4321
    long = {"step": step, "pad": size, **{"event": {"event": "STOP"}, "error": {"desc": "no"}}.get(step, {})}
    steps = [long, REPLY] if step == "event" else [long]
    with double({"rules": [{"command": "query-name", "steps": steps}]}) as running:
        qmp = running.connect()
        if step == "error":
            with pytest.raises(QmpError, match=r"^no$"):
                qmp.command("query-name")
        else:
            qmp.command("query-name")
        assert max(map(len, qmp.log.split(b"\n"))) == size - 1


def test_a_late_and_a_missing_device_deleted() -> None:
    late = {"step": "expect", "command": "query-status", "answered": True}
    deleted = {
        "step": "event",
        "event": "DEVICE_DELETED",
        "data": {"device": "$arguments.id", "path": "/machine/x"},
    }
    scenario = {
        "rules": [
            {"command": "device_del", "nth": 1, "steps": [REPLY, late, deleted]},
            {"command": "device_del", "steps": [REPLY]},
        ]
    }
    with double(scenario) as running:
        qmp = running.connect()
        qmp.command("device_del", {"id": "late"})
        qmp.command("query-name")
        assert qmp.events == []
        qmp.command("query-status")
        assert qmp.message()["data"]["device"] == "late"
        qmp.command("device_del", {"id": "never"})
        qmp.command("query-name")
        assert qmp.events == []


def test_slow_answers_hold_what_comes_behind() -> None:
    scenario = {
        "rules": [
            {
                "command": "query-name",
                "steps": [{"step": "expect", "command": "stop"}, {"step": "sleep", "seconds": 0.01}, REPLY],
            }
        ]
    }
    with double(scenario) as running:
        qmp = running.connect()
        qmp.send(b'{"execute": "query-name", "id": 1} {"execute": "query-status", "id": 2}')
        qmp.send(b'{"execute": "stop", "id": 3}')
        assert [qmp.reply()["id"] for _ in range(3)] == [1, 2, 3]


def test_out_of_band_overtakes_a_slow_answer() -> None:
    steps = [{"step": "expect", "command": "yank", "answered": True}, REPLY]
    with double({"rules": [{"command": "query-name", "steps": steps}]}) as running:
        qmp = running.connect(negotiate=False)
        qmp.send(b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}')
        assert "QMP" in qmp.message()
        assert qmp.message() == {"return": {}}
        qmp.send(b'{"execute": "query-name", "id": 1}')
        qmp.send(b'{"exec-oob": "yank", "arguments": {"instances": []}, "id": 2}')
        assert [qmp.reply()["id"] for _ in range(2)] == [2, 1]


def test_duplicated_unknown_and_missing_ids() -> None:
    steps = [{"step": "reply", "id": "stranger"}, REPLY, REPLY, {"step": "reply", "without-id": True}]
    with double({"rules": [{"command": "query-name", "steps": steps}]}) as running:
        qmp = running.connect()
        qmp.send(b'{"execute": "query-name", "id": 7}')
        assert [qmp.message().get("id") for _ in range(4)] == ["stranger", 7, 7, None]
        assert qmp.command("query-status")["running"]


def test_errors_on_the_nth_call_over_all_connections() -> None:
    broken = {"step": "error", "class": "DeviceNotActive", "desc": "not today"}
    with double({"rules": [{"command": "cont", "nth": 3, "steps": [broken]}]}) as running:
        first = running.connect()
        first.command("cont")
        first.command("cont")
        second = running.connect()
        with pytest.raises(QmpError, match="not today") as caught:
            second.command("cont")
        assert caught.value.error_class == "DeviceNotActive"
        second.command("cont")


def test_rules_for_one_connection_and_commands_that_no_schema_has() -> None:
    scenario = """
        version = { major = 42, minor = 1, micro = 0 }
        package = "from the future"
        oob = false

        [[answers]]
        command = "query-name"
        return = { name = "vm" }

        [[answers]]
        command = "query-warp"
        return = [9, 9]

        [[rules]]
        command = "query-name"
        connection = 2
        steps = [{ step = "reply", return = { name = "second" } }]

        [[rules]]
        command = "engage"
        steps = [{ step = "reply", return = { course = "$arguments.course", unset = "$arguments.nothing" } }]
    """
    with double(scenario) as running:
        qmp, other = running.connect(), running.connect()
        assert qmp.greeting["version"]["qemu"]["major"] == 42
        assert qmp.greeting["capabilities"] == []
        assert qmp.command("query-name") == {"name": "vm"}
        assert other.command("query-name") == {"name": "second"}
        assert qmp.command("query-warp") == [9, 9]
        assert {"name": "query-warp"} in qmp.command("query-commands")
        assert qmp.command("engage", course=[1]) == {"course": [1], "unset": None}


def test_no_answer_at_all_and_raw_text() -> None:
    scenario = {
        "rules": [
            {"command": "query-name", "steps": []},
            {"command": "query-kvm", "steps": [{"step": "raw", "text": "é ?\n"}, REPLY]},
        ]
    }
    with double(scenario) as running:
        qmp = running.connect()
        qmp.send(b'{"execute": "query-name", "id": 1} {"execute": "query-status", "id": 2}')
        assert qmp.message()["id"] == 2
        qmp.send(b'{"execute": "query-kvm", "id": 3}')
        with pytest.raises(json.JSONDecodeError):
            qmp.message()
        assert "é ?\n".encode() in qmp.log
        assert qmp.message()["id"] == 3


def test_the_double_crashes() -> None:
    steps = [{"step": "reply", "cut": 3}, {"step": "exit", "status": 7}]
    with double({"rules": [{"command": "query-name", "steps": steps}]}) as running:
        qmp = running.connect()
        with pytest.raises(EOFError):
            qmp.command("query-name")
        assert running.process.wait() == 7


def test_a_reset_connection() -> None:
    steps = [{"step": "disconnect", "reset": True}]
    with double({"connect": [{"steps": steps}]}) as running:
        assert running.socket().recv(1) == b""


def test_thousands_of_commands_at_once() -> None:
    scenario = {
        "rules": [{"command": "query-name", "nth": 2000, "steps": [{"step": "error", "desc": "enough"}]}]
    }
    with double(scenario) as running:
        qmp = running.connect()
        qmp.send(b"".join(b'{"execute": "query-name", "id": %d}' % number for number in range(2000)))
        replies = [qmp.reply() for _ in range(2000)]
        assert [reply["id"] for reply in replies] == list(range(2000))
        assert "error" in replies[-1]


def test_a_double_that_connects() -> None:
    import subprocess
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from tests.double.support import QEMUD
    from tests.programs import LIMIT, QmpClient

    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(folder, "qmp"))
        listener.bind(address)
        listener.listen()
        listener.settimeout(LIMIT)
        with subprocess.Popen([QEMUD, "double", "-qmp", f"unix:{address},server=off"]) as process:
            connection, _ = listener.accept()
            with connection:
                assert QmpClient(connection).command("query-name") == {}
            process.terminate()
            assert process.wait(LIMIT) == 0
