"""The committed embedded guest is what its source builds to."""

import subprocess
from pathlib import Path

import pytest

from qemud.demo import DEMO_GUEST

SOURCE = DEMO_GUEST.parent / "guest"


@pytest.mark.needs("make", "riscv64-linux-gnu-gcc")
def test_the_source_builds_to_the_committed_guest(tmp_path: Path) -> None:
    built = subprocess.run(
        ["make", "--silent", "-C", SOURCE, f"OUT={tmp_path}", tmp_path / "demo.bin"],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    compiler = subprocess.run(["riscv64-linux-gnu-gcc", "--version"], capture_output=True, text=True).stdout
    assert (tmp_path / "demo.bin").read_bytes() == DEMO_GUEST.read_bytes(), compiler


def test_the_guest_is_a_linux_image_for_riscv() -> None:
    header = DEMO_GUEST.read_bytes()[:64]
    assert header[48:60] == b"RISCV\0\0\0RSC\x05"
    assert int.from_bytes(header[8:16], "little") == 0x200000
    assert int.from_bytes(header[16:24], "little") > DEMO_GUEST.stat().st_size
