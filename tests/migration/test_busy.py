"""A guest that never stops writing while it is sent: what arrives is what there was, and it does not take for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.accel.asm import T0, T1, T2, T3, T4, add, addi, bltu, j, label, li, program, slli, store
from tests.migration.moves import LEAVES, incoming, info, port_of, status, steps, switch
from tests.programs import QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

SIZE = 24 << 20
WRITTEN = 12 << 20
BOARD = ("-machine", "virt", "-m", "24", "-display", "none", "-serial", "null")
RAM = 0x80000000

# A counter into every page of 12 MiB, again and again.
WRITER = program(
    li(T0, 1),
    slli(T0, T0, 31),
    li(T1, 1 << 20),
    add(T0, T0, T1),
    li(T1, WRITTEN),
    add(T1, T0, T1),
    li(T2, 0),
    li(T3, 4096),
    label("again"),
    addi(T4, T0, 0),
    label("page"),
    addi(T2, T2, 1),
    store(8, T2, T4),
    add(T4, T4, T3),
    bltu(T4, T1, "page"),
    j("again"),
)


@pytest.fixture
def writer(daemon: Starter, tmp_path: Path) -> Program:
    """The guest, that has written to every page once."""
    (tmp_path / "writer").write_bytes(WRITER)
    program = daemon(*BOARD, "-bios", str(tmp_path / "writer"))
    switch(program, "events")
    while counter(program, tmp_path) == 0:
        pass
    return program


def waiting(daemon: Starter) -> Program:
    program = daemon(*BOARD, "-bios", "none", "-incoming", "defer", "-S")
    switch(program, "events")
    return program


def memory(program: Program, path: Path, start: int = RAM, size: int = SIZE) -> bytes:
    program.qmp.command("pmemsave", val=start, size=size, filename=str(path))
    return path.read_bytes()


def counter(program: Program, path: Path) -> int:
    """What was written to the last page."""
    last = RAM + (1 << 20) + WRITTEN - 4096
    return int.from_bytes(memory(program, path / "counter", last, 8), "little")


@pytest.mark.parametrize("limit", [0, 300])
def test_every_byte_is_what_it_was(daemon: Starter, writer: Program, tmp_path: Path, limit: int) -> None:
    """With no time to stand still at all, and with some."""
    other = waiting(daemon)
    incoming(other, "tcp:127.0.0.1:0")
    writer.qmp.command("migrate-set-parameters", {"downtime-limit": limit, "max-bandwidth": 0})
    writer.qmp.command("migrate", uri=port_of(other))
    told = steps(writer)
    assert told[:3] == LEAVES
    passes = [step for step in told if step.startswith("MIGRATION_PASS")]
    assert passes == [f"MIGRATION_PASS {number}" for number in range(1, len(passes) + 1)]
    assert 2 <= len(passes) == info(writer)["ram"]["dirty-sync-count"]
    if not limit:
        assert len(passes) > 2  # it was tried for a while
    assert told[-3:] == ["MIGRATION device", passes[-1], "MIGRATION completed"]
    assert steps(other)[-1] == "MIGRATION completed"
    assert (status(writer), status(other)) == ("postmigrate", "paused")
    assert info(writer)["ram"]["normal-bytes"] > WRITTEN
    before = memory(writer, tmp_path / "here")
    assert before.count(0) < SIZE
    assert before == memory(other, tmp_path / "there")
    # And it goes on from there.
    count = counter(other, tmp_path)
    other.qmp.command("cont")
    while counter(other, tmp_path) <= count:
        pass


def test_a_limit_holds_until_it_is_raised(daemon: Starter, writer: Program, tmp_path: Path) -> None:
    """What would take hours is asked for, and can be hurried, or left."""
    del daemon
    crawl = {"max-bandwidth": 1000}
    writer.qmp.command("migrate-set-parameters", crawl)
    path = tmp_path / "saved"
    writer.qmp.command("migrate", uri=f"file:{path}")
    assert [writer.qmp.event("MIGRATION")["data"]["status"] for _ in range(2)] == ["setup", "active"]
    found = info(writer)
    while not found["ram"]["transferred"]:
        found = info(writer)
    assert found["status"] == "active"
    assert found["ram"]["transferred"] < 6 << 20  # one batch, which is sent at once
    assert 6 << 20 < found["ram"]["remaining"] <= WRITTEN + (1 << 20)
    assert status(writer) == "running"
    with pytest.raises(QmpError, match=r"^There's a migration process in progress$"):
        writer.qmp.command("migrate", uri=f"file:{path}")
    writer.qmp.command("migrate_cancel")
    told = [writer.qmp.event("MIGRATION")["data"]["status"] for _ in range(2)]
    assert told == ["cancelling", "cancelled"]
    assert info(writer) == {"status": "cancelled"}
    assert status(writer) == "running"
    writer.qmp.command("migrate", uri=f"file:{path}")
    writer.qmp.command("migrate-set-parameters", {"max-bandwidth": 0})
    assert steps(writer)[-1] == "MIGRATION completed"


def test_a_guest_is_stopped_and_goes_on_meanwhile(daemon: Starter, writer: Program, tmp_path: Path) -> None:
    """Whatever state it is in when all is sent, it is in afterwards."""
    writer.qmp.command("migrate-set-parameters", {"max-bandwidth": 1000})
    path = tmp_path / "saved"
    writer.qmp.command("migrate", uri=f"file:{path}")
    for command in ("stop", "cont", "system_reset", "stop"):
        writer.qmp.command(command)
    assert status(writer) == "paused"
    writer.qmp.command("migrate-set-parameters", {"max-bandwidth": 0})
    assert steps(writer)[-1] == "MIGRATION completed"
    other = waiting(daemon)
    incoming(other, f"file:{path}")
    assert steps(other)[-1] == "MIGRATION completed"
    assert status(other) == "paused"
    assert memory(writer, tmp_path / "here") == memory(other, tmp_path / "there")
