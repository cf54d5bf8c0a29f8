"""Files that go into guest memory, and the parts they are made of.

A machine's memory is filled before it first runs and again at every reset, so what is to be loaded is kept as a `BootPlan`: parts
that know where they go and where their bytes come from. A part of a plain file keeps the open file, not its bytes.

    plan = BootPlan()
    kernel = load_kernel("vmlinux.gz", default_address=0x8020_0000, limit=ram_size)
    plan.add(kernel.parts)
    plan.write(memory)

Kernels come as a raw image (RISC-V's `Image`, with its header, among them), as such an image compressed by gzip, or as an ELF file.

Source of the header: Linux 6.12, Documentation/arch/riscv/boot-image-header.rst.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from qemud.hw.boot.elf import ElfError, is_elf, parse_elf
from qemud.machine.descriptors import close_file, names_fdset, open_file, read_from_start
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemud.machine.memory import AddressSpace

_GZIP_MAGIC = b"\x1f\x8b"

_IMAGE_HEADER = struct.Struct("<8xQQQ24x4s4x")
"""text_offset, image_size, flags and, at 0x38, the magic number."""
_IMAGE_MAGIC = b"RSC\x05"


class LoadError(GenericError):
    """A file that cannot be loaded. The text is for the client; `detail`, when there is one, is the system's reason."""

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.detail = detail


class Part:
    """`size` bytes at `address`: `data`, or as much of the open file `fd` from its beginning, then zeros."""

    __slots__ = ("address", "data", "fd", "name", "size")

    def __init__(
        self, name: str, address: int, data: bytes | memoryview, size: int = 0, *, fd: int = -1
    ) -> None:
        self.name = name
        self.address = address
        self.data = data
        self.size = size or len(data)
        self.fd = fd

    def write(self, memory: AddressSpace) -> None:
        """Put it into guest memory. Raises MemoryFault where there is none, OSError when the file cannot be read again."""
        if self.fd < 0:
            memory.write_physical(self.address, self.data)
            if self.size > len(self.data):
                memory.write_physical(self.address + len(self.data), bytes(self.size - len(self.data)))
            return
        done = memory.read_file(self.address, self.fd, self.size)
        if done < self.size:
            raise OSError(f"{self.name} has become shorter: {done} bytes, expected {self.size}")

    def close(self) -> None:
        """Forget the file."""
        if self.fd >= 0:
            close_file(self.fd)
            self.fd = -1


class BootPlan:
    """Everything that is in guest memory when it begins to run."""

    def __init__(self) -> None:
        self._parts: list[Part] = []  # by address

    def contents(self) -> list[tuple[int, int, str]]:
        """Address, size and name of each part."""
        return [(part.address, part.size, part.name) for part in self._parts]

    def add(self, parts: Iterable[Part]) -> None:
        """Add parts; two that overlap are refused with both names."""
        for part in parts:
            index = bisect_left(self._parts, part.address, key=lambda other: other.address)
            for other in self._parts[max(index - 1, 0) : index + 1]:
                if part.address < other.address + other.size and other.address < part.address + part.size:
                    raise GenericError(
                        f"'{part.name}' ({part.address:#x}-{part.address + part.size - 1:#x}) overlaps "
                        f"'{other.name}' ({other.address:#x}-{other.address + other.size - 1:#x}) in guest memory"
                    )
            self._parts.insert(index, part)

    def check(self, memory: AddressSpace) -> None:
        """See that everything fits; GenericError names what does not."""
        for part in self._parts:
            address, end = part.address, part.address + part.size
            while address < end:
                section = memory.find(address)
                if section is None or section.block is None:
                    raise GenericError(
                        f"'{part.name}' needs {part.size:#x} bytes at {part.address:#x}, "
                        f"but there is no memory at {address:#x}"
                    )
                address = section.end

    def write(self, memory: AddressSpace) -> None:
        """Fill guest memory, which was checked before. Raises GenericError when a file cannot be read any more."""
        for part in self._parts:
            try:
                part.write(memory)
            except OSError as error:
                raise GenericError(f"could not load '{part.name}' again: {error}") from None

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.close()


class Loaded(NamedTuple):
    """A file ready to be put into memory: from `low` up to `high` (exclusive), begun at `entry`."""

    parts: list[Part]
    entry: int
    low: int
    high: int


