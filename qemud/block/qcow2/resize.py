"""Another size for a qcow2 image, with or without space for what is new.

Source of rules and texts: QEMU 10.0, block/qcow2.c (qcow2_co_truncate).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qemud.block.qcow2 import layout
from qemud.block.qcow2.layout import ACTIVE_L1, OFFSET
from qemud.block.qcow2.mapping import encode_table
from qemud.block.qcow2.vmstate import forget_state
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.qcow2.image import Image
    from qemud.block.qcow2.node import Qcow2Node

_SECTOR = 512
_SLICE = 256
"""How many parts of a table are gone through without a pause."""


async def resize(node: Qcow2Node, size: int, preallocation: str, *, exact: bool) -> None:
    """Change the size of the disk in the image; `exact` is about a data file.  GenericError, or OSError."""
    image = node.image
    header = image.header
    if size % _SECTOR:
        raise GenericError(f"The new size must be a multiple of {_SECTOR}")
    if image.snapshots and header.version < 3:
        raise GenericError("Can't resize a v2 image which has snapshots")
    if header.bitmaps is not None:
        from qemud.block.qcow2.bitmaps import check_resizable

        check_resizable(node)
    try:
        await forget_state(image)
    except OSError as error:
        raise GenericError(f"Failed to discard the state of a machine: {error.strerror}") from None
    old = node.size
    if size < old:
        if preallocation != "off":
            raise GenericError("Preallocation can't be used for shrinking an image")
        await _shrink(node, size)
    elif size > old:
        try:
            await grow_l1(image, _l1_entries(image, size))
        except OSError as error:
            raise GenericError(f"Failed to grow the L1 table: {error.strerror}") from None
        if image.in_step and preallocation == "off":
            # Without tables it would be something else than the data file.
            preallocation = "metadata"
        if preallocation != "off":
            await preallocate(node, old, size, preallocation)
    if image.external and preallocation == "off":
        await image.data.truncate(size, exact=exact)
    if preallocation != "off":
        try:
            await image.write_tables()
        except OSError as error:
            raise GenericError(f"Failed to flush the preallocated area to disk: {error.strerror}") from None
    if size > old:
        await _clear_tail(node, old, size)
    before, header.size = header.size, size
    try:
        await image.write_header_fields()
        await image.flush_file()
    except OSError as error:
        header.size = before
        raise GenericError(f"Failed to update the image size: {error.strerror}") from None


def _l1_entries(image: Image, size: int) -> int:
    return -(-size >> image.header.table_bits)


async def _clear_tail(node: Qcow2Node, old: int, size: int) -> None:
    """What was beyond the end is zero: in the last cluster, and where the backing file is longer."""
    image = node.image
    cluster = image.cluster_size
    start = -(-old // cluster) * cluster
    head = min(start, size) - old
    node.size = size
    try:
        if head and not await _reads_as_zero(node, old, head):
            zeroes = memoryview(bytes(head))
            await node.do_writev(old, [zeroes], fua=False)
        backing = node.backing
        if backing is not None and start < size and backing.size > old:
            end = min(size, backing.size)
            if image.header.version >= 3:
                await node.do_write_zeroes(start, -(-(end - start) // cluster) * cluster, unmap=False)
            else:
                for at in range(start, end, cluster):
                    await node.do_writev(at, [memoryview(bytes(min(cluster, size - at)))], fua=False)
    finally:
        node.size = old


async def _reads_as_zero(node: Qcow2Node, offset: int, length: int) -> bool:
    extent = await node.do_block_status(offset, length)
    return extent.zero or (not extent.allocated and node.backing is None)


async def grow_l1(image: Image, entries: int) -> None:
    """Make the L1 table long enough.  OSError."""
    header, mapping = image.header, image.mapping
    if entries <= len(mapping.l1):
        return
    if entries * 8 > layout.MAX_L1_BYTES:
        import errno
        import os

        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    per_cluster = image.cluster_size // 8
    clusters = -(-entries // per_cluster)
    place = await image.refcounts.allocate_exactly(clusters)
    old = header.l1_offset, header.l1_size
    grown = mapping.l1[:]
    grown.extend([0] * (entries - len(grown)))
    try:
        image.guard(place, clusters * image.cluster_size, allowed=ACTIVE_L1)
        await image.write_tables(everything=True)
        grown[: len(mapping.l1)] = mapping.l1
        data = encode_table(grown).ljust(clusters * image.cluster_size, b"\0")
        await image.file.writev(place, [memoryview(data)])
        await image.flush_file()
        header.l1_offset, header.l1_size = place, entries
        await image.write_header_fields()
        await image.flush_file()
    except BaseException:
        header.l1_offset, header.l1_size = old
        image.drop(place, clusters, "always")
        raise
    mapping.l1.extend([0] * (entries - len(mapping.l1)))
    image.forget_guarded()
    if old[1]:
        image.drop(old[0], -(-old[1] // per_cluster))


async def _shrink(node: Qcow2Node, size: int) -> None:
    image = node.image
    cluster = image.cluster_size
    start = -(-size // cluster) * cluster
    end = -(-node.size // cluster) * cluster
    try:
        position, steps = start, 0
        while position < end:
            position += await node.writer.cut(position, end - position)
            steps += 1
            if not steps % _SLICE:
                await asyncio.sleep(0)
    except OSError as error:
        raise GenericError(f"Failed to discard cropped clusters: {error.strerror}") from None
    try:
        await image.settle()
        await _drop_tables(image, _l1_entries(image, size))
        await image.settle()
    except OSError as error:
        raise GenericError(f"Failed to reduce the number of L2 tables: {error.strerror}") from None
    try:
        last = await _last_used(image)
        if (last + 1) * cluster < image.file.size:
            await image.file.truncate((last + 1) * cluster, exact=False)
    except (OSError, GenericError):
        return  # the file is longer than it would have to be


async def _drop_tables(image: Image, first: int) -> None:
    """L2 tables from that entry of the L1 table on have nothing in them."""
    mapping = image.mapping
    for index in range(first, len(mapping.l1)):
        entry = mapping.l1[index]
        if entry & OFFSET:
            mapping.l1[index] = 0
            mapping.l1_changed.add(index)
            mapping.forget(index)
            image.unguard(entry & OFFSET, 1)
            image.drop(entry & OFFSET, 1, "always")


async def _last_used(image: Image) -> int:
    """The last cluster of the file that is used."""
    refcounts = image.refcounts
    for index in range(len(refcounts.table) - 1, -1, -1):
        block = await refcounts.load(index)
        if block is not None:
            used = len(block.data.rstrip(b"\0"))
            if used:
                return index * refcounts.per_block + (used - 1) // block.counts.itemsize
    return 0


async def preallocate(node: Qcow2Node, start: int, end: int, mode: str) -> None:
    """Give everything from `start` to `end` a place: in tables only (metadata), or in the file too.  GenericError."""
    image = node.image
    cluster = image.cluster_size
    position = start - start % cluster
    try:
        while position < end:
            position += await node.writer.place(position, -(-(end - position) // cluster) * cluster)
    except OSError as error:
        raise GenericError(f"Failed to update L2 tables: {error.strerror}") from None
    # A data file has all clusters where they are on the disk.
    length = position if image.external else (await _last_used(image) + 1) * cluster
    try:
        if length > image.data.size:
            await image.data.truncate(
                length, exact=False, preallocation="off" if mode == "metadata" else mode
            )
    except (OSError, GenericError) as error:
        raise GenericError(f"Failed to resize underlying file: {error}") from None
