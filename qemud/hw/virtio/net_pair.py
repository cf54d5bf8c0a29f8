"""A pair of a network card's queues: frames between the driver's buffers and the network.

    pair = Pair(card, 1)                    # the card's queues 2 and 3
    pair.send(), pair.receive()             # what is there, as far as there is room
    pair.serve()                            # both, with a driver's faults put down to it

`nic` is this pair's end of the network.  A pair that the driver does not use gives and takes nothing: its frames from the network are
lost, its driver's stay where they are until it is used.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.1.6; limits and texts: QEMU 10.0, hw/net/virtio-net.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from qemud.hw.virtio import net_features as bits
from qemud.hw.virtio.device import STATUS_DRIVER_OK
from qemud.hw.virtio.queue import QueueError
from qemud.net.offload import (
    GSO_ECN,
    GSO_NONE,
    HEADER,
    NEEDS_CSUM,
)

if TYPE_CHECKING:
    from qemud.hw.virtio.net import VirtioNet
    from qemud.hw.virtio.queue import Element, VirtQueue
    from qemud.machine.dma import Segment
    from qemud.net.client import Frame, Frames
    from qemud.net.nic import Nic

HEADER_LENGTH = 10
LONG_HEADER = 12
"""With the number of buffers."""
_NO_HEADER = bytes(HEADER_LENGTH)
LARGEST = 65550 + 14
"""The largest frame that is taken from a driver, in bytes."""
_SMALLEST = 14
BATCH = 256
"""How many frames leave in one go, so that the machine is not held up."""

_ONE_BUFFER = b"\x01\x00"
_COUNT = Struct("<H")


class Pair:
    """See the module.  All of it belongs to the machine thread."""

    nic: Nic

    def __init__(self, device: VirtioNet, index: int) -> None:
        self._device = device
        self.index = index
        self.rx, self.tx = 2 * index, 2 * index + 1
        self.is_stalled = False
        """Whether the network has no room, and will call `go_on`."""
        self._is_sending = False

    @property
    def _is_used(self) -> bool:
        return self.index < self._device.state.queue_pairs

    @property
    def _works(self) -> bool:
        device = self._device
        return self._is_used and bool(device.state.status & STATUS_DRIVER_OK) and device.machine.clock.running

    def serve(self) -> None:
        """Look into both queues, as after notifications."""
        if self._is_used:
            self._device.serve(self.tx)
            self._device.serve(self.rx)
        else:
            self.nic.drop_arrived()

    def begin_anew(self) -> None:
        """Nothing is under way any more."""
        self.is_stalled = False
        self.nic.drop_arrived()

    # -- the nic's queues -------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Frames have arrived."""
        if self._is_used:
            self._device.serve(self.rx)
        else:
            self.nic.drop_arrived()

    def go_on(self) -> None:
        """There is room on the way out again."""
        self.is_stalled = False
        if self._is_used:
            self._device.serve(self.tx)

    # -- to the network ---------------------------------------------------------------------------------------------

    def send(self) -> None:
        """Send what the driver has put there, as long as there is room."""
        if self.is_stalled or self._is_sending or not self._works:
            return
        self._is_sending = True
        device, nic = self._device, self.nic
        queue = device.queues[self.tx]
        frames: Frames = []
        try:
            for _ in range(BATCH):
                element = queue.pop()
                if element is None:
                    break
                frame = self._frame(element)
                if frame is not None:
                    frames.append(frame)
                queue.push(element, 0)
            else:
                device.machine.mailboxes.post(self._go_on_sending, device.dma.epoch)
        finally:
            self._is_sending = False
            if frames:
                nic.transmit(frames)
            queue.notify()
        if not nic.has_room_out:
            self.is_stalled = True
            nic.want_room()

    def _go_on_sending(self, epoch: int) -> None:
        if epoch == self._device.dma.epoch:
            self.serve()

    def _frame(self, element: Element) -> Frame | None:
        """The frame in a buffer; None for what no network takes.  QueueError."""
        pieces = element.readable
        if not pieces or element.writable:
            raise QueueError("virtio-net header not in first element")
        device = self._device
        length = device.header_length
        total = sum([piece[1] for piece in pieces]) - length
        if total < 0:
            raise QueueError("virtio-net header incorrect")
        if not _SMALLEST <= total <= LARGEST:
            return None
        view = device.dma.view
        address, size = pieces[0]
        if size >= length:
            first = view(address, size)
            header = bytes(first[:HEADER_LENGTH])
            if len(pieces) == 1:
                frame = bytes(first[length:])
            elif len(pieces) == 2 and size == length:
                frame = bytes(view(*pieces[1]))
            else:
                frame = b"".join([first[length:], *[view(*piece) for piece in pieces[1:]]])
        else:
            whole = b"".join([view(*piece) for piece in pieces])
            header, frame = whole[:HEADER_LENGTH], whole[length:]
        if header == _NO_HEADER or not device.state.features & bits.FEATURE_CSUM:
            return b"", frame
        return self._checked(header, frame)

    def _checked(self, header: bytes, frame: bytes) -> Frame | None:
        """A frame that wants more than to be sent, if it makes sense."""
        flags, gso, _, size, start, offset = HEADER.unpack(header)
        flags &= NEEDS_CSUM
        if flags and start + offset + 2 > len(frame):
            return None
        if gso != GSO_NONE:
            wanted = bits.GSO_FEATURES.get(gso & ~GSO_ECN)
            if wanted is None or not self._device.state.features & wanted[0] or not size or not flags:
                return None
        elif not flags:
            return b"", frame
        return header, frame

    # -- from the network -------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Put what has arrived into the driver's buffers, as long as there are any."""
        nic = self.nic
        arrived = nic.arrived
        if not arrived or not self._works:
            return
        device = self._device
        queue = device.queues[self.rx]
        written: list[Segment] = []
        wants = device.control.wants
        try:
            while arrived:
                header, frame = arrived[0]
                if wants(frame) and not self._put(queue, header, frame, written):
                    break
                nic.taken()
        finally:
            if written:
                device.dma.dma.all_written(written)
                queue.notify()

    def _put(self, queue: VirtQueue, header: bytes, frame: bytes, written: list[Segment]) -> bool:
        """One frame; False if there are no buffers for it."""
        if header and not self._may_have(header):
            return True
        device = self._device
        header = header if header and device.state.offloads & bits.FEATURE_GUEST_CSUM else _NO_HEADER
        content = b"".join((header, _ONE_BUFFER if device.header_length == LONG_HEADER else b"", frame))
        left = len(content)
        mergeable = bool(device.state.features & bits.FEATURE_MRG_RXBUF)
        taken: list[tuple[Element, int]] = []
        while left > 0:
            element = queue.pop()
            if element is None:
                _give_back(queue, taken)
                return False
            if not element.writable or element.readable:
                raise QueueError("virtio-net receive queue contains no in buffers")
            room = sum([piece[1] for piece in element.writable])
            if not mergeable and room < left:
                queue.unpop(element)
                return True  # it would have been larger than the driver's network has them: lost
            taken.append((element, min(room, left)))
            left -= room
        if not taken[0][1] >= device.header_length:
            raise QueueError("virtio-net receive buffer too small for the header")
        if len(taken) > 1:
            count = _COUNT.pack(len(taken))
            content = b"".join((content[:HEADER_LENGTH], count, content[LONG_HEADER:]))
        self._fill(queue, content, taken, written)
        return True

    def _fill(
        self, queue: VirtQueue, content: bytes, taken: list[tuple[Element, int]], written: list[Segment]
    ) -> None:
        """Spread the content over the buffers."""
        view = self._device.dma.view
        rest = memoryview(content)
        for element, size in taken:
            left = size
            for address, length in element.writable:
                count = min(length, left)
                if not count:
                    break
                view(address, count)[:] = rest[:count]
                written.append((address, count))
                rest = rest[count:]
                left -= count
            queue.push(element, size)

    def _may_have(self, header: bytes) -> bool:
        """Whether the driver takes a frame with that header; it may have changed its mind while the frame came."""
        gso = header[1] & ~GSO_ECN
        if gso == GSO_NONE:
            return bool(self._device.state.offloads & bits.FEATURE_GUEST_CSUM) or not header[0] & NEEDS_CSUM
        needed = bits.GSO_FEATURES.get(gso)
        return needed is not None and bool(self._device.state.offloads & needed[1])


def _give_back(queue: VirtQueue, taken: list[tuple[Element, int]]) -> None:
    for element, _ in reversed(taken):
        queue.unpop(element)
