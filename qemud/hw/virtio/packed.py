"""The packed virtqueue: one ring of descriptors that driver and device both write.

Each side counts its laps by a bit, the wrap counter, which it writes into the descriptors that it makes; the other side sees by that
bit what is new.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 2.8.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from qemud.hw.virtio.queue import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    FEATURE_EVENT_IDX,
    MAX_SIZE,
    Element,
    QueueError,
)

if TYPE_CHECKING:
    from qemud.hw.virtio.queue import VirtQueue
    from qemud.machine.dma import Segment

DESC_AVAIL = 1 << 7
DESC_USED = 1 << 15
_OWN = DESC_AVAIL | DESC_USED

EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC = range(3)
_DESCRIPTOR = Struct("<QIHH")  # address, length, id, flags
_USED = Struct("<IH")  # length and id, at 8 in a descriptor
_unpack = _DESCRIPTOR.unpack_from


class PackedRing:
    """The ring of one queue and its two event areas, mapped.

    An event area is two words: offset and wrap counter of a descriptor, and what is wanted.
    """

    __slots__ = ("_desc", "_desc16", "_device", "_driver", "_event_idx", "_queue", "_size")

    def __init__(self, queue: VirtQueue) -> None:
        self._queue = queue
        self._size = queue.size
        self._event_idx = bool(queue.features & FEATURE_EVENT_IDX)
        self._desc = queue.view(queue.desc, 16 * queue.size, "desc")
        self._desc16 = self._desc[:].cast("H")
        self._device = queue.view(queue.used, 4, "used").cast("H")
        self._driver = queue.view(queue.avail, 4, "avail").cast("H")

    @property
    def seen(self) -> int:
        """See `Ring.seen`; nothing is noted of what lies beyond."""
        return self._queue.last_avail

    def pop(self) -> Element | None:
        """See `VirtQueue.pop`."""
        queue, size = self._queue, self._size
        at = queue.last_avail
        address, length, number, flags = _unpack(self._desc, at << 4)
        if flags & _OWN != (DESC_AVAIL if queue.avail_wrap else DESC_USED):
            self._ask(at)
            return None
        if queue.in_use >= size:
            raise QueueError("Virtqueue size exceeded")
        count = 1
        if flags & DESC_INDIRECT:
            readable, writable = self._indirect(address, length)
        else:
            readable, writable = [], []
            while True:
                _add(address, length, flags, readable, writable)
                if not flags & DESC_NEXT:
                    break
                if count >= size:
                    raise QueueError("Looped descriptor")
                count += 1
                at = at + 1 if at + 1 < size else 0
                address, length, number, flags = _unpack(self._desc, at << 4)
                if flags & DESC_INDIRECT:
                    raise QueueError("Indirect descriptor in the middle of a buffer")
        if queue.in_use + count > size:
            raise QueueError("Virtqueue size exceeded")
        self._advance(count)
        queue.in_use += count
        return Element(self, number, count, readable, writable)

    def _indirect(self, address: int, length: int) -> tuple[list[Segment], list[Segment]]:
        """A table of descriptors elsewhere, all of which belong to the buffer."""
        if not length or length & 15:
            raise QueueError("Invalid size for indirect buffer table")
        if length >> 4 > MAX_SIZE:
            raise QueueError("virtio: too many write descriptors in indirect table")
        readable: list[Segment] = []
        writable: list[Segment] = []
        table = self._queue.view(address, length, "indirect buffer")
        for address, length, _, flags in _DESCRIPTOR.iter_unpack(table):  # noqa: PLR1704 - the table's own are done with
            if flags & DESC_INDIRECT:
                raise QueueError("Indirect descriptor in the middle of a buffer")
            _add(address, length, flags, readable, writable)
        return readable, writable

    def _advance(self, count: int) -> None:
        queue = self._queue
        position = queue.last_avail + count
        if position >= self._size:
            position -= self._size
            queue.avail_wrap = not queue.avail_wrap
        queue.last_avail = position

    def _ask(self, at: int) -> None:
        """Have the driver tell of the next buffer, which it will put at `at`."""
        if self._event_idx:
            self._device[0] = at | self._queue.avail_wrap << 15
            self._device[1] = EVENT_DESC
        elif self._device[1] != EVENT_ENABLE:
            self._device[1] = EVENT_ENABLE

    def unpop(self, element: Element) -> None:
        """See `VirtQueue.unpop`."""
        queue = self._queue
        queue.in_use -= element.count
        queue.last_avail -= element.count
        if queue.last_avail < 0:
            queue.last_avail += self._size
            queue.avail_wrap = not queue.avail_wrap

    def push(self, element: Element, written: int) -> None:
        """See `VirtQueue.push`."""
        if element.ring is not self:
            return
        queue = self._queue
        at = queue.used_index
        # All pieces together may be more than the ring can say.
        written = min(written, 0xFFFF_FFFF)
        _USED.pack_into(self._desc, (at << 4) + 8, written, element.index)
        flags = _OWN if queue.used_wrap else 0
        self._desc16[at * 8 + 7] = flags | DESC_WRITE if written else flags
        queue.in_use -= element.count
        at += element.count
        if at >= self._size:
            at -= self._size
            queue.used_wrap = not queue.used_wrap
            queue.signalled_valid = False
        queue.used_index = at

    def wants_interrupt(self) -> bool:
        """See `VirtQueue.notify`."""
        queue = self._queue
        where, wanted = self._driver[0], self._driver[1]
        old, new = queue.signalled, queue.used_index
        known, queue.signalled_valid = queue.signalled_valid, True
        queue.signalled = new
        if wanted == EVENT_DISABLE:
            return False
        if wanted == EVENT_ENABLE or not known:
            return True
        event = where & 0x7FFF
        if queue.used_wrap != bool(where & 0x8000):
            event -= self._size
        return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def _add(address: int, length: int, flags: int, readable: list[Segment], writable: list[Segment]) -> None:
    """Put one descriptor where it belongs."""
    if not length:
        raise QueueError("virtio: zero sized buffers are not allowed")
    if flags & DESC_WRITE:
        writable.append((address, length))
    elif writable:
        raise QueueError("Incorrect order for descriptors")
    else:
        readable.append((address, length))
