"""The split virtqueue: a table of descriptors, a ring for the driver and a ring for the device.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 2.7.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from qemud.hw.virtio.queue import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    FEATURE_EVENT_IDX,
    FEATURE_NOTIFY_ON_EMPTY,
    MAX_SIZE,
    Element,
    QueueError,
)

if TYPE_CHECKING:
    from qemud.hw.virtio.queue import VirtQueue
    from qemud.machine.dma import Segment

AVAIL_NO_INTERRUPT = 1
_DESCRIPTOR = Struct("<QIHH")  # address, length, flags, next
_USED = Struct("<II")  # index, length
_unpack = _DESCRIPTOR.unpack_from
_LONG = 8
"""Descriptors from which on it is quicker to look at all of them together."""
_COUNTING = list(range(1, MAX_SIZE))


class SplitRing:
    """The rings of one queue, mapped.

    `avail` and `used16` are words: flags, index, then the ring, whose last word is the other side's event index.
    """

    __slots__ = ("_avail", "_desc", "_event_idx", "_queue", "_shadow", "_size", "_used", "_used16", "_view")

    def __init__(self, queue: VirtQueue) -> None:
        size = queue.size
        self._queue = queue
        self._size = size
        self._event_idx = bool(queue.features & FEATURE_EVENT_IDX)
        event = 2 if self._event_idx else 0
        self._desc = queue.view(queue.desc, 16 * size, "desc")
        self._used = queue.view(queue.used, 4 + 8 * size + event, "used")
        self._used16 = self._used[: (4 + 8 * size + event)].cast("H")
        self._avail = queue.view(queue.avail, 4 + 2 * size + event, "avail").cast("H")
        self._shadow = queue.last_avail
        self._view = queue.view

    @property
    def seen(self) -> int:
        """See `Ring.seen`."""
        return self._shadow

    def pop(self) -> Element | None:
        """See `VirtQueue.pop`."""
        queue, size = self._queue, self._size
        last = queue.last_avail
        if last == self._shadow and not self._more(last):
            return None
        if queue.in_use >= size:
            raise QueueError("Virtqueue size exceeded")
        head = self._avail[2 + last % size]
        if head >= size:
            raise QueueError(f"Guest says index {head} is available")
        table, limit = self._desc, size
        address, length, flags, following = _unpack(table, head << 4)
        if flags & DESC_INDIRECT:
            if not length or length & 15:
                raise QueueError("Invalid size for indirect buffer table")
            table, limit = self._view(address, length, "indirect buffer"), length >> 4
            if _LONG <= limit <= MAX_SIZE:
                pieces = _in_order(table, limit)
                if pieces is not None:
                    queue.last_avail = (last + 1) & 0xFFFF
                    queue.in_use += 1
                    return Element(self, head, 1, *pieces)
            address, length, flags, following = _unpack(table, 0)
        readable, writable = _walk(table, limit, (address, length, flags, following))
        queue.last_avail = (last + 1) & 0xFFFF
        queue.in_use += 1
        return Element(self, head, 1, readable, writable)

    def _more(self, last: int) -> bool:
        """Whether the driver has added something; if not, it is asked to tell when it does."""
        shadow = self._avail[1]
        if shadow == last:
            if self._event_idx:
                self._used16[-1] = last
            return False
        if (shadow - last) & 0xFFFF > self._size:
            raise QueueError(f"Guest moved used index from {last} to {shadow}")
        self._shadow = shadow
        return True

    def unpop(self, element: Element) -> None:
        """See `VirtQueue.unpop`."""
        queue = self._queue
        queue.last_avail = (queue.last_avail - 1) & 0xFFFF
        queue.in_use -= element.count

    def push(self, element: Element, written: int) -> None:
        """See `VirtQueue.push`."""
        if element.ring is not self:
            return
        queue = self._queue
        index = queue.used_index
        # All pieces together may be more than the ring can say.
        written = min(written, 0xFFFF_FFFF)
        _USED.pack_into(self._used, 4 + 8 * (index % self._size), element.index, written)
        queue.used_index = index = (index + 1) & 0xFFFF
        self._used16[1] = index
        queue.in_use -= 1
        # Half the range without a signal: from here on the difference means nothing.
        if not 0 < (index - queue.signalled) & 0xFFFF < 0x8000:
            queue.signalled_valid = False

    def wants_interrupt(self) -> bool:
        """See `VirtQueue.notify`."""
        queue = self._queue
        if (
            queue.features & FEATURE_NOTIFY_ON_EMPTY
            and not queue.in_use
            and self._avail[1] == queue.last_avail
        ):
            return True
        if not self._event_idx:
            return not self._avail[0] & AVAIL_NO_INTERRUPT
        old, new = queue.signalled, queue.used_index
        known, queue.signalled_valid = queue.signalled_valid, True
        queue.signalled = new
        return not known or (new - self._avail[-1] - 1) & 0xFFFF < (new - old) & 0xFFFF


def _walk(
    table: memoryview, limit: int, first: tuple[int, int, int, int]
) -> tuple[list[Segment], list[Segment]]:
    """Follow a chain from its first descriptor; what is readable, and what is writable."""
    address, length, flags, following = first
    readable: list[Segment] = []
    writable: list[Segment] = []
    count = 1
    while True:
        if not length:
            raise QueueError("virtio: zero sized buffers are not allowed")
        if flags & DESC_WRITE:
            writable.append((address, length))
        elif writable:
            raise QueueError("Incorrect order for descriptors")
        else:
            readable.append((address, length))
        if flags & DESC_INDIRECT:
            raise QueueError("Indirect descriptor in the middle of a buffer")
        if not flags & DESC_NEXT:
            return readable, writable
        if count >= limit:
            raise QueueError("Looped descriptor")
        if count == MAX_SIZE:
            raise QueueError("virtio: too many write descriptors in indirect table")
        if following >= limit:
            raise QueueError(f"Desc next is {following}")
        count += 1
        address, length, flags, following = _unpack(table, following << 4)


def _in_order(table: memoryview, count: int) -> tuple[list[Segment], list[Segment]] | None:
    """The same for a long table whose descriptors follow each other and end with one to write, or None."""
    content = table.tobytes()  # nobody may change it between the looks
    words = memoryview(content).cast("H")
    flags, following = words[6::8].tolist(), words[7::8].tolist()
    first = flags.count(DESC_NEXT)
    if flags != [DESC_NEXT] * first + [DESC_NEXT | DESC_WRITE] * (count - first - 1) + [DESC_WRITE]:
        return None
    if following[:-1] != _COUNTING[: count - 1]:
        return None
    lengths = memoryview(content).cast("I")[2::4].tolist()
    if 0 in lengths:
        return None
    segments = list(zip(memoryview(content).cast("Q")[::2].tolist(), lengths, strict=True))
    return segments[:first], segments[first:]
