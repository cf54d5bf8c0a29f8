"""Whatever goes wrong while a machine leaves, it stays, and goes on with what it was doing."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from qemud.migration import live
from qemud.migration.live import Section
from tests.migration.moves import (
    DEMO,
    awake,
    incoming,
    info,
    pass_descriptor,
    peek,
    port_of,
    source,
    status,
    steps,
    switch,
    target,
)
from tests.migration.test_snapshots import check, make, node
from tests.programs import LIMIT, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

END, GO = (Section(kind).pack() for kind in (live.END, live.GO))


def stays(program: Program, reason: str | None) -> list[str]:
    """It has failed of that, or was cancelled; nothing else has changed."""
    told = steps(program)
    assert told[-1] == f"MIGRATION {'cancelled' if reason is None else 'failed'}"
    found = info(program)
    assert found.pop("error-desc", None) == reason
    assert found == {"status": told[-1].split()[1]}
    assert status(program) == "running"
    assert peek(program) == 77
    assert program.serial.command("sum 1")[0].endswith("1 of 1 right")
    return told


def leaves(daemon: Starter, program: Program) -> None:
    """It can leave all the same, afterwards."""
    switch(program, "return-path", "pause-before-switchover", state=False)
    other = target(daemon)
    incoming(other, "tcp:127.0.0.1:0")
    program.qmp.command("migrate", uri=port_of(other))
    assert steps(program)[-1] == "MIGRATION completed"
    assert steps(other)[-1] == "MIGRATION completed"
    awake(other)
    assert peek(other) == 77


def test_nobody_is_there(daemon: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    a = source(daemon)
    a.qmp.command("migrate", uri=f"tcp:127.0.0.1:{port}")
    told = stays(a, f"Failed to connect to '127.0.0.1:{port}': Connection refused")
    assert told == ["MIGRATION setup", "MIGRATION failed"]
    leaves(daemon, a)


@pytest.mark.parametrize("answers", [False, True], ids=["one-way", "return-path"])
@pytest.mark.parametrize("count", [0, 1, 64, 5000, 200_000])
def test_who_hangs_up(daemon: Starter, count: int, answers: bool) -> None:
    """After that many bytes, for which it takes a connection with little room."""
    a = source(daemon)
    if answers:
        switch(a, "return-path")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        a.qmp.command("migrate-set-parameters", {"max-bandwidth": 0})
        a.serial.command("poke 0x80500000 1")
        a.qmp.command("migrate", uri=f"tcp:127.0.0.1:{server.getsockname()[1]}")
        connection, _ = server.accept()
        with connection:
            read(connection, count)
            # Nothing is waited for: the other side hears of it at once.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    told = steps(a)
    if told[-1] == "MIGRATION completed" and not answers:
        return  # all of it was on its way: without an answer, that is as far as anybody can see
    assert told[-1] == "MIGRATION failed"
    assert info(a)["error-desc"].startswith(
        ("Unable to write to socket: ", "Failed to connect to '127.0.0.1:")
    )
    assert status(a) == "running"
    leaves(daemon, a)


def read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(min(count - len(data), 1 << 16))
        assert part
        data += part
    return data


def test_who_takes_it_all_and_says_nothing(daemon: Starter) -> None:
    """The last word is not said, and it can be taken back; so is one who answers something else."""
    for answer in (None, b"nonsense" * 2):
        a = source(daemon)
        switch(a, "return-path")
        with socket.create_server(("127.0.0.1", 0)) as server:
            a.qmp.command("migrate", uri=f"tcp:127.0.0.1:{server.getsockname()[1]}")
            connection, _ = server.accept()
            with connection:
                data = b""
                connection.settimeout(LIMIT)
                while not data.endswith(END):
                    data += connection.recv(1 << 20)
                assert info(a)["status"] == "device"
                assert status(a) == "finish-migrate"
                if answer is None:
                    a.qmp.command("migrate_cancel")
                else:
                    connection.sendall(answer)
                told = stays(a, None if answer is None else "the other side's answer is none")
                assert "RESUME" in told
                while part := connection.recv(1 << 20):
                    data += part
        assert GO not in data
        leaves(daemon, a)


def test_cancelled_before_the_switch(daemon: Starter) -> None:
    a, b = source(daemon), target(daemon)
    switch(a, "pause-before-switchover")
    incoming(b, "tcp:127.0.0.1:0")
    a.qmp.command("migrate", uri=port_of(b))
    while a.qmp.event("MIGRATION")["data"]["status"] != "pre-switchover":
        pass
    a.qmp.command("migrate_cancel")
    assert stays(a, None) == ["MIGRATION cancelling", "RESUME", "MIGRATION cancelled"]
    assert steps(b)[-1] == "MIGRATION failed"
    assert info(b)["error-desc"] == "load of migration failed: Input/output error"
    assert status(b) == "inmigrate"
    b.qmp.command("cont")
    assert status(b) == "inmigrate"
    leaves(daemon, a)


def test_cancelled_while_nobody_reads(daemon: Starter) -> None:
    a = source(daemon)
    a.qmp.command("migrate", uri="exec:exec sleep 3600")
    assert a.qmp.event("MIGRATION")["data"]["status"] == "setup"
    while a.qmp.event("MIGRATION")["data"]["status"] != "active":
        pass
    a.qmp.command("migrate_cancel")
    stays(a, None)
    a.qmp.command("migrate_cancel")  # which is nothing now
    leaves(daemon, a)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:/dev/full", "Unable to write to file: No space left on device"),
        ("exec:cat > /dev/null; exit 3", "Unable to write to command: the command ended with status 3"),
        ("exec:exit 1", "Unable to write to command: Broken pipe"),
    ],
)
def test_what_cannot_be_kept(daemon: Starter, uri: str, reason: str) -> None:
    a = source(daemon)
    a.qmp.command("migrate", uri=uri)
    assert stays(a, reason)[0] == "MIGRATION setup"
    leaves(daemon, a)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ("-m", "16"),
            "saved memory 'riscv_virt_board.ram' has 0x2000000 bytes at 0x80000000, here it has 0x1000000 ",
        ),
        (("-device", "virtio-rng-device"), "saved state has no '/machine/"),
        (("-machine", "none"), "the saved machine is a virt-10.0-machine, this one is a none-machine"),
    ],
    ids=["memory", "device", "board"],
)
@pytest.mark.parametrize("answers", [False, True], ids=["one-way", "return-path"])
def test_who_is_another(
    daemon: Starter,
    options: tuple[str, ...],
    reason: str,
    answers: bool,
) -> None:
    """Who asks for an answer gets the reason, and stays; who does not, believes that it has left."""
    a = source(daemon)
    more = ("-kernel",) if "-kernel" in options else ()
    words = [word for word in DEMO if word not in more]
    if "none" in options:
        words = ["-display", "none"]
    b = daemon(*words, *options, "-serial", "null", "-incoming", "defer")
    switch(b, "events")
    incoming(b, "tcp:127.0.0.1:0")
    if answers:
        switch(a, "return-path")
    a.qmp.command("migrate", uri=port_of(b))
    assert steps(b)[-1] == "MIGRATION failed"
    assert status(b) == "inmigrate"
    found = info(b)["error-desc"]
    assert found.startswith(f"load of migration failed: Invalid argument: {reason}"), found
    if answers:
        said = found.partition("Invalid argument: ")[2]
        stays(a, f"the other side refused: {said}")
        leaves(daemon, a)


def test_who_ends_with_the_process(daemon: Starter, tmp_path: Path) -> None:
    """Unless a client has asked for something else, the process ends with what was wrong."""
    (tmp_path / "text").write_text("no machine at all\n" * 100)
    for options in ([], ["defer"]):
        where = f"file:{tmp_path / 'text'}"
        program = daemon(*DEMO, "-incoming", *(options or [where]), "-serial", "null", qmp=bool(options))
        if options:
            program.qmp.command("migrate-incoming", uri=where)
        assert program.wait() == 1
        assert program.stderr.partition(": ")[2] == (
            "load of migration failed: Invalid argument: not a machine that qemud has sent\n"
        )


def test_both_sides_may_go_at_any_time(daemon: Starter) -> None:
    """`quit` in the midst of it, and a process that is killed."""
    a, b = source(daemon), target(daemon)
    switch(a, "pause-before-switchover", "return-path")
    incoming(b, "tcp:127.0.0.1:0", **{"exit-on-error": True})
    a.qmp.command("migrate", uri=port_of(b))
    while a.qmp.event("MIGRATION")["data"]["status"] != "pre-switchover":
        pass
    b.kill()
    a.qmp.command("migrate-continue", state="pre-switchover")
    told = steps(a)
    assert told[-2:] == ["RESUME", "MIGRATION failed"]
    assert peek(a) == 77
    c = target(daemon)
    incoming(c, "tcp:127.0.0.1:0", **{"exit-on-error": True})
    a.qmp.command("migrate", uri=port_of(c))
    while a.qmp.event("MIGRATION")["data"]["status"] != "pre-switchover":
        pass
    a.qmp.command("quit")
    assert a.wait() == 0
    assert c.wait() == 1
    assert c.stderr.partition(": ")[2] == "load of migration failed: Input/output error\n"


def test_what_is_asked_for_too_late(daemon: Starter, tmp_path: Path) -> None:
    """Nothing is to be cancelled when it is complete."""
    a = source(daemon)
    found: list[Any] = []
    a.qmp.command("migrate", uri=f"file:{tmp_path / 'saved'}")
    found += steps(a)
    a.qmp.command("migrate_cancel")
    assert found[-1] == "MIGRATION completed"
    assert info(a)["status"] == "completed"
    assert status(a) == "postmigrate"


def test_a_connection_that_hangs_is_yanked(daemon: Starter) -> None:
    """On the side that sends, and on that which receives."""
    a, b = source(daemon), target(daemon)
    instance = [{"type": "migration"}]
    for program in (a, b):
        with pytest.raises(QmpError, match=r"^Instance not found$"):
            program.qmp.command("yank", instances=instance)
    with socket.create_server(("127.0.0.1", 0)) as server:
        switch(a, "return-path")
        a.qmp.command("migrate", uri=f"tcp:127.0.0.1:{server.getsockname()[1]}")
        connection, _ = server.accept()
        with connection:
            connection.settimeout(LIMIT)
            data = b""
            while not data.endswith(END):
                data += connection.recv(1 << 20)
            assert instance[0] in a.qmp.command("query-yank")
            a.qmp.command("yank", instances=instance)
            stays(a, "Unable to write to socket: Software caused connection abort")
    incoming(b, "tcp:127.0.0.1:0")
    _, host, port = port_of(b).split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(data[:100])
        while info(b)["status"] != "active":
            pass
        b.qmp.command("yank", instances=instance)
        assert steps(b)[-1] == "MIGRATION failed"
    assert info(b)["error-desc"].startswith("load of migration failed: ")
    leaves(daemon, a)


def test_who_needs_the_disk_keeps_the_machine(daemon: Starter, tmp_path: Path) -> None:
    """An export that writes it; without it the machine can go."""
    disk = make(tmp_path / "disk.qcow2")
    devices = (*node(disk, "disk"), "-device", "virtio-blk-device,drive=disk,share-rw=on")
    a, b = source(daemon, *devices), target(daemon, *devices)
    address = {"type": "unix", "data": {"path": str(tmp_path / "nbd")}}
    a.qmp.command("nbd-server-start", addr=address)
    a.qmp.command("block-export-add", {"type": "nbd", "id": "e", "node-name": "disk", "writable": True})
    incoming(b, "tcp:127.0.0.1:0")
    uri = port_of(b)
    a.qmp.command("migrate", uri=uri)
    stays(a, "Failed to inactivate all nodes: Operation not permitted")
    a.qmp.command("block-export-del", id="e")
    assert steps(b)[-1] == "MIGRATION failed"
    c = target(daemon, *devices)
    incoming(c, "tcp:127.0.0.1:0")
    a.qmp.command("migrate", uri=port_of(c))
    assert steps(a)[-1] == "MIGRATION completed"
    assert steps(c)[-1] == "MIGRATION completed"
    for program in (a, b, c):
        program.terminate()
    check(disk)


def test_one_thing_at_a_time(daemon: Starter, tmp_path: Path) -> None:
    """A machine that is dumped does not leave, and one that comes or leaves is not dumped."""
    a, b = source(daemon), target(daemon)
    dump = {"paging": False, "protocol": f"file:{tmp_path / 'dump'}"}
    with pytest.raises(QmpError, match=r"^Dump not allowed during incoming migration\.$"):
        b.qmp.command("dump-guest-memory", dump)
    switch(a, "pause-before-switchover")
    a.qmp.command("migrate", uri=f"file:{tmp_path / 'saved'}")
    with pytest.raises(QmpError, match="Live migration disabled: dump-guest-memory in progress"):
        a.qmp.command("dump-guest-memory", dump)
    a.qmp.command("migrate_cancel")
    stays(a, None)
    reader, writer = os.pipe()
    pass_descriptor(a, writer, "dump")
    a.qmp.command("dump-guest-memory", paging=False, protocol="fd:dump", detach=True)
    with pytest.raises(QmpError, match=r"^Live migration disabled: dump-guest-memory in progress$"):
        a.qmp.command("migrate", uri=f"file:{tmp_path / 'saved'}")
    with open(reader, "rb") as stream:
        assert stream.read().startswith(b"\x7fELF")
    a.qmp.event("DUMP_COMPLETED")
    leaves(daemon, a)


def test_cancelled_at_any_time(daemon: Starter, tmp_path: Path) -> None:
    """Wherever it is then: it stays and runs, or it has gone."""
    a = source(daemon)
    gone = 0
    for number in range(40):
        a.qmp.command("migrate", uri=f"file:{tmp_path / 'saved'}")
        for _ in range(number):
            a.qmp.command("query-migrate")
        a.qmp.command("migrate_cancel")
        end = steps(a)[-1]
        if end == "MIGRATION completed":
            assert status(a) == "postmigrate"
            a.qmp.command("cont")
            gone += 1
        else:
            assert end == "MIGRATION cancelled"
        assert status(a) == "running"
        a.qmp.events.clear()
    assert gone < 40
    assert peek(a) == 77
    leaves(daemon, a)


def test_a_program_that_does_not_end(daemon: Starter, tmp_path: Path) -> None:
    """It has everything, and is waited for until it is ended."""
    a = source(daemon)
    os.mkfifo(tmp_path / "fifo")
    a.qmp.command("migrate", uri=f"exec:cat > /dev/null; exec cat {tmp_path / 'fifo'}")
    while a.qmp.event("MIGRATION")["data"]["status"] != "device":
        pass
    while info(a)["ram"]["dirty-sync-count"] < 2:
        pass
    a.qmp.command("yank", instances=[{"type": "migration"}])
    end = steps(a)[-1]
    assert end == "MIGRATION failed"
    assert info(a)["error-desc"].startswith("Unable to write to command: ")
    leaves(daemon, a)
