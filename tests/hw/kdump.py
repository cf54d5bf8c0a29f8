"""Compressed dumps, read back: a small reader of kdump's format for tests, which knows the format and nothing of who writes it.

Source: makedumpfile 1.7, IMPLEMENTATION and diskdump_mod.h.
"""

from __future__ import annotations

import struct
import zlib

PAGE = 4096


def assembled(content: bytes) -> bytes:
    """What a flattened file says."""
    signature, kind, version = struct.unpack_from(">16sQQ", content)
    assert signature.rstrip(b"\0") == b"makedumpfile"
    assert (kind, version) == (1, 1)
    at, found = 4096, bytearray()
    while True:
        offset, size = struct.unpack_from(">qq", content, at)
        at += 16
        if offset == size == -1:
            assert at == len(content)
            return bytes(found)
        found.extend(bytes(max(offset + size - len(found), 0)))
        found[offset : offset + size] = content[at : at + size]
        at += size


class Kdump:
    """A file of version 6 of a machine with 64 bits."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        fields = struct.unpack_from("<8sI65s65s65s65s65s65s22s10I", content)
        assert fields[:2] == (b"KDUMP   ", 6)
        self.machine = fields[6].rstrip(b"\0")
        self.fields = fields[9:]
        status, page_size, sub_pages, map_pages = self.fields[:4]
        assert (status, page_size) == (1, PAGE)
        self.sub_header = struct.unpack_from("<QII11Q", content, PAGE)
        offset, size = self.sub_header[7:9]
        self.notes = content[offset : offset + size]
        first = (1 + sub_pages) * PAGE
        half = map_pages // 2 * PAGE
        self.maps = content[first : first + half], content[first + half : first + 2 * half]
        self._descriptors = first + 2 * half
        self.pages = [
            8 * index + bit
            for index, byte in enumerate(self.maps[0])
            if byte
            for bit in range(8)
            if byte >> bit & 1
        ]
        self._places = {page: number for number, page in enumerate(self.pages)}

    def page(self, number: int) -> bytes:
        """The content of a page by its number."""
        at = self._descriptors + 24 * self._places[number]
        offset, size, flags, _ = struct.unpack_from("<QIIQ", self.content, at)
        data = self.content[offset : offset + size]
        if flags & 1:
            data = zlib.decompress(data)
        assert len(data) == PAGE
        return data

    def memory(self, address: int, size: int) -> bytes:
        return b"".join(self.page(number) for number in range(address // PAGE, (address + size) // PAGE))
