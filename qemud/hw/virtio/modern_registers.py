"""Virtio over PCI: the registers that drivers of the standard use.

    0x0000  common configuration        0x2000  the device's own configuration
    0x1000  interrupt status            0x3000  notifications, of queue n at n times the multiplier

Source: Virtual I/O Device (VIRTIO) Version 1.2, sections 4.1.4.3 to 4.1.4.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.hw.virtio.device import STATUS_FEATURES_OK
from qemud.logs import guest_error

if TYPE_CHECKING:
    from qemud.hw.virtio.device import VirtioDevice
    from qemud.hw.virtio.pci import VirtioPci
    from qemud.hw.virtio.queue import VirtQueue

_BLOCK = 0x1000
_ISR, _DEVICE = 1, 2
NOTIFY_AT = 0x3000
CONFIG_CAPABILITY = 5

CAPABILITIES = (
    (1, 0x0000, _BLOCK, 16),
    (3, 0x1000, _BLOCK, 16),
    (4, 0x2000, _BLOCK, 16),
    (2, NOTIFY_AT, 0, 20),
)
"""Of each block: type, offset, size (0: depends on the multiplier), length of its capability."""

QUEUES_MAX = 1024
"""One that cannot be is not selected; the one before stays so."""
_M32 = 0xFFFF_FFFF


class Common:
    """Offsets in the common configuration."""

    DEVICE_FEATURE_SELECT = 0x00
    DEVICE_FEATURE = 0x04
    DRIVER_FEATURE_SELECT = 0x08
    DRIVER_FEATURE = 0x0C
    CONFIG_MSIX_VECTOR = 0x10
    NUM_QUEUES = 0x12
    DEVICE_STATUS = 0x14
    CONFIG_GENERATION = 0x15
    QUEUE_SELECT = 0x16
    QUEUE_SIZE = 0x18
    QUEUE_MSIX_VECTOR = 0x1A
    QUEUE_ENABLE = 0x1C
    QUEUE_NOTIFY_OFF = 0x1E
    QUEUE_DESC = 0x20
    QUEUE_DRIVER = 0x28
    QUEUE_DEVICE = 0x30
    QUEUE_RESET = 0x3A


_ADDRESSES = {
    Common.QUEUE_DESC: ("desc", 0),
    Common.QUEUE_DESC + 4: ("desc", 32),
    Common.QUEUE_DRIVER: ("avail", 0),
    Common.QUEUE_DRIVER + 4: ("avail", 32),
    Common.QUEUE_DEVICE: ("used", 0),
    Common.QUEUE_DEVICE + 4: ("used", 32),
}
"""Which half of which of a queue's addresses."""


class ModernRegisters:
    """See the module."""

    def __init__(self, function: VirtioPci, multiplier: int) -> None:
        self._function = function
        self._multiplier = multiplier

    def read(self, offset: int, size: int) -> int:
        """A load."""
        function = self._function
        device = function.device
        if device is None:
            return (1 << 8 * size) - 1
        if offset >= NOTIFY_AT:
            return 0
        block, offset = divmod(offset, _BLOCK)
        if block == _ISR:
            return function.read_isr()
        if block == _DEVICE:
            return device.read_config(offset, size)
        return self._load(device, offset)

    def write(self, offset: int, value: int, size: int) -> None:
        """A store."""
        function = self._function
        device = function.device
        if device is None:
            return
        if offset >= NOTIFY_AT:
            function.notify((offset - NOTIFY_AT) // self._multiplier)
            return
        block, offset = divmod(offset, _BLOCK)
        if block == _DEVICE:
            device.store_config(offset, value, size)
        elif block != _ISR:
            self._store(device, offset, value)

    def _queue(self, device: VirtioDevice) -> VirtQueue | None:
        number = self._function.state.queue_select
        return device.queues[number] if number < len(device.queues) else None

    # Common configuration.

    def _load(self, device: VirtioDevice, offset: int) -> int:
        state = self._function.state
        match offset:
            case Common.DEVICE_FEATURE_SELECT:
                return state.device_feature_select
            case Common.DEVICE_FEATURE:
                select = state.device_feature_select
                return device.offered(legacy=False) >> 32 * select & _M32 if select < 2 else 0
            case Common.DRIVER_FEATURE_SELECT:
                return state.driver_feature_select
            case Common.DRIVER_FEATURE:
                select = state.driver_feature_select
                return state.driver_features >> 32 * select & _M32 if select < 2 else 0
            case Common.CONFIG_MSIX_VECTOR:
                return state.config_vector
            case Common.NUM_QUEUES:
                return len(device.queues)
            case Common.DEVICE_STATUS:
                return device.state.status
            case Common.CONFIG_GENERATION:
                return device.state.generation & 0xFF
            case Common.QUEUE_SELECT:
                return state.queue_select
        queue = self._queue(device)
        return 0 if queue is None else self._load_queue(queue, offset)

    def _load_queue(self, queue: VirtQueue, offset: int) -> int:
        if offset in _ADDRESSES:
            name, shift = _ADDRESSES[offset]
            address: int = getattr(queue, name)
            return address >> shift & _M32
        match offset:
            case Common.QUEUE_SIZE:
                return queue.size
            case Common.QUEUE_MSIX_VECTOR:
                return self._function.state.queue_vectors[queue.index]
            case Common.QUEUE_ENABLE:
                return int(queue.ready)
            case Common.QUEUE_NOTIFY_OFF:
                return queue.index
        return 0

    def _store(self, device: VirtioDevice, offset: int, value: int) -> None:
        function = self._function
        state = function.state
        match offset:
            case Common.DEVICE_FEATURE_SELECT:
                state.device_feature_select = value
            case Common.DRIVER_FEATURE_SELECT:
                state.driver_feature_select = value
            case Common.DRIVER_FEATURE:
                if state.driver_feature_select < 2:
                    shift = 32 * state.driver_feature_select
                    state.driver_features = state.driver_features & ~(_M32 << shift) | value << shift
            case Common.CONFIG_MSIX_VECTOR:
                state.config_vector = function.vector(value)
            case Common.DEVICE_STATUS:
                self._store_status(device, value & 0xFF)
            case Common.QUEUE_SELECT:
                if value < QUEUES_MAX:
                    state.queue_select = value
            case _:
                queue = self._queue(device)
                if queue is not None:
                    self._store_queue(device, queue, offset, value)

    def _store_status(self, device: VirtioDevice, value: int) -> None:
        if not value:
            self._function.reset_device()
            return
        if value & STATUS_FEATURES_OK and not device.state.status & STATUS_FEATURES_OK:
            taken = device.driver_features(self._function.state.driver_features)
            if not taken:
                value &= ~STATUS_FEATURES_OK
        device.driver_status(value)

    def _store_queue(self, device: VirtioDevice, queue: VirtQueue, offset: int, value: int) -> None:
        if offset in _ADDRESSES:
            name, shift = _ADDRESSES[offset]
            address = getattr(queue, name) & ~(_M32 << shift) | value << shift
            setattr(queue, name, address)
            return
        match offset:
            case Common.QUEUE_SIZE:
                queue.set_size(value)
            case Common.QUEUE_MSIX_VECTOR:
                function = self._function
                function.state.queue_vectors[queue.index] = function.vector(value)
            case Common.QUEUE_ENABLE:
                if value == 1:
                    device.enable_queue(queue.index)
                else:
                    device.fail(f"wrong value for queue_enable {value:x}")
            case Common.QUEUE_RESET if value == 1:
                device.clear_queue(queue.index)
            case _:
                guest_error("virtio", "write to no writable register", offset=offset)
