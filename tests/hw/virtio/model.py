"""What a device must make of the memory that a driver shows it, written from the standard: the truth for the fuzzer.

A model works on a copy of the guest's memory.  Its device fills whatever it may write with a byte of its own and gives the buffer
back.  `Bad` means that the driver has broken a rule.

Everything is read once: the driver's index is looked at again only when all that it told of has been taken.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
EVENT_IDX, PACKED = 1 << 29, 1 << 34
MOST = 1024

Pieces = list[tuple[int, int, bool]]
"""Address, length, and whether the device may write."""


class Bad(Exception):
    """The driver has broken a rule."""


class Memory:
    """RAM from `base` on, and nothing else."""

    def __init__(self, base: int, content: bytes) -> None:
        self.base = base
        self.content = bytearray(content)

    def place(self, address: int, size: int) -> int:
        if size <= 0 or address < self.base or address + size > self.base + len(self.content):
            raise Bad
        return address - self.base

    def get(self, layout: str, address: int) -> tuple[int, ...]:
        at = self.place(address, struct.calcsize("<" + layout))
        return struct.unpack_from("<" + layout, self.content, at)

    def put(self, layout: str, address: int, *values: int) -> None:
        at = self.place(address, struct.calcsize("<" + layout))
        struct.pack_into("<" + layout, self.content, at, *values)


class Model:
    """One queue; `serve` does what a notification makes the device do."""

    def __init__(self, memory: Memory, size: int, rings: tuple[int, int, int], features: int) -> None:
        self.memory = memory
        self.size = size
        self.desc, self.avail, self.used = rings
        self.event_idx = bool(features & EVENT_IDX)
        self.last = self.seen = self.used_index = 0
        self.wrap = self.used_wrap = True
        extra = 2 if self.event_idx else 0
        parts = (
            ((self.desc, 16 * size), (self.avail, 4), (self.used, 4))
            if features & PACKED
            else (
                (self.desc, 16 * size),
                (self.avail, 4 + 2 * size + extra),
                (self.used, 4 + 8 * size + extra),
            )
        )
        for part in parts:
            memory.place(*part)
        self.step: Callable[[], bool] = self._packed if features & PACKED else self._split

    def serve(self) -> None:
        while self.step():
            pass

    # Both formats.

    def _use(self, pieces: Pieces, number: int) -> int:
        """What the device does with a buffer; how much it has written."""
        places = [(self.memory.place(address, length), length, write) for address, length, write in pieces]
        written = 0
        for at, length, write in places:
            if write:
                self.memory.content[at : at + length] = bytes([number & 0xFF]) * length
                written += length
        return written & 0xFFFFFFFF

    @staticmethod
    def _check(pieces: Pieces) -> Pieces:
        writes = [write for _, _, write in pieces]
        if writes != sorted(writes) or any(length == 0 for _, length, _ in pieces) or len(pieces) > MOST:
            raise Bad
        return pieces

    # Split.

    def _split(self) -> bool:
        memory = self.memory
        if self.last == self.seen:
            (index,) = memory.get("H", self.avail + 2)
            if index == self.last:
                if self.event_idx:
                    memory.put("H", self.used + 4 + 8 * self.size, self.last)
                return False
            if (index - self.last) % 65536 > self.size:
                raise Bad
            self.seen = index
        (head,) = memory.get("H", self.avail + 4 + 2 * (self.last % self.size))
        if head >= self.size:
            raise Bad
        pieces = self._check(self._chain(head))
        self.last = (self.last + 1) % 65536
        written = self._use(pieces, head)
        memory.put("II", self.used + 4 + 8 * (self.used_index % self.size), head, written)
        self.used_index = (self.used_index + 1) % 65536
        memory.put("H", self.used + 2, self.used_index)
        return True

    def _chain(self, head: int) -> Pieces:
        table, limit, at = self.desc, self.size, head
        address, length, flags, _ = self.memory.get("QIHH", table + 16 * at)
        if flags & INDIRECT:
            if not length or length % 16:
                raise Bad
            self.memory.place(address, length)
            table, limit, at = address, length // 16, 0
        pieces: Pieces = []
        while True:
            address, length, flags, following = self.memory.get("QIHH", table + 16 * at)
            if flags & INDIRECT or len(pieces) > limit or len(pieces) > MOST:
                raise Bad
            pieces.append((address, length, bool(flags & WRITE)))
            if not flags & NEXT:
                return pieces if len(pieces) <= limit else self._bad()
            if following >= limit:
                raise Bad
            at = following

    @staticmethod
    def _bad() -> Pieces:
        raise Bad

    # Packed.

    def _packed(self) -> bool:
        memory = self.memory
        at = self.last
        address, length, number, flags = memory.get("QIHH", self.desc + 16 * at)
        if bool(flags & AVAIL) != self.wrap or bool(flags & USED) == self.wrap:
            if self.event_idx:
                memory.put("HH", self.used, at | self.wrap << 15, 2)
            else:
                memory.put("H", self.used + 2, 0)
            return False
        count = 1
        pieces: Pieces = []
        if flags & INDIRECT:
            if not length or length % 16 or length // 16 > MOST:
                raise Bad
            memory.place(address, length)
            for n in range(length // 16):
                piece_address, piece_length, _, piece_flags = memory.get("QIHH", address + 16 * n)
                if piece_flags & INDIRECT:
                    raise Bad
                pieces.append((piece_address, piece_length, bool(piece_flags & WRITE)))
        else:
            while True:
                pieces.append((address, length, bool(flags & WRITE)))
                if not flags & NEXT:
                    break
                if count == self.size:
                    raise Bad
                count += 1
                address, length, number, flags = memory.get(
                    "QIHH", self.desc + 16 * ((self.last + count - 1) % self.size)
                )
                if flags & INDIRECT:
                    raise Bad
        self._check(pieces)
        self.last += count
        if self.last >= self.size:
            self.last -= self.size
            self.wrap = not self.wrap
        written = self._use(pieces, number)
        slot = self.desc + 16 * self.used_index
        memory.put("IH", slot + 8, written, number)
        own = AVAIL | USED if self.used_wrap else 0
        memory.put("H", slot + 14, own | WRITE if written else own)
        self.used_index += count
        if self.used_index >= self.size:
            self.used_index -= self.size
            self.used_wrap = not self.used_wrap
        return True
