"""Monitors that come and go while the program runs, and connections that are ended by force."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import LIMIT, QmpClient, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

NONE = ("-machine", "none", "-nodefaults", "-S", "-display", "none", "-monitor", "none")


def listen(program: Program, path: Path, label: str) -> None:
    """A chardev that listens at a path."""
    address = {"type": "unix", "data": {"path": str(path)}}
    backend = {"type": "socket", "data": {"addr": address, "wait": False}}
    program.qmp.command("chardev-add", id=label, backend=backend)


def connect(path: Path) -> QmpClient:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return QmpClient(connection, negotiate=False)


def monitors(program: Program) -> list[Any]:
    found: list[Any] = program.qmp.command("query-monitors")
    return found


def test_a_monitor_is_added_used_and_removed(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*NONE)
    listen(program, tmp_path / "s", "c")
    program.qmp.command("monitor-add", id="extra", chardev="c")
    assert monitors(program)[1:] == [{"id": "extra", "mode": "control", "chardev": "c"}]
    client = connect(tmp_path / "s")
    client.negotiate()
    assert client.command("query-name") == {}
    with pytest.raises(QmpError, match=r"^Chardev 'c' is busy$"):
        program.qmp.command("chardev-remove", id="c")
    program.qmp.command("monitor-remove", id="extra")
    with pytest.raises(EOFError):
        client.message()
    assert len(monitors(program)) == 1
    program.qmp.command("chardev-remove", id="c")
    client.close()


def test_a_client_that_waited_is_greeted_and_hears_events_like_others(
    daemon: Starter, tmp_path: Path
) -> None:
    program = daemon("-machine", "virt", "-m", "16", *NONE[2:])
    listen(program, tmp_path / "s", "c")
    client = connect(tmp_path / "s")
    program.qmp.command("query-chardev")  # by now the connection is accepted
    program.qmp.command("monitor-add", id="extra", chardev="c")
    client.negotiate()
    program.qmp.command("system_reset")
    assert client.event("RESET")["data"]["guest"] is False
    client.close()


def test_a_monitor_that_removes_itself_answers_and_then_is_silent(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*NONE)
    listen(program, tmp_path / "s", "c")
    program.qmp.command("monitor-add", id="m", chardev="c")
    client = connect(tmp_path / "s")
    client.negotiate()
    removal = {"execute": "monitor-remove", "arguments": {"id": "m"}, "id": 1}
    after = {"execute": "quit", "id": 2}
    client.send(json.dumps(removal).encode() + json.dumps(after).encode())
    assert client.reply() == {"return": {}, "id": 1}
    assert len(monitors(program)) == 1  # the process is there: what came after the removal was not run
    program.qmp.command("monitor-add", id="m", chardev="c")
    client.negotiate()
    assert client.command("query-name") == {}
    client.close()


def test_descriptors_end_with_their_monitor(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*NONE)
    listen(program, tmp_path / "s", "c")
    program.qmp.command("monitor-add", id="m", chardev="c")
    client = connect(tmp_path / "s")
    client.negotiate()
    here, there = socket.socketpair()
    request = {"execute": "getfd", "arguments": {"fdname": "x"}}
    socket.send_fds(client.socket, [json.dumps(request).encode()], [there.fileno()])
    assert client.reply() == {"return": {}}
    there.close()
    program.qmp.command("monitor-remove", id="m")
    here.settimeout(60)
    assert here.recv(1) == b""
    here.close()
    client.close()


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("monitor-add", {"id": "1a", "chardev": "n"}, "Parameter 'id' expects an identifier"),
        ("monitor-add", {"id": "a", "chardev": "x"}, 'chardev "x" not found'),
        ("monitor-add", {"id": "a", "chardev": "test-qmp"}, "chardev 'test-qmp' is already in use"),
        ("monitor-add", {"id": "taken", "chardev": "n"}, "Monitor with id 'taken' already exists"),
        ("monitor-remove", {"id": "a"}, "Monitor 'a' not found"),
    ],
)
def test_what_is_refused(daemon: Starter, command: str, arguments: dict[str, str], text: str) -> None:
    program = daemon(*NONE, *("-chardev", "null,id=n", "-chardev", "null,id=o"))
    program.qmp.command("monitor-add", id="taken", chardev="o")
    before = monitors(program)
    with pytest.raises(QmpError) as error:
        program.qmp.command(command, arguments)
    assert str(error.value) == text
    assert monitors(program) == before


def test_a_connection_is_yanked_out_of_band_by_another(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*NONE, "-chardev", "null,id=n")
    listen(program, tmp_path / "s", "c")
    instance = {"type": "chardev", "id": "c"}
    assert program.qmp.command("query-yank") == [{"type": "chardev", "id": "test-qmp"}, instance]
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(tmp_path / "s"))
    wrong = [instance, {"type": "chardev", "id": "n"}]
    with pytest.raises(QmpError, match=r"^Instance not found$") as error:
        program.qmp.command("yank", instances=wrong)
    assert error.value.error_class == "DeviceNotFound"
    assert not select.select([peer], [], [], 0)[0]  # still connected
    # A connection is there for its peer before the program has taken it.
    deadline = time.monotonic() + LIMIT
    while not select.select([peer], [], [], 0)[0]:
        assert time.monotonic() < deadline
        program.qmp.command("yank", instances=[instance])
    assert peer.recv(1) == b""
    again = socket.socket(socket.AF_UNIX)
    again.connect(str(tmp_path / "s"))
    infos = {each["label"]: each["filename"] for each in program.qmp.command("query-chardev")}
    assert infos["c"].startswith("unix:")
    again.close()
    peer.close()
    program.qmp.command("yank", instances=[instance])  # nobody is there: nothing happens


def test_yank_does_not_wait_behind_a_command_that_hangs(daemon: Starter, tmp_path: Path) -> None:
    program = daemon(*NONE)
    listen(program, tmp_path / "s", "c")
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(60)
    peer.connect(str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(str(tmp_path / "full"))
        full.listen(0)
        first.connect(str(tmp_path / "full"))  # nobody accepts: the next one has to wait
        listen(program, tmp_path / "m", "m")
        program.qmp.command("monitor-add", id="m", chardev="m")
        client = connect(tmp_path / "m")
        client.message()
        client.command("qmp_capabilities", enable=["oob"])
        address = {"type": "unix", "data": {"path": str(tmp_path / "full")}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        hangs = {"execute": "chardev-add", "arguments": {"id": "h", "backend": backend}, "id": "hangs"}
        instances = [{"type": "chardev", "id": "c"}]
        yank = {"exec-oob": "yank", "arguments": {"instances": instances}, "id": "yank"}
        client.send(json.dumps(hangs).encode() + json.dumps(yank).encode())
        assert client.reply() == {"return": {}, "id": "yank"}
        assert peer.recv(1) == b""
        full.accept()[0].close()
        assert client.reply() == {"return": {}, "id": "hangs"}
    client.close()
    peer.close()
