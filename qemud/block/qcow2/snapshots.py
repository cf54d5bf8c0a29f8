"""Snapshots inside of a qcow2 image: each is a copy of the L1 table, and one more reference to everything it refers to.

Callers drain the node first.  A power cut during one of these leaves the image as it was before or as it is after, but for
clusters that are counted once too often and marks of clusters that are referred to once; `qemu-img check -r` puts that right.

Source: docs/interop/qcow2.txt of QEMU 10.0, "Snapshots"; block/qcow2-snapshot.c for rules and texts.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qemud.block.qcow2 import layout
from qemud.block.qcow2.header import check_table
from qemud.block.qcow2.layout import COPIED, OFFSET, SNAPSHOT_TABLE
from qemud.block.qcow2.mapping import encode_table
from qemud.block.qcow2.resize import grow_l1
from qemud.block.qcow2.vmstate import first_table
from qemud.block.qcow2.walk import mark_copied, read_table, referenced
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemud.block.qcow2.image import Image
    from qemud.block.qcow2.vmstate import StateWriter

_HEADER = struct.Struct(">QIHHIIQII")
_EXTRA = struct.Struct(">QQQ")
_NO_ICOUNT = (1 << 64) - 1
_MANY_TABLES = 1 << 18


@dataclass
class Snapshot:
    """An entry of the snapshot table."""

    id: str
    name: str
    l1_offset: int
    l1_size: int
    date_sec: int
    date_nsec: int
    vm_clock_nsec: int
    vm_state_size: int = 0
    disk_size: int = 0
    icount: int | None = None
    extra: bytes = b""
    """Fields of later versions."""
    raw: tuple[bytes, bytes] | None = None
    """Id and name as they are in the image, if they were read from there: they need not be text."""
    l2_tables: tuple[int, ...] = ()
    """Where its L2 tables are, if somebody wants to guard them."""

    def pack(self) -> bytes:
        """The entry as it is on disk, without padding."""
        icount = _NO_ICOUNT if self.icount is None else self.icount
        extra = _EXTRA.pack(self.vm_state_size, self.disk_size, icount) + self.extra
        identifier, name = self.raw or (self.id.encode(), self.name.encode())
        header = _HEADER.pack(
            self.l1_offset,
            self.l1_size,
            len(identifier),
            len(name),
            self.date_sec,
            self.date_nsec,
            self.vm_clock_nsec,
            min(self.vm_state_size, 0xFFFFFFFF),
            len(extra),
        )
        return header + extra + identifier + name


async def read_snapshots(image: Image) -> None:
    """Read the table, and guard what it leads to.  GenericError."""
    header = image.header
    try:
        found, size = await _read_table(image)
    except OSError as error:
        raise GenericError(f"Failed to read snapshot table: {error.strerror}") from None
    image.snapshots = found
    image.snapshot_table_size = size
    image.forget_guarded()
    assert len(found) == header.snapshots


async def find_tables(image: Image) -> None:
    """Find out where the L2 tables of snapshots are, to guard them.  OSError."""
    count = 0
    for each in image.snapshots:
        if each.l2_tables or each.l1_offset % image.cluster_size:
            continue
        count += each.l1_size
        if count > _MANY_TABLES:
            return  # nobody has made such an image, and it must not cost any memory
        table = await read_table(image, each.l1_offset, each.l1_size)
        each.l2_tables = tuple(entry & OFFSET for entry in table if entry & OFFSET)
    image.forget_guarded()


async def _read_table(image: Image) -> tuple[list[Snapshot], int]:
    header = image.header
    start = offset = header.snapshots_offset
    found: list[Snapshot] = []
    for index in range(header.snapshots):
        offset = -(-offset // 8) * 8
        fixed = await _read(image, offset, _HEADER.size)
        (l1_offset, l1_size, id_size, name_size, sec, nsec, clock, state_size, extra_size) = _HEADER.unpack(
            fixed
        )
        if extra_size > layout.MAX_SNAPSHOT_EXTRA:
            raise GenericError(f"Too much extra metadata in snapshot table entry {index}")
        rest = await _read(image, offset + _HEADER.size, extra_size + id_size + name_size)
        extra = rest[:extra_size]
        identifier, name = rest[extra_size : extra_size + id_size], rest[extra_size + id_size :]
        large, disk_size, icount = _EXTRA.unpack(extra[: _EXTRA.size].ljust(_EXTRA.size, b"\0"))
        found.append(
            Snapshot(
                id=_decode(identifier),
                name=_decode(name),
                raw=(identifier, name),
                l1_offset=l1_offset,
                l1_size=l1_size,
                date_sec=sec,
                date_nsec=nsec,
                vm_clock_nsec=clock,
                vm_state_size=large if extra_size >= 8 else state_size,
                disk_size=disk_size if extra_size >= 16 else header.size,
                icount=icount if extra_size >= 24 and icount != _NO_ICOUNT else None,
                extra=extra[_EXTRA.size :],
            )
        )
        offset += _HEADER.size + len(rest)
        if offset - start > layout.MAX_SNAPSHOTS_BYTES:
            raise GenericError("Snapshot table is too big")
    return found, offset - start


async def _read(image: Image, offset: int, length: int) -> bytes:
    data = bytearray(length)
    if length:
        await image.file.readv(offset, [memoryview(data)])
    return bytes(data)


def find(image: Image, identifier: str | None, name: str | None) -> Snapshot | None:
    """The snapshot with that id and that name, as far as they are given."""
    for each in image.snapshots:
        if (identifier is None or each.id == identifier) and (name is None or each.name == name):
            return each
    return None


async def create(
    image: Image, name: str, *, size: int, date_ns: int, vm_clock_ns: int, state: StateWriter | None = None
) -> Snapshot:
    """Take a snapshot of the disk as it is, with the state that was written for it.  OSError, and then the state is still the writer's."""
    if len(image.snapshots) >= layout.MAX_SNAPSHOTS:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    tables = [] if state is None else await state.finish()
    await image.settle()
    mapping = image.mapping
    l1 = mapping.l1[:]
    first = len(l1)
    if tables:
        # A disk may be followed by an older state, where another program has left it.
        first = first_table(image, image.header.size)
        l1 = l1[:first]
        l1.extend([0] * (first - len(l1)))
    total = len(l1) + len(tables)
    if total * 8 > layout.MAX_L1_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    clusters = -(-max(8 * total, 1) // image.cluster_size)
    place = await image.refcounts.allocate_exactly(clusters)
    try:
        image.guard(place, clusters * image.cluster_size)
        await _add_references(image, l1)
    except BaseException:
        image.drop(place, clusters, "always")
        raise
    # What is referred to twice is not written to in place from now on.
    await image.write_tables(everything=True)
    await image.flush_file()
    await mark_copied(image)
    await image.write_tables(everything=True)
    l1 = mapping.l1[:first]
    l1.extend([0] * (total - len(tables) - len(l1)))
    l1.extend(tables)
    if len(l1):
        await image.file.writev(place, [memoryview(encode_table(l1))])
    used = [int(each.id) for each in image.snapshots if each.id.isascii() and each.id.isdigit()]
    snapshot = Snapshot(
        id=str(max(used, default=0) + 1),
        name=name,
        l1_offset=place,
        l1_size=len(l1),
        date_sec=date_ns // 1_000_000_000,
        date_nsec=date_ns % 1_000_000_000,
        vm_clock_nsec=vm_clock_ns,
        vm_state_size=0 if state is None else state.size,
        disk_size=size,
        l2_tables=tuple(entry & OFFSET for entry in l1 if entry & OFFSET),
    )
    await _write_table(image, [*image.snapshots, snapshot])
    if state is not None:
        state.handed_over()
    return snapshot


async def delete(image: Image, snapshot: Snapshot) -> None:
    """Forget a snapshot; what only it referred to is free.  GenericError, or OSError."""
    check_l1(image, snapshot)
    await image.settle()
    l1 = await read_table(image, snapshot.l1_offset, snapshot.l1_size)
    runs = [run async for run in referenced(image, l1)]
    try:
        await _write_table(image, [each for each in image.snapshots if each is not snapshot])
    except OSError as error:
        raise GenericError(f"Failed to remove snapshot from snapshot list: {error.strerror}") from None
    for offset, clusters in runs:
        image.drop(offset, clusters, "snapshot")
    image.drop(snapshot.l1_offset, -(-max(8 * snapshot.l1_size, 1) // image.cluster_size), "snapshot")
    await image.write_tables()
    await image.free_dropped()
    await mark_copied(image)
    await image.settle()


async def apply(image: Image, snapshot: Snapshot) -> None:
    """Let the disk be what it was when the snapshot was taken; its size is that already.  GenericError, or OSError.

    The state of a machine stays the snapshot's alone.
    """
    check_l1(image, snapshot)
    await image.settle()
    mapping = image.mapping
    entries = min(snapshot.l1_size, first_table(image, image.header.size))
    table = await read_table(image, snapshot.l1_offset, entries)
    await grow_l1(image, len(table))
    await _add_references(image, table)
    await image.write_tables(everything=True)
    await image.flush_file()
    old = [run async for run in referenced(image, mapping.l1)]
    for index in range(len(mapping.l1)):
        entry = table[index] & ~COPIED if index < len(table) else 0
        if mapping.l1[index] != entry:
            mapping.l1[index] = entry
            mapping.l1_changed.add(index)
    mapping.clear()
    image.forget_guarded()
    for offset, clusters in old:
        image.drop(offset, clusters)
    await image.write_tables()
    await image.free_dropped()
    await mark_copied(image)
    await image.settle()


def check_l1(image: Image, snapshot: Snapshot) -> None:
    """Raise GenericError when the table of a snapshot cannot be where it is said to be."""
    check_table(
        image.cluster_size,
        snapshot.l1_offset,
        snapshot.l1_size,
        8,
        layout.MAX_L1_BYTES,
        "Snapshot L1 table",
    )


async def _add_references(image: Image, l1: Iterable[int]) -> None:
    """Count everything that a table leads to once more, or nothing of it.  OSError."""
    done: list[tuple[int, int]] = []
    try:
        async for offset, clusters in referenced(image, l1):
            await image.refcounts.change(offset, clusters, 1)
            done.append((offset, clusters))
    except OSError:
        for offset, clusters in done:
            await image.refcounts.change(offset, clusters, -1)
        raise


async def _write_table(image: Image, snapshots: list[Snapshot]) -> None:
    """Put the table to a new place, and let the header say so.  OSError, and then nothing has changed."""
    header = image.header
    data = b""
    for each in snapshots:
        data = data.ljust(-(-len(data) // 8) * 8, b"\0") + each.pack()
    if len(data) > layout.MAX_SNAPSHOTS_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    place = 0
    clusters = -(-len(data) // image.cluster_size)
    before = header.snapshots, header.snapshots_offset
    old_size = image.snapshot_table_size
    try:
        if data:
            place = await image.refcounts.allocate_exactly(clusters)
            image.guard(place, len(data), allowed=SNAPSHOT_TABLE)
            await image.file.writev(place, [memoryview(data)])
        await image.write_tables(everything=True)
        await image.flush_file()
        header.snapshots, header.snapshots_offset = len(snapshots), place
        await image.write_header_fields()
        await image.flush_file()
    except BaseException:
        header.snapshots, header.snapshots_offset = before
        if place:
            image.drop(place, clusters, "always")
        raise
    image.snapshots = snapshots
    image.snapshot_table_size = len(data)
    image.forget_guarded()
    if before[1] and old_size:
        image.drop(before[1], -(-old_size // image.cluster_size))


def _decode(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")
