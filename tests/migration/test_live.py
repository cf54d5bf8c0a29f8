"""A running machine goes from one process to another, as its clients see it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.migration.moves import (
    GONE,
    LEAVES,
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
from tests.programs import LIMIT, QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

ARRIVES = ["MIGRATION active", "RESUME", "MIGRATION completed"]


@pytest.mark.parametrize("answers", [False, True], ids=["one-way", "return-path"])
def test_over_tcp(daemon: Starter, answers: bool) -> None:
    """It runs there, with its memory; here it is stopped, and may go on when it is wanted."""
    a, b = source(daemon), target(daemon)
    if answers:
        switch(a, "return-path")
    assert info(b) == {}
    incoming(b, "tcp:127.0.0.1:0")
    assert status(b) == "inmigrate"
    a.qmp.command("migrate", uri=port_of(b))
    assert steps(a) == [*LEAVES, "STOP", *GONE]
    assert steps(b) == ["MIGRATION setup", *ARRIVES]
    assert (status(a), status(b)) == ("postmigrate", "running")
    assert info(b) == {"status": "completed"}
    found = info(a)
    assert found["status"] == "completed"
    assert {"total-time", "downtime", "setup-time"} < found.keys()
    ram = found["ram"]
    assert ram["total"] > 32 << 20
    assert ram["remaining"] == 0
    assert (
        0 < ram["normal-bytes"] <= ram["transferred"] < 4 << 20
    )  # what the guest has never touched is not sent
    assert ram["precopy-bytes"] + ram["downtime-bytes"] == ram["transferred"]
    assert ram["dirty-sync-count"] == 2
    awake(b)
    assert peek(b) == 77
    assert b.serial.command("sum 2")[0].endswith("2 of 2 right")
    with pytest.raises(QmpError, match=r"^Can't migrate the vm that was paused due to previous migration$"):
        a.qmp.command("migrate", uri="file:/nowhere")
    a.qmp.command("cont")
    assert peek(a) == 77


def test_over_unix_and_on_to_a_third(daemon: Starter, tmp_path: Path) -> None:
    """Who has arrived can leave again."""
    a, b, c = source(daemon, value=5), target(daemon), target(daemon, "-S")
    for here, there, name in ((a, b, "first"), (b, c, "second")):
        incoming(there, f"unix:{tmp_path / name}")
        here.qmp.command("migrate", uri=f"unix:{tmp_path / name}")
        assert steps(here)[-1] == "MIGRATION completed"
        assert steps(there)[-1] == "MIGRATION completed"
        assert not (tmp_path / name).exists()
    assert status(c) == "paused"
    c.qmp.command("cont")
    awake(c)
    assert peek(c) == 5


def test_from_the_command_line(daemon: Starter, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    a, b = source(daemon), target(daemon, uri=f"unix:{path}")
    assert info(b) == {
        "status": "setup",
        "socket-address": [{"type": "unix", "path": str(path), "abstract": False, "tight": True}],
    }
    a.qmp.command("migrate", channels=[channel(transport="socket", type="unix", path=str(path))])
    assert steps(a)[-1] == "MIGRATION completed"
    assert steps(b) == ARRIVES


def channel(**address: object) -> dict[str, object]:
    return {"channel-type": "main", "addr": address}


def test_by_a_descriptor(daemon: Starter) -> None:
    """Of a socket, by name on both sides: what management software does."""
    a, b = source(daemon), target(daemon)
    here, there = socket.socketpair()
    pass_descriptor(a, here.detach(), "migrate")
    pass_descriptor(b, there.detach(), "migrate")
    switch(a, "return-path")
    incoming(b, "fd:migrate")
    a.qmp.command("migrate", uri="fd:migrate")
    assert steps(a)[-1] == "MIGRATION completed"
    assert steps(b)[-1] == "MIGRATION completed"
    awake(b)
    assert peek(b) == 77


@pytest.mark.parametrize("piped", [False, True], ids=["file", "pipe"])
def test_saved_and_restored(daemon: Starter, tmp_path: Path, piped: bool) -> None:
    """Into a file behind somebody's header and back, by a descriptor that the other process is started with."""
    a = source(daemon)
    path = tmp_path / "saved"
    path.write_bytes(b"H" * 100)
    a.qmp.command("stop")
    if piped:
        reader, writer = os.pipe()
        pass_descriptor(a, writer, "migrate")
        a.qmp.command("migrate", {"uri": "fd:migrate", "detach": True, "resume": False})
        with open(reader, "rb") as stream:
            path.write_bytes(b"H" * 100 + stream.read())
    else:
        fd = os.open(path, os.O_WRONLY)
        os.lseek(fd, 100, os.SEEK_SET)
        pass_descriptor(a, fd, "migrate")
        a.qmp.command("migrate", uri="fd:migrate")
    assert steps(a) == ["STOP", *LEAVES, *GONE]
    assert path.read_bytes()[:100] == b"H" * 100
    fd = os.open(path, os.O_RDONLY)
    try:
        os.lseek(fd, 100, os.SEEK_SET)
        b = target(daemon, "-S", pass_fds=[fd])
        incoming(b, f"fd:{fd}")
    finally:
        os.close(fd)
    assert steps(b) == ["MIGRATION setup", "MIGRATION active", "MIGRATION completed"]
    assert status(b) == "paused"
    b.qmp.command("cont")
    awake(b)
    assert peek(b) == 77


