"""Virtqueues: where a driver puts buffers for its device, and the device puts them back, used.

    while (element := queue.pop()) is not None:        # QueueError: the driver has broken the rules
        data = dma.read(*element.readable[0])
        dma.write(element.writable[0][0], answer)
        queue.push(element, len(answer))
    queue.notify()                                     # once for each batch

An element names memory by physical address and length, and nothing is looked at yet: whoever uses it reads, writes or lends
it through `qemud.machine.dma`, where addresses outside of RAM fail.  Elements may be pushed in any order and at any time; those
that were popped before the queue was reset are dropped.

A driver tells the device of new buffers only after `pop` has found none left.  Who stops before that goes on by itself.

Both formats of rings (`split.py`, `packed.py`) look alike from here.  Rings stay mapped while the queue is enabled; everything read
from them is read once, and checked.

Source: Virtual I/O Device (VIRTIO) Version 1.2, sections 2.6 to 2.8; texts: QEMU 10.0, hw/virtio/virtio.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud._generated.types.virtio import VirtQueueElement, VirtQueueSegment, VirtQueueState
from qemud.machine.memory import MemoryFault
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.dma import LeaseOwner, Segment

MAX_SIZE = 1024
"""The most buffers that a queue has, and the most pieces that one element has."""

FEATURE_NOTIFY_ON_EMPTY = 1 << 24
FEATURE_ANY_LAYOUT = 1 << 27
FEATURE_INDIRECT_DESC = 1 << 28
FEATURE_EVENT_IDX = 1 << 29
FEATURE_BAD = 1 << 30
"""Offered to legacy drivers, so that one which takes all it does not know is found out."""
FEATURE_VERSION_1 = 1 << 32
FEATURE_ACCESS_PLATFORM = 1 << 33
FEATURE_RING_PACKED = 1 << 34
FEATURE_RING_RESET = 1 << 40

DESC_NEXT = 1
DESC_WRITE = 2
DESC_INDIRECT = 4


class QueueError(Exception):
    """The driver has broken the rules of the ring: its device needs a reset."""


class Element:
    """One request of the driver: what the device reads, and what it may write, as (address, length).

    `index` is the driver's name for it, `count` how many entries of a packed ring it takes, `ring` the ring it came from.
    """

    __slots__ = ("count", "index", "readable", "ring", "writable")

    def __init__(
        self, ring: Ring, index: int, count: int, readable: list[Segment], writable: list[Segment]
    ) -> None:
        self.ring = ring
        self.index = index
        self.count = count
        self.readable = readable
        self.writable = writable

    def save(self) -> VirtQueueElement:
        """By value, for a device that holds it while it is saved."""
        return VirtQueueElement(
            index=self.index,
            count=self.count,
            readable=[VirtQueueSegment(address=address, length=length) for address, length in self.readable],
            writable=[VirtQueueSegment(address=address, length=length) for address, length in self.writable],
        )


class Ring(Protocol):
    """One of the two formats, on memory that is mapped."""

    @property
    def seen(self) -> int:
        """How far the driver had come when the device last looked."""

    def pop(self) -> Element | None:
        """The next buffer of the driver."""

    def unpop(self, element: Element) -> None:
        """Give the last one back."""

    def push(self, element: Element, written: int) -> None:
        """Give a used buffer to the driver, unless it came from another ring."""

    def wants_interrupt(self) -> bool:
        """Whether the driver is to be told of what was pushed since it was last told."""


def _nothing() -> None:
    """What is popped from a queue without rings."""


def _nowhere(_element: Element, _written: int) -> None:
    """Where a request goes whose queue has no rings any more."""


class VirtQueue:
    """One queue of a device; see the module.

    `maximum` is the greatest number of buffers, `size` the driver's choice.  `desc`, `avail` and `used` are the physical addresses of the
    three parts of a split ring, or of the ring and the two event areas of a packed one; `align` is the legacy interface's, between
    the second and the third.  The transport sets these, and then calls `enable`.
    """

    def __init__(self, index: int, maximum: int, dma: LeaseOwner, interrupt: Callable[[int], None]) -> None:
        self.index = index
        self.maximum = maximum
        self.dma = dma
        self.features = 0
        self._interrupt = interrupt
        self._ring: Ring | None = None
        self.reset()

    def __repr__(self) -> str:
        return f"<queue {self.index} of {self.size}, {'ready' if self.ready else 'not ready'}>"

    def reset(self) -> None:
        """As after power-on."""
        self.unmap()
        self.size = self.maximum
        self.ready = False
        self.desc = self.avail = self.used = 0
        self.align = 4096
        self.last_avail = 0
        self.avail_wrap = True
        self.used_index = 0
        self.used_wrap = True
        self.signalled = 0
        self.signalled_valid = False
        self.in_use = 0

    # For the device.

    pop: Callable[[], Element | None]
    """The next request, or None.  Raises QueueError."""

    push: Callable[[Element, int], None]
    """Give a request back, so many bytes of whose buffers have been written."""

    def unpop(self, element: Element) -> None:
        """Put the request that was popped last back: `pop` will return it again."""
        if element.ring is self._ring:
            element.ring.unpop(element)

    def drop(self, element: Element) -> None:
        """Forget a request without giving it back, as a broken device does."""
        if element.ring is self._ring:
            self.in_use -= element.count

    def notify(self) -> None:
        """Interrupt the driver if it wants to know of what was pushed."""
        ring = self._ring
        if ring is not None and ring.wants_interrupt():
            self._interrupt(self.index)

    # For the transport.

    def set_size(self, size: int) -> None:
        """The driver's choice of the size; one that cannot be is ignored."""
        if 0 < size <= MAX_SIZE:
            self.size = size

    @property
    def seen(self) -> int:
        """How far the driver had come when the device last looked."""
        return self.last_avail if self._ring is None else self._ring.seen

    @property
    def mapped(self) -> bool:
        """Whether the rings are where the device can use them."""
        return self._ring is not None

    def enable(self) -> None:
        """Map the rings and begin.  Raises QueueError where there is no RAM."""
        self.ready = True
        self._map()

    def disable(self) -> None:
        """Look at the rings no more; what is under way is not given back."""
        self.ready = False
        self.unmap()

    def place_legacy(self, address: int, features: int) -> None:
        """Lay out the legacy ring from `address` on, as `size` and `align` are, and begin.  Raises QueueError."""
        self.features = features
        self.desc = address
        self.avail = address + 16 * self.size
        end = self.avail + 6 + 2 * self.size
        self.used = -(-end // self.align) * self.align
        self.enable()

    def remap(self) -> None:
        """Map the rings again after memory has changed.  Raises QueueError where there is no RAM any more."""
        if self._ring is not None:
            self._map()

    def unmap(self) -> None:
        """Let go of the rings."""
        self._ring = None
        self.pop, self.push = _nothing, _nowhere

    def _map(self) -> None:
        self.unmap()
        # Imported here because they need what is above.
        if self.features & FEATURE_RING_PACKED:
            from qemud.hw.virtio.packed import PackedRing

            ring: Ring = PackedRing(self)
        else:
            from qemud.hw.virtio.split import SplitRing

            ring = SplitRing(self)
        self._ring = ring
        self.pop, self.push = ring.pop, ring.push

    def view(self, address: int, size: int, what: str) -> memoryview:
        """A part of the ring in place.  Raises QueueError."""
        try:
            return self.dma.view(address, size)
        except MemoryFault:
            raise QueueError(f"Cannot map {what}") from None

    # State.

    def save(self) -> VirtQueueState:
        """By value."""
        return VirtQueueState(
            size=self.size,
            ready=self.ready,
            desc=self.desc,
            avail=self.avail,
            used=self.used,
            align=self.align,
            last_avail=self.last_avail,
            avail_wrap=self.avail_wrap,
            used_index=self.used_index,
            used_wrap=self.used_wrap,
            signalled=self.signalled,
            signalled_valid=self.signalled_valid,
            in_use=self.in_use,
        )

    def load(self, state: VirtQueueState, features: int) -> None:
        """Take on a saved state.  Raises QueueError where its rings are not in RAM."""
        self.unmap()
        self.features = features
        self.size = state.size
        self.ready = state.ready
        self.desc, self.avail, self.used = state.desc, state.avail, state.used
        self.align = state.align
        self.last_avail, self.avail_wrap = state.last_avail, state.avail_wrap
        self.used_index, self.used_wrap = state.used_index, state.used_wrap
        self.signalled, self.signalled_valid = state.signalled, state.signalled_valid
        self.in_use = state.in_use
        if self.ready:
            self._map()

    def load_element(self, saved: VirtQueueElement) -> Element | None:
        """A request that the device held when it was saved; None if the queue has no ring, or none that it fits."""
        if self._ring is None or not 0 < saved.count <= self.size:
            return None
        return Element(
            self._ring,
            saved.index,
            saved.count,
            [(piece.address, piece.length) for piece in saved.readable],
            [(piece.address, piece.length) for piece in saved.writable],
        )


def check_element(element: VirtQueueElement, state: VirtQueueState) -> None:
    """Raise GenericError for a request that cannot be of a queue in that state."""
    if not 0 < element.count <= state.size:
        raise GenericError(f"a request takes {element.count} of a queue's {state.size} entries")


def check_state(state: VirtQueueState, features: int) -> str:
    """What is wrong with a saved state that the schema takes, or nothing."""
    if features & FEATURE_RING_PACKED and max(state.last_avail, state.used_index) >= state.size:
        return f"a packed queue of {state.size} buffers is at {max(state.last_avail, state.used_index)}"
    if not 0 < state.size <= MAX_SIZE:
        return f"a queue has {state.size} buffers, expected 1 to {MAX_SIZE}"
    if state.in_use > state.size:
        return f"a queue of {state.size} buffers has {state.in_use} in use"
    if not 0 < state.align <= 1 << 31:
        return f"a queue is aligned to {state.align} bytes"
    return ""
