"""Virtio over PCI: the ports that drivers from before the standard use.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 4.1.4.10 (legacy interface).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.hw.pci.registers import COMMAND_MASTER, Reg
from qemud.hw.virtio.device import STATUS_ACKNOWLEDGE, STATUS_DRIVER
from qemud.hw.virtio.modern_registers import QUEUES_MAX
from qemud.logs import guest_error

if TYPE_CHECKING:
    from qemud.hw.virtio.device import VirtioDevice
    from qemud.hw.virtio.pci import VirtioPci
    from qemud.hw.virtio.queue import VirtQueue

_PAGE_SHIFT = 12


class Port:
    """Offsets of the ports."""

    DEVICE_FEATURES = 0x00
    DRIVER_FEATURES = 0x04
    QUEUE_ADDRESS = 0x08
    QUEUE_SIZE = 0x0C
    QUEUE_SELECT = 0x0E
    QUEUE_NOTIFY = 0x10
    DEVICE_STATUS = 0x12
    ISR_STATUS = 0x13
    CONFIG_MSIX_VECTOR = 0x14
    QUEUE_MSIX_VECTOR = 0x16


_CONFIG_AT = 0x14
_CONFIG_AT_MSIX = 0x18


class LegacyPorts:
    """See the module.  `size` is how many there are."""

    def __init__(self, function: VirtioPci) -> None:
        self._function = function
        begin = _CONFIG_AT_MSIX if function.msix is not None else _CONFIG_AT
        self.size = begin + len(function.backend.config())

    @property
    def _config_at(self) -> int:
        """Where the device's own configuration begins: behind the ports for messages while these are in use."""
        msix = self._function.msix
        return _CONFIG_AT_MSIX if msix is not None and msix.enabled else _CONFIG_AT

    def _queue(self, device: VirtioDevice) -> VirtQueue | None:
        number = self._function.state.queue_select
        return device.queues[number] if number < len(device.queues) else None

    def read(self, offset: int, size: int) -> int:
        """A load."""
        device = self._function.device
        ones = (1 << 8 * size) - 1
        if device is None:
            return ones
        begin = self._config_at
        if offset >= begin:
            return device.read_config(offset - begin, size)
        return self._load(device, offset) & ones

    def _load(self, device: VirtioDevice, offset: int) -> int:
        function = self._function
        state = function.state
        match offset:
            case Port.DEVICE_FEATURES:
                return device.offered(legacy=True)
            case Port.DRIVER_FEATURES:
                return device.state.features & 0xFFFF_FFFF
            case Port.QUEUE_SELECT:
                return state.queue_select
            case Port.DEVICE_STATUS:
                return device.state.status
            case Port.ISR_STATUS:
                return function.read_isr()
            case Port.CONFIG_MSIX_VECTOR:
                return state.config_vector
        queue = self._queue(device)
        match offset:
            case Port.QUEUE_ADDRESS:
                return 0 if queue is None else queue.desc >> _PAGE_SHIFT
            case Port.QUEUE_SIZE:
                return 0 if queue is None else queue.size
            case Port.QUEUE_MSIX_VECTOR if queue is not None:
                return state.queue_vectors[queue.index]
        return 0xFFFF_FFFF

    def write(self, offset: int, value: int, size: int) -> None:
        """A store."""
        device = self._function.device
        if device is None:
            return
        begin = self._config_at
        if offset >= begin:
            device.store_config(offset - begin, value, size)
        else:
            self._store(device, offset, value)

    def _store(self, device: VirtioDevice, offset: int, value: int) -> None:
        function = self._function
        state = function.state
        queue = self._queue(device)
        match offset:
            case Port.DRIVER_FEATURES:
                device.driver_features(value)
            case Port.QUEUE_ADDRESS if value == 0:
                function.reset_device()
            case Port.QUEUE_ADDRESS if queue is not None:
                device.attempt(queue.place_legacy, value << _PAGE_SHIFT, device.state.features)
            case Port.QUEUE_SELECT:
                if value < QUEUES_MAX:
                    state.queue_select = value
            case Port.QUEUE_NOTIFY:
                function.notify(value & 0xFFFF)
            case Port.DEVICE_STATUS:
                self._store_status(device, value & 0xFF)
            case Port.CONFIG_MSIX_VECTOR:
                state.config_vector = function.vector(value & 0xFFFF)
            case Port.QUEUE_MSIX_VECTOR if queue is not None:
                state.queue_vectors[queue.index] = function.vector(value & 0xFFFF)
            case _:
                guest_error("virtio", "write to no writable port", offset=offset)

    def _store_status(self, device: VirtioDevice, value: int) -> None:
        if not value:
            self._function.reset_device()
            return
        device.driver_status(value)
        if value == STATUS_ACKNOWLEDGE | STATUS_DRIVER:
            # Old drivers do not let the function reach into memory, and expect that it does.
            self._function.config.change16(Reg.COMMAND, 0, COMMAND_MASTER)