@pytest.mark.parametrize("kind", ["uri", "channels"])
def test_in_a_file(daemon: Starter, tmp_path: Path, kind: str) -> None:
    """At an offset, with what is before it left as it is."""
    a, path = source(daemon), tmp_path / "file"
    path.write_bytes(b"0123456789")
    if kind == "uri":
        where: dict[str, object] = {"uri": f"file:{path},offset=4K"}
    else:
        where = {"channels": [channel(transport="file", filename=str(path), offset=4096)]}
    a.qmp.command("migrate", where)
    assert steps(a)[-1] == "MIGRATION completed"
    assert path.read_bytes()[:4096] == b"0123456789".ljust(4096, b"\0")
    b = target(daemon)
    b.qmp.command("migrate-incoming", where)
    assert steps(b)[-1] == "MIGRATION completed"
    awake(b)
    assert peek(b) == 77


def test_through_programs(daemon: Starter, tmp_path: Path) -> None:
    """Such as ones that compress; it is there when the program has ended well."""
    a, b = source(daemon), target(daemon)
    a.qmp.command("migrate", uri=f"exec:gzip -1 > {tmp_path / 'saved.gz'}")
    assert steps(a)[-1] == "MIGRATION completed"
    incoming(b, f"exec:gzip -d < {tmp_path / 'saved.gz'}")
    assert steps(b)[-1] == "MIGRATION completed"
    awake(b)
    assert peek(b) == 77


def test_it_is_as_it_was(daemon: Starter, tmp_path: Path) -> None:
    """One that was stopped is stopped there, too, whatever the other process was told; one that has to be reset has to be."""
    for state in ("paused", "shutdown"):
        a, path = source(daemon, "-action", "shutdown=pause"), tmp_path / state
        if state == "paused":
            a.qmp.command("stop")
        else:
            a.serial.send(b"poweroff\r")
            a.qmp.event("STOP")
        assert status(a) == state
        a.qmp.command("migrate", uri=f"file:{path}")
        assert steps(a)[-1] == "MIGRATION completed"
        assert status(a) == "postmigrate"
        b = target(daemon)
        incoming(b, f"file:{path}")
        assert steps(b)[-1] == "MIGRATION completed"
        assert status(b) == state


