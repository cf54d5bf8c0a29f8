"""Much at once: clients, commands, and events that nobody reads.  Nobody is turned away, and memory stays bounded."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.programs import LIMIT, QmpClient
from tests.system.embed import Embedded

if TYPE_CHECKING:
    from tests.conftest import Starter
    from tests.programs import Program

NONE = ("-machine", "none", "-display", "none", "-nodefaults")
NEGOTIATE = b'{"execute":"qmp_capabilities"}'
MANY = 100_000
ROOM = 24 << 20
"""How much the process may grow, bytes: the bounds of one client's queues, and what an allocator keeps."""


def resident(program: Program) -> int:
    """The most memory that the process has had so far, bytes."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) << 10


def address(program: Program, family: str, folder: Path) -> str | tuple[str, int]:
    """Where another monitor listens that is made now."""
    data = (
        {"type": "unix", "data": {"path": str(folder / "q")}}
        if family == "unix"
        else {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}
    )
    backend = {"type": "socket", "data": {"addr": data, "server": True, "wait": False}}
    program.qmp.command("chardev-add", id="many", backend=backend)
    program.qmp.command("monitor-add", id="many", chardev="many")
    if family == "unix":
        return str(folder / "q")
    [shown] = [entry for entry in program.qmp.command("query-chardev") if entry["label"] == "many"]
    return "127.0.0.1", int(shown["filename"].removesuffix(",server=on").rpartition(":")[2])


def connect(where: str | tuple[str, int]) -> socket.socket:
    client = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    client.settimeout(LIMIT)
    client.connect(where)
    return client


def read_to_the_end(client: socket.socket) -> list[dict[str, object]]:
    data = bytearray()
    while piece := client.recv(1 << 20):
        data += piece
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("family", ["unix", "tcp"])
@pytest.mark.parametrize(
    "commands",
    [
        [b'{"execute":"query-name"}'] * 3000,
        [b'{"execute":"stop"}', b'{"execute":"cont"}'] * 50,
        [b'{"execute":"query-qmp-schema"}'] * 10,
    ],
    ids=["quick", "waiting", "large"],
)
def test_one_who_has_finished_sending_gets_every_answer(
    daemon: Starter, tmp_path: Path, family: str, commands: list[bytes]
) -> None:
    """As with `printf … | nc -N`."""
    where = address(program := daemon(*NONE), family, tmp_path)
    with connect(where) as client:

        def send() -> None:
            client.sendall(NEGOTIATE + b"".join(commands))
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        messages = read_to_the_end(client)
        sender.join()
    assert sum("return" in message for message in messages) == 1 + len(commands)
    assert program.qmp.command("query-name") == {}


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_answers_to_one_who_has_gone_are_not_for_the_next(
    daemon: Starter, tmp_path: Path, family: str
) -> None:
    where = address(daemon(*NONE), family, tmp_path)
    for _ in range(20):
        with connect(where) as client:
            client.sendall(NEGOTIATE + b'{"execute":"stop"}{"execute":"cont"}{"execute":"query-name"}' * 500)
        with connect(where) as client:
            client.sendall(NEGOTIATE)
            client.shutdown(socket.SHUT_WR)
            greeting, *others = read_to_the_end(client)
            assert "QMP" in greeting
            assert [other for other in others if "event" not in other] == [{"return": {}}]


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_a_thousand_clients_at_one_socket_are_served_one_after_the_other(
    daemon: Starter, tmp_path: Path, family: str
) -> None:
    program = daemon(*NONE)
    where = address(program, family, tmp_path)
    before = resident(program)
    with ExitStack() as stack:
        clients = []
        for number in range(500):
            client = stack.enter_context(connect(where))
            client.sendall(NEGOTIATE + b'{"execute":"query-name","id":%d}' % number)
            client.shutdown(socket.SHUT_WR)
            clients.append(client)
        for number in range(500, 1000):  # who comes and goes does not hold up the others
            with connect(where) as client:
                client.sendall(NEGOTIATE + b'{"execute":"query-name","id":%d}' % number)
        for number, client in enumerate(clients):
            greeting, negotiated, answer = read_to_the_end(client)
            assert "QMP" in greeting
            assert negotiated == {"return": {}}
            assert answer == {"return": {}, "id": number}
    with connect(where) as client:
        assert QmpClient(client).command("query-name") == {}
    assert resident(program) - before < ROOM


@pytest.mark.parametrize("reads", [True, False])
def test_a_hundred_thousand_commands_on_one_connection(daemon: Starter, tmp_path: Path, reads: bool) -> None:
    """Whoever does not read is not read from; others are served meanwhile."""
    program = daemon(*NONE)
    where = address(program, "unix", tmp_path)
    before = resident(program)
    with connect(where) as client:
        commands = NEGOTIATE + b"".join(b'{"execute":"query-name","id":%d}' % n for n in range(MANY))
        left = threading.Event()

        def send() -> None:
            try:
                client.sendall(commands)
            except OSError:
                left.set()

        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(100):
            assert program.qmp.command("query-version")["qemu"]["major"] == 10
        if reads:
            file = client.makefile("rb")
            assert "QMP" in json.loads(file.readline())
            assert json.loads(file.readline()) == {"return": {}}
            for number in range(MANY):
                assert file.readline() == b'{"return": {}, "id": %d}\r\n' % number
        else:
            # What it may send is bounded: it is still at it when it gives up.
            client.shutdown(socket.SHUT_RDWR)
        sender.join()
        assert left.is_set() is not reads
    assert program.qmp.command("query-name") == {}
    assert resident(program) - before < ROOM


def test_a_hundred_thousand_events_at_a_client_that_does_not_read(tmp_path: Path) -> None:
    program = Embedded(*NONE)
    try:
        where = address(program, "unix", tmp_path)
        with connect(where) as connection:
            client = QmpClient(connection)
            client.command("query-name")
            before = resident(program)
            flood = threading.Thread(target=program.ask, args=("flood", str(MANY)))
            flood.start()
            served = 0
            while flood.is_alive():
                program.qmp.send(b'{"execute":"query-name","id":%d}' % served)
                assert program.qmp.reply() == {"return": {}, "id": served}
                served += 1
            flood.join()
            assert served
            assert resident(program) - before < ROOM
            # It comes to its senses: some of the events, the last of them, and answers as ever.
            client.send(b'{"execute":"query-name","id":"late"}')
            assert client.reply() == {"return": {}, "id": "late"}
            assert 0 < len(client.events) < MANY
    finally:
        program.close()
