"""The host bridge of the board `virt`: a generic PCI Express host whose configuration space lies in memory (`gpex-pcihost`).

Function n of device d on bus b has its 4 KiB of configuration space at b << 20 | d << 15 | n << 12.  Four interrupt lines lead to the
board's interrupt controller; pin p of device d drives line (d + p) mod 4.

Source: PCI Express Base Specification 5.0, section 7.2.2 (ECAM); QEMU 10.0, hw/pci-host/gpex.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.pci import GpexPcihostOptions
from qemud.hw.pci.bus import PcieBus
from qemud.hw.pci.device import PciDevice
from qemud.hw.pci.registers import CLASS_BRIDGE_HOST, VENDOR_REDHAT
from qemud.hw.pci.windows import Window
from qemud.qom.device import SysBusDevice

if TYPE_CHECKING:
    from qemud.hw.pci.bus import PciBus

_PINS = 4
_PIO_SIZE = 0x1_0000


class GpexRoot(PciDevice, type_name="gpex-root"):
    """Device 0 of the root bus: the host bridge as the guest finds it there."""

    vendor_id: ClassVar[int] = VENDOR_REDHAT
    device_id: ClassVar[int] = 0x0008
    class_code: ClassVar[int] = CLASS_BRIDGE_HOST


class PciHostBridge(SysBusDevice, type_name="pci-host-bridge", abstract=True):
    """Where the board ends and PCI begins."""


class PcieHostBridge(PciHostBridge, type_name="pcie-host-bridge", abstract=True):
    """The same, for PCI Express."""


class GpexHost(PcieHostBridge, type_name="gpex-pcihost", options=GpexPcihostOptions):
    """See the module."""

    options: GpexPcihostOptions

    def __init__(self, options: GpexPcihostOptions | None = None) -> None:
        super().__init__(options)
        self.pci_bus = self.add_child("pcie.0", PcieBus("pcie.0", self))
        self.root_function = self.add_child("gpex_root", GpexRoot())
        self.root_function.options.addr = "0.0"
        self.init_irq(_PINS)
        self._asserted: list[set[PciDevice]] = [set() for _ in range(_PINS)]
        self._windows: list[Window] = []
        self._buses: dict[int, PciBus | None] = {}
        self._named = 0
        self.slots: dict[tuple[int, int], PciDevice] = {}
        """The ports by number of chassis and slot."""

    def next_bus_number(self) -> int:
        """For the name of a bus whose bridge has no id."""
        self._named += 1
        return self._named

    def realize(self) -> None:
        """Claim the addresses that the options say."""
        options = self.options
        self.mmio.clear()
        self._windows.clear()
        if options.x_ecam_size:
            self.init_mmio("pcie-mmcfg-mmio", options.x_ecam_size, max_access=8)
            self.map(0, options.x_ecam_base)
        low, high = options.x_below_4g_mmio_base, options.x_above_4g_mmio_base
        for name, start, base, size, io in (
            ("gpex_ioport_window", options.x_pio_base, 0, min(options.x_pio_size, _PIO_SIZE), True),
            (f"gpex_mmio_window @{low:016x}", low, low, options.x_below_4g_mmio_size, False),
            (f"gpex_mmio_window @{high:016x}", high, high, options.x_above_4g_mmio_size, False),
        ):
            if size:
                window = Window(self, base, size, io=io, start=start)
                self._windows.append(window)
                self.init_mmio(name, size, window)
                self.map(len(self.mmio) - 1, start)
        self.root_function.bring_up(self.machine, self.pci_bus)

    def reset_hold(self) -> None:
        """Lines to low, as all pins are."""
        for line, devices in zip(self.irqs, self._asserted, strict=True):
            line.set(bool(devices))

    # For the functions.

    def invalidate(self) -> None:
        """Something has changed of who answers where, or of the buses' numbers."""
        self._buses.clear()
        for window in self._windows:
            window.stale = True

    def drive(self, line: int, device: PciDevice, *, level: bool) -> None:
        """A function drives one of the lines, which is high while any does."""
        devices = self._asserted[line]
        if level:
            devices.add(device)
        else:
            devices.discard(device)
        self.irqs[line].set(bool(devices))

    # The configuration space.

    def _function(self, offset: int) -> PciDevice | None:
        number = offset >> 20
        buses = self._buses
        if number in buses:
            bus = buses[number]
        else:
            bus = buses[number] = self.pci_bus.find(number)
        if bus is None:
            return None
        function = bus.at(offset >> 12 & 0xFF)
        return function if function is not None and function.visible else None

    def read(self, offset: int, size: int) -> int:
        """A load from a function's configuration space; all ones where there is none."""
        if size == 8:
            return self.read(offset, 4) | self.read(offset + 4, 4) << 32
        function = self._function(offset)
        return (1 << 8 * size) - 1 if function is None else function.config_read(offset & 0xFFF, size)

    def write(self, offset: int, value: int, size: int) -> None:
        """A store there."""
        if size == 8:
            self.write(offset, value & 0xFFFF_FFFF, 4)
            self.write(offset + 4, value >> 32, 4)
            return
        function = self._function(offset)
        if function is not None:
            function.config_write(offset & 0xFFF, value, size)