def test_before_it_arrives(daemon: Starter, tmp_path: Path) -> None:
    """`cont` and `stop` say what it is to do then; what needs a machine is refused."""
    a = source(daemon)
    a.qmp.command("migrate", uri=f"file:{tmp_path / 'saved'}")
    assert steps(a)[-1] == "MIGRATION completed"
    for commands, then in ((["stop"], "paused"), (["stop", "cont"], "running")):
        b = target(daemon)
        for command in (*commands, "system_reset"):
            b.qmp.command(command)
            assert status(b) == "inmigrate"
        with pytest.raises(QmpError, match=r"^Guest is waiting for an incoming migration$"):
            b.qmp.command("migrate", uri="fd:x")
        with pytest.raises(QmpError, match=r"^Migration not in expected state: none$"):
            b.qmp.command("migrate-continue", state="pre-switchover")
        b.qmp.command("migrate_cancel")
        incoming(b, f"file:{tmp_path / 'saved'}")
        assert steps(b)[-1] == "MIGRATION completed"
        assert status(b) == then
        with pytest.raises(QmpError, match=r"^The incoming migration has already been started$"):
            incoming(b, f"file:{tmp_path / 'saved'}")


def test_nothing_is_told_unless_it_is_wanted(daemon: Starter, tmp_path: Path) -> None:
    a = source(daemon)
    switch(a, "events", state=False)
    a.qmp.command("migrate", uri=f"file:{tmp_path / 'saved'}")
    a.qmp.event("STOP")
    while status(a) != "postmigrate":
        pass
    assert [event["event"] for event in a.qmp.events] == []


def test_waiting_before_the_switch(daemon: Starter, tmp_path: Path) -> None:
    """The guest stands still until the client goes on; it cannot run meanwhile, and everything can be asked."""
    a = source(daemon)
    switch(a, "pause-before-switchover")
    a.qmp.command("migrate", uri=f"file:{tmp_path / 'saved'}")
    told: list[str] = []
    while "pre-switchover" not in told:
        told.append(a.qmp.event("MIGRATION")["data"]["status"])
    assert told == ["setup", "active", "pre-switchover"]
    assert status(a) == "finish-migrate"
    assert info(a)["status"] == "pre-switchover"
    for command, arguments, reason in (
        ("cont", {}, "Migration is not finalized yet"),
        ("migrate", {"uri": "fd:x"}, "There's a migration process in progress"),
        ("migrate-set-capabilities", {"capabilities": []}, "There's a migration process in progress"),
        ("x-savevm", {}, "There's a migration process in progress"),
        ("device_add", {"driver": "virtio-rng-device"}, "device_add not allowed while migrating"),
        ("device_del", {"id": "x"}, "device_del not allowed while migrating"),
        ("migrate-continue", {"state": "active"}, "Migration not in expected state: pre-switchover"),
    ):
        with pytest.raises(QmpError) as refusal:
            a.qmp.command(command, arguments)
        assert str(refusal.value) == reason
    a.qmp.command("stop")
    a.qmp.command("migrate-continue", state="pre-switchover")
    assert steps(a) == GONE
    assert status(a) == "postmigrate"


def test_it_tells_its_network_where_it_is(daemon: Starter, tmp_path: Path) -> None:
    """As often as is wanted, from there."""

    def card(name: str) -> tuple[str, ...]:
        local, remote = (f"{kind}.type=unix,{kind}.path={tmp_path / name}" for kind in ("local", "remote"))
        netdev = f"dgram,id=n,{local},{remote}-switch"
        return ("-netdev", netdev, "-device", "virtio-net-device,netdev=n,mac=52:54:00:00:00:07")

    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as before,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as after,
    ):
        for network, name in ((before, "a"), (after, "b")):
            network.bind(f"{tmp_path / name}-switch")
            network.settimeout(LIMIT)
        a, b = source(daemon, *card("a")), target(daemon, *card("b"))
        rounds = {"announce-initial": 1, "announce-max": 2, "announce-rounds": 3, "announce-step": 1}
        b.qmp.command("migrate-set-parameters", rounds)
        incoming(b, "tcp:127.0.0.1:0")
        a.qmp.command("migrate", uri=port_of(b))
        assert steps(a)[-1] == "MIGRATION completed"
        frames = [after.recv(2048) for _ in range(3)]
        assert len({*frames}) == 1
        assert frames[0].startswith(bytes.fromhex("ffffffffffff 525400000007 8035"))
        before.setblocking(False)
        with pytest.raises(BlockingIOError):
            before.recv(2048)
