"""The guest's physical address space: RAM, ROM and device registers, and the holes between them.

The map is flat: sections that do not overlap, each of RAM (with a backing `RamBlock`) or of device registers (with
`MmioOps`).  Two regions at one address are a mistake of the board or of the user and are refused with both names.

    space = AddressSpace()
    space.add_ram("riscv_virt_board.ram", 0x8000_0000, RamBlock("riscv_virt_board.ram", 128 << 20))
    space.add_mmio("serial", 0x1000_0000, 0x100, uart)
    space.write_physical(0x8000_0000, b"...")

An engine is a `MemoryListener`: it hears of every section that comes and goes (those that exist first), and of every write
into RAM that did not come from itself, so that it can drop code it has translated from there.

Access sizes.  Registers are read and written little-endian, 1, 2, 4 or 8 bytes at a time.  A region names the sizes that it
takes (`min_access`, `max_access`).  An access of the CPU outside them is a fault of that access, as in QEMU; an unaligned one is
cut into naturally aligned pieces.  `read_physical` and `write_physical`, which have no size of their own, use pieces as wide as
the region allows.

Everything here belongs to the machine thread.
"""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

from qemud.logs import guest_error, trace, traced
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADDRESS_SPACE_END = 1 << 64
"""One past the last physical address."""


class MemoryFault(Exception):
    """An access to nothing: no section there, or one that does not take the access. `address` is the first bad byte."""

    def __init__(self, address: int, *, write: bool) -> None:
        super().__init__(f"no memory at {address:#x} for a {'write' if write else 'read'}")
        self.address = address
        self.write = write


class MmioOps(Protocol):
    """Device registers. Offsets lie inside the region, sizes are 1, 2, 4 or 8, values fit the size."""

    def read(self, offset: int, size: int) -> int:
        """The value of the register at `offset`; bits above `size` bytes are cut off."""

    def write(self, offset: int, value: int, size: int) -> None:
        """Store `value` to the register at `offset`."""


