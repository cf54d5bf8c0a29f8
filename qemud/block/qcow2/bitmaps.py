"""Persistent dirty bitmaps: kept in a qcow2 image while nobody has it open, in memory while it is in use.

    await load_bitmaps(node)            # when it is opened: they are bitmaps of the node then
    await mark_in_use(image)            # before it is written to
    await store_bitmaps(node)           # when it is closed
    await remove_bitmap(node, "b0")     # at once, in the image

While the image is open for writing, all of them are marked as in use in the image, so that a bitmap that could not be stored is
known to be outdated when it is opened the next time (`inconsistent`).

Source: docs/interop/qcow2.txt of QEMU 10.0, "Bitmaps"; block/qcow2-bitmap.c for rules and texts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qemud.block.bitmaps import DEFAULT_CHECKS, DirtyBitmap, add_bitmap
from qemud.block.qcow2 import layout
from qemud.block.qcow2.header import BitmapsExtension
from qemud.block.qcow2.layout import DIRECTORY
from qemud.block.qcow2.mapping import decode_table, encode_table
from qemud.block.qcow2.walk import read_table
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from array import array
    from collections.abc import AsyncIterator, Sequence

    from qemud.block.qcow2.image import Image
    from qemud.block.qcow2.node import Qcow2Node

IN_USE = 1
AUTO = 2
_KNOWN_FLAGS = IN_USE | AUTO
_ENTRY = struct.Struct(">QIIBBHI")
_TRACKING = 1
_MAX_TABLE = 0x8000000
_MAX_BYTES = 0x20000000
_MIN_GRANULARITY_BITS = 9
_MAX_GRANULARITY_BITS = 31
_MAX_NAME = 1023
_PLACE = 0x00FF_FFFF_FFFF_FE00
_RESERVED = 0xFF00_0000_0000_01FE
_ONES = 1


@dataclass
class StoredBitmap:
    """An entry of the directory."""

    name: str
    granularity_bits: int
    flags: int
    table_offset: int
    table_size: int
    """Entries."""
    raw_name: bytes = b""
    """The name as it is in the image, if it was read from there: it need not be text."""

    def pack(self) -> bytes:
        """The entry as it is on disk, padded."""
        name = self.raw_name or self.name.encode()
        data = _ENTRY.pack(
            self.table_offset,
            self.table_size,
            self.flags,
            _TRACKING,
            self.granularity_bits,
            len(name),
            0,
        )
        data += name
        return data.ljust(-(-len(data) // 8) * 8, b"\0")


# Reading.


async def read_directory(image: Image, size: int) -> list[StoredBitmap]:
    """The entries of the directory; `size` is the disk's.  GenericError, or OSError."""
    extension = image.header.bitmaps
    if extension is None:
        return []
    if not extension.size:
        raise GenericError("Requested bitmap directory size is zero")
    data = bytearray(extension.size)
    try:
        await image.file.readv(extension.offset, [memoryview(data)])
    except OSError as error:
        raise GenericError(f"Failed to read bitmap directory: {error.strerror}") from None
    found: list[StoredBitmap] = []
    position = 0
    while position < len(data):
        if len(data) - position < _ENTRY.size:
            raise GenericError("Broken bitmap directory")
        if len(found) == extension.count:
            raise GenericError("More bitmaps found than specified in header extension")
        offset, entries, flags, kind, granularity, name_size, extra = _ENTRY.unpack_from(data, position)
        length = -(-(_ENTRY.size + extra + name_size) // 8) * 8
        if length > len(data) - position:
            raise GenericError("Broken bitmap directory")
        if extra:
            raise GenericError("Bitmap extra data is not supported")
        name = bytes(data[position + _ENTRY.size : position + _ENTRY.size + name_size])
        text = name.decode("utf-8", "replace")
        each = StoredBitmap(text, granularity, flags, offset, entries, name)
        if (
            kind != _TRACKING
            or not name
            or name_size > _MAX_NAME
            or flags & ~_KNOWN_FLAGS
            or not _fits(image, each, size)
        ):
            raise GenericError(f"Bitmap '{text}' doesn't satisfy the constraints")
        found.append(each)
        position += length
    if len(found) != extension.count:
        raise GenericError("Less bitmaps found than specified in header extension")
    return found


def _fits(image: Image, bitmap: StoredBitmap, size: int) -> bool:
    """Whether an entry can be right for a disk of that size."""
    if not bitmap.table_size or not bitmap.table_offset or bitmap.table_offset % image.cluster_size:
        return False
    if not _MIN_GRANULARITY_BITS <= bitmap.granularity_bits <= _MAX_GRANULARITY_BITS:
        return False
    if bitmap.table_size > _MAX_TABLE or bitmap.table_size << image.cluster_bits > _MAX_BYTES:
        return False
    # A bitmap that was in use when its image was not closed may be of the size before.
    return bool(bitmap.flags & IN_USE) or bitmap.table_size == _table_size(
        image, size, bitmap.granularity_bits
    )


def _table_size(image: Image, size: int, granularity_bits: int) -> int:
    count = ((size - 1) >> granularity_bits) // 8 + 1
    return ((count - 1) >> image.cluster_bits) + 1


async def load_bitmaps(node: Qcow2Node) -> None:
    """Let the bitmaps in the image be bitmaps of the node; `mark_in_use` is to follow.  GenericError, or OSError."""
    image = node.image
    image.bitmaps = await read_directory(image, node.size)
    for stored in image.bitmaps:
        bitmap = node.dirty_bitmaps.get(stored.name)
        if bitmap is not None:
            if not stored.flags & IN_USE:
                raise GenericError(f"Bitmap already exists: {stored.name}")
            continue
        bitmap = DirtyBitmap(node.size, 1 << stored.granularity_bits, stored.name)
        bitmap.persistent = True
        bitmap.read_only = node.read_only
        if stored.flags & IN_USE:
            bitmap.inconsistent = True
            bitmap.enabled = False
        else:
            try:
                await _load_bits(image, stored, bitmap)
            except OSError as error:
                raise GenericError(
                    f"Could not read bitmap '{stored.name}' from image: {error.strerror}"
                ) from None
            bitmap.enabled = bool(stored.flags & AUTO)
        add_bitmap(node, bitmap)


async def mark_in_use(image: Image) -> None:
    """Say in the image that its bitmaps are not what they should be.  OSError."""
    header = image.header
    assert header.bitmaps is not None
    if all(each.flags & IN_USE for each in image.bitmaps):
        return
    for each in image.bitmaps:
        each.flags |= IN_USE
    data = b"".join(each.pack() for each in image.bitmaps)
    image.guard(header.bitmaps.offset, len(data), allowed=DIRECTORY)
    # Each entry is whole in one of its states; there is no moment at which the directory makes no sense.
    await image.file.writev(header.bitmaps.offset, [memoryview(data)])
    await image.flush_file()


async def _load_bits(image: Image, stored: StoredBitmap, bitmap: DirtyBitmap) -> None:
    table = await read_table(image, stored.table_offset, stored.table_size)
    per_cluster = image.cluster_size * 8
    for index, entry in enumerate(table):
        place = entry & _PLACE
        if entry & _RESERVED or place % image.cluster_size or (place and entry & _ONES):
            raise OSError(22, "Invalid argument")
        if place:
            data = bytearray(image.cluster_size)
            await image.file.readv(place, [memoryview(data)])
            bitmap.from_bytes(index * per_cluster, bytes(data))
        elif entry & _ONES:
            bitmap.set(index * per_cluster * bitmap.granularity, per_cluster * bitmap.granularity)


async def places(image: Image) -> AsyncIterator[tuple[int, int]]:
    """Everything in the file that bitmaps take: offsets and bytes.  OSError."""
    extension = image.header.bitmaps
    if extension is None:
        return
    yield extension.offset, extension.size
    for stored in image.bitmaps:
        for place in await _places_of(image, stored):
            yield place


async def _places_of(image: Image, stored: StoredBitmap) -> list[tuple[int, int]]:
    found = [(stored.table_offset, stored.table_size * 8)]
    table = await read_table(image, stored.table_offset, stored.table_size)
    found += [(entry & _PLACE, image.cluster_size) for entry in table if entry & _PLACE]
    return found


# Writing.


async def store_bitmaps(node: Qcow2Node) -> None:
    """Write the node's persistent bitmaps into the image, in the place of those that are there.  GenericError, or OSError."""
    image = node.image
    kept = [
        bitmap
        for bitmap in node.dirty_bitmaps.values()
        if bitmap.persistent and not bitmap.read_only and not bitmap.skip_store
    ]
    if not kept and not image.bitmaps:
        return
    before = {each.name: each for each in image.bitmaps}
    new: list[StoredBitmap] = []
    taken: list[tuple[int, int]] = []
    replaced = list(image.bitmaps)
    try:
        for bitmap in kept:
            assert bitmap.name is not None
            old = before.get(bitmap.name)
            if bitmap.inconsistent:
                if old is not None:
                    new.append(old)
                    replaced.remove(old)
                continue
            made = await _store_bits(image, bitmap, taken)
            made.raw_name = b"" if old is None else old.raw_name
            new.append(made)
        gone = [place for each in replaced for place in await _places_of(image, each)]
        await _write_directory(image, new, taken)
    except BaseException:
        for offset, size in taken:
            image.drop(offset, -(-size // image.cluster_size), "always")
        raise
    for offset, size in gone:
        image.drop(offset, -(-size // image.cluster_size))


async def remove_bitmap(node: Qcow2Node, name: str) -> None:
    """Remove a bitmap from the image, if it is there.  OSError."""
    await node.check_writable_now()
    image = node.image
    found = next((each for each in image.bitmaps if each.name == name), None)
    if found is None:
        return
    gone = await _places_of(image, found)
    taken: list[tuple[int, int]] = []
    try:
        await _write_directory(image, [each for each in image.bitmaps if each is not found], taken)
    except BaseException:
        for offset, size in taken:
            image.drop(offset, -(-size // image.cluster_size), "always")
        raise
    for offset, size in gone:
        image.drop(offset, -(-size // image.cluster_size))


async def _allocate(image: Image, size: int, taken: list[tuple[int, int]]) -> int:
    place = await image.refcounts.allocate_exactly(-(-size // image.cluster_size))
    taken.append((place, size))
    image.guard(place, size)
    return place


async def _store_bits(image: Image, bitmap: DirtyBitmap, taken: list[tuple[int, int]]) -> StoredBitmap:
    granularity_bits = bitmap.granularity.bit_length() - 1
    per_cluster = image.cluster_size * 8
    table: array[int] = decode_table(bytes(8 * max(1, _table_size(image, bitmap.size, granularity_bits))))
    for index in range(len(table)):
        data = bitmap.to_bytes(index * per_cluster, per_cluster)
        if data.strip(b"\0"):
            place = await _allocate(image, image.cluster_size, taken)
            await image.file.writev(place, [memoryview(data)])
            table[index] = place
    offset = await _allocate(image, len(table) * 8, taken)
    await image.file.writev(offset, [memoryview(encode_table(table))])
    assert bitmap.name is not None
    flags = AUTO if bitmap.recording else 0
    return StoredBitmap(bitmap.name, granularity_bits, flags, offset, len(table))


async def _write_directory(
    image: Image, bitmaps: Sequence[StoredBitmap], taken: list[tuple[int, int]]
) -> None:
    header = image.header
    before = header.bitmaps, header.autoclear
    extension = None
    if bitmaps:
        data = b"".join(each.pack() for each in bitmaps)
        offset = await _allocate(image, len(data), taken)
        await image.file.writev(offset, [memoryview(data)])
        extension = BitmapsExtension(len(bitmaps), len(data), offset)
    await image.write_tables(everything=True)
    await image.flush_file()
    header.bitmaps = extension
    header.autoclear = header.autoclear | layout.BITMAPS if bitmaps else header.autoclear & ~layout.BITMAPS
    try:
        await image.write_header()
        await image.flush_file()
    except BaseException:
        header.bitmaps, header.autoclear = before
        raise
    image.bitmaps = list(bitmaps)
    image.forget_guarded()
    if before[0] is not None:
        image.drop(before[0].offset, -(-before[0].size // image.cluster_size))


# What is asked of a node.


def check_new(node: Qcow2Node, name: str, granularity: int) -> None:
    """Raise GenericError when a bitmap could not be kept in the image."""
    image = node.image
    try:
        if image.header.version < 3:
            raise GenericError("Cannot store dirty bitmaps in qcow2 v2 files")  # noqa: TRY301 - all get the same beginning
        _check_new(node, name, granularity)
    except GenericError as error:
        raise GenericError(
            f"Can't make bitmap '{name}' persistent in '{node.graph.device_or_node_name(node)}': {error}"
        ) from None


def _check_new(node: Qcow2Node, name: str, granularity: int) -> None:
    bits = granularity.bit_length() - 1
    if bits > _MAX_GRANULARITY_BITS:
        raise GenericError(f"Granularity exceeds maximum ({1 << _MAX_GRANULARITY_BITS} bytes)")
    if bits < _MIN_GRANULARITY_BITS:
        raise GenericError(f"Granularity is under minimum ({1 << _MIN_GRANULARITY_BITS} bytes)")
    size = ((node.size - 1) >> bits) // 8 + 1
    if size > _MAX_BYTES or size > _MAX_TABLE * node.image.cluster_size:
        raise GenericError("Too much space will be occupied by the bitmap. Use larger granularity")
    if len(name.encode()) > _MAX_NAME:
        raise GenericError(f"Name length exceeds maximum ({_MAX_NAME} characters)")
    kept = [each.name or "" for each in node.dirty_bitmaps.values() if each.persistent]
    if len(kept) + 1 > layout.MAX_BITMAPS:
        raise GenericError("Maximum number of persistent bitmaps is already reached")
    directory = sum(-(-(_ENTRY.size + len(each.encode())) // 8) * 8 for each in [*kept, name])
    if directory > layout.MAX_BITMAP_DIRECTORY_BYTES:
        raise GenericError("Not enough space in the bitmap directory")


def check_resizable(node: Qcow2Node) -> None:
    """Raise GenericError when a bitmap is in the way of another size."""
    for stored in node.image.bitmaps:
        bitmap = node.dirty_bitmaps.get(stored.name)
        if bitmap is None:
            raise GenericError("Cannot resize qcow2 with persistent bitmaps that were not loaded into memory")
        bitmap.check(DEFAULT_CHECKS)
