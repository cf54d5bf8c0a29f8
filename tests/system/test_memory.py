"""Guest memory and the device tree in files: memsave, pmemsave, dumpdtb; and what is told of processors and memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from qemud.demo import DEMO_GUEST
from tests.programs import QmpError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Starter
    from tests.programs import Program

RAM = 0x8000_0000
KERNEL = 0x8020_0000


@pytest.fixture
def guest(daemon: Starter) -> Program:
    """The embedded guest at its prompt."""
    program = daemon(
        "-machine", "virt", "-m", "64", "-display", "none", "-kernel", str(DEMO_GUEST), serial=True
    )
    program.serial.expect("demo> ")
    return program


def test_physical_memory_is_written_as_the_guest_has_it(guest: Program, tmp_path: Path):
    size = DEMO_GUEST.stat().st_size & ~0xFFF
    guest.qmp.command("pmemsave", val=KERNEL, size=size, filename=str(tmp_path / "ram"))
    text = (tmp_path / "ram").read_bytes()
    assert text[:64] == DEMO_GUEST.read_bytes()[:64]
    guest.qmp.command("memsave", val=KERNEL, size=size, filename=str(tmp_path / "virtual"))
    assert (tmp_path / "virtual").read_bytes()[:64] == text[:64]


def test_all_of_memory_and_the_holes_around_it(guest: Program, tmp_path: Path):
    guest.qmp.command("stop")
    path = tmp_path / "all"
    # From the hole below to the hole behind: registers and holes are zeros, and take no space on the disk.
    guest.qmp.command("pmemsave", val=RAM - (1 << 30), size=(1 << 30) + (128 << 20), filename=str(path))
    assert path.stat().st_size == (1 << 30) + (128 << 20)
    assert path.stat().st_blocks * 512 <= 70 << 20
    with path.open("rb") as file:
        file.seek(1 << 30)
        once = hashlib.sha256(file.read(64 << 20)).digest()
        assert not any(file.read(1 << 20))
    guest.qmp.command("pmemsave", val=RAM, size=64 << 20, filename=str(path))
    assert hashlib.sha256(path.read_bytes()).digest() == once


def test_no_dump_is_longer_than_a_file_can_be_and_nothing_hangs(guest: Program, tmp_path: Path):
    most = (1 << 64) - 1
    for start, text in (
        (0, f"writing memory to '{tmp_path}/x' failed"),
        (most, f"Invalid addr 0xffffffffffffffff/size {most} specified"),
    ):
        with pytest.raises(QmpError) as caught:
            guest.qmp.command("pmemsave", val=start, size=most, filename=str(tmp_path / "x"))
        assert str(caught.value) == text
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("address", [0, 0x4000_0000, (1 << 64) - 4096])
def test_a_processor_sees_no_memory_in_a_hole(guest: Program, tmp_path: Path, address: int):
    with pytest.raises(QmpError) as caught:
        guest.qmp.command("memsave", val=address, size=8192, filename=str(tmp_path / "x"))
    assert str(caught.value) == f"Invalid addr 0x{address:016x}/size 8192 specified"
    assert not (tmp_path / "x").exists()


def test_a_file_that_cannot_be_made_is_named(guest: Program):
    for command in ("memsave", "pmemsave"):
        with pytest.raises(QmpError) as caught:
            guest.qmp.command(command, val=KERNEL, size=1, filename="/nonexistent/x")
        assert str(caught.value) == "Could not open '/nonexistent/x': No such file or directory"
    with pytest.raises(QmpError) as caught:
        guest.qmp.command("pmemsave", val=KERNEL, size=1 << 20, filename="/dev/full")
    assert str(caught.value) == "writing memory to '/dev/full' failed"


@pytest.mark.needs("dtc")
def test_the_device_tree_that_the_guest_got(guest: Program, tmp_path: Path):
    path = tmp_path / "dtb"
    guest.qmp.command("dumpdtb", filename=str(path))
    source = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts", str(path)], capture_output=True, text=True, check=True
    )
    assert source.stderr == ""
    assert 'compatible = "riscv-virtio"' in source.stdout


def test_processors_and_memory_are_told_of(guest: Program):
    (cpu,) = guest.qmp.command("query-cpus-fast")
    assert cpu["qom-path"] == "/machine/soc0/harts[0]"
    assert os.path.isdir(f"/proc/{guest.process.pid}/task/{cpu['thread-id']}")
    assert guest.qmp.command("query-memory-size-summary") == {"base-memory": 64 << 20}


def test_a_machine_without_a_device_tree_says_so(daemon: Starter, tmp_path: Path):
    program = daemon("-machine", "none", "-display", "none")
    with pytest.raises(QmpError) as caught:
        program.qmp.command("dumpdtb", filename=str(tmp_path / "x"))
    assert str(caught.value) == "This machine doesn't have an FDT"
