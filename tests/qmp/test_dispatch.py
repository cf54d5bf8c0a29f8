"""The dispatcher, as a client sees it: handlers that fail, phases, texts."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from qemud._generated.types.error import QapiErrorClass
from qemud.monitor import dispatch
from qemud.qapi.runtime.errors import GenericError, QmpError
from tests.qmp.fakes import HANDLERS, Services, command, ids, monitor, run, settle

if TYPE_CHECKING:
    import pytest


def test_a_broken_handler_is_logged_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = []

    class Log:
        def exception(self, event: str, **fields: Any) -> None:
            logged.append((event, fields, repr(sys.exception())))

    monkeypatch.setattr(dispatch, "log", Log())

    async def test(services: Services) -> None:
        _, port = monitor(services)
        port.receive(command("broken", 1) + command("query-name", 2))
        error, reply = port.messages()
        assert error == {
            "id": 1,
            "error": {
                "class": "GenericError",
                "desc": "Internal error in command 'broken': ZeroDivisionError",
            },
        }
        assert reply["id"] == 2

    run(test)
    mistake = 'ZeroDivisionError("the handler\'s own mistake")'
    assert logged == [("command handler failed", {"command": "broken"}, mistake)]


def test_a_command_whose_work_is_cancelled_is_answered() -> None:
    async def test(services: Services) -> None:
        async def handler() -> None:
            work = asyncio.get_running_loop().create_future()
            work.cancel()
            await work

        _, port = monitor(services)
        port.receive(command("slow", 1))
        services.gates[0].cancel()
        await settle()
        info, _ = services.dispatcher._methods["slow"]
        services.dispatcher._methods["slow"] = (info, handler)
        port.receive(command("slow", 2) + command("query-name", 3))
        late, early, reply = port.messages()
        for identity, message in ((1, late), (2, early)):
            desc = "The command 'slow' was cancelled"
            assert message == {"id": identity, "error": {"class": "GenericError", "desc": desc}}
        assert reply["id"] == 3

    run(test)


def test_a_command_without_success_response_is_silent() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services)
        port.receive(command("silent", 1) + command("query-name", 2))
        assert ids(port.messages()) == [2]
        assert services.log == ["quick"]

    run(test)


def test_before_the_machine_only_some_commands_run() -> None:
    async def test(services: Services) -> None:
        services.dispatcher.phase = "accel-created"
        _, port = monitor(services)
        port.receive(command("slow", 1) + command("early", 2))
        refused, early = port.messages()
        assert refused["error"] == {
            "class": "GenericError",
            "desc": "The command 'slow' is permitted only after machine initialization has completed",
        }
        assert early == {"return": {}, "id": 2}

    run(test)


def test_control_commands() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services)
        port.receive(command("query-version") + command("query-commands") + command("quit"))
        version, commands, quit_reply = port.messages()
        assert version["return"]["qemu"] == {"major": 10, "minor": 0, "micro": 2}
        names = [entry["name"] for entry in commands["return"]]
        assert {"quit", "query-qmp-schema", "qmp_capabilities"} <= {*names}
        assert quit_reply == {"return": {}}
        assert services.quits == 1

    run(test)


def test_texts_that_are_not_ascii_leave_as_escapes() -> None:
    async def test(services: Services) -> None:
        _, port = monitor(services)
        port.receive('{"execute": "é𝄞", "id": "é𝄞\\u0000"}'.encode())
        assert (
            b'"id": "\\u00E9\\uD834\\uDD1E\\u0000"' in port.sent
            or b'"\\u00E9\\uD834\\uDD1E\\u0000"' in port.sent
        )
        [reply] = port.messages()
        assert reply["error"]["desc"] == "The command é𝄞 has not been found"
        assert reply["id"] == "é𝄞\0"

    run(test)


def test_error_texts_with_broken_file_names_are_printable() -> None:
    async def test(services: Services) -> None:
        made, port = monitor(services)
        port.receive(command("slow", 1))
        services.gates[0].set_exception(GenericError("Could not open '/tmp/\udcff\udc80x'"))
        await settle()
        [reply] = port.messages()
        assert reply["error"]["desc"] == "Could not open '/tmp/\ufffd\ufffdx'"
        made.close()

    run(test)


def test_a_handler_that_cannot_be_made_is_an_error_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(HANDLERS, "run-state")

    async def test(services: Services) -> None:
        _, port = monitor(services)
        port.receive(command("query-status", 1) + command("query-name", 2))
        error, reply = port.messages()
        assert error["error"]["desc"] == "Internal error in command 'query-status': KeyError"
        assert reply["id"] == 2

    run(test)


def test_the_schema_lists_the_error_classes_that_exist() -> None:
    classes: list[type[QmpError]] = [QmpError, *QmpError.__subclasses__()]
    assert {member.value for member in QapiErrorClass} == {error.error_class for error in classes}
