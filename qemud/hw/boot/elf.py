"""ELF files as boot loaders see them: what goes where, and where it begins.

Only what can be loaded is looked at: program headers of type PT_LOAD, by physical address. Sections and symbols are not.

Source: System V ABI, generic ABI version 4.1 and the RISC-V ELF psABI 1.0 (EM_RISCV).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ELF_MAGIC = b"\x7fELF"
EM_RISCV = 243

_ELFCLASS64 = 2
_ELFDATA2LSB = 1
_PT_LOAD = 1
_ET_DYN = 3

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")


class ElfError(ValueError):
    """An ELF file that cannot be loaded; the text says why."""


class Segment(NamedTuple):
    """`data`, then zeros up to `size` bytes, at physical `address`."""

    address: int
    data: memoryview
    size: int


class ElfImage(NamedTuple):
    """A program: its segments, its entry point, and the lowest and highest address (exclusive) it uses."""

    segments: list[Segment]
    entry: int
    low: int
    high: int
    independent: bool = False
    """It is linked for address 0 and made to run anywhere (ET_DYN): whoever loads it chooses the place."""

    def moved(self, distance: int) -> ElfImage:
        """The same program, so many bytes higher."""
        segments = [segment._replace(address=segment.address + distance) for segment in self.segments]
        return ElfImage(segments, self.entry + distance, self.low + distance, self.high + distance)


def is_elf(data: bytes | memoryview) -> bool:
    """Whether the file begins as ELF files do."""
    return bytes(data[:4]) == ELF_MAGIC


def parse_elf(data: bytes, machine: int = EM_RISCV) -> ElfImage:
    """The program in a 64-bit little-endian ELF file for `machine`. Raises ElfError for anything else."""
    if len(data) < _HEADER.size or not is_elf(data):
        raise ElfError("not an ELF file")
    ident, file_type, file_machine, _, entry, at_headers, _, _, _, header_size, count, _, _, _ = (
        _HEADER.unpack_from(data)
    )
    if ident[4] != _ELFCLASS64 or ident[5] != _ELFDATA2LSB:
        raise ElfError("not a 64-bit little-endian ELF file")
    if file_machine != machine:
        raise ElfError(f"an ELF file for machine {file_machine}, expected {machine}")
    if header_size < _PROGRAM_HEADER.size or at_headers + count * header_size > len(data):
        raise ElfError("program headers lie outside the file")
    view = memoryview(data)
    segments: list[Segment] = []
    entry_address = entry
    for index in range(count):
        kind, _, offset, virtual, physical, file_size, memory_size, _ = _PROGRAM_HEADER.unpack_from(
            data, at_headers + index * header_size
        )
        if kind != _PT_LOAD or memory_size == 0:
            continue
        if file_size > memory_size or offset + file_size > len(data):
            raise ElfError(f"segment {index} lies outside the file")
        if physical + memory_size > 1 << 64:
            raise ElfError(f"segment {index} lies outside the address space")
        segments.append(Segment(physical, view[offset : offset + file_size], memory_size))
        if virtual <= entry < virtual + memory_size:
            entry_address = entry - virtual + physical
    if not segments:
        raise ElfError("nothing to load")
    low = min(segment.address for segment in segments)
    high = max(segment.address + segment.size for segment in segments)
    return ElfImage(segments, entry_address, low, high, file_type == _ET_DYN and low == 0)
