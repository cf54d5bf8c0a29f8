"""Core files of a machine: what `dump-guest-memory` writes, as ELF.

    regions = physical_regions(vm.memory)                 # machine thread, guest stopped
    core = CoreFile(regions, [note(1, pc, registers)])
    core.write(fd)                                        # any thread; raises DumpError; core.completed grows

    header, section headers, program headers (notes, then one for each region), notes, memory, names of sections

Memory is read from the files behind it and not through their mappings, so that pages which the guest has never touched cost nothing.  In
a file that this process has made they are holes; whoever reads it sees zeros.

Source: System V Application Binary Interface, edition 4.1, chapters 4 and 5 (ELF); Linux, include/uapi/linux/elfcore.h and
arch/riscv/include/uapi/asm/ptrace.h (notes); order and texts: QEMU 10.0, dump/dump.c.  Unlike there, the header says how long it is, and
where only a part of a region is written, its virtual addresses are the physical ones.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from qemud.machine.memory import SectionKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from qemud.machine.memory import AddressSpace, RamBlock

_HEADER = Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = Struct("<IIQQQQQQ")
_SECTION = Struct("<IIQQQQIIQQ")
_NOTE = Struct("<III8s")
_PRSTATUS = Struct("<32xI76x32Q8x")

_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, least significant byte first, version 1
_ET_CORE = 4
_EM_RISCV = 243
_PT_LOAD, _PT_NOTE = 1, 4
_NT_PRSTATUS = 1
_SHT_STRTAB = 3
_NAMES = b"\0.shstrtab\0"
_SECTIONS = 2
_SLICE = 1 << 20


class DumpError(Exception):
    """Writing has failed; the text says at what, and why."""


class Region(NamedTuple):
    """A stretch of physical memory: `size` bytes from `address` are those of the block from `offset` on."""

    address: int
    size: int
    block: RamBlock
    offset: int


def physical_regions(memory: AddressSpace) -> list[Region]:
    """All RAM and ROM, by address.  Machine thread."""
    return [
        Region(section.base, section.size, section.block, section.block_offset)
        for section in sorted(memory, key=lambda section: section.base)
        if section.kind is not SectionKind.MMIO and section.block is not None and section.block.dumped
    ]


def cut(regions: Sequence[Region], begin: int, length: int) -> list[Region]:
    """What of the regions lies between two addresses; nothing for a negative length."""
    found = []
    for address, size, block, offset in regions:
        first, last = max(address, begin), min(address + size, begin + length)
        if first < last:
            found.append(Region(first, last - first, block, offset + first - address))
    return found


def note(number: int, pc: int, registers: Sequence[int]) -> bytes:
    """The registers of a processor, x1 to x31; `number` is what stands in the place of a process's id."""
    status = _PRSTATUS.pack(number, pc, *registers)
    return _NOTE.pack(len(b"CORE\0"), len(status), _NT_PRSTATUS, b"CORE") + status


