"""Compressed dumps of a machine's memory: what `dump-guest-memory` writes for kdump's tools, page by page.

    dump = KdumpFile(regions, notes, raw=False)
    dump.write(fd)                                 # any thread; raises DumpError; dump.completed grows

    header, sub header, notes, two maps of the pages that there are, a descriptor for each of these, their contents

Pages of zeros share one place.  `raw` is the file as its readers want it, for which it must be seekable.  Otherwise it is "flattened": a
header, then pieces that each say where they belong, for a pipe to `makedumpfile -R`.

Source: makedumpfile 1.7, diskdump_mod.h and makedumpfile.h (formats, version 6); what stands in the fields, and texts: QEMU 10.0,
dump/dump.c.  Unlike there, the header says which architecture it is.
"""

from __future__ import annotations

import os
import zlib
from struct import Struct
from typing import TYPE_CHECKING

from qemud.hw.core_file import DumpError, Region, Source, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = 4096
_HEADER = Struct("<8sI260s65s65s22s10I")
_SUB_HEADER = Struct("<QII11Q")
_DESCRIPTOR = Struct("<QIIQ")  # offset, size, flags, flags of the page
_FLAT_HEADER = Struct(">16sQQ")
_FLAT_PIECE = Struct(">qq")

_FLAT_HEADER_SIZE = 4096
_FLAT_END = _FLAT_PIECE.pack(-1, -1)
_VERSION = 6
_ZLIB = 1
_LEVEL = 1  # which pages are left out: none but pages of zeros
_BATCH = 1 << 18
_ZEROS = bytes(PAGE)


class _Output:
    """The file, in one of its two forms."""

    def __init__(self, fd: int, *, raw: bool) -> None:
        self._fd = fd
        self._raw = raw

    def begin(self) -> None:
        """Whatever comes before all pieces."""
        if not self._raw:
            header = _FLAT_HEADER.pack(b"makedumpfile", 1, 1)
            self._write(header.ljust(_FLAT_HEADER_SIZE, b"\0"), "write start flat header")

    def put(self, offset: int, data: bytes | bytearray, what: str) -> None:
        """A piece of the file.  Raises DumpError."""
        if not self._raw:
            self._write(_FLAT_PIECE.pack(offset, len(data)), what)
            self._write(data, what)
            return
        piece = memoryview(data)
        try:
            while piece:
                count = os.pwrite(self._fd, piece, offset)
                piece, offset = piece[count:], offset + count
        except OSError:
            raise DumpError(f"dump: failed to {what}") from None

    def end(self) -> None:
        """Whatever comes after them."""
        if not self._raw:
            self._write(_FLAT_END, "write end flat header")

    def _write(self, data: bytes | bytearray, what: str) -> None:
        try:
            write_all(self._fd, data)
        except OSError:
            raise DumpError(f"dump: failed to {what}") from None


class _Stream:
    """A part of the file that grows while another one does."""

    def __init__(self, output: _Output, offset: int, what: str) -> None:
        self._output = output
        self._waiting = bytearray()
        self._what = what
        self._written = offset

    @property
    def offset(self) -> int:
        """Where what is added next will be."""
        return self._written + len(self._waiting)

    def add(self, data: bytes | memoryview) -> None:
        """Write on."""
        self._waiting += data
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._output.put(self._written, self._waiting, self._what)
            self._written += len(self._waiting)
            self._waiting = bytearray()


class KdumpFile:
    """See the module.  Regions begin and end with pages, and are in the order of their addresses."""

    def __init__(self, regions: Sequence[Region], notes: Sequence[bytes], *, raw: bool) -> None:
        self._regions = regions
        self._notes = b"".join(notes)
        self._processors = len(notes)
        self._raw = raw
        self.total = sum(region.size for region in regions)
        self.completed = 0
        last = regions[-1]
        self._max_page = (last.address + last.size) // PAGE
        self._map_size = _whole(-(-self._max_page // 8)) * PAGE
        self._notes_at = PAGE + _SUB_HEADER.size
        self._sub_pages = _whole(_SUB_HEADER.size + len(self._notes))
        self._maps_at = (1 + self._sub_pages) * PAGE
        self._descriptors_at = self._maps_at + 2 * self._map_size

    def write(self, fd: int, *, sparse: bool = False) -> None:
        """Write all of it; what is compressed has no holes, so that `sparse` says nothing.  Raises DumpError."""
        del sparse
        output = _Output(fd, raw=self._raw)
        output.begin()
        output.put(0, self._header(), "write disk dump header")
        output.put(PAGE, self._sub_header(), "write kdump sub header")
        output.put(self._notes_at, self._notes, "write notes")
        pages = self._map()
        output.put(self._maps_at, pages, "set dump_bitmap")
        output.put(self._maps_at + self._map_size, pages, "set dump_bitmap")
        self._write_pages(output)
        output.end()

    def _header(self) -> bytes:
        return _HEADER.pack(
            b"KDUMP   ",
            _VERSION,
            b"",
            b"riscv64",
            b"",
            b"",
            _ZLIB,
            PAGE,
            self._sub_pages,
            2 * self._map_size // PAGE,
            min(self._max_page, 0xFFFF_FFFF),
            0,
            0,
            0,
            0,
            self._processors,
        )

    def _sub_header(self) -> bytes:
        return _SUB_HEADER.pack(
            0, _LEVEL, 0, 0, 0, 0, 0, self._notes_at, len(self._notes), 0, 0, 0, 0, self._max_page
        )

    def _map(self) -> bytearray:
        """A bit for each page that there is."""
        found = bytearray(self._map_size)
        for address, size, _, _ in self._regions:
            for page in range(address // PAGE, (address + size) // PAGE):
                found[page >> 3] |= 1 << (page & 7)
        return found

    def _write_pages(self, output: _Output) -> None:
        contents_at = self._descriptors_at + self.total // PAGE * _DESCRIPTOR.size
        descriptors = _Stream(output, self._descriptors_at, "write page desc")
        contents = _Stream(output, contents_at, "write page data")
        contents.add(_ZEROS)
        empty = _DESCRIPTOR.pack(contents_at, PAGE, 0, 0)
        for page in self._pages():
            if page is None:
                descriptors.add(empty)
            else:
                packed = zlib.compress(page, zlib.Z_BEST_SPEED)
                fits = len(packed) < PAGE
                data = packed if fits else page
                descriptors.add(_DESCRIPTOR.pack(contents.offset, len(data), _ZLIB if fits else 0, 0))
                contents.add(data)
            self.completed += PAGE
        descriptors.flush()
        contents.flush()

    def _pages(self) -> Iterator[memoryview | None]:
        """Each page that there is; None for one of zeros."""
        try:
            for region in self._regions:
                with Source(region.block) as source:
                    for piece, size in source.pieces(region, sparse=True, unit=PAGE):
                        for at in range(0, size, PAGE):
                            page = None if piece is None else piece[at : at + PAGE]
                            yield None if page is None or page == _ZEROS else page
        except OSError as error:
            raise DumpError(f"dump: failed to save memory: {error.strerror}") from None


def _whole(size: int) -> int:
    """How many pages that many bytes take."""
    return -(-size // PAGE)
