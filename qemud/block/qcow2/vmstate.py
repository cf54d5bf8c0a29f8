"""The state of a machine in a qcow2 image: written before the snapshot that it belongs to is taken, and read by it.

It lies behind the end of the disk: as if the disk were longer, in the first L2 table that the disk itself does not need and those
after it.  It is in the snapshot's tables only; those of the disk never refer to it.

    writer = StateWriter(image)
    await writer.append([view, …])              # whole clusters, but for the last time
    tables = await writer.finish()              # for `snapshots.create`, who refers to it from then on
    await writer.abort()                        # … unless that fails

    reader = await StateReader.open(image, snapshot)
    await reader.readv(position, [view, …])

Source: docs/interop/qcow2.txt of QEMU 10.0, "Snapshots"; block/qcow2.c (qcow2_vm_state_offset).
"""

from __future__ import annotations

import errno
import os
from array import array
from typing import TYPE_CHECKING

from qemud.block.buffers import clear, cut, total
from qemud.block.qcow2.layout import COMPRESSED, OFFSET, ZERO, sharp
from qemud.block.qcow2.mapping import encode_table
from qemud.block.qcow2.subclusters import ALL_PLACED, split
from qemud.block.qcow2.walk import read_entries, read_table, referenced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud.block.qcow2.image import Image
    from qemud.block.qcow2.snapshots import Snapshot


def first_table(image: Image, size: int) -> int:
    """Which entry of an L1 table is the first that a disk of `size` bytes does not need."""
    return -(-size >> image.header.table_bits)


async def forget_state(image: Image) -> None:
    """Free what another program has left behind the end of the disk when it went back to a snapshot.  OSError.

    A disk of another size would show it, or cover it.
    """
    mapping = image.mapping
    first = first_table(image, image.header.size)
    tables = mapping.l1[first:]
    if not any(tables):
        return
    await image.settle()
    runs = [run async for run in referenced(image, tables)]
    for index, entry in enumerate(tables, first):
        if entry:
            mapping.l1[index] = 0
            mapping.l1_changed.add(index)
            mapping.forget(index)
            image.unguard(entry & OFFSET, 1)
    for offset, clusters in runs:
        image.drop(offset, clusters)
    await image.settle()


class StateWriter:
    """Puts a state into clusters of its own; see the module."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._entries = array("Q")
        self._taken: list[tuple[int, int]] = []
        """What was allocated: offset and clusters."""
        self.size = 0
        """Bytes so far."""

    async def append(self, views: Sequence[memoryview]) -> None:
        """Write what comes next: whole clusters, or the last of it.  OSError."""
        image = self._image
        size = image.cluster_size
        length = total(views)
        assert not self.size % size
        done = 0
        await image.before_allocating()
        while done < length:
            place, count = await image.refcounts.allocate(-(-(length - done) // size))
            self._taken.append((place, count))
            image.guard(place, count * size)
            end = min(done + count * size, length)
            parts = cut(views, done, end)
            if tail := -end % size if end == length else 0:
                parts.append(memoryview(bytes(tail)))  # what was in the file there must not be seen
            await image.file.writev(place, parts)
            self._entries.extend(range(place, place + count * size, size))
            done = end
        self.size += length

    async def finish(self) -> list[int]:
        """Write the L2 tables; where they are.  OSError."""
        image = self._image
        per_table = image.cluster_size // image.header.entry_size
        tables = []
        for first in range(0, len(self._entries), per_table):
            place = await image.refcounts.allocate_exactly(1)
            self._taken.append((place, 1))
            image.guard(place, image.cluster_size)
            entries = self._entries[first : first + per_table]
            if image.header.extended:
                entries = split([entry | ALL_PLACED for entry in entries])
            table = encode_table(entries).ljust(image.cluster_size, b"\0")
            await image.file.writev(place, [memoryview(table)])
            tables.append(place)
        return tables

    def handed_over(self) -> None:
        """A snapshot has it."""
        self._taken = []

    async def abort(self) -> None:
        """Nobody needs it.  OSError, and then it is free at the next check."""
        taken, self._taken = self._taken, []
        for place, count in taken:
            self._image.drop(place, count, "always")
        await self._image.settle()


class StateReader:
    """Reads the state that a snapshot has; see the module."""

    def __init__(self, image: Image, size: int, tables: array[int]) -> None:
        self._image = image
        self.size = size
        """Bytes."""
        self._tables = tables
        self._number = -1
        self._entries = array("Q")

    @classmethod
    async def open(cls, image: Image, snapshot: Snapshot) -> StateReader:
        """Find the tables.  OSError.  The snapshot's own table has been checked."""
        first = first_table(image, snapshot.disk_size)
        count = max(0, snapshot.l1_size - first)
        tables = await read_table(image, snapshot.l1_offset + 8 * first, count)
        return cls(image, snapshot.vm_state_size, tables)

    async def readv(self, position: int, views: Sequence[memoryview]) -> None:
        """Fill the views with what is at `position`; beyond the end it is zero.  OSError."""
        length = total(views)
        done = 0
        while done < length:
            place, count = await self._find(position + done, length - done)
            part = cut(views, done, done + count)
            if place:
                await self._image.file.readv(place, part)
            else:
                for view in part:
                    clear(view)
            done += count

    async def _find(self, position: int, length: int) -> tuple[int, int]:
        """Where in the file a position is, or 0 for nowhere, and for how many bytes that goes on."""
        image = self._image
        size = image.cluster_size
        per_table = size // image.header.entry_size
        number, index = divmod(position // size, per_table)
        inside = position % size
        if number != self._number:
            await self._load(number)
        if not self._entries:
            return 0, min(length, (per_table - index) * size - inside)
        place = self._place(index)
        count = 1
        while count * size - inside < length and index + count < len(self._entries):
            if self._place(index + count) != (place + count * size if place else 0):
                break
            count += 1
        return place + inside if place else 0, min(length, count * size - inside)

    def _place(self, index: int) -> int:
        entry = self._entries[index]
        if entry & COMPRESSED or entry & OFFSET & (self._image.cluster_size - 1):
            raise self._image.corrupt(
                f"Cluster allocation offset {sharp(entry & OFFSET)} unaligned (state of a machine)",
                fatal=False,
            )
        return 0 if entry & ZERO else entry & OFFSET

    async def _load(self, number: int) -> None:
        """Have the L2 table of that number; an empty one where there is none."""
        image = self._image
        table = self._tables[number] & OFFSET if number < len(self._tables) else 0
        if table % image.cluster_size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._number = -1
        self._entries = await read_entries(image, table) if table else array("Q")
        self._number = number
