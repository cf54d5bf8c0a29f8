from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.machine.memory import (
    ADDRESS_SPACE_END,
    AddressSpace,
    MemoryFault,
    RamBlock,
    Section,
    SectionKind,
)
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096


class Registers:
    """Notes accesses; register n reads as its own offset, byte by byte."""

    def __init__(self) -> None:
        self.accesses: list[tuple[object, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.accesses.append(("read", offset, size))
        return int.from_bytes(bytes((offset + n) & 0xFF for n in range(8)), "little")

    def write(self, offset: int, value: int, size: int) -> None:
        self.accesses.append(("write", offset, value, size))


class Listener:
    def __init__(self) -> None:
        self.sections: list[str] = []
        self.written: list[tuple[int, int]] = []

    def section_added(self, section: Section) -> None:
        self.sections.append(section.name)

    def section_removed(self, section: Section) -> None:
        self.sections.remove(section.name)

    def ram_written(self, segments: list[tuple[int, int]]) -> None:
        self.written += segments


def make() -> tuple[AddressSpace, Registers]:
    space = AddressSpace()
    registers = Registers()
    space.add_ram("ram", 0x10000, RamBlock("ram", 2 * PAGE))
    space.add_mmio("registers", 0x12000, 16, registers)
    return space, registers


def test_ram_is_shared_and_has_an_address_in_this_process():
    block = RamBlock("ram", 5000)
    assert block.size == 2 * PAGE
    assert block.address % PAGE == 0
    block.view[0:2] = b"ab"
    assert block.mapping[:2] == b"ab"
    block.view[block.size - 1] = 1


def test_memory_that_the_host_has_not_is_refused_in_qemus_words():
    with pytest.raises(GenericError) as error:
        RamBlock("riscv_virt_board.ram", 1 << 50)
    assert str(error.value) == "cannot set up guest memory 'riscv_virt_board.ram': Cannot allocate memory"
    with pytest.raises(GenericError, match="cannot set up guest memory 'x'"):
        RamBlock("x", 1 << 63)
    with pytest.raises(GenericError, match="cannot set up guest memory 'x'"):
        RamBlock("x", 0)


def test_a_block_can_be_closed():
    block = RamBlock("ram", PAGE)
    block.close()
    block.close()
    assert block.fd == -1


def test_conflicts_name_both_regions():
    space, registers = make()
    with pytest.raises(GenericError) as error:
        space.add_mmio("second", 0x11FFF, 2, registers)
    assert str(error.value) == (
        "memory region 'second' (0x11fff-0x12000) conflicts with 'ram' (0x10000-0x11fff)"
    )
    with pytest.raises(GenericError, match="'ram' is mapped at 0x10000 already"):
        space.add_mmio("ram", 0x0, 16, registers)
    with pytest.raises(GenericError, match="does not fit the address space"):
        space.add_mmio("far", ADDRESS_SPACE_END - 8, 16, registers)
    with pytest.raises(GenericError, match="does not fit the address space"):
        space.add_mmio("empty", 0x50000, 0, registers)


def test_regions_may_touch_and_reach_the_end():
    space, registers = make()
    space.add_mmio("behind", 0x12010, 16, registers)
    space.add_mmio("last", ADDRESS_SPACE_END - 16, 16, registers)
    assert [section.name for section in space] == ["ram", "registers", "behind", "last"]


def test_reads_and_writes_cross_from_ram_into_registers():
    space, registers = make()
    space.write_physical(0x11FFE, b"\xaa\xbb\x01\x02\x03")
    assert registers.accesses == [("write", 0, 0x0201, 2), ("write", 2, 3, 1)]
    assert space.read_physical(0x11FFE, 4) == b"\xaa\xbb\x00\x01"


def test_nothing_is_written_when_a_hole_is_in_the_range():
    space, registers = make()
    with pytest.raises(MemoryFault) as fault:
        space.write_physical(0x12008, bytes(16))
    assert fault.value.address == 0x12010
    assert fault.value.write
    assert registers.accesses == []
    with pytest.raises(MemoryFault) as fault:
        space.read_physical(0x12008, 16)
    assert fault.value.address == 0x12010
    for address, size in ((-1, 1), (0, -1), (ADDRESS_SPACE_END - 1, 2), (1 << 70, 1), (0, 1)):
        with pytest.raises(MemoryFault):
            space.read_physical(address, size)


def test_the_cpus_unaligned_accesses_are_cut_and_sizes_outside_the_regions_fault():
    space = AddressSpace()
    registers = Registers()
    section = space.add_mmio("words", 0x1000, 16, registers, min_access=4, max_access=4)
    assert section.cpu_read(4, 4) == 0x07060504
    with pytest.raises(MemoryFault) as fault:
        section.cpu_read(8, 8)
    assert fault.value.address == 0x1008
    with pytest.raises(MemoryFault):
        section.cpu_write(1, 0, 2)
    with pytest.raises(MemoryFault):
        section.cpu_read(2, 1)
    anything = space.add_mmio("anything", 0x2000, 16, registers)
    registers.accesses.clear()
    assert anything.cpu_read(3, 8) == int.from_bytes(bytes(range(3, 11)), "little")
    assert registers.accesses == [("read", 3, 1), ("read", 4, 4), ("read", 8, 2), ("read", 10, 1)]
    registers.accesses.clear()
    anything.cpu_write(6, 0x11223344, 4)
    assert registers.accesses == [("write", 6, 0x3344, 2), ("write", 8, 0x1122, 2)]


def test_values_are_cut_to_the_size_of_the_access():
    space, registers = make()
    section = space.section("registers")
    section.cpu_write(0, 0x1FF, 1)
    assert registers.accesses == [("write", 0, 0xFF, 1)]
    assert section.cpu_read(1, 1) == 1


def test_physical_transfers_use_the_widest_accesses_that_the_region_takes():
    space = AddressSpace()
    registers = Registers()
    space.add_mmio("words", 0x1000, 16, registers, min_access=4, max_access=4)
    assert space.read_physical(0x1000, 16) == bytes(range(16))
    assert registers.accesses == [("read", offset, 4) for offset in (0, 4, 8, 12)]
    with pytest.raises(MemoryFault):
        space.read_physical(0x1000, 6)


def test_rom_is_filled_from_outside_and_is_no_ram():
    space = AddressSpace()
    section = space.add_ram("rom", 0, RamBlock("rom", PAGE), readonly=True)
    assert section.kind is SectionKind.ROM
    space.write_physical(0, b"boot")
    assert space.read_physical(0, 4) == b"boot"
    with pytest.raises(MemoryFault):
        space.ram(0, 4)


def test_ram_is_lent_only_whole():
    space, _ = make()
    space.ram(0x10000, 4)[:] = b"DMA!"
    assert space.read_physical(0x10000, 4) == b"DMA!"
    for address, size in ((0x11FFF, 2), (0x12000, 1), (0xFFFF, 1)):
        with pytest.raises(MemoryFault):
            space.ram(address, size)


def test_an_alias_shows_a_part_of_another_region():
    space, registers = make()
    space.add_alias("window", 0x20000, "ram", PAGE, PAGE)
    space.write_physical(0x20010, b"x")
    assert space.read_physical(0x11010, 1) == b"x"
    space.add_alias("half", 0x30000, "registers", 8)
    assert space.read_physical(0x30000, 2) == b"\x08\x09"
    space.write_physical(0x30000, b"\x01")
    assert registers.accesses[-1] == ("write", 8, 1, 1)
    with pytest.raises(GenericError, match="'big' shows 0x20 bytes at 0x8 of 'registers', which has 0x10"):
        space.add_alias("big", 0x40000, "registers", 8, 0x20)
    with pytest.raises(GenericError, match="memory region 'nope' not found"):
        space.add_alias("x", 0x40000, "nope")


def test_a_removed_region_leaves_a_hole():
    space, _ = make()
    space.remove("registers")
    assert space.find(0x12000) is None
    with pytest.raises(GenericError, match="memory region 'registers' not found"):
        space.remove("registers")


def test_listeners_hear_of_all_sections_and_of_writes_into_ram():
    space, registers = make()
    listener = Listener()
    stop = space.add_listener(listener)
    space.add_mmio("more", 0x50000, 16, registers)
    space.remove("registers")
    assert listener.sections == ["ram", "more"]
    space.write_physical(0x10000, b"abc")
    space.written(0x10010, 5)
    assert listener.written == [(0x10000, 3), (0x10010, 5)]
    stop()
    space.write_physical(0x10000, b"abc")
    assert len(listener.written) == 2


@settings(max_examples=60)
@given(
    regions=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=8),
    accesses=st.lists(st.tuples(st.integers(0, 40 * 16), st.binary(min_size=1, max_size=40)), max_size=12),
)
def test_the_map_does_what_an_array_of_bytes_does(
    regions: list[tuple[int, int]], accesses: list[tuple[int, bytes]]
):
    unit = 16  # a page of this small world
    space = AddressSpace()
    backing = RamBlock("backing", 16 * unit * 8)
    space.add_ram("backing", 1 << 40, backing)
    model: dict[int, int] = {}
    for index, (start, length) in enumerate(regions):
        base, size = start * unit, length * unit
        cells = range(base, base + size)
        if any(cell in model for cell in cells):
            with pytest.raises(GenericError, match="conflicts with"):
                space.add_alias(f"r{index}", base, "backing", index * unit * 8, size)
        else:
            space.add_alias(f"r{index}", base, "backing", index * unit * 8, size)
            model.update(dict.fromkeys(cells, 0))
    for address, data in accesses:
        cells = range(address, address + len(data))
        if all(cell in model for cell in cells):
            space.write_physical(address, data)
            model.update(zip(cells, data, strict=True))
        else:
            with pytest.raises(MemoryFault) as fault:
                space.write_physical(address, data)
            assert fault.value.address == next(cell for cell in cells if cell not in model)
    for start in range(40):
        base = start * unit
        expected = [model.get(base + n) for n in range(unit)]
        if None in expected:
            assert space.find(base) is None
        else:
            assert space.read_physical(base, unit) == bytes(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("plain", [True, False])
def test_ram_is_filled_from_a_file(tmp_path: Path, plain: bool):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 40)
    space, _ = make()
    block = space.section("ram").block
    assert block is not None
    block.plain = plain
    listener = Listener()
    space.add_listener(listener)
    with path.open("rb") as file:
        assert space.read_file(0x10003, file.fileno(), 5000) == 5000
        assert space.read_physical(0x10002, 5002) == b"\0" + (bytes(range(256)) * 40)[:5000] + b"\0"
        assert listener.written == [(0x10003, 5000)]
        with pytest.raises(MemoryFault):
            space.read_file(0x11FFF, file.fileno(), 2)
        path.write_bytes(b"short")
        assert space.read_file(0x10000, file.fileno(), 4096) == 5
        assert space.read_physical(0x10000, 5) == b"short"
