"""The commands of `pci.json`: what is on the PCI buses.

Source of what is told of what: QEMU 10.0, hw/pci/pci-qmp-cmds.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.commands.pci import PciCommands
from qemud._generated.types.pci import (
    PciBridgeInfo,
    PciBusInfo,
    PciDeviceClass,
    PciDeviceId,
    PciDeviceInfo,
    PciInfo,
    PciMemoryRange,
    PciMemoryRegion,
)
from qemud.hw.pci.bridge import PciBridge
from qemud.hw.pci.classes import DESCRIPTIONS
from qemud.hw.pci.device import UNMAPPED
from qemud.hw.pci.gpex import GpexHost
from qemud.hw.pci.registers import BAR_MEM_64, BAR_PREFETCH, Reg

if TYPE_CHECKING:
    from qemud.hw.pci.bus import PciBus
    from qemud.hw.pci.device import PciDevice
    from qemud.machine.services import Services


class PciHandlers(PciCommands):
    """Handlers of `pci.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def query_pci(self) -> list[PciInfo]:
        """`query-pci`."""
        hosts = [node for node in self._services.tree.root.walk() if isinstance(node, GpexHost)]
        return await self._services.vm.mailboxes.call(
            lambda: [PciInfo(bus=host.pci_bus.number, devices=_devices(host.pci_bus)) for host in hosts]
        )


# On the machine thread.


def _devices(bus: PciBus) -> list[PciDeviceInfo]:
    return [_device(function, bus.number) for function in bus.functions() if function.realized]


def _device(device: PciDevice, number: int) -> PciDeviceInfo:
    config = device.config
    class_code = config.get16(Reg.CLASS_DEVICE)
    ids = PciDeviceId(device=config.get16(Reg.DEVICE_ID), vendor=config.get16(Reg.VENDOR_ID))
    if not device.bridge:
        ids.subsystem = config.get16(Reg.SUBSYSTEM_ID)
        ids.subsystem_vendor = config.get16(Reg.SUBSYSTEM_VENDOR_ID)
    pin = config.data[Reg.INTERRUPT_PIN]
    return PciDeviceInfo(
        bus=number,
        slot=device.slot,
        function=device.function,
        class_info=PciDeviceClass(desc=DESCRIPTIONS.get(class_code), class_=class_code),
        id=ids,
        irq=config.data[Reg.INTERRUPT_LINE] if pin else None,
        irq_pin=pin,
        qdev_id=device.id or "",
        pci_bridge=_bridge(device) if isinstance(device, PciBridge) else None,
        regions=_regions(device),
    )


def _regions(device: PciDevice) -> list[PciMemoryRegion]:
    mapped = {bar.number: address for bar, address in device.mapped()}
    found = []
    for number, bar in sorted(device.bars.items()):
        region = PciMemoryRegion(
            bar=number,
            type="io" if bar.io else "memory",
            address=mapped.get(number, UNMAPPED),
            size=bar.size,
        )
        if not bar.io:
            region.prefetch = bool(bar.kind & BAR_PREFETCH)
            region.mem_type_64 = bool(bar.kind & BAR_MEM_64)
        found.append(region)
    return found


def _bridge(bridge: PciBridge) -> PciBridgeInfo:
    data = bridge.config.data
    ranges = {
        kind: PciMemoryRange(base=base, limit=limit)
        for kind in ("io", "memory", "prefetchable")
        for base, limit in (bridge.window(kind),)
    }
    info = PciBridgeInfo(
        bus=PciBusInfo(
            number=data[Reg.PRIMARY_BUS],
            secondary=data[Reg.SECONDARY_BUS],
            subordinate=data[Reg.SUBORDINATE_BUS],
            io_range=ranges["io"],
            memory_range=ranges["memory"],
            prefetchable_range=ranges["prefetchable"],
        )
    )
    if data[Reg.SECONDARY_BUS]:
        info.devices = _devices(bridge.secondary)
    return info
