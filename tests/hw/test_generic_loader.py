"""The loader: what it puts where, at every reset, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from qemud.hw.core.generic_loader import GenericLoader
from qemud.machine.memory import AddressSpace, RamBlock
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.creation import DeviceMaker
from qemud.qom.device import reset_tree
from qemud.qom.machine import Machine
from qemud.qom.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RAM = 0x8000_0000
SIZE = 0x10000


class Hart:
    pc = 0


class Computer:
    """RAM and a hart, enough for a loader."""

    def __init__(self) -> None:
        self.memory = AddressSpace()
        self.block = RamBlock("ram", SIZE)
        self.memory.add_ram("ram", RAM, self.block)
        self.vcpus = [Hart()]
        self.tree = Tree()
        self.board = Machine()
        self.tree.set_machine(self.board)
        self.board.bring_up(self)
        self._maker = DeviceMaker(self.tree, self._call, lambda name, data: None)

    async def _call(self, function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    def add(self, **options: Any) -> GenericLoader:
        """A loader from options with `_` for `-`, and the reset that follows the making of a machine."""
        wire = {name.replace("_", "-"): value for name, value in options.items()}
        device = asyncio.run(self._maker.add({"driver": "loader", "id": "l", **wire}, hotplug=False))
        assert isinstance(device, GenericLoader)
        reset_tree(self.board)
        return device

    def at(self, address: int, size: int) -> bytes:
        return self.memory.read_physical(address, size)


@pytest.fixture
def computer() -> Iterator[Computer]:
    made = Computer()
    yield made
    made.board.take_down()
    made.block.close()


def elf(address: int, code: bytes, entry: int) -> bytes:
    """A RISC-V program of one segment."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 243, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 7, 120, address, address, len(code), len(code) + 8, 1)
    return header + segment + code


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"data": 0x1122334455667788, "data_len": 8}, "8877665544332211"),
        ({"data": 0x1122334455667788, "data_len": 3}, "887766ffffffffff"),
        ({"data": 0x1122334455667788, "data_len": 8, "data_be": True}, "1122334455667788"),
        ({"data": 0, "data_len": 2}, "0000ffffffffffff"),
    ],
)
def test_a_number_is_in_memory_after_every_reset(
    computer: Computer, options: dict[str, Any], expected: str
) -> None:
    address = RAM + 0x100
    computer.memory.write_physical(address, b"\xff" * 8)
    computer.add(addr=address, **options)
    assert computer.at(address, 8).hex() == expected
    computer.memory.write_physical(address, b"\xff" * 8)
    reset_tree(computer.board)
    assert computer.at(address, 8).hex() == expected
    assert computer.vcpus[0].pc == 0


def test_a_file_is_copied_as_it_is(computer: Computer, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"hello")
    computer.add(addr=RAM + 8, file=str(file), cpu_num=0)
    assert computer.at(RAM + 8, 5) == b"hello"
    assert computer.vcpus[0].pc == RAM + 8


def test_a_program_goes_where_it_says(computer: Computer, tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_bytes(elf(RAM + 0x1000, b"code", RAM + 0x1002))
    computer.memory.write_physical(RAM + 0x1000, b"\xff" * 12)
    computer.add(file=str(file), cpu_num=0)
    assert computer.at(RAM + 0x1000, 12) == b"code" + bytes(8)
    assert computer.vcpus[0].pc == RAM + 0x1002


def test_force_raw_copies_a_program_like_anything_else(computer: Computer, tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_bytes(elf(RAM + 0x1000, b"code", RAM + 0x1002))
    computer.add(file=str(file), force_raw=True, addr=RAM)
    assert computer.at(RAM, 4) == b"\x7fELF"
    assert computer.vcpus[0].pc == 0


def test_only_the_program_counter(computer: Computer) -> None:
    computer.add(addr=RAM + 4, cpu_num=0)
    assert computer.vcpus[0].pc == RAM + 4


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "please include valid arguments"),
        ({"data": 1}, "Both data and data-len must be specified"),
        ({"data_be": True}, "Both data and data-len must be specified"),
        ({"data": 1, "data_len": 9, "addr": RAM}, "data-len cannot be greater then 8 bytes"),
        (
            {"data": 1, "data_len": 4, "file": "/dev/null"},
            "Specifying a file is not supported when loading memory values",
        ),
        (
            {"data": 1, "data_len": 4, "force_raw": True},
            "Specifying force-raw is not supported when loading memory values",
        ),
        ({"addr": RAM}, "cpu_num must be specified when setting a program counter"),
        ({"addr": RAM, "cpu_num": 1}, "Specified boot CPU#1 is nonexistent"),
        ({"file": "/nonexistent"}, "Cannot load specified image /nonexistent"),
        ({"file": "/dev/null"}, "Cannot load specified image /dev/null"),
        ({"file": "/\0"}, "Cannot load specified image /\0"),
        (
            {"data": 1, "data_len": 4},
            "'loader' needs 0x4 bytes at 0x0, but there is no memory at 0x0",
        ),
        (
            {"data": 1, "data_len": 8, "addr": RAM + SIZE - 4},
            f"'loader' needs 0x8 bytes at {RAM + SIZE - 4:#x}, but there is no memory at {RAM + SIZE:#x}",
        ),
        (
            {"data": 1, "data_len": 8, "addr": (1 << 64) - 1},
            "'loader' needs 0x8 bytes at 0xffffffffffffffff, but there is no memory at 0xffffffffffffffff",
        ),
        ({"data_len": 256}, "Parameter 'data-len' expects uint8_t"),
        ({"addr": -1}, "Parameter 'addr' expects uint64"),
    ],
)
def test_refusals_leave_nothing_behind(computer: Computer, options: dict[str, Any], text: str) -> None:
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(GenericError) as caught:
        computer.add(**options)
    assert str(caught.value) == text
    assert computer.board.peripheral.children == {}
    assert set(os.listdir("/proc/self/fd")) <= set(descriptors)


def test_a_file_that_fits_nowhere_is_refused_and_closed(computer: Computer, tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(bytes(SIZE))
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(GenericError, match=f"but there is no memory at {RAM + SIZE:#x}"):
        computer.add(file=str(file), addr=RAM + 4)
    assert set(os.listdir("/proc/self/fd")) <= set(descriptors)
    file.write_bytes(bytes(SIZE + 1))
    with pytest.raises(GenericError, match="Cannot load specified image"):
        computer.add(file=str(file), addr=RAM)


def test_the_file_is_closed_with_the_device(computer: Computer, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(bytes(4096))
    descriptors = os.listdir("/proc/self/fd")
    device = computer.add(file=str(file), addr=RAM)
    device.take_down()
    assert set(os.listdir("/proc/self/fd")) <= set(descriptors)
