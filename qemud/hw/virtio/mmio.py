"""A slot for a virtio device behind memory-mapped registers (`virtio-mmio`).

An empty slot says what it is, but not that it holds a device: DeviceID is 0, which makes a driver pass it by.  All registers but the
first ones read as 0, and writing has no effect.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 4.2.2.
"""

from __future__ import annotations

from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud.qom.device import Bus, SysBusDevice

MAGIC = 0x7472_6976
"""The characters "virt"."""
VENDOR = 0x554D_4551
"""The characters "QEMU", by which drivers know the host."""

SIZE = 0x200


class Reg:
    """Offsets of the registers that an empty slot has."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C


class VirtioMmioBus(Bus, type_name="virtio-mmio-bus"):
    """Where the slot's device plugs in; there is room for one."""

    capacity = 1


class VirtioMmio(SysBusDevice, type_name="virtio-mmio", options=VirtioMmioOptions):
    """See the module.  `number` is the slot's, which its bus is named after."""

    options: VirtioMmioOptions

    def __init__(self, options: VirtioMmioOptions | None = None, *, number: int = 0) -> None:
        super().__init__(options)
        name = f"virtio-mmio-bus.{number}"
        self.virtio_bus = self.add_child(name, VirtioMmioBus(name))
        self.init_irq()

    def realize(self) -> None:
        """Claim the registers."""
        self.mmio.clear()
        self.init_mmio("virtio-mmio", SIZE)

    def reset_hold(self) -> None:
        """The interrupt line to low."""
        self.irqs[0].lower()

    def read(self, offset: int, size: int) -> int:
        """A load from a register; one of 8 bytes is of two."""
        if size == 8:
            return self.read(offset, 4) | self.read(offset + 4, 4) << 32
        match offset:
            case Reg.MAGIC_VALUE:
                return MAGIC
            case Reg.VERSION:
                return 1 if self.options.force_legacy else 2
            case Reg.VENDOR_ID:
                return VENDOR
            case _:
                return 0

    def write(self, offset: int, value: int, size: int) -> None:
        """There is nobody to write to."""