class CoreFile:
    """See the module.  `total` bytes of memory are to be written, `completed` have been."""

    def __init__(self, regions: Sequence[Region], notes: Sequence[bytes]) -> None:
        self._regions = regions
        self._notes = b"".join(notes)
        self.total = sum(region.size for region in regions)
        self.completed = 0
        self._programs_at = _HEADER.size + _SECTIONS * _SECTION.size
        self._notes_at = self._programs_at + (1 + len(regions)) * _PROGRAM.size
        self._memory_at = self._notes_at + len(self._notes)

    def write(self, fd: int, *, sparse: bool = False) -> None:
        """Write all of it, from where the file is; `sparse` when it is empty.  Raises DumpError."""
        sparse = sparse and stat.S_ISREG(os.fstat(fd).st_mode)
        _put(fd, self._header(), "write elf header")
        _put(fd, self._section_headers(), "write section headers")
        _put(fd, self._program_headers(), "write program header table")
        _put(fd, self._notes, "write elf notes")
        for region in self._regions:
            self._copy(fd, region, sparse=sparse)
        _put(fd, _NAMES, "write string table data")

    def _header(self) -> bytes:
        return _HEADER.pack(
            _IDENT,
            _ET_CORE,
            _EM_RISCV,
            1,
            0,
            self._programs_at,
            _HEADER.size,
            0,
            _HEADER.size,
            _PROGRAM.size,
            1 + len(self._regions),
            _SECTION.size,
            _SECTIONS,
            _SECTIONS - 1,
        )

    def _section_headers(self) -> bytes:
        names_at = self._memory_at + self.total
        return bytes(_SECTION.size) + _SECTION.pack(1, _SHT_STRTAB, 0, 0, names_at, len(_NAMES), 0, 0, 0, 0)

    def _program_headers(self) -> bytes:
        size = len(self._notes)
        headers = [_PROGRAM.pack(_PT_NOTE, 0, self._notes_at, 0, 0, size, size, 0)]
        at = self._memory_at
        for address, size, _, _ in self._regions:
            headers.append(_PROGRAM.pack(_PT_LOAD, 0, at, address, address, size, size, 0))
            at += size
        return b"".join(headers)

    def _copy(self, fd: int, region: Region, *, sparse: bool) -> None:
        try:
            with Source(region.block) as source:
                for piece, size in source.pieces(region, sparse=sparse):
                    if piece is None:
                        os.lseek(fd, size, os.SEEK_CUR)
                    else:
                        write_all(fd, piece)
                    self.completed += size
        except (OSError, OverflowError) as error:
            raise _failure("save memory", error) from None


class Source:
    """A block of memory to be read, by a descriptor of its own: others move the place in theirs, and close it."""

    def __init__(self, block: RamBlock) -> None:
        self._block = block
        self._fd = -1

    def __enter__(self) -> Self:
        if self._block.plain and self._block.shared:
            with contextlib.suppress(OSError):  # then by the mapping
                self._fd = os.open(f"/proc/self/fd/{self._block.fd}", os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def pieces(
        self, region: Region, *, sparse: bool, unit: int = 1
    ) -> Iterator[tuple[memoryview | None, int]]:
        """The region from its beginning on, a piece and its size at a time; None is a stretch that was never touched, if `sparse`.

        Sizes are multiples of `unit`, of which the region's is one.  A piece is good until the next one.  Raises OSError.
        """
        buffer = memoryview(bytearray(_SLICE))
        position, end = region.offset, region.offset + region.size
        while position < end:
            size, hole = self._stretch(position, end - position) if sparse else (end - position, False)
            if hole and size >= unit:
                size -= size % unit
                yield None, size
            else:
                size = min(_SLICE, size + -size % unit)
                self._read(buffer[:size], position)
                yield buffer[:size], size
            position += size

    def _read(self, piece: memoryview, position: int) -> None:
        """Fill a buffer from there on."""
        if self._fd < 0:
            piece[:] = self._block.view[position : position + len(piece)]
            return
        while piece:
            count = os.preadv(self._fd, [piece], position)
            if not count:  # the file was made shorter meanwhile, by who else has it
                piece[:] = bytes(len(piece))
                return
            piece, position = piece[count:], position + count

    def _stretch(self, position: int, limit: int) -> tuple[int, bool]:
        """How many bytes from there on, `limit` at most, have never been touched, or have, and which of both."""
        if self._fd < 0:
            return limit, False
        try:
            data = os.lseek(self._fd, position, os.SEEK_DATA)
            end = os.lseek(self._fd, position, os.SEEK_HOLE) if data == position else data
        except OSError as error:
            return limit, error.errno == errno.ENXIO  # nothing more, or a file system that cannot tell
        return min(limit, end - position), data > position


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """write(2) until all is written."""
    piece = memoryview(data)
    while piece:
        piece = piece[os.write(fd, piece) :]


def _put(fd: int, data: bytes, what: str) -> None:
    try:
        write_all(fd, data)
    except OSError as error:
        raise _failure(what, error) from None


def _failure(what: str, error: Exception) -> DumpError:
    reason = error.strerror if isinstance(error, OSError) else "File too large"
    return DumpError(f"dump: failed to {what}: {reason}")
