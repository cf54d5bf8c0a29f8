"""How `info snapshots` is laid out, and sizes in three digits."""

from __future__ import annotations

import time

import pytest

from qemud.monitor.hmp.snapshots import size_text
from tests.hmp.support import run


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1024, "1 KiB"),
        (1536 << 10, "1.5 MiB"),
        (129 << 20, "129 MiB"),
        (1000 << 20, "0.977 GiB"),
        ((1 << 64) - 1, "16 EiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    """Those that QEMU shows."""
    assert size_text(size) == text


def snapshot(name: str, **more: int) -> dict[str, object]:
    times = {"date-sec": 1_700_000_000, "date-nsec": 0, "vm-clock-sec": 3_723, "vm-clock-nsec": 45_000_000}
    return {"id": "7", "name": name, "vm-state-size": 129 << 20, **times, **more}


def test_tables() -> None:
    told = run(
        "info snapshots",
        {
            "x-query-snapshots": {
                "common": [snapshot("one", icount=12)],
                "partial": [{"device": "hd1", "snapshots": [snapshot("a-name-that-is-too-long")]}],
            }
        },
    )
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_700_000_000))
    assert told == (
        "List of snapshots present on all disks:\n"
        "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT\n"
        f"--      one               129 MiB {date}  0001:02:03.045         12\n"
        "\n"
        "List of partial (non-loadable) snapshots on 'hd1':\n"
        "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT\n"
        f"7       a-name-that-is-too-long  129 MiB {date}  0001:02:03.045         --\n"
    )


def test_none() -> None:
    assert run("info snapshots", {"x-query-snapshots": {"common": [], "partial": []}}) == (
        "There is no snapshot available.\n"
    )
