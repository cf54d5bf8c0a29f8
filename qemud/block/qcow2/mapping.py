"""Where the clusters of a disk are in the file: the L1 table, which is in memory, and pieces of L2 tables, which are cached.

    found = mapping.find(offset, length)        # None: a piece must be loaded first
    if found is None:
        await mapping.load(offset)

A piece holds entries as plain integers, so that looking up is a few operations on them.  `find` may be called in the machine thread
while the event loop changes tables: each of its steps is one lookup, and what it has found stays in place until the call of
`read_now` or `write_now` has ended (`Image.drop`).

Pieces that have changed stay in memory until `Image.write_tables`.

Source: docs/interop/qcow2.txt of QEMU 10.0, "Cluster mapping".
"""

from __future__ import annotations

import asyncio
import sys
from array import array
from typing import TYPE_CHECKING

from qemud.block.qcow2 import layout, subclusters
from qemud.block.qcow2.layout import COMPRESSED, COPIED, OFFSET, ZERO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from qemud.block.node import BlockNode

_SWAP = sys.byteorder == "little"
_WRITE_UNIT = 4096
_SECTOR_ENTRIES = 64
_LARGEST_PIECE = 1 << 16
"""Looking through all of a piece takes less than a millisecond."""


def decode_table(data: bytes | bytearray | memoryview) -> array[int]:
    """A table of 64-bit entries as integers."""
    table = array("Q", bytes(data))
    if _SWAP:
        table.byteswap()
    return table


def encode_table(table: array[int]) -> bytes:
    """The same as it is on disk."""
    copy = table[:]
    if _SWAP:
        copy.byteswap()
    return copy.tobytes()