def load_kernel(path: str, *, default_address: int, image_base: int | None, limit: int) -> Loaded:
    """A kernel: ELF goes where it says, everything else to `default_address`.

    With `image_base` given, a kernel with an `Image` header goes where the header says, from there. `limit` is the most bytes it may
    have, compressed or not. Raises LoadError.
    """
    failure = f"could not load kernel '{path}'"
    source = _open(path, failure, limit)
    if source.head[:2] == _GZIP_MAGIC:
        source = _Source(_gunzip(source.take(), failure, limit), -1)
    if is_elf(source.head):
        return _load_elf(path, source.take(), failure)
    address = default_address
    memory_size = source.size
    if len(source.head) >= _IMAGE_HEADER.size:
        text_offset, image_size, _, magic = _IMAGE_HEADER.unpack_from(source.head)
        if magic == _IMAGE_MAGIC:
            memory_size = max(memory_size, min(image_size, limit))
            if image_base is not None:
                address = image_base + text_offset
    return Loaded([source.part(path, address)], address, address, address + memory_size)


def read_image(path: str, what: str, *, limit: int) -> bytes:
    """All of a kernel or ramdisk (`what`), a kernel unpacked. Raises LoadError."""
    failure = f"could not load {what} '{path}'"
    source = _open(path, failure, limit)
    if what == "kernel" and source.head[:2] == _GZIP_MAGIC:
        return _gunzip(source.take(), failure, limit)
    return source.take()


def load_firmware(path: str, *, default_address: int, limit: int) -> Loaded:
    """Firmware: an ELF file, or a raw image for `default_address`. Raises LoadError.

    A position-independent ELF file, as which OpenSBI is built, goes to `default_address` too.
    """
    if not (names_fdset(path) or os.path.exists(path)):
        raise LoadError(f'Unable to find the RISC-V BIOS "{path}"')
    failure = f"could not load firmware '{path}'"
    source = _open(path, failure, limit)
    if is_elf(source.head):
        return _load_elf(path, source.take(), failure, default_address)
    high = default_address + source.size
    return Loaded([source.part(path, default_address)], default_address, default_address, high)


def load_initrd(path: str, *, address: int, limit: int) -> Loaded:
    """An initial ramdisk, as it is. Raises LoadError."""
    source = _open(path, f"could not load ramdisk '{path}'", limit)
    return Loaded([source.part(path, address)], address, address, address + source.size)


class _Source(NamedTuple):
    """A file, in memory or open (`fd`), whose first bytes are in `data` in either case."""

    data: bytes
    fd: int
    length: int = 0

    @property
    def head(self) -> bytes:
        return self.data

    @property
    def size(self) -> int:
        return self.length if self.fd >= 0 else len(self.data)

    def take(self) -> bytes:
        """All of it, in memory."""
        if self.fd < 0:
            return self.data
        try:
            return read_from_start(self.fd, self.length)
        finally:
            close_file(self.fd)

    def part(self, name: str, address: int) -> Part:
        if self.fd < 0:
            return Part(name, address, self.data)
        return Part(name, address, b"", self.length, fd=self.fd)


def _open(path: str, failure: str, limit: int) -> _Source:
    """Open a file; what is no regular file (a pipe from a shell's <(...)) is read at once."""
    try:
        fd = open_file(path, os.O_RDONLY)
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                source = _Source(os.pread(fd, _IMAGE_HEADER.size, 0), fd, status.st_size)
            else:
                source = _Source(read_from_start(fd, limit + 1), -1)
                close_file(fd)
        except BaseException:
            close_file(fd)
            raise
    except OSError as error:
        raise LoadError(failure, f"{path}: {error.strerror}") from None
    if not 0 < source.size <= limit:
        if source.fd >= 0:
            close_file(source.fd)
        raise LoadError(failure, f"{path}: {source.size} bytes, expected 1 to {limit}")
    return source


def _gunzip(data: bytes, failure: str, limit: int) -> bytes:
    """Decompress with an end: a small file may not ask for more than `limit` bytes."""
    decompressor = zlib.decompressobj(wbits=31)
    try:
        result = decompressor.decompress(data, limit + 1)
    except zlib.error as error:
        raise LoadError(failure, f"not a whole gzip file: {error}") from None
    if len(result) > limit:
        raise LoadError(failure, f"more than {limit} bytes when decompressed")
    if not decompressor.eof or not result:
        raise LoadError(failure, "not a whole gzip file")
    return result


def _load_elf(path: str, data: bytes, failure: str, independent_address: int = 0) -> Loaded:
    try:
        image = parse_elf(data)
    except ElfError as error:
        raise LoadError(failure, f"{path}: {error}") from None
    if image.independent:
        image = image.moved(independent_address)
    parts = [Part(path, segment.address, segment.data, segment.size) for segment in image.segments]
    return Loaded(parts, image.entry, image.low, image.high)
