"""Bridges to conventional PCI: `pcie-pci-bridge`, from PCI Express, and `pci-bridge`, from PCI.

Devices behind them stay: these bridges have no hot-plug controller.

Source: PCI Express to PCI/PCI-X Bridge Specification 1.0, chapter 5; texts and ids: QEMU 10.0, hw/pci-bridge/pcie_pci_bridge.c and
hw/pci-bridge/pci_bridge_dev.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.pci import PciBridgeDevOptions
from qemud.hw.pci.bridge import PciBridge
from qemud.hw.pci.bus import PciBus
from qemud.hw.pci.express import (
    add_error_capability,
    add_error_reports,
    add_express,
    add_power_management,
)
from qemud.hw.pci.registers import (
    CAP_SLOTID,
    CONFIG_SIZE,
    DEVCAP2_ARI,
    DEVCTL2_ARI,
    DEVCTL2_EETLPPB,
    STATUS_66MHZ,
    STATUS_FAST_BACK,
    TYPE_PCI_BRIDGE,
    Exp,
    Reg,
)
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.hw.pci.config import ConfigSpace

_SLOTID_FIRST = 0x20


class _ConventionalBridge(PciBridge):
    """What both have in common."""

    secondary_type: ClassVar[type[PciBus]] = PciBus

    def _fill(self, config: ConfigSpace) -> None:
        super()._fill(config)
        config.set16(Reg.STATUS, STATUS_66MHZ | STATUS_FAST_BACK)
        config.set16(Reg.SEC_STATUS, STATUS_66MHZ | STATUS_FAST_BACK)
        config.data[Reg.INTERRUPT_PIN] = 1


class PciePciBridge(_ConventionalBridge, type_name="pcie-pci-bridge", user_creatable=True):
    """See the module."""

    device_id: ClassVar[int] = 0x000E
    express = True

    def set_up(self) -> None:
        """What it says of itself to PCI Express."""
        config = self.config
        self.express_at = exp = add_express(config, TYPE_PCI_BRIDGE)
        self.pm_at = add_power_management(config, states=0)
        config.set32(exp + Exp.DEVCAP2, config.get32(exp + Exp.DEVCAP2) | DEVCAP2_ARI)
        config.writable(exp + Exp.DEVCTL2, DEVCTL2_ARI | DEVCTL2_EETLPPB, 2)
        add_error_reports(config, exp)
        add_error_capability(config, CONFIG_SIZE, root=False)


class PciBridgeDev(
    _ConventionalBridge, type_name="pci-bridge", options=PciBridgeDevOptions, user_creatable=True
):
    """See the module."""

    device_id: ClassVar[int] = 0x0001
    options: PciBridgeDevOptions

    def set_up(self) -> None:
        """In which chassis its slots are."""
        chassis = self.options.chassis_nr
        if not chassis:
            raise GenericError(
                "Bridge chassis not specified. Each bridge is required to be assigned a unique chassis id > 0."
            )
        at = self.config.add_capability(CAP_SLOTID, 4)
        self.config.data[at + 2] = _SLOTID_FIRST
        self.config.data[at + 3] = chassis