def sectors_of(table: array[int], entries: Iterable[int]) -> list[tuple[int, bytes]]:
    """The sectors of a table that have these entries, as they are now: where in the table, and what."""
    return [
        (first * 8, encode_table(table[first : first + _SECTOR_ENTRIES]))
        for first in sorted({index // _SECTOR_ENTRIES * _SECTOR_ENTRIES for index in entries})
    ]


class Piece:
    """A part of an L2 table: as many entries as are read and written together."""

    __slots__ = ("entries", "first", "last", "used", "writing")

    def __init__(self, entries: array[int] | list[int]) -> None:
        self.entries: array[int] | list[int] = entries
        """With parts, integers of 128 bits; see `subclusters`."""
        self.first = len(entries)
        self.last = -1
        """Entries from `first` to `last` differ from what is on disk."""
        self.used = True
        self.writing = False

    @property
    def entry_size(self) -> int:
        """Bytes of an entry on disk."""
        return 16 if isinstance(self.entries, list) else 8

    @property
    def dirty(self) -> bool:
        """Whether anything differs from what is on disk."""
        return self.last >= 0

    def changed(self, first: int, count: int) -> None:
        """Entries have been changed."""
        self.first = min(self.first, first)
        self.last = max(self.last, first + count - 1)

    def take_changes(self) -> tuple[int, bytes] | None:
        """Where in the piece to write what, in whole disk blocks; the piece is clean then."""
        if self.last < 0:
            return None
        entries, width = self.entries, self.entry_size
        unit = min(_WRITE_UNIT, len(entries) * width)
        start = self.first * width // unit * unit
        end = -(-(self.last + 1) * width // unit) * unit
        self.first, self.last = len(entries), -1
        changed = entries[start // width : end // width]
        return start, encode_table(subclusters.split(changed) if isinstance(changed, list) else changed)


class Mapping:
    """See the module."""

    def __init__(
        self,
        owner: BlockNode,
        cluster_bits: int,
        l1: array[int],
        version: int,
        *,
        external: bool = False,
        extended: bool = False,
    ) -> None:
        self.l1 = l1
        self.l1_changed: set[int] = set()
        """Entries of the L1 table that differ from what is on disk."""
        self.pieces: dict[int, Piece] = {}
        """By the number of the first cluster that they are about, shifted by `piece_bits`."""
        self.make_room: Callable[[], Awaitable[None]] | None = None
        """Writes back changes, so that there are pieces that may go."""
        self.piece_bits = 0
        self.limit = 0
        """How many pieces may be in memory."""
        self.allocated = OFFSET | COMPRESSED | (0 if extended else ZERO) | (COPIED if external else 0)
        """An entry with none of these bits leaves it to the backing file what is there."""
        self._owner = owner
        self._version = version
        self.extended = extended
        """Clusters have parts."""
        self.entry_size = 16 if extended else 8
        """Bytes of an entry on disk."""
        self.external = external
        """Clusters are in another file, each where it is on the disk."""
        self.here = COPIED if external else 0
        """What a cluster that is at offset 0 of that file has in its entry."""
        self.cluster_bits = cluster_bits
        self._cluster_size = 1 << cluster_bits
        self._cluster_mask = self._cluster_size - 1
        self._l2_bits = cluster_bits - (4 if extended else 3)
        self._loading: dict[int, asyncio.Future[None]] = {}
        self._mask = 0
        self._changes = 0
        """How often tables on disk have been changed past the cache."""
        self.configure(min(self._cluster_size, _WRITE_UNIT), 1 << 20)

    def configure(self, entry_size: int, cache_size: int) -> None:
        """Bytes of a piece, and of all together; nothing is cached yet, or everything is clean."""
        entry_size = min(entry_size, _LARGEST_PIECE)
        self.clear()
        self.piece_bits = (entry_size // self.entry_size).bit_length() - 1
        self._mask = (1 << self.piece_bits) - 1
        self.limit = max(2, cache_size // entry_size)

    @property
    def _l1_shift(self) -> int:
        return self._l2_bits - self.piece_bits

    def l1_index(self, offset: int) -> int:
        """Which entry of the L1 table an offset of the disk belongs to."""
        return offset >> (self.cluster_bits + self._l2_bits)

    def table_end(self, offset: int) -> int:
        """Where on the disk the next L2 table begins."""
        return (self.l1_index(offset) + 1) << (self.cluster_bits + self._l2_bits)

    def number(self, offset: int) -> int:
        """Which piece an offset of the disk belongs to."""
        return offset >> (self.cluster_bits + self.piece_bits)

    def index(self, offset: int) -> int:
        """Which entry of its piece an offset of the disk belongs to."""
        return (offset >> self.cluster_bits) & self._mask

    def entries_from(self, offset: int, length: int) -> int:
        """How many entries of one piece a range that begins at `offset` concerns."""
        inside = (offset & self._cluster_mask) + length
        return min(-(-inside >> self.cluster_bits), self._mask + 1 - self.index(offset))

    def find(self, offset: int, length: int) -> tuple[int, int, int] | None:
        """What is there: its kind, where in the file (or the entry, of a compressed cluster), and for how many bytes at most.

        None when the piece is not in memory.
        """
        cluster_bits = self.cluster_bits
        cluster = offset >> cluster_bits
        number = cluster >> self.piece_bits
        inside = offset & self._cluster_mask
        index = cluster & self._mask
        last = index + ((inside + length - 1) >> cluster_bits)
        if last > self._mask:
            last = self._mask
            length = ((self._mask + 1 - index) << cluster_bits) - inside
        piece = self.pieces.get(number)
        if piece is None:
            l1_index = number >> self._l1_shift
            if l1_index >= len(self.l1) or not self.l1[l1_index] & OFFSET:
                return layout.UNALLOCATED, 0, length
            return None
        piece.used = True
        entries = piece.entries
        if self.extended:
            return subclusters.find(self, entries, index, offset, length)
        entry = entries[index]
        step = 0
        if entry & COMPRESSED:
            kind = layout.INVALID if self.external else layout.PACKED
            return kind, entry, min(length, self._cluster_size - inside)
        place = entry & OFFSET
        if entry & ZERO:
            if self._version < 3 or place & self._cluster_mask:
                return layout.INVALID, entry, 1
            if not place:
                kind = layout.ZEROES
            else:
                kind = layout.ZEROES_PLACED if entry & COPIED else layout.ZEROES_SHARED
                step = self._cluster_size
        elif place or entry & self.here:
            if place & self._cluster_mask:
                return layout.INVALID, entry, 1
            kind = layout.PLACED if entry & COPIED else layout.SHARED
            step = self._cluster_size
        else:
            kind = layout.UNALLOCATED
        if self.external and step and place + inside != offset:
            return layout.INVALID, entry, 1
        expected = entry + step
        following = index + 1
        while following <= last and entries[following] == expected:
            following += 1
            expected += step
        count = ((following - index) << cluster_bits) - inside
        return kind, place + inside, min(count, length)

    def table_offset(self, number: int) -> int:
        """Where in the file the L2 table of a piece is; 0 when there is none."""
        index = number >> self._l1_shift
        return self.l1[index] & OFFSET if index < len(self.l1) else 0

    def piece_offset(self, number: int) -> int:
        """Where in the file a piece is, if there is a table for it."""
        part = number & ((1 << self._l1_shift) - 1)
        return self.table_offset(number) + (part << self.piece_bits) * self.entry_size

    async def load(self, number: int) -> Piece:
        """The piece with this number; its L2 table must be there.

        Nothing else happens between the end of this and the next step of the caller; OSError.
        """
        while True:
            piece = self.pieces.get(number)
            if piece is not None:
                piece.used = True
                return piece
            loading = self._loading.get(number)
            if loading is not None:
                await asyncio.shield(loading)
                continue
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._loading[number] = future
            try:
                if len(self.pieces) >= self.limit:
                    await self._shrink()
                data = bytearray(self.entry_size << self.piece_bits)
                moment = self._changes
                await self._owner.file.readv(self.piece_offset(number), [memoryview(data)])
                if moment != self._changes:
                    continue
                table = decode_table(data)
                piece = self.pieces[number] = Piece(subclusters.join(table) if self.extended else table)
                return piece
            finally:
                del self._loading[number]
                future.set_result(None)

    async def _shrink(self) -> None:
        """Make room for a piece: by those that have not been used since this was last done, if there are any."""
        if not self._drop_some() and self.make_room is not None:
            await self.make_room()
            self._drop_some()

    def _drop_some(self) -> bool:
        wanted = max(1, self.limit // 8)
        pieces = self.pieces
        clean = [number for number, each in pieces.items() if not each.dirty and not each.writing]
        victims = [number for number in clean if not pieces[number].used][:wanted]
        if not victims:
            victims = clean[:wanted]
            for each in pieces.values():
                each.used = False
        for number in victims:
            del pieces[number]
        return bool(victims)

    def drop_unused(self) -> None:
        """Forget clean pieces that have not been used since the last time."""
        for number, each in list(self.pieces.items()):
            if not each.used and not each.dirty and not each.writing:
                del self.pieces[number]
            each.used = False

    def clear(self) -> None:
        """Forget everything: tables on disk have been changed.  Nothing is dirty."""
        self.pieces.clear()
        self._changes += 1

    def forget(self, l1_index: int) -> None:
        """Forget an L2 table: it is not there any more, or was changed on disk."""
        self._changes += 1
        first = l1_index << self._l1_shift
        for number in range(first, first + (1 << self._l1_shift)):
            self.pieces.pop(number, None)
