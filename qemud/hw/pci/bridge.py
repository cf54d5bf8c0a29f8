"""Bridges: functions with a bus behind them.

The guest gives that bus a number, and tells the bridge which addresses lead there.

Source: PCI-to-PCI Bridge Architecture Specification 1.2, chapter 3; which bits can be written: QEMU 10.0, hw/pci/pci.c and
hw/pci/pci_bridge.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from qemud.hw.pci.bus import PciBus, PcieBus
from qemud.hw.pci.device import PciDevice
from qemud.hw.pci.registers import (
    BRIDGE_CTL_BUS_RESET,
    CLASS_BRIDGE_PCI,
    COMMAND_IO,
    COMMAND_MEMORY,
    HEADER_BRIDGE,
    VENDOR_REDHAT,
    Reg,
)
from qemud.qom.device import reset_tree

if TYPE_CHECKING:
    from qemud.hw.pci.config import ConfigSpace

    Range = tuple[int, int]

_PREF_64 = 0x01
_CONTROL_WRITABLE = 0x0F47
_CONTROL_CLEARABLE = 0x0400


class PciBridge(PciDevice, type_name="base-pci-bridge", abstract=True):
    """See the module.  `secondary` is the bus behind it, while the bridge is realized."""

    bridge: ClassVar[bool] = True
    vendor_id: ClassVar[int] = VENDOR_REDHAT
    class_code: ClassVar[int] = CLASS_BRIDGE_PCI
    secondary_type: ClassVar[type[PciBus]] = PcieBus
    secondary: PciBus

    def realize(self) -> None:
        """Make the bus behind it."""
        kind = self.secondary_type
        name = self.id or f"{kind.type_name.lower()}.{self.bus.host.next_bus_number()}"
        self.secondary = self.add_child(name, kind(name, self.bus.host, self))
        try:
            super().realize()
        except BaseException:
            self.abandon(name)
            raise

    def unrealize(self) -> None:
        """Take it away."""
        super().unrealize()
        self.abandon(self.secondary.name)

    def _fill(self, config: ConfigSpace) -> None:
        super()._fill(config)
        config.data[Reg.HEADER_TYPE] |= HEADER_BRIDGE
        config.writable(Reg.PRIMARY_BUS, 0xFF_FFFF, 3)
        if not self.secondary_type.express:
            config.writable(Reg.SEC_LATENCY_TIMER, 0xFF, 1)
        config.writable(Reg.IO_BASE, 0xF0F0, 2)
        config.write_1_to_clear(Reg.SEC_STATUS, 0xF900, 2)
        config.writable(Reg.MEMORY_BASE, 0xFFF0_FFF0, 4)
        config.writable(Reg.PREF_MEMORY_BASE, 0xFFF0_FFF0, 4)
        config.set32(Reg.PREF_MEMORY_BASE, _PREF_64 | _PREF_64 << 16)
        config.writable(Reg.PREF_BASE_UPPER32, (1 << 64) - 1, 8)
        config.writable(Reg.BRIDGE_CONTROL, _CONTROL_WRITABLE, 2)
        config.write_1_to_clear(Reg.BRIDGE_CONTROL, _CONTROL_CLEARABLE, 2)

    def close_windows(self) -> None:
        """Let nothing through: every base above its limit."""
        config = self.config
        config.data[Reg.IO_BASE] |= 0xF0
        config.set16(Reg.MEMORY_BASE, 0xFFF0)
        config.change16(Reg.PREF_MEMORY_BASE, 0, 0xFFF0)

    # What it passes on.

    def window(self, kind: str) -> Range:
        """First and last address of the ``io``, ``memory`` or ``prefetchable`` window, which is closed where the last is lower."""
        config = self.config
        if kind == "io":
            base = (config.data[Reg.IO_BASE] & 0xF0) << 8
            return base, (config.data[Reg.IO_LIMIT] & 0xF0) << 8 | 0xFFF
        if kind == "memory":
            base = (config.get16(Reg.MEMORY_BASE) & 0xFFF0) << 16
            return base, (config.get16(Reg.MEMORY_LIMIT) & 0xFFF0) << 16 | 0xF_FFFF
        base = (config.get16(Reg.PREF_MEMORY_BASE) & 0xFFF0) << 16 | config.get32(Reg.PREF_BASE_UPPER32) << 32
        limit = (config.get16(Reg.PREF_MEMORY_LIMIT) & 0xFFF0) << 16
        return base, limit | config.get32(Reg.PREF_LIMIT_UPPER32) << 32 | 0xF_FFFF

    def passed(self, *, io: bool) -> list[Range]:
        """The addresses that lead to the bus behind it: first, and one past the last."""
        if not self.config.get16(Reg.COMMAND) & (COMMAND_IO if io else COMMAND_MEMORY):
            return []
        windows = [self.window(kind) for kind in (("io",) if io else ("memory", "prefetchable"))]
        return [(base, limit + 1) for base, limit in windows if base <= limit]

    def config_write(self, offset: int, value: int, size: int) -> None:
        """A store to the configuration space; one bit resets all that is behind the bridge."""
        before = self.config.get16(Reg.BRIDGE_CONTROL)
        super().config_write(offset, value, size)
        after = self.config.get16(Reg.BRIDGE_CONTROL)
        if after & ~before & BRIDGE_CTL_BUS_RESET:
            for function in tuple(self.secondary.functions()):
                reset_tree(function)

    # Hot-plug.

    def before_plug(self, device: PciDevice) -> None:
        """A function is about to come.  Raises GenericError."""

    def plugged(self, device: PciDevice) -> None:
        """A function has come."""

    def request_unplug(self, device: PciDevice) -> bool:
        """Whether a function may go at once.  Raises GenericError."""
        del device
        return True
