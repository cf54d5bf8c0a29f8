"""What a guest sees of the board's registers is what it sees on Debian's QEMU, access for access."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.system.test_hostile import guest, seeds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter

pytestmark = [pytest.mark.system, pytest.mark.differential]

RECORDS = 0x8090_0000
ROUNDS = 20_000
MTIP = 1 << 7


class Record(NamedTuple):
    """One access, as the guest writes it down (hostile/compare.S)."""

    address: int
    stored: int
    operation: int
    loaded: int
    trap: int
    mtval: int
    mip: int
    unused: int


def records(start: Starter, code: str, file: Path) -> list[Record]:
    """Let the guest run to its end; all that it has written down."""
    program = start(
        "-machine",
        "virt",
        "-m",
        "64",
        "-display",
        "none",
        "-serial",
        "null",
        "-no-shutdown",
        "-S",
        "-bios",
        code,
    )
    program.qmp.command("cont")
    program.qmp.event("SHUTDOWN")
    program.qmp.event("STOP")
    program.qmp.command("pmemsave", val=RECORDS, size=ROUNDS * 64, filename=str(file))
    told = [Record(*words) for words in struct.iter_unpack("<8Q", file.read_bytes())]
    # When the timer's interrupt comes is not the registers' matter.
    return [record._replace(mip=record.mip & ~MTIP) for record in told]


@pytest.mark.parametrize("seed", seeds(4), ids=str)
def test_registers(daemon: Starter, reference: Starter, tmp_path: Path, seed: int) -> None:
    code = guest(tmp_path, "compare", seed, ROUNDS)
    ours = records(daemon, code, tmp_path / "ours")
    theirs = records(reference, code, tmp_path / "theirs")
    assert sum(record.trap != 0 for record in theirs) > ROUNDS // 4
    assert sum(record.loaded != 0 for record in theirs) > ROUNDS // 20
    differing = [
        (index, *pair) for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]
    ]
    assert not differing, "\n".join(map(str, differing[:10]))
