"""A host bridge with its bus, in a machine with memory, and a driver of virtio devices behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.types.pci import GpexPcihostOptions
from qemud.hw.pci.gpex import GpexHost
from qemud.hw.virtio.mmio import Reg
from qemud.qom.device import Device, reset_tree
from qemud.qom.object import Container, Root
from tests.hw.support import Lines, Vm
from tests.hw.virtio.driver import Driver, add_ram

if TYPE_CHECKING:
    from qemud.hw.pci.device import PciDevice

ECAM, PIO, LOW, HIGH = 0x3000_0000, 0x300_0000, 0x4000_0000, 0x4_0000_0000


class Rig:
    """Devices are put on `pcie.0` with `add`; `read` and `write` are the processor's."""

    def __init__(self) -> None:
        self.vm, self.lines = Vm(), Lines()
        add_ram(self.vm)
        self.root = Root()
        self.host = self.root.add_child(
            "pci",
            GpexHost(
                GpexPcihostOptions(
                    x_ecam_base=ECAM,
                    x_ecam_size=1 << 28,
                    x_pio_base=PIO,
                    x_pio_size=1 << 16,
                    x_below_4g_mmio_base=LOW,
                    x_below_4g_mmio_size=1 << 30,
                    x_above_4g_mmio_base=HIGH,
                    x_above_4g_mmio_size=1 << 34,
                )
            ),
        )
        for line in range(4):
            self.host.connect(line, self.lines.line(line))
        self.host.bring_up(self.vm)
        self.devices = self.root.add_child("peripheral", Container())

    def add(self, name: str, device: Device, bus: Any = None, *, addr: str | None = None) -> Any:
        """Plug a device in."""
        device.options.addr = addr
        device.id = name
        self.devices.add_child(name, device)
        bus = bus or self.host.pci_bus
        device.bring_up(self.vm, bus)
        reset_tree(device)
        bus.plugged(device)
        reset_tree(self.root)  # as the machine is when all of it is there
        return device

    def reset(self) -> None:
        reset_tree(self.root)

    def read(self, address: int, size: int = 4) -> int:
        return int.from_bytes(self.vm.memory.read_physical(address, size), "little")

    def write(self, address: int, value: int, size: int = 4) -> None:
        section = self.vm.memory.find(address)
        assert section is not None
        section.cpu_write(address - section.base, value, size)

    def config(self, device: PciDevice) -> int:
        """Where a function's configuration space is."""
        return ECAM | device.bus.number << 20 | device.devfn << 12


COMMON = {
    Reg.DEVICE_FEATURES_SEL: (0x00, 4),
    Reg.DEVICE_FEATURES: (0x04, 4),
    Reg.DRIVER_FEATURES_SEL: (0x08, 4),
    Reg.DRIVER_FEATURES: (0x0C, 4),
    Reg.STATUS: (0x14, 1),
    Reg.QUEUE_SEL: (0x16, 2),
    Reg.QUEUE_NUM: (0x18, 2),
    Reg.QUEUE_NUM_MAX: (0x18, 2),
    Reg.QUEUE_READY: (0x1C, 2),
    Reg.QUEUE_DESC_LOW: (0x20, 4),
    Reg.QUEUE_DESC_HIGH: (0x24, 4),
    Reg.QUEUE_DRIVER_LOW: (0x28, 4),
    Reg.QUEUE_DRIVER_HIGH: (0x2C, 4),
    Reg.QUEUE_DEVICE_LOW: (0x30, 4),
    Reg.QUEUE_DEVICE_HIGH: (0x34, 4),
    Reg.CONFIG_GENERATION: (0x15, 1),
}
"""Where the registers of a slot are in the common configuration, and their sizes."""


class PciDriver(Driver):
    """The same driver by a function's registers, which it finds by the capabilities alone."""

    def __init__(self, rig: Rig, function: PciDevice, at: int = HIGH) -> None:
        self.rig = rig
        self.base = rig.config(function)
        super().__init__(rig.vm, None, None)  # type: ignore[arg-type]  # its registers are not used
        rig.write(self.base + 0x20, at & 0xFFFF_FFFF)
        rig.write(self.base + 0x24, at >> 32)
        rig.write(self.base + 4, 6, 2)
        self.places: dict[int, int] = {}
        self.capabilities: dict[int, list[int]] = {}
        position = rig.read(self.base + 0x34, 1)
        assert position != 0xFF
        while position:
            number = rig.read(self.base + position, 1)
            self.capabilities.setdefault(number, []).append(position)
            if number == 9 and rig.read(self.base + position + 4, 1) == 4:
                kind = rig.read(self.base + position + 3, 1)
                self.places.setdefault(kind, at + rig.read(self.base + position + 8))
                if kind == 2:
                    self.multiplier = rig.read(self.base + position + 16)
            position = rig.read(self.base + position + 1, 1)

    def get(self, register: int) -> int:
        if register == Reg.INTERRUPT_STATUS:
            return self.rig.read(self.places[3], 1)
        if register >= Reg.CONFIG:
            return self.rig.read(self.places[4] + register - Reg.CONFIG)
        offset, size = COMMON[register]
        return self.rig.read(self.places[1] + offset, size)

    def set(self, register: int, value: int) -> None:
        if register == Reg.QUEUE_NOTIFY:
            self.rig.write(self.places[2] + value * self.multiplier, value, 2)
        elif register >= Reg.CONFIG:
            self.rig.write(self.places[4] + register - Reg.CONFIG, value)
        elif register != Reg.INTERRUPT_ACK:  # reading has acknowledged it
            offset, size = COMMON[register]
            self.rig.write(self.places[1] + offset, value & (1 << 8 * size) - 1, size)
