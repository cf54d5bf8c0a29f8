"""Extended L2 entries: clusters in 32 parts, of which each is there, is zero, or is left to the backing file.

An entry is an integer of 128 bits here: the lower half is what an entry is without parts, the upper half is the map of its parts, whose
lower half says which are in the cluster's place, and whose upper half says which are zeroes.  As one integer it is read and replaced
at once, so that `find` in the machine thread never sees half of a change.

Source: docs/interop/qcow2.txt of QEMU 10.0, "Extended L2 Entries"; block/qcow2-cluster.c (calculate_l2_meta) for what is copied when.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from qemud.block.buffers import cut
from qemud.block.qcow2 import layout
from qemud.block.qcow2.layout import COMPRESSED, COPIED, OFFSET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud.block.qcow2.mapping import Mapping
    from qemud.block.qcow2.write import Writer

BITS = 5
COUNT = 1 << BITS
"""Parts of a cluster."""
ALL = (1 << COUNT) - 1
LOW = (1 << 64) - 1
"""What an entry is without its map."""
ALL_PLACED = ALL << 64
ALL_ZERO = ALL << (64 + COUNT)


def join(table: array[int]) -> list[int]:
    """Entries from a table as it is on disk, in which they are pairs."""
    return [parts << 64 | entry for entry, parts in zip(table[::2], table[1::2], strict=True)]


def split(entries: Sequence[int]) -> array[int]:
    """The opposite."""
    table = array("Q", bytes(16 * len(entries)))
    table[::2] = array("Q", [each & LOW for each in entries])
    table[1::2] = array("Q", [each >> 64 for each in entries])
    return table


def look(entry: int, part: int, here: int) -> tuple[int, int]:
    """What a part of a cluster is, and how many that follow it in the cluster are that too; `here` as in `Mapping`."""
    placed, zero = entry >> 64 & ALL, entry >> (64 + COUNT)
    if entry & OFFSET or entry & here:
        if placed & zero:
            return layout.INVALID, 1
        own = entry & COPIED
        kinds = (
            layout.ZEROES_PLACED if own else layout.ZEROES_SHARED,
            layout.PLACED if own else layout.SHARED,
        )
    else:
        if placed:
            return layout.INVALID, 1
        kinds = layout.ZEROES, layout.PLACED
    if zero >> part & 1:
        kind, same = kinds[0], zero >> part
    elif placed >> part & 1:
        kind, same = kinds[1], placed >> part
    else:
        kind, same = layout.UNALLOCATED, (~(placed | zero) & ALL) >> part
    return kind, (~same & (same + 1)).bit_length() - 1


def find(
    mapping: Mapping, entries: Sequence[int], index: int, offset: int, length: int
) -> tuple[int, int, int]:
    """As `Mapping.find`, in a piece of a table that has the entries, and the range."""
    bits, here = mapping.cluster_bits, mapping.here
    size = 1 << bits
    inside = offset & (size - 1)
    entry = entries[index]
    if entry & COMPRESSED:
        kind = layout.INVALID if mapping.external else layout.PACKED
        return kind, entry & LOW, min(length, size - inside)
    part_bits = bits - BITS
    part = inside >> part_bits
    kind, count = look(entry, part, here)
    first = place = entry & OFFSET
    if kind == layout.INVALID or place & (size - 1):
        return layout.INVALID, entry & LOW, 1
    if mapping.external and (place or entry & here) and place + inside != offset:
        return layout.INVALID, entry & LOW, 1
    placed = kind not in {layout.UNALLOCATED, layout.ZEROES}
    found = ((part + count) << part_bits) - inside
    whole = part + count == COUNT
    while whole and found < length and index + 1 < len(entries):
        index += 1
        entry = entries[index]
        place += size
        if entry & COMPRESSED or (placed and entry & OFFSET != place):
            break
        after, count = look(entry, 0, here)
        if after != kind or entry & OFFSET & (size - 1):
            break
        found += count << part_bits
        whole = count == COUNT
    return kind, (first if placed else 0) + inside, min(length, found)


def mask(first: int, end: int) -> int:
    """The map of some parts."""
    return (1 << end) - (1 << first)


def zeroed(entry: int, *, keep: bool) -> int:
    """An entry that says that all of the cluster is zero, and which keeps its place or not."""
    return ALL_ZERO | (entry & LOW if keep and not entry & COMPRESSED else 0)


def part_zeroed(entry: int, first: int, end: int) -> int:
    """An entry that says that some parts are zero; the cluster is not compressed."""
    parts = mask(first, end)
    return entry & ~(parts << 64) | parts << (64 + COUNT)


async def write(writer: Writer, offset: int, buffers: Sequence[memoryview], length: int) -> int:
    """Write data to parts of clusters that are not in a place of their own; how much of it was written.  The range is held.  OSError."""
    image, mapping = writer.image, writer.image.mapping
    while (found := mapping.find(offset, length)) is None:
        await writer.load(offset)
    kind, place, count = found
    if kind == layout.INVALID:
        return 0  # the caller looks again, and tells
    if kind == layout.PLACED:
        # Somebody was faster.
        image.guard_data(place, count)
        await image.data.writev(place, cut(buffers, 0, count))
        return count
    await image.before_allocating()
    await writer.ensure_table(offset)
    size, bits = image.cluster_size, image.cluster_bits - BITS
    inside = offset % size
    start = offset - inside
    old, wanted = await writer.entries(start, -(-(inside + length) // size))
    taken = mapping.here | OFFSET | COMPRESSED
    own = bool(old[0] & COPIED and old[0] & (taken & ~COMPRESSED)) and not old[0] & COMPRESSED
    if own:
        place, clusters = old[0] & OFFSET, 1
    else:
        others = (i for i, each in enumerate(old) if each & taken)
        place, clusters = await image.allocate_data(start, max(1, next(others, wanted)))
    end = min(inside + length, clusters * size)
    last = -(-end // size) - 1
    low = _begin(old[0], inside, bits, own=own)
    high = last * size + _end(old[last], end - last * size, bits, own=own)
    try:
        image.guard_data(place, clusters * size)
        before, after = memoryview(bytearray(inside - low)), memoryview(bytearray(high - end))
        if before:
            await writer.read_range(start + low, [before])
        if after:
            await writer.read_range(start + end, [after])
        parts = [each for each in (before, *cut(buffers, 0, end - inside), after) if len(each)]
        await image.data.writev(place + low, parts)
        image.data_first = True
        new = []
        for i in range(last + 1):
            first, final = max(low - i * size, 0) >> bits, (min(high - i * size, size) - 1 >> bits) + 1
            written = mask(first, final)
            rest = 0 if old[i] & COMPRESSED else old[i] >> 64
            rest = (rest | written) & ~(written << COUNT)
            new.append((place + i * size) | COPIED | rest << 64)
        await writer.publish(start, new)
    except BaseException:
        if not own:
            image.give_up(place, clusters)
        raise
    return end - inside


def _begin(entry: int, inside: int, bits: int, *, own: bool) -> int:
    """Where in the first cluster writing begins: what is before it in its part, or has to move with it, is written again."""
    if entry & COMPRESSED:
        return 0
    part = inside >> bits
    placed = entry >> 64 & ALL
    if own:
        return inside if placed >> part & 1 else part << bits
    lowest = (placed & -placed).bit_length() - 1 if placed else COUNT
    return min(part, lowest) << bits


def _end(entry: int, end: int, bits: int, *, own: bool) -> int:
    """Where in the last cluster writing ends."""
    if entry & COMPRESSED:
        return COUNT << bits
    part = end - 1 >> bits
    placed = entry >> 64 & ALL
    if own:
        return end if placed >> part & 1 else (part + 1) << bits
    return (max(part, placed.bit_length() - 1) + 1) << bits
