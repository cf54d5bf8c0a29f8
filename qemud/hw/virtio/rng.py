"""Random bytes for the guest: `virtio-rng-device`.

The driver puts buffers into the one queue and gets them back with random bytes in them, `max-bytes` of them a `period` at most.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.4; texts and periods: QEMU 10.0, hw/virtio/virtio-rng.c.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.virtio import VirtioRngOptions, VirtioRngState
from qemud.hw.virtio.device import STATUS_DRIVER_OK, VirtioDevice
from qemud.hw.virtio.queue import QueueError
from qemud.machine.rng import RngBackend, RngBuiltin
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.hw.virtio.queue import Element
    from qemud.machine.clock import Timer

_LARGEST_QUOTA = (1 << 63) - 1
_QUEUE_SIZE = 8
_LARGEST = 4096
"""Bytes that one buffer gets at most: a driver may not make the machine wait for gigabytes."""


class VirtioRng(
    VirtioDevice,
    type_name="virtio-rng-device",
    options=VirtioRngOptions,
    state=VirtioRngState,
    links={"rng": "rng-backend"},
    user_creatable=True,
):
    """See the module."""

    device_id: ClassVar[int] = 4
    options: VirtioRngOptions
    state: VirtioRngState
    _source: RngBackend
    _timer: Timer
    _retry: Timer
    _asked = False  # whether the source is at it
    _serving = False

    def realize(self) -> None:
        """Find the source of the bytes."""
        options = self.options
        if not options.period:
            raise GenericError("'period' parameter expects a positive integer")
        if not 0 < options.max_bytes <= _LARGEST_QUOTA:
            raise GenericError("'max-bytes' parameter must be positive, and less than 2^63")
        source = self.link("rng")
        if source is None:
            source = self.children.get("default-backend") or self.add_child("default-backend", RngBuiltin())
            self.set_link("rng", "rng-backend", source)
        assert isinstance(source, RngBackend)
        self._source = source
        self._timer = self.machine.clock.timer(self._next_period)
        self._retry = self.machine.clock.timer(self._serve)
        self._asked = False
        self.queue_sizes = (_QUEUE_SIZE,)
        super().realize()

    def unrealize(self) -> None:
        """Stop the clock."""
        self._timer.cancel()
        self._retry.cancel()
        super().unrealize()

    def reset_device(self) -> None:
        """A new period, with all of its bytes."""
        self._asked = False
        self._timer.cancel()
        self.state.period_end = None
        self.state.quota = self.options.max_bytes

    def set_status(self, status: int) -> None:
        """Buffers may have been put there before."""
        if status & STATUS_DRIVER_OK:
            self.serve(0)

    def handle_queue(self, index: int) -> None:
        """Ask for bytes for the next buffer, if there is one and bytes are left in this period."""
        queue, state = self.queues[index], self.state
        self._serving = True
        try:
            while (
                not self._asked and state.status & STATUS_DRIVER_OK and (element := queue.pop()) is not None
            ):
                queue.unpop(element)
                if state.period_end is None:
                    state.period_end = self.machine.clock.now() + self.options.period * 1_000_000
                    self._timer.arm(state.period_end)
                wanted = min(_room(element), _LARGEST, state.quota)
                if not wanted:
                    return
                self._asked = True
                self._source.request(self.machine.mailboxes, wanted, partial(self._receive, self.dma.epoch))
        finally:
            self._serving = False

    def _receive(self, epoch: int, data: bytes) -> None:
        """Bytes have come; the device may have been reset or unplugged meanwhile, or the machine stopped."""
        if epoch != self.dma.epoch:
            return
        self._asked = False
        if not self.machine.clock.running:
            # Nothing of a stopped machine may change: ask again when time goes on.
            self._retry.arm(self.machine.clock.now())
            return
        self.attempt(self._fill, data)
        if not self._serving:
            self._serve()

    def _serve(self) -> None:
        self.serve(0)

    def _fill(self, data: bytes) -> None:
        queue = self.queues[0]
        element = queue.pop()
        if element is None:
            return
        given = 0
        for address, length in element.writable:
            part = data[given : given + length]
            if not part:
                break
            self.dma.write(address, part)
            given += len(part)
        self.state.quota -= given
        queue.push(element, given)
        queue.notify()

    def _next_period(self) -> None:
        self.state.period_end = None
        self.state.quota = self.options.max_bytes
        self.serve(0)

    def after_load(self) -> None:
        """Go on with the period, and ask again for what had been asked for."""
        super().after_load()
        self._asked = False
        if self.state.period_end is not None:
            self._timer.arm(self.state.period_end)
        else:
            self._timer.cancel()
        self._retry.arm(self.machine.clock.now())


def _room(element: Element) -> int:
    """How many bytes the buffer takes.  QueueError when it takes none: the driver would wait for ever."""
    if element.readable or not element.writable:
        raise QueueError("virtio-rng buffers are for the device to write")
    return sum(length for _, length in element.writable)
