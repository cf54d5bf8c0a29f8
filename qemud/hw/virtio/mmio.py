"""A slot for a virtio device behind memory-mapped registers (`virtio-mmio`).

An empty slot says what it is, but not that it holds a device: DeviceID is 0, which makes a driver pass it by.  All registers but the
first ones read as 0, and writing has no effect.

With `force-legacy` the slot is of version 1, the interface from before the standard, where the driver gives the page
number of a ring whose layout follows from its size and alignment.

Source: Virtual I/O Device (VIRTIO) Version 1.2, sections 4.2.2 and 4.2.4.  QueueNumMax is 1024 whatever the device's own choice is, as
in QEMU 10.0 (hw/virtio/virtio-mmio.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud._generated.types.virtio import VirtioMmioState
from qemud.hw.virtio.device import STATUS_FEATURES_OK, TransportStatus, VirtioBus
from qemud.hw.virtio.queue import MAX_SIZE
from qemud.logs import guest_error
from qemud.qom.device import SysBusDevice

if TYPE_CHECKING:
    from qemud.hw.virtio.device import VirtioDevice
    from qemud.hw.virtio.queue import VirtQueue

MAGIC = 0x7472_6976
"""The characters "virt"."""
VENDOR = 0x554D_4551
"""The characters "QEMU", by which drivers know the host."""

SIZE = 0x200
QUEUES_MAX = 1024
"""One that cannot be is not selected; the one before stays so."""
_M32 = 0xFFFF_FFFF
_WRONG_VERSION = "access to a register of the other version"

INTERRUPT_QUEUE = 1
INTERRUPT_CONFIG = 2


class Reg:
    """Offsets of the registers."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    GUEST_PAGE_SIZE = 0x028  # legacy
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_ALIGN = 0x03C  # legacy
    QUEUE_PFN = 0x040  # legacy
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_SEL = 0x0AC
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    QUEUE_RESET = 0x0C0
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100


_LEGACY = frozenset((Reg.GUEST_PAGE_SIZE, Reg.QUEUE_ALIGN, Reg.QUEUE_PFN))
_MODERN = frozenset(
    (
        Reg.QUEUE_READY,
        Reg.QUEUE_DESC_LOW,
        Reg.QUEUE_DESC_HIGH,
        Reg.QUEUE_DRIVER_LOW,
        Reg.QUEUE_DRIVER_HIGH,
        Reg.QUEUE_DEVICE_LOW,
        Reg.QUEUE_DEVICE_HIGH,
        Reg.SHM_SEL,
        Reg.SHM_LEN_LOW,
        Reg.SHM_LEN_HIGH,
        Reg.SHM_BASE_LOW,
        Reg.SHM_BASE_HIGH,
        Reg.QUEUE_RESET,
        Reg.CONFIG_GENERATION,
    )
)

_ADDRESSES = {
    Reg.QUEUE_DESC_LOW: ("desc", 0),
    Reg.QUEUE_DESC_HIGH: ("desc", 32),
    Reg.QUEUE_DRIVER_LOW: ("avail", 0),
    Reg.QUEUE_DRIVER_HIGH: ("avail", 32),
    Reg.QUEUE_DEVICE_LOW: ("used", 0),
    Reg.QUEUE_DEVICE_HIGH: ("used", 32),
}
"""Which half of which of a queue's addresses."""


class VirtioMmioBus(VirtioBus, type_name="virtio-mmio-bus"):
    """Where the slot's device plugs in."""


