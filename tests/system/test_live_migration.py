"""A Linux that works on its disks moves from process to process, which share the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.guests.disk import COMPILER
from tests.migration.moves import incoming, info, port_of, status, steps, switch
from tests.migration.test_snapshots import check, make
from tests.system.debian import drive, small, to_raw
from tests.system.journal import SIZE, holds
from tests.system.linux import run, shell
from tests.system.test_saved_machine import FILL, LOADS, SUM, progress

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

pytestmark = [pytest.mark.system, pytest.mark.needs(COMPILER)]

TROUBLE = "dmesg | grep -c -e 'Oops' -e 'BUG:' -e 'I/O error' -e stall"


def active(program: Program) -> set[bool]:
    """Whether its images are its own."""
    return {each["active"] for each in program.qmp.command("query-named-block-nodes")}


@pytest.mark.parametrize("transport", ["device", "pci"])
def test_from_process_to_process(daemon: Starter, tmp_path: Path, transport: str) -> None:
    disks = {name: make(tmp_path / f"{name}.qcow2", SIZE) for name in LOADS}
    devices = (
        *drive(disks["vda"], "qcow2", "vda"),
        *drive(disks["sda"], "qcow2", "sda"),
        *("-device", f"virtio-blk-{transport},drive=vda"),
        *("-device", f"virtio-scsi-{transport},id=scsi", "-device", "scsi-hd,drive=sda,bus=scsi.0"),
    )
    options = small(*devices)
    here = daemon(*options, serial=True)
    shell(here)
    run(here, "drivers")
    for name, load in LOADS.items():
        run(here, f"{load} > {name}.log & until grep -q FLUSHED {name}.log; do sleep 0.1; done")
    run(here, f"x=kept; {FILL}")
    kept = run(here, SUM)
    for way in ("return-path", "events"):
        progress(here)
        switch(here, "events", way)

        # One that lacks a device does not take it, and the disks are here as before.
        other = daemon(*options, "-device", "virtio-rng-device", "-incoming", "defer", "-serial", "null")
        switch(other, "events")
        if way == "return-path":
            incoming(other, "tcp:127.0.0.1:0")
            here.qmp.command("migrate", uri=port_of(other))
            assert steps(here)[-1] == "MIGRATION failed"
            assert "the other side refused: saved state has no '/machine/" in info(here)["error-desc"]
            assert steps(other)[-1] == "MIGRATION failed"
            assert (status(here), active(here), active(other)) == ("running", {True}, {False})
            progress(here)

        there = daemon(*options, "-incoming", "defer", serial=True)
        switch(there, "events")
        incoming(there, f"unix:{tmp_path / way}")
        assert active(there) == {False}
        here.qmp.command("migrate", uri=f"unix:{tmp_path / way}")
        assert steps(here)[-1] == "MIGRATION completed"
        assert steps(there)[-2:] == ["RESUME", "MIGRATION completed"]
        assert (active(here), active(there)) == ({False}, {True})
        assert run(there, f"echo $x; {SUM}")[-2:] == ["kept", *kept]
        # It is too late to go on here.
        with pytest.raises(Exception, match='Failed to get "write" lock'):
            here.qmp.command("cont")
        assert status(here) == "postmigrate"
        here.qmp.command("quit")
        assert here.wait() == 0
        here = there
    latest = progress(here)
    assert run(here, TROUBLE) == ["0"]
    here.qmp.command("quit")
    assert here.wait() == 0
    check(*disks.values())
    for name in LOADS:
        holds(to_raw(disks[name]).read_bytes(), latest[name])
