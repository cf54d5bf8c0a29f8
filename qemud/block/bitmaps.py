"""Dirty bitmaps: which parts of a disk have been written to since some moment.

A bitmap with a name belongs to a node (`node.dirty_bitmaps`), is fed by the node's trackers, and is what incremental backups go by;
jobs have bitmaps of their own, without names.

    bitmap = DirtyBitmap(size, granularity=65536, name="b0")
    bitmap.set(0, 4096)                     # everything that overlaps [0, 4096) is dirty
    for offset, length in bitmap.extents(): ...
    add_bitmap(node, bitmap)                # from now on the node's writes are in it

Bits are kept in chunks, as integers: a disk that nobody writes to costs nothing, and ranges, counts and merges are operations on whole
chunks.  Everything belongs to the event loop.

Source of rules and texts: QEMU 10.0, block/dirty-bitmap.c and util/hbitmap.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud._generated.types.block_info import BlockDirtyInfo
    from qemud.block.node import BlockNode

CHUNK_BITS = 1 << 13
_FULL = (1 << CHUNK_BITS) - 1
_WORD_BYTES = 8
MAX_NAME = 1023

BUSY = 1
READ_ONLY = 2
INCONSISTENT = 4
DEFAULT_CHECKS = BUSY | READ_ONLY | INCONSISTENT
ALLOW_READ_ONLY = BUSY | INCONSISTENT


class DirtyBitmap:
    """See the module.  One bit stands for `granularity` bytes, a power of two; sizes and offsets are in bytes."""

    def __init__(self, size: int, granularity: int, name: str | None = None) -> None:
        self.size = size
        self.granularity = granularity
        self.name = name
        self.enabled = True
        """Whether writes are recorded."""
        self.persistent = False
        """Kept in the image when the node is closed."""
        self.inconsistent = False
        """It was not stored when it should have been: good for being removed only."""
        self.read_only = False
        """The image it is in cannot be written to."""
        self.skip_store = False
        """Do not keep it in the image after all: its removal is under way."""
        self.in_use = False
        """A job or an export has it."""
        self.successor: DirtyBitmap | None = None
        """What records in its place, while a backup works by it."""
        self._shift = granularity.bit_length() - 1
        self._chunks: dict[int, int] = {}

    # Single bits and ranges.

    @property
    def bits(self) -> int:
        """How many bits there are."""
        return -(-self.size >> self._shift)

    @property
    def count(self) -> int:
        """How much is dirty, in bytes, in whole units."""
        return sum(chunk.bit_count() for chunk in self._chunks.values()) << self._shift

    def get(self, offset: int) -> bool:
        """Whether the byte at an offset is in a dirty unit."""
        index, bit = divmod(offset >> self._shift, CHUNK_BITS)
        return bool(self._chunks.get(index, 0) >> bit & 1)

    def set(self, offset: int, length: int) -> None:
        """Make everything dirty that overlaps the range."""
        for index, mask in self._masks(offset, length):
            self._chunks[index] = self._chunks.get(index, 0) | mask

    def reset(self, offset: int, length: int) -> None:
        """Make everything clean that overlaps the range."""
        for index, mask in self._masks(offset, length):
            rest = self._chunks.get(index, 0) & ~mask
            if rest:
                self._chunks[index] = rest
            else:
                self._chunks.pop(index, None)

    def clear(self) -> None:
        """Make everything clean."""
        self._chunks = {}

    def _masks(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Chunks that a range touches, with its bits in them."""
        if length <= 0:
            return
        first = offset >> self._shift
        end = min(-(-(offset + length) >> self._shift), self.bits)
        while first < end:
            index, bit = divmod(first, CHUNK_BITS)
            count = min(end - first, CHUNK_BITS - bit)
            yield index, _FULL if count == CHUNK_BITS else ((1 << count) - 1) << bit
            first += count

    # Finding.

    def next_dirty(self, offset: int = 0, end: int | None = None) -> int | None:
        """The first dirty offset from there on: `offset` itself or where a unit begins; None when there is none before `end`."""
        end = self.size if end is None else min(end, self.size)
        if offset >= end:
            return None
        index, bit = divmod(offset >> self._shift, CHUNK_BITS)
        last = (end - 1 >> self._shift) // CHUNK_BITS
        rest = self._chunks.get(index, 0) >> bit
        if not rest:
            later = [each for each in self._chunks if index < each <= last]
            if not later:
                return None
            index, bit = min(later), 0
            rest = self._chunks[index]
        found = index * CHUNK_BITS + bit + (rest & -rest).bit_length() - 1
        start = max(offset, found << self._shift)
        return start if start < end else None

    def next_clean(self, offset: int = 0, end: int | None = None) -> int | None:
        """As `next_dirty`, for what is clean."""
        end = self.size if end is None else min(end, self.size)
        first = offset >> self._shift
        while first << self._shift < end:
            index, bit = divmod(first, CHUNK_BITS)
            rest = ~self._chunks.get(index, 0) & _FULL
            rest >>= bit
            if rest:
                found = max(offset, first + (rest & -rest).bit_length() - 1 << self._shift)
                return found if found < end else None
            first = (index + 1) * CHUNK_BITS
        return None

    def next_extent(self, offset: int, end: int | None = None, limit: int = 0) -> tuple[int, int] | None:
        """The first dirty range from there on, as offset and length, not longer than `limit` (0: no limit)."""
        end = self.size if end is None else min(end, self.size)
        start = self.next_dirty(offset, end)
        if start is None:
            return None
        stop = end if not limit else min(end, start + limit)
        clean = self.next_clean(start, stop)
        return start, (stop if clean is None else clean) - start

    def extents(self) -> Iterator[tuple[int, int]]:
        """All dirty ranges in order, as offset and length."""
        offset = 0
        while (found := self.next_extent(offset)) is not None:
            yield found
            offset = found[0] + found[1]

    # As a whole.

    def merge(self, other: DirtyBitmap) -> None:
        """Make everything dirty that is in another bitmap."""
        if other.granularity == self.granularity and other.size == self.size:
            for index, chunk in other._chunks.items():
                self._chunks[index] = self._chunks.get(index, 0) | chunk
        else:
            for offset, length in list(other.extents()):
                self.set(offset, length)

    def snapshot(self) -> dict[int, int]:
        """What `restore` brings back."""
        return dict(self._chunks)

    def restore(self, snapshot: dict[int, int]) -> None:
        """Be as at `snapshot`; the size has not changed since."""
        self._chunks = dict(snapshot)

    def truncate(self, size: int) -> None:
        """The disk has another size; what is new is clean."""
        if size < self.size:
            self.reset(-(-size >> self._shift) << self._shift, self.size - size + self.granularity)
        self.size = size
        if self.successor is not None:
            self.successor.truncate(size)

    def to_bytes(self, first: int, count: int) -> bytes:
        """Bits from number `first` on, the lowest of each byte first; both numbers are multiples of 8."""
        value, position = 0, first
        while position < first + count:
            index, bit = divmod(position, CHUNK_BITS)
            part = min(first + count - position, CHUNK_BITS - bit)
            chunk = self._chunks.get(index, 0) >> bit & (1 << part) - 1
            if chunk:
                value |= chunk << position - first
            position += part
        return value.to_bytes(count // 8, "little")

    def from_bytes(self, first: int, data: bytes) -> None:
        """Set the bits that `to_bytes` gave."""
        value = int.from_bytes(data, "little")
        position, end = first, min(first + 8 * len(data), self.bits)
        while position < end:
            index, bit = divmod(position, CHUNK_BITS)
            part = min(end - position, CHUNK_BITS - bit)
            chunk = (value >> position - first & (1 << part) - 1) << bit
            if chunk:
                self._chunks[index] = self._chunks.get(index, 0) | chunk
            position += part

    def sha256(self) -> str:
        """A hash of all bits, as 64-bit words in the order of the machine."""
        import hashlib

        words = max(1, -(-self.bits // 64))
        digest = hashlib.sha256()
        step = CHUNK_BITS // 8
        for start in range(0, words * _WORD_BYTES, step):
            digest.update(self.to_bytes(start * 8, 8 * min(step, words * _WORD_BYTES - start)))
        return digest.hexdigest()

    # Its use.

    @property
    def busy(self) -> bool:
        """Whether somebody works with it."""
        return self.in_use or self.successor is not None

    @property
    def recording(self) -> bool:
        """Whether writes are recorded, by itself or by its successor."""
        return self.enabled or (self.successor is not None and self.successor.enabled)

    def track(self, offset: int, length: int) -> None:
        """Something was written."""
        if self.successor is not None:
            if self.successor.enabled:
                self.successor.set(offset, length)
        elif self.enabled:
            self.set(offset, length)

    def check(self, checks: int) -> None:
        """Raise GenericError when it cannot be used, for one of these reasons."""
        if checks & BUSY and self.busy:
            raise GenericError(
                f"Bitmap '{self.name}' is currently in use by another operation and cannot be used"
            )
        if checks & READ_ONLY and self.read_only:
            raise GenericError(f"Bitmap '{self.name}' is readonly and cannot be modified")
        if checks & INCONSISTENT and self.inconsistent:
            raise GenericError(f"Bitmap '{self.name}' is inconsistent and cannot be used")

    def begin_successor(self) -> None:
        """From now on another bitmap records, and this one stays as it is.  GenericError."""
        if self.busy:
            self.check(BUSY)
        self.successor = DirtyBitmap(self.size, self.granularity)
        self.successor.enabled = self.enabled

    def abdicate(self) -> None:
        """Take the place of the successor: keep only what it has recorded."""
        assert self.successor is not None
        self._chunks, self.successor = self.successor.snapshot(), None

    def reclaim(self) -> None:
        """Have what the successor has recorded as well."""
        successor, self.successor = self.successor, None
        assert successor is not None
        self.merge(successor)

    def info(self) -> BlockDirtyInfo:
        """For query-block."""
        from qemud._generated.types.block_info import BlockDirtyInfo

        return BlockDirtyInfo(
            name=self.name,
            count=self.count,
            granularity=self.granularity,
            recording=self.recording,
            busy=self.busy,
            persistent=self.persistent,
            inconsistent=True if self.inconsistent else None,
        )


# Bitmaps of nodes.


async def default_granularity(node: BlockNode) -> int:
    """The unit of a node's bitmaps when nobody asks for another, bytes: its clusters, but not less than 4 KiB or more than 64 KiB."""
    known = await node.get_info()
    if known is not None and known.cluster_size:
        return min(65536, max(4096, known.cluster_size))
    return 65536


def check_new_name(node: BlockNode, name: str) -> None:
    """Raise GenericError when a node cannot have a bitmap of that name."""
    if name in node.dirty_bitmaps:
        raise GenericError(f"Bitmap already exists: {name}")
    if len(name) > MAX_NAME:
        raise GenericError(f"Bitmap name too long: {name}")


def add_bitmap(node: BlockNode, bitmap: DirtyBitmap) -> None:
    """Let a node have a bitmap, by its name."""
    assert bitmap.name is not None
    node.dirty_bitmaps[bitmap.name] = bitmap
    node.trackers.append(bitmap.track)
    # Who writes at once has looked for trackers first: wait for those who had not seen this one.
    for backend in node.graph.backends:
        with backend.at_once:
            pass


def drop_bitmap(node: BlockNode, bitmap: DirtyBitmap) -> None:
    """Undo `add_bitmap`."""
    assert bitmap.name is not None
    del node.dirty_bitmaps[bitmap.name]
    node.trackers.remove(bitmap.track)
