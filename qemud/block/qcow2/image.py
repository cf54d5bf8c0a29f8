"""One open qcow2 image: its tables, and the order in which what changes in them reaches the disk.

    image = await Image.open(node, writable=True)       # GenericError with QEMU's text
    offset, count = await image.refcounts.allocate(4)
    ...
    image.drop(old_offset, 1)           # free when nothing on disk refers to it any more
    await image.write_tables()          # in the package's order
    await image.free_dropped()

Everything here belongs to the event loop but what says otherwise.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from typing import TYPE_CHECKING, Any

from qemud.block.qcow2 import layout
from qemud.block.qcow2.dropped import Dropped
from qemud.block.qcow2.header import FIRST_PART, Header
from qemud.block.qcow2.layout import (
    ACTIVE_L1,
    ACTIVE_L2,
    CACHED,
    DIRECTORY,
    GUARDED,
    HEADER,
    INACTIVE_L1,
    INACTIVE_L2,
    OFFSET,
    REFCOUNT_BLOCK,
    REFCOUNT_TABLE,
    REFTABLE_OFFSET,
    SNAPSHOT_TABLE,
)
from qemud.block.qcow2.mapping import Mapping, decode_table, encode_table, sectors_of
from qemud.block.qcow2.refcounts import Refcounts
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from qemud.block.node import BlockNode
    from qemud.block.qcow2.bitmaps import StoredBitmap
    from qemud.block.qcow2.snapshots import Snapshot

_MANY_TABLES = 1 << 18
"""With more tables than this, only the constant ones are guarded: an image of such a kind is none that anybody has made."""


class Image:
    """See the module."""

    def __init__(self, owner: BlockNode, header: Header) -> None:
        self.owner = owner
        """The node whose child `file` has the image."""
        self.header = header
        self.writes_at_once = 0
        """Odd while the machine thread writes; only that thread changes it."""
        self.cluster_bits = header.cluster_bits
        self.cluster_size = header.cluster_size
        self.external = header.external
        """Data is in a file of its own, each cluster where it is on the disk, and only tables are counted."""
        self.in_step = header.raw_external
        """That file is at all times what the guest sees."""
        self.snapshots: list[Snapshot] = []
        self.bitmaps: list[StoredBitmap] = []
        self.lazy = False
        """Whether reference counts may be wrong on disk while the image is in use."""
        self.guarded = CACHED
        self.discards: frozenset[str] = frozenset(("snapshot", "always"))
        """For what kinds of dropped clusters the file is told that it may forget them."""
        self.on_corruption: Callable[[str, bool, int, int], None] = lambda _text, _fatal, _offset, _size: None
        self.unusable = False
        """Found to be corrupt: nothing is read or written any more."""
        self.signaled = False
        self.data_first = False
        """Data was written that must be stable before tables that refer to it are."""
        self.dropped = Dropped(self)
        self._touched = self._touched_data = 0
        self._writing = asyncio.Lock()
        self._header_lock = asyncio.Lock()
        self._feature_lock = asyncio.Lock()
        self.stable_incompatible = header.incompatible
        """The feature bits that the disk has."""
        self._metadata: dict[int, int] | None = None
        self.mapping: Mapping
        self.refcounts: Refcounts

    @property
    def file(self) -> BlockNode:
        """What the image is in.  Clients and jobs can put another node in its place."""
        return self.owner.file

    @property
    def data(self) -> BlockNode:
        """What the data of the guest is in: the same, or the external data file."""
        return self.owner.children["data-file"] if self.external else self.owner.file

    # Opening.

    @classmethod
    async def open(cls, owner: BlockNode, *, writable: bool) -> Image:
        """Read the header and the tables that are always in memory.  GenericError with QEMU's text."""
        file = owner.file
        first = bytearray(FIRST_PART)
        await _read(file, 0, first, "Could not read qcow2 header")
        header = Header.parse(bytes(first))
        cluster = bytearray(min(header.cluster_size, max(file.size, FIRST_PART)))
        await _read(file, 0, cluster, "Could not read qcow2 header")
        full = bytes(cluster).ljust(header.cluster_size, b"\0")
        header.check(full, writable=writable)
        image = cls(owner, header)
        await image._read_tables()
        header.read_rest(full)
        return image

    async def _read_tables(self) -> None:
        header = self.header
        l1 = await self._read_table(header.l1_offset, header.l1_size * 8, "Could not read L1 table")
        self.mapping = Mapping(
            self.owner,
            header.cluster_bits,
            decode_table(l1),
            header.version,
            external=self.external,
            extended=header.extended,
        )
        size = header.reftable_clusters << header.cluster_bits
        table = await self._read_table(header.reftable_offset, size, "Could not initialize refcount handling")
        self.adopt_refcounts(
            Refcounts(self.owner, header.cluster_bits, header.refcount_order, decode_table(table))
        )
        self.mapping.make_room = self.write_tables

    async def _read_table(self, offset: int, size: int, trouble: str) -> bytearray:
        table = bytearray(size)
        if size:
            await _read(self.file, offset, table, trouble)
        return table

    def adopt_refcounts(self, refcounts: Refcounts) -> None:
        """Use these counts from now on."""
        self.refcounts = refcounts
        refcounts.make_room = self.write_tables
        refcounts.corrupt = self.corrupt
        refcounts.on_block = lambda offset: self.guard_also(offset, 1, REFCOUNT_BLOCK)

    # Requests under way, and clusters that nobody refers to.

    def enter(self) -> int:
        """A request begins that uses what tables say; give the ticket back with `leave`."""
        return self.dropped.enter()

    def leave(self, ticket: int) -> None:
        """The end of `enter`."""
        self.dropped.leave(ticket)

    def drop(self, offset: int, clusters: int, kind: str = "other") -> None:
        """Nothing in memory refers to clusters any more: they are freed, or used once less, when that is on disk.

        `kind` says why, for the options `pass-discard-*`: request, snapshot, always, never or other.
        """
        if kind == "always":
            # Whoever wanted them may have written there before it failed.
            self._touched = max(self._touched, offset + clusters * self.cluster_size)
        self.dropped.add(offset, clusters, kind)

    @property
    def untouched(self) -> int:
        """From where on nobody has ever written to the file, so that it is zero there."""
        return max(self.file.size, self._touched)

    # Where data goes.

    async def allocate_data(self, position: int, clusters: int) -> tuple[int, int]:
        """A place for clusters of the disk: where it begins, and how many, up to `clusters`, it is for.  OSError."""
        if self.external:
            return position, clusters
        return await self.refcounts.allocate(clusters)

    def give_up(self, place: int, clusters: int) -> None:
        """The opposite: something may have been written there."""
        if self.external:
            self._touched_data = max(self._touched_data, place + clusters * self.cluster_size)
        else:
            self.drop(place, clusters, "always")

    def untouched_data(self, place: int) -> bool:
        """Whether nobody has ever written to that place for data or beyond it, so that it is zero there."""
        return place >= (max(self.data.size, self._touched_data) if self.external else self.untouched)

    def guard_data(self, offset: int, length: int) -> None:
        """As `guard`, for data, which cannot hit a table in a file of its own."""
        if not self.external:
            self.guard(offset, length)

    async def free_dropped(self) -> None:
        """After `write_tables`: make that stable, and free what can be freed."""
        await self.dropped.free()

    # The way to the disk.

    async def flush_file(self) -> None:
        """What has been written to the file is stable afterwards.  OSError."""
        await self.file.flush()

    @property
    def _refcounts_behind(self) -> bool:
        return self.lazy and bool(self.stable_incompatible & layout.DIRTY)

    async def write_tables(self, *, everything: bool = False) -> None:
        """Write changed tables, in the package's order.  OSError, and then what was not written is still to be.

        With lazy reference counts only the order does not matter, unless `everything` is to be in order.
        """
        async with self._writing:
            mapping, refcounts = self.mapping, self.refcounts
            dropped = self.dropped.seal()
            # One moment: what tables refer to now is counted in these blocks, or on disk already.
            with_counts = everything or not self._refcounts_behind
            blocks = [(index, each) for index, each in refcounts.blocks.items() if each.dirty]
            packed = [(index, each, refcounts.pack(each)) for index, each in blocks]
            for _, block in blocks:
                block.dirty, block.writing = False, True
            entries = sorted(refcounts.changed)
            refcounts.changed -= set(entries)
            reftable = sectors_of(refcounts.table, entries)
            move: tuple[int, int, bytes] | None = None
            if refcounts.new_table is not None:
                move = *refcounts.new_table, encode_table(refcounts.table)
                refcounts.new_table = None
            pieces = [(number, each) for number, each in mapping.pieces.items() if each.dirty]
            parts = [(number, each, each.take_changes()) for number, each in pieces]
            for _, piece in pieces:
                piece.writing = True
            l1 = sorted(mapping.l1_changed)
            mapping.l1_changed -= set(l1)
            l1_sectors = sectors_of(mapping.l1, l1)
            data_first, self.data_first = self.data_first, False
            done, moved = 0, False
            try:
                await together(
                    [
                        self._write(refcounts.table[index] & REFTABLE_OFFSET, data, REFCOUNT_BLOCK)
                        for index, _, data in packed
                    ]
                )
                if packed and (entries or move):
                    await self.flush_file()
                if move is not None:
                    await self._move_reftable(*move)
                    moved = True
                else:
                    await self._write_sectors(self.header.reftable_offset, reftable, REFCOUNT_TABLE)
                if data_first and self.external and (parts or l1):
                    await self.data.flush()
                if (parts or l1) and (
                    (data_first and not self.external) or ((packed or entries) and with_counts)
                ):
                    await self.flush_file()
                done = 1
                await together(
                    [
                        self._write(mapping.piece_offset(number) + part[0], part[1], ACTIVE_L2)
                        for number, _, part in parts
                        if part is not None and mapping.table_offset(number)
                    ]
                )
                if l1:
                    # New L2 tables have also been written where they were made.
                    await self.flush_file()
                    await self._write_sectors(self.header.l1_offset, l1_sectors, ACTIVE_L1)
                done = 2
            finally:
                for _, block in blocks:
                    block.writing = False
                    block.dirty = block.dirty or not done
                if not done:
                    refcounts.changed.update(entries)
                if move is not None and not moved:
                    if self.refcounts.new_table is None:
                        refcounts.new_table = move[:2]
                    else:
                        self.drop(*move[:2], "always")  # a longer one is needed by now
                for _, piece in pieces:
                    piece.writing = False
                if done < 2:
                    for _, piece, part in parts:
                        if part is not None:
                            piece.changed(part[0] // piece.entry_size, len(part[1]) // piece.entry_size)
                    mapping.l1_changed.update(l1)
                    self.data_first = self.data_first or data_first
            for each in dropped:
                each.written = True

    async def _move_reftable(self, offset: int, clusters: int, table: bytes) -> None:
        """Write the table of counts to its new place, and let the header say so."""
        await self._write(offset, table.ljust(clusters << self.cluster_bits, b"\0"), REFCOUNT_TABLE)
        await self.flush_file()
        header = self.header
        old = header.reftable_offset, header.reftable_clusters
        header.reftable_offset, header.reftable_clusters = offset, clusters
        try:
            await self.write_header_fields()
            await self.flush_file()
        except OSError:
            header.reftable_offset, header.reftable_clusters = old
            raise
        self.forget_guarded()
        self.drop(*old)

    async def _write_sectors(self, offset: int, sectors: Sequence[tuple[int, bytes]], kind: int) -> None:
        for position, data in sectors:
            await self._write(offset + position, data, kind)

    async def _write(self, offset: int, data: bytes, kind: int) -> None:
        self.guard(offset, len(data), allowed=kind)
        await self.file.writev(offset, [memoryview(data)])

    async def write_header_fields(self) -> None:
        """Write the fixed part of the header: one sector.  OSError."""
        async with self._header_lock:
            await self.file.writev(0, [memoryview(self.header.pack_fields())])

    async def write_header(self) -> None:
        """Write all of the header.  OSError."""
        async with self._header_lock:
            await self.file.writev(0, [memoryview(self.header.pack())])

    async def set_incompatible(self, bit: int, *, on: bool) -> None:
        """Set or clear a feature bit, on disk at the end.  OSError."""
        async with self._feature_lock:
            header = self.header
            before = header.incompatible
            wanted = before | bit if on else before & ~bit
            if wanted == before:
                return
            header.incompatible = wanted
            try:
                await self.write_header_fields()
                await self.flush_file()
            except OSError:
                header.incompatible = before
                raise
            self.stable_incompatible = wanted

    async def before_allocating(self) -> None:
        """With lazy reference counts: note in the image that they may be wrong.  OSError."""
        if self.lazy and not self.stable_incompatible & layout.DIRTY:
            await self.set_incompatible(layout.DIRTY, on=True)

    async def settle(self) -> None:
        """Write everything that is only in memory, so that the image is as clean as can be.  OSError."""
        # Once for what refers to clusters, and once more for those that are free after that.
        for _ in range(2):
            await self.write_tables(everything=True)
            await self.free_dropped()
        await self.write_tables(everything=True)
        if self.header.incompatible & layout.DIRTY and not self.unusable:
            await self.flush_file()
            await self.set_incompatible(layout.DIRTY, on=False)

    # Guarding tables against data.

    def guard(self, offset: int, length: int, *, allowed: int = -1) -> None:
        """Raise OSError, and mark the image as corrupt, when a write would hit a table it is not meant for."""
        overlap = self.overlap(offset, length, allowed)
        if overlap is not None:
            raise self.corrupt(
                f"Preventing invalid write on metadata (overlaps with {GUARDED[overlap]})", offset, length
            )

    def overlap(self, offset: int, length: int, allowed: int = -1) -> int | None:
        """Which kind of table a range of the file hits, except for one kind.  Also in the machine thread."""
        metadata = self._metadata
        if metadata is None:
            metadata = self._metadata = self._collect_metadata()
        clusters = range(offset >> self.cluster_bits, -(-(offset + length) >> self.cluster_bits))
        if metadata.keys().isdisjoint(clusters):
            return None
        return next(
            (metadata[each] for each in clusters if metadata.get(each, allowed) != allowed),
            None,
        )

    def forget_guarded(self) -> None:
        """Tables have moved."""
        self._metadata = None

    def guard_also(self, offset: int, clusters: int, kind: int) -> None:
        """There is a new table."""
        if self._metadata is not None and kind in self.guarded:
            first = offset >> self.cluster_bits
            for cluster in range(first, first + clusters):
                self._metadata[cluster] = kind

    def unguard(self, offset: int, clusters: int) -> None:
        """A table is not one any more."""
        if self._metadata is not None:
            first = offset >> self.cluster_bits
            for cluster in range(first, first + clusters):
                self._metadata.pop(cluster, None)

    @property
    def knows_guarded(self) -> bool:
        """Whether `overlap` is a lookup only."""
        return self._metadata is not None

    def _collect_metadata(self) -> dict[int, int]:
        header, bits = self.header, self.cluster_bits
        found: dict[int, int] = {}

        def add(kind: int, places: Iterable[tuple[int, int]]) -> None:
            if kind in self.guarded:
                for offset, size in places:
                    # A table that is longer than any can be is none, and must not cost memory.
                    sane = size >> bits <= _MANY_TABLES and len(found) <= 4 * _MANY_TABLES
                    if sane and (offset or kind == HEADER):
                        for cluster in range(offset >> bits, -(-(offset + size) >> bits)):
                            found[cluster] = kind

        blocks = [each & REFTABLE_OFFSET for each in self.refcounts.table if each & REFTABLE_OFFSET]
        tables = [each & OFFSET for each in self.mapping.l1 if each & OFFSET]
        if len(blocks) + len(tables) <= _MANY_TABLES:
            add(INACTIVE_L2, ((each, self.cluster_size) for one in self.snapshots for each in one.l2_tables))
            add(REFCOUNT_BLOCK, ((each, self.cluster_size) for each in blocks))
            add(ACTIVE_L2, ((each, self.cluster_size) for each in tables))
        add(INACTIVE_L1, ((each.l1_offset, each.l1_size * 8) for each in self.snapshots))
        add(SNAPSHOT_TABLE, [(header.snapshots_offset, self.snapshot_table_size)])
        if header.bitmaps is not None:
            add(DIRECTORY, [(header.bitmaps.offset, header.bitmaps.size)])
        add(REFCOUNT_TABLE, [(header.reftable_offset, header.reftable_clusters << bits)])
        add(ACTIVE_L1, [(header.l1_offset, header.l1_size * 8)])
        add(HEADER, [(0, self.cluster_size)])
        return found

    snapshot_table_size = 0
    """Bytes."""

    # Corruption.

    def corrupt(self, text: str, offset: int = -1, size: int = -1, *, fatal: bool = True) -> OSError:
        """The image is not as it must be: tell, and if it is writable never use it again; the error for the request."""
        fatal = fatal and not self.file.read_only and not self.read_only
        if not self.signaled or (fatal and not self.unusable):
            if fatal:
                sys.stderr.write(
                    f"qcow2: Marking image as corrupt: {text}; further corruption events will be suppressed\n"
                )
            else:
                sys.stderr.write(
                    f"qcow2: Image is corrupt: {text}; further non-fatal corruption events will be suppressed\n"
                )
            self.on_corruption(text, fatal, offset, size)
            self.signaled = True
            if fatal:
                self.unusable = True
        return OSError(errno.EIO, os.strerror(errno.EIO))

    read_only = False
    """Whether the node may not write."""


async def together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do several things at the same time; when one fails, still wait for the others, then raise its error."""
    if len(work) == 1:
        await work[0]
    elif work:
        for error in await asyncio.gather(*work, return_exceptions=True):
            if error is not None:
                raise error


async def _read(file: BlockNode, offset: int, into: bytearray, trouble: str) -> None:
    try:
        await file.readv(offset, [memoryview(into)])
    except OSError as error:
        raise GenericError(f"{trouble}: {error.strerror}") from None
