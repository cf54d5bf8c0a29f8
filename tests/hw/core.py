"""Core files, read back: a small reader of ELF for tests, which knows the format and nothing of who writes it.

Source: System V Application Binary Interface, edition 4.1, chapters 4 and 5.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

LOAD, NOTE = 1, 4


class Part(NamedTuple):
    """A program header."""

    kind: int
    flags: int
    offset: int
    virtual: int
    physical: int
    in_file: int
    in_memory: int
    align: int


class Core:
    """A core file of a machine with 64 bits."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.header = struct.unpack_from("<16sHHIQQQIHHHHHH", content)
        ident, kind, machine = self.header[:3]
        assert ident[:7] == b"\x7fELF\x02\x01\x01"
        assert (kind, machine) == (4, 243)
        programs, sections = self.header[5:7]
        size, count, section_size, section_count, names = self.header[9:14]
        assert (size, section_size) == (56, 64)
        self.parts = [
            Part(*struct.unpack_from("<IIQQQQQQ", content, programs + 56 * n)) for n in range(count)
        ]
        self.sections = [
            struct.unpack_from("<IIQQQQIIQQ", content, sections + 64 * n) for n in range(section_count)
        ]
        offset, length = self.sections[names][4:6]
        assert content[offset : offset + length] == b"\0.shstrtab\0"
        assert len(content) == offset + length

    @property
    def loads(self) -> list[Part]:
        return [part for part in self.parts if part.kind == LOAD]

    @property
    def notes(self) -> list[tuple[bytes, int, bytes]]:
        """Name, type and content of each."""
        [part] = [part for part in self.parts if part.kind == NOTE]
        found = []
        at, end = part.offset, part.offset + part.in_file
        while at < end:
            name_size, size, kind = struct.unpack_from("<III", self.content, at)
            begin = at + 12 + -(-name_size // 4) * 4
            name = self.content[at + 12 : at + 12 + name_size]
            found.append((name, kind, self.content[begin : begin + size]))
            at = begin + -(-size // 4) * 4
        assert at == end
        return found

    def registers(self) -> list[tuple[int, list[int]]]:
        """Of each processor: what stands for its id; then the program counter and x1 to x31."""
        found = []
        for name, kind, content in self.notes:
            assert (name, kind, len(content)) == (b"CORE\0", 1, 376)
            (number,) = struct.unpack_from("<I", content, 32)
            found.append((number, list(struct.unpack_from("<32Q", content, 112))))
        return found

    def memory(self, part: Part) -> bytes:
        return self.content[part.offset : part.offset + part.in_file]