class RamBlock:
    """Memory of the guest: an anonymous file, mapped shared, so that it can be lent, remapped and saved.

    `size` is in bytes and is rounded up to whole pages. Raises GenericError, with QEMU's text, when the host has not that much.
    """

    shared = True
    """Whether what is written to the block is written to its file."""
    plain = True
    """Whether byte n of the file is byte n of the block, and stays so."""
    dumped = True
    """Whether it is in a dump of the guest's memory: what belongs to a device is not."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.fd = -1
        try:
            # The file below is accounted page by page as the guest touches it; a private mapping of the same size asks the
            # kernel's overcommit rules now, when an error can still be told.
            mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
            self.fd = os.memfd_create(name[:200], os.MFD_CLOEXEC)
            os.ftruncate(self.fd, self.size)
            self.mapping = mmap.mmap(self.fd, self.size, flags=mmap.MAP_SHARED)
        except (OSError, OverflowError, ValueError) as error:
            self._close_file()
            reason = error.strerror if isinstance(error, OSError) else "Cannot allocate memory"
            raise GenericError(f"cannot set up guest memory '{name}': {reason}") from None
        self.view = memoryview(self.mapping)
        self._address = 0

    @property
    def address(self) -> int:
        """Where the block lies in this process."""
        if not self._address:
            import ctypes

            self._address = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))
        return self._address

    def read_file(self, offset: int, fd: int, size: int) -> int:
        """Fill the block at `offset` with the first `size` bytes of an open file; how many it had. Raises OSError."""
        done = 0
        if self.plain:
            # From page to page: half the time of reading into the mapping, whose pages would be cleared and mapped first.
            os.lseek(self.fd, offset, os.SEEK_SET)
            with contextlib.suppress(OSError):  # some file systems cannot do that
                while done < size and (count := os.sendfile(self.fd, fd, done, size - done)):
                    done += count
        while done < size and (count := os.preadv(fd, [self.view[offset + done : offset + size]], done)):
            done += count
        return done

    def discard(self, offset: int, size: int) -> None:
        """Give whole pages back to the host; they read as zeros from now on, or as what their file has where nobody else sees it.

        What is mapped stays mapped: whoever has a view of the pages may use it, and gets new ones.  Raises OSError.
        """
        self.mapping.madvise(mmap.MADV_REMOVE if self.shared else mmap.MADV_DONTNEED, offset, size)

    def close(self) -> None:
        """Give the memory back. Nobody may use the block, its view or its address afterwards."""
        if self.fd >= 0:
            self.view.release()
            self.mapping.close()
            self._close_file()

    def _close_file(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        """Who forgets a block does not leave its file open; the mapping goes by itself."""
        self._close_file()


class SectionKind(enum.Enum):
    """What lies behind an address."""

    RAM = "ram"
    ROM = "rom"  # read and execute; the guest's writes are dropped
    MMIO = "mmio"


class Section:
    """A stretch of the flat map: `size` bytes from `base`, RAM or registers. Immutable once added."""

    __slots__ = (
        "base",
        "block",
        "block_offset",
        "end",
        "kind",
        "max_access",
        "min_access",
        "name",
        "ops",
        "size",
    )

    def __init__(
        self,
        name: str,
        base: int,
        size: int,
        kind: SectionKind,
        *,
        block: RamBlock | None = None,
        block_offset: int = 0,
        ops: MmioOps | None = None,
        min_access: int = 1,
        max_access: int = 8,
    ) -> None:
        self.name = name
        self.base = base
        self.size = size
        self.end = base + size
        self.kind = kind
        self.block = block
        self.block_offset = block_offset
        self.ops = ops
        self.min_access = min_access
        self.max_access = max_access

    def __repr__(self) -> str:
        return f"<{self.kind.value} {self.name} {self.base:#x}-{self.end - 1:#x}>"

    def view(self, address: int, size: int) -> memoryview:
        """`size` bytes of RAM at physical `address`, which the caller has checked to lie in this section."""
        assert self.block is not None
        start = self.block_offset + address - self.base
        return self.block.view[start : start + size]

    def cpu_read(self, offset: int, size: int) -> int:
        """A load of the CPU from a register, offset and offset + size inside the section. Raises MemoryFault."""
        assert self.ops is not None
        if offset & (size - 1):
            piece = _aligned_piece(offset, size)
            low = self.cpu_read(offset, piece)
            shift = piece
            while shift < size:
                piece = _aligned_piece(offset + shift, size - shift)
                low |= self.cpu_read(offset + shift, piece) << (8 * shift)
                shift += piece
            return low
        if not self.min_access <= size <= self.max_access:
            raise self._wrong_size(offset, size, write=False)
        value = self.ops.read(offset, size) & ((1 << 8 * size) - 1)
        if "memory_region_ops_read" in traced:
            trace("memory_region_ops_read", region=self.name, offset=offset, size=size, value=value)
        return value

    def cpu_write(self, offset: int, value: int, size: int) -> None:
        """A store of the CPU to a register, offset and offset + size inside the section. Raises MemoryFault."""
        assert self.ops is not None
        if offset & (size - 1):
            shift = 0
            while shift < size:
                piece = _aligned_piece(offset + shift, size - shift)
                self.cpu_write(offset + shift, value >> (8 * shift), piece)
                shift += piece
            return
        if not self.min_access <= size <= self.max_access:
            raise self._wrong_size(offset, size, write=True)
        if "memory_region_ops_write" in traced:
            trace("memory_region_ops_write", region=self.name, offset=offset, size=size, value=value)
        self.ops.write(offset, value & ((1 << 8 * size) - 1), size)

    def _wrong_size(self, offset: int, size: int, *, write: bool) -> MemoryFault:
        what = f"{'store' if write else 'load'} of a size that is not taken"
        guest_error("memory", what, region=self.name, offset=f"{offset:#x}", size=size)
        return MemoryFault(self.base + offset, write=write)


class MemoryListener(Protocol):
    """Who must know of the map: an engine."""

    def section_added(self, section: Section) -> None:
        """A section exists now."""

    def section_removed(self, section: Section) -> None:
        """A section is gone."""

    def ram_written(self, segments: list[tuple[int, int]]) -> None:
        """Somebody else than the listener's own guest code wrote into RAM: translated code there is stale.

        Each of `segments` is an address and a length.
        """


class AddressSpace:
    """The flat map, see the module."""

    def __init__(self) -> None:
        self._sections: list[Section] = []
        self._bases: list[int] = []
        self._listeners: list[MemoryListener] = []

    def add_ram(self, name: str, base: int, block: RamBlock, *, readonly: bool = False) -> Section:
        """Map a whole block at `base`; with `readonly` the guest's writes are dropped (a ROM)."""
        kind = SectionKind.ROM if readonly else SectionKind.RAM
        return self._add(Section(name, base, block.size, kind, block=block))

    def add_mmio(
        self, name: str, base: int, size: int, ops: MmioOps, *, min_access: int = 1, max_access: int = 8
    ) -> Section:
        """Map `size` bytes of registers at `base`, for accesses of `min_access` to `max_access` bytes."""
        return self._add(
            Section(name, base, size, SectionKind.MMIO, ops=ops, min_access=min_access, max_access=max_access)
        )

    def add_alias(
        self, name: str, base: int, target: str, offset: int = 0, size: int | None = None
    ) -> Section:
        """Show `size` bytes of the section `target`, from `offset` in it, at `base` as well."""
        origin = self.section(target)
        length = origin.size - offset if size is None else size
        if offset < 0 or length <= 0 or offset + length > origin.size:
            raise GenericError(
                f"memory region '{name}' shows {length:#x} bytes at {offset:#x} of '{target}', "
                f"which has {origin.size:#x}"
            )
        ops: MmioOps | None = None
        if origin.ops is not None:
            ops = origin.ops if offset == 0 else _Shifted(origin.ops, offset)
        return self._add(
            Section(
                name,
                base,
                length,
                origin.kind,
                block=origin.block,
                block_offset=origin.block_offset + offset,
                ops=ops,
                min_access=origin.min_access,
                max_access=origin.max_access,
            )
        )

    def remove(self, name: str) -> None:
        """Take the section away; its addresses become a hole."""
        section = self.section(name)
        index = self._sections.index(section)
        del self._sections[index]
        del self._bases[index]
        for listener in self._listeners:
            listener.section_removed(section)

    def section(self, name: str) -> Section:
        """The section of that name; GenericError when there is none."""
        for section in self._sections:
            if section.name == name:
                return section
        raise GenericError(f"memory region '{name}' not found")

    def find(self, address: int) -> Section | None:
        """The section that holds `address`, or None in a hole."""
        index = bisect_right(self._bases, address) - 1
        if index >= 0:
            section = self._sections[index]
            if address < section.end:
                return section
        return None

    def __iter__(self) -> Iterator[Section]:
        return iter(self._sections)

    def add_listener(self, listener: MemoryListener) -> Callable[[], None]:
        """Tell `listener` of every section, now and later; the result ends that."""
        self._listeners.append(listener)
        for section in self._sections:
            listener.section_added(section)
        return lambda: self._listeners.remove(listener)

    def read_physical(self, address: int, size: int) -> bytes:
        """`size` bytes from `address`, over as many sections as that takes. Raises MemoryFault at the first hole.

        Device registers are read as the CPU would, with the side effects that has.
        """
        first = self._within(address, size, write=False)
        if first.block is not None and address + size <= first.end:
            return first.view(address, size).tobytes()
        parts: list[bytes] = []
        for section, start, length in self._pieces(address, size, write=False):
            if section.block is not None:
                parts.append(section.view(start, length).tobytes())
            else:
                for offset, piece in _mmio_pieces(section, start - section.base, length):
                    parts.append(section.cpu_read(offset, piece).to_bytes(piece, "little"))
        return b"".join(parts)

    def write_physical(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `address`; ROM is written too (this is how it gets its content). Raises MemoryFault.

        Holes are looked for first: with one in the range nothing is written at all.
        """
        size = len(data)
        self._within(address, size, write=True)
        pieces = list(self._pieces(address, size, write=True))
        for section, start, length in pieces:
            part = data[start - address : start - address + length]
            if section.block is not None:
                section.view(start, length)[:] = part
                self.written(start, length)
            else:
                for offset, piece in _mmio_pieces(section, start - section.base, length):
                    position = section.base + offset - start
                    section.cpu_write(
                        offset, int.from_bytes(part[position : position + piece], "little"), piece
                    )

    def ram(self, address: int, size: int) -> memoryview:
        """`size` bytes of RAM at `address` in place, for a device that reads or fills them. Raises MemoryFault.

        The range must lie in one section. Who writes into it calls `written` afterwards.
        """
        section = self._within(address, size, write=False)
        if section.kind is not SectionKind.RAM:
            raise MemoryFault(address, write=False)
        if address + size > section.end:
            raise MemoryFault(section.end, write=False)
        return section.view(address, size)

    def read_file(self, address: int, fd: int, size: int) -> int:
        """Fill RAM at `address` with the first `size` bytes of an open file; how many it had. Raises OSError and MemoryFault."""
        self.ram(address, size).release()
        section = self.find(address)
        assert section is not None
        assert section.block is not None
        done = section.block.read_file(section.block_offset + address - section.base, fd, size)
        self.written(address, size)
        return done

    def written(self, address: int, size: int) -> None:
        """Say that RAM got new content through `ram`: engines drop code translated from there."""
        self.all_written([(address, size)])

    def all_written(self, segments: list[tuple[int, int]]) -> None:
        """The same of many stretches, each an address and a length."""
        for listener in self._listeners:
            listener.ram_written(segments)

    def _within(self, address: int, size: int, *, write: bool) -> Section:
        """The section of `address`, with the range checked against the end of the address space."""
        if address < 0 or size < 0 or address + size > ADDRESS_SPACE_END:
            raise MemoryFault(address, write=write)
        section = self.find(address)
        if section is None:
            raise MemoryFault(address, write=write)
        return section

    def _pieces(self, address: int, size: int, *, write: bool) -> Iterator[tuple[Section, int, int]]:
        end = address + size
        while address < end:
            section = self._within(address, end - address, write=write)
            length = min(end, section.end) - address
            yield section, address, length
            address += length

    def _add(self, section: Section) -> Section:
        name = section.name
        if section.size <= 0 or section.base < 0 or section.end > ADDRESS_SPACE_END:
            raise GenericError(
                f"memory region '{name}' at {section.base:#x}, {section.size:#x} bytes long, "
                "does not fit the address space"
            )
        for other in self._sections:
            if other.name == name:
                raise GenericError(f"memory region '{name}' is mapped at {other.base:#x} already")
            if section.base < other.end and other.base < section.end:
                raise GenericError(
                    f"memory region '{name}' ({section.base:#x}-{section.end - 1:#x}) conflicts with "
                    f"'{other.name}' ({other.base:#x}-{other.end - 1:#x})"
                )
        index = bisect_right(self._bases, section.base)
        self._sections.insert(index, section)
        self._bases.insert(index, section.base)
        for listener in self._listeners:
            listener.section_added(section)
        return section


class _Shifted:
    """Registers seen through an alias that does not begin at their start."""

    __slots__ = ("_offset", "_ops")

    def __init__(self, ops: MmioOps, offset: int) -> None:
        self._ops = ops
        self._offset = offset

    def read(self, offset: int, size: int) -> int:
        return self._ops.read(offset + self._offset, size)

    def write(self, offset: int, value: int, size: int) -> None:
        self._ops.write(offset + self._offset, value, size)


def _aligned_piece(offset: int, left: int) -> int:
    """The widest naturally aligned access at `offset` that takes at most `left` bytes."""
    piece = offset & -offset & 7 or 8
    while piece > left:
        piece >>= 1
    return piece


def _mmio_pieces(section: Section, offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Cut a transfer into accesses that the region takes, widest first; what is too narrow for it faults later."""
    end = offset + length
    while offset < end:
        piece = min(_aligned_piece(offset, end - offset), section.max_access)
        yield offset, piece
        offset += piece