class VirtioMmio(SysBusDevice, type_name="virtio-mmio", options=VirtioMmioOptions, state=VirtioMmioState):
    """See the module.  `number` is the slot's, which its bus is named after."""

    options: VirtioMmioOptions
    state: VirtioMmioState
    features = 0

    def __init__(self, options: VirtioMmioOptions | None = None, *, number: int = 0) -> None:
        super().__init__(options)
        name = f"virtio-mmio-bus.{number}"
        self.virtio_bus = self.add_child(name, VirtioMmioBus(name, self))
        self.device: VirtioDevice | None = None
        self.init_irq()

    def realize(self) -> None:
        """Claim the registers."""
        self.mmio.clear()
        self.init_mmio("virtio-mmio", SIZE)

    def reset_enter(self) -> None:
        """The state after power-on; the device resets itself."""
        self.state = VirtioMmioState()

    def reset_hold(self) -> None:
        """The interrupt line to low."""
        self.irqs[0].lower()

    def after_load(self) -> None:
        """Drive the line as it was."""
        self._update_line()

    # The device's transport.

    @property
    def modern(self) -> bool:
        """Whether the slot is of version 2."""
        return not self.options.force_legacy

    def plugged(self, device: VirtioDevice) -> None:
        """Show the device."""
        self.device = device

    def unplugged(self) -> None:
        """The slot is empty again."""
        self.device = None
        self.state = VirtioMmioState()
        self._update_line()

    def queue_interrupt(self, index: int) -> None:  # noqa: ARG002 - other transports have a line for each queue
        """Bit 0 of InterruptStatus, whichever queue it is."""
        state = self.state
        if not state.interrupt_status & INTERRUPT_QUEUE:
            state.interrupt_status |= INTERRUPT_QUEUE
            self.irqs[0].raise_()

    def config_interrupt(self) -> None:
        """Bit 1; and bit 0, since QEMU does so and drivers have got used to it."""
        self.state.interrupt_status |= INTERRUPT_CONFIG | INTERRUPT_QUEUE
        self.irqs[0].raise_()

    def transport_status(self) -> TransportStatus:
        """For those who look for faults."""
        return TransportStatus(self.state.interrupt_status, self.state.queue_sel)

    def _update_line(self) -> None:
        self.irqs[0].set(self.state.interrupt_status != 0)

    # Registers.

    def read(self, offset: int, size: int) -> int:
        """A load from a register."""
        device = self.device
        if offset == Reg.INTERRUPT_STATUS and device is not None and size == 4:
            return self.state.interrupt_status
        if size == 8:
            return self.read(offset, 4) | self.read(offset + 4, 4) << 32
        if device is None:
            return self._identify(offset)
        if offset >= Reg.CONFIG:
            return device.read_config(offset - Reg.CONFIG, size)
        if size != 4:
            guest_error("virtio", "wrong size access to register", offset=offset, size=size)
            return 0
        return self._load(device, offset)

    def _identify(self, offset: int) -> int:
        """The registers that also an empty slot has."""
        match offset:
            case Reg.MAGIC_VALUE:
                return MAGIC
            case Reg.VERSION:
                return 1 if self.options.force_legacy else 2
            case Reg.VENDOR_ID:
                return VENDOR
            case _:
                return 0

    def _load(self, device: VirtioDevice, offset: int) -> int:
        state = self.state
        queue = self._queue(device)
        if self._other_version(offset):
            return 0
        match offset:
            case Reg.MAGIC_VALUE | Reg.VERSION | Reg.VENDOR_ID:
                return self._identify(offset)
            case Reg.DEVICE_ID:
                return device.device_id
            case Reg.DEVICE_FEATURES:
                offered = device.offered(legacy=not self.modern)
                return offered >> 32 & _M32 if state.device_features_sel else offered & _M32
            case Reg.QUEUE_NUM_MAX:
                return MAX_SIZE if queue is not None else 0
            case Reg.QUEUE_PFN if queue is not None:
                return queue.desc >> state.guest_page_shift & _M32
            case Reg.QUEUE_READY if queue is not None:
                return int(queue.ready)
            case Reg.STATUS:
                return device.state.status
            case Reg.CONFIG_GENERATION:
                return device.state.generation
            case Reg.SHM_LEN_LOW | Reg.SHM_LEN_HIGH | Reg.SHM_BASE_LOW | Reg.SHM_BASE_HIGH:
                return _M32  # no such region
            case _:
                if offset not in {Reg.QUEUE_RESET, Reg.QUEUE_PFN, Reg.QUEUE_READY}:
                    guest_error("virtio", "read of no readable register", offset=offset)
                return 0

    def write(self, offset: int, value: int, size: int) -> None:
        """A store to a register."""
        device = self.device
        if device is None:
            return
        if offset == Reg.QUEUE_NOTIFY and size == 4:
            device.driver_notify(value & 0xFFFF)
        elif offset == Reg.INTERRUPT_ACK and size == 4:
            self.state.interrupt_status &= ~value
            self._update_line()
        elif size == 8:
            self.write(offset, value & _M32, 4)
            self.write(offset + 4, value >> 32, 4)
        elif offset >= Reg.CONFIG:
            device.store_config(offset - Reg.CONFIG, value, size)
        elif size != 4:
            guest_error("virtio", "wrong size access to register", offset=offset, size=size)
        elif not self._other_version(offset):
            self._store(device, offset, value)

    def _store(self, device: VirtioDevice, offset: int, value: int) -> None:
        state = self.state
        match offset:
            case Reg.DEVICE_FEATURES_SEL:
                state.device_features_sel = int(value != 0)
            case Reg.DRIVER_FEATURES_SEL:
                state.driver_features_sel = int(value != 0)
            case Reg.DRIVER_FEATURES:
                self._take_features(device, value)
            case Reg.QUEUE_SEL if value < QUEUES_MAX:
                state.queue_sel = value
            case Reg.STATUS:
                self._set_status(device, value)
            case Reg.GUEST_PAGE_SIZE:
                # A power of two; what is none has the lowest bit set count, as in QEMU.
                shift = (value & -value).bit_length() - 1
                state.guest_page_shift = max(shift, 0)
            case Reg.SHM_SEL:
                pass
            case _:
                queue = self._queue(device)
                if queue is not None:
                    self._store_queue(device, queue, offset, value)

    def _store_queue(self, device: VirtioDevice, queue: VirtQueue, offset: int, value: int) -> None:
        """A store to a register of the selected queue."""
        if offset in _ADDRESSES:
            name, shift = _ADDRESSES[offset]
            address = getattr(queue, name) & ~(_M32 << shift) | value << shift
            setattr(queue, name, address)
            return
        match offset:
            case Reg.QUEUE_NUM:
                queue.set_size(value)
            case Reg.QUEUE_ALIGN if value:
                queue.align = value
            case Reg.QUEUE_PFN:
                if value:
                    address = value << self.state.guest_page_shift
                    device.attempt(queue.place_legacy, address, device.state.features)
                else:
                    self._reset_device(device)
            case Reg.QUEUE_READY:
                if value and not queue.ready:
                    device.enable_queue(queue.index)
                elif not value and queue.ready:
                    device.disable_queue(queue.index)
            case Reg.QUEUE_RESET if value:
                device.clear_queue(queue.index)
            case _:
                guest_error("virtio", "write to no writable register", offset=offset)

    def _take_features(self, device: VirtioDevice, value: int) -> None:
        state = self.state
        if self.modern:
            shift = 32 if state.driver_features_sel else 0
            state.driver_features = state.driver_features & ~(_M32 << shift) | value << shift
        elif not state.driver_features_sel:
            device.driver_features(value)

    def _set_status(self, device: VirtioDevice, value: int) -> None:
        value &= 0xFF
        if not value:
            self._reset_device(device)
            return
        if self.modern and value & STATUS_FEATURES_OK and not device.state.status & STATUS_FEATURES_OK:
            taken = device.driver_features(self.state.driver_features)
            if not taken:
                value &= ~STATUS_FEATURES_OK
        device.driver_status(value)

    def _reset_device(self, device: VirtioDevice) -> None:
        self.state = VirtioMmioState(guest_page_shift=self.state.guest_page_shift)
        self._update_line()
        device.reset()

    def _queue(self, device: VirtioDevice) -> VirtQueue | None:
        """The queue that QueueSel selects."""
        number = self.state.queue_sel
        return device.queues[number] if number < len(device.queues) else None

    def _other_version(self, offset: int) -> bool:
        """Whether the register is one that only the other version of the interface has."""
        wrong = offset in (_LEGACY if self.modern else _MODERN)
        if wrong:
            guest_error("virtio", _WRONG_VERSION, offset=offset)
        return wrong
