"""The commands of `inspection.json`: a look into the machine, for the human monitor and for people who debug by QMP."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from qemud import logs
from qemud._generated.commands.inspection import InspectionCommands
from qemud._generated.types.inspection import (
    AddressTranslation,
    CpuRegister,
    CpuRegisters,
    DeviceTreeBus,
    DeviceTreeDevice,
    DeviceTreeProperty,
    DeviceTreeRegisters,
    LogItemInfo,
    MemoryContents,
    MemoryRegionInfo,
    MemoryRegionKind,
)
from qemud._generated.types.options import LogItem
from qemud.hw.riscv.mmu import translate
from qemud.hw.riscv.registers import registers
from qemud.machine.descriptors import log_to_file
from qemud.machine.memory import ADDRESS_SPACE_END, MemoryFault
from qemud.qapi.runtime.errors import GenericError, QmpError
from qemud.qapi.runtime.fields import UNSET
from qemud.qom.device import Bus, Device, SysBusDevice
from qemud.qom.properties import property_info
from qemud.qom.types import types

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.memory import AddressSpace, Section
    from qemud.machine.services import Services

    Properties = dict[Device, list[DeviceTreeProperty]]

MAX_READ = 1 << 16
"""Bytes that one x-read-memory gives: less than 2 ms of the machine's time."""


class InspectionHandlers(InspectionCommands):
    """Handlers of `inspection.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def x_query_registers(self, *, cpu_index: int | None) -> CpuRegisters:
        """`x-query-registers`."""
        cpu = self._cpu(cpu_index or 0)
        found = await self._services.vm.mailboxes.call(registers, cpu.vcpu)
        return CpuRegisters(
            cpu_index=cpu.index, registers=[CpuRegister(name=name, value=value) for name, value in found]
        )

    async def x_read_memory(self, *, address: int, size: int, cpu_index: int | None) -> MemoryContents:
        """`x-read-memory`."""
        if size > MAX_READ:
            raise GenericError(f"Parameter 'size' expects at most {MAX_READ}")
        vm = self._services.vm
        locate: Callable[[int], tuple[int, int] | None]
        if cpu_index is None:

            def locate(position: int) -> tuple[int, int] | None:
                return position, ADDRESS_SPACE_END - position
        else:
            vcpu = self._cpu(cpu_index).vcpu

            def locate(position: int) -> tuple[int, int] | None:
                return translate(vcpu, vm.memory, position)

        data = await vm.mailboxes.call(_read, vm.memory, locate, address, size)
        return MemoryContents(data=base64.b64encode(data).decode("ascii"))

    async def x_translate_address(self, *, address: int, cpu_index: int | None) -> AddressTranslation:
        """`x-translate-address`."""
        vm, vcpu = self._services.vm, self._cpu(cpu_index or 0).vcpu
        found = await vm.mailboxes.call(translate, vcpu, vm.memory, address)
        return AddressTranslation(physical=None if found is None else found[0])

    async def x_query_mtree(self) -> list[MemoryRegionInfo]:
        """`x-query-mtree`."""
        vm = self._services.vm
        return await vm.mailboxes.call(lambda: [_region(section) for section in vm.memory])

    async def x_query_qtree(self) -> list[DeviceTreeBus]:
        """`x-query-qtree`."""
        buses = [node for node in self._services.tree.root.walk() if isinstance(node, Bus)]
        devices = [device for bus in buses for device in bus.devices]
        properties = await self._services.vm.mailboxes.call(
            lambda: {device: _properties(device) for device in devices}
        )
        return [
            _bus(bus, properties)
            for bus in buses
            if not isinstance(bus.parent, Device) or bus.parent.bus is None
        ]

    async def x_query_log(self) -> list[LogItemInfo]:
        """`x-query-log`."""
        return [LogItemInfo(name=item, enabled=item.value in logs.items) for item in LogItem]

    async def x_set_log(self, *, items: list[LogItem] | None, filename: str | None) -> None:
        """`x-set-log`."""
        if filename is not None:
            log_to_file(filename)
        if items is not None:
            wanted = {item.value for item in items}
            logs.items |= wanted
            logs.items &= wanted

    def _cpu(self, index: int) -> Any:
        """The processor of that number."""
        for node in self._services.tree.root.walk():
            if node.is_a("cpu") and node.index == index:
                return node
        raise GenericError("Parameter 'cpu-index' expects a CPU number")


def _read(
    memory: AddressSpace, locate: Callable[[int], tuple[int, int] | None], address: int, size: int
) -> bytes:
    """Up to `size` bytes, as far as there are some. Machine thread."""
    data = bytearray()
    while len(data) < size and (found := locate(address + len(data))) is not None:
        physical, left = found
        section = memory.find(physical)
        if section is None:
            break
        length = min(size - len(data), left, section.end - physical)
        # Registers one row at a time, so that a bad one costs no more than its neighbours.
        length = length if section.block is not None else min(length, 16 - physical % 16)
        try:
            data += memory.read_physical(physical, length)
        except MemoryFault:
            break
        if address + len(data) >= ADDRESS_SPACE_END:
            break
    return bytes(data)


def _region(section: Section) -> MemoryRegionInfo:
    # A device's region is known to the map by the device's path and the region's own name.
    owner, slash, name = section.name.rpartition("/")
    return MemoryRegionInfo(
        name=name if slash else section.name,
        owner=owner or None,
        base=section.base,
        size=section.size,
        kind=MemoryRegionKind(section.kind.value),
    )


def _bus(bus: Bus, properties: Properties) -> DeviceTreeBus:
    return DeviceTreeBus(
        name=bus.bus_name,
        type=bus.type_name,
        devices=[_device(device, properties) for device in reversed(bus.devices) if device in properties],
    )


def _device(device: Device, properties: Properties) -> DeviceTreeDevice:
    registers_ = []
    irqs = 0
    if isinstance(device, SysBusDevice):
        registers_ = [DeviceTreeRegisters(base=region.base, size=region.size) for region in device.mmio]
        irqs = len(device.irqs)
    return DeviceTreeDevice(
        driver=device.type_name,
        id=device.id,
        path=device.path,
        irqs=irqs,
        properties=properties[device],
        registers=registers_,
        buses=[_bus(child, properties) for child in device.children.values() if isinstance(child, Bus)],
    )


def _properties(device: Device) -> list[DeviceTreeProperty]:
    """What the device was given, and what has become of that. Machine thread."""
    return [
        DeviceTreeProperty(
            name=given.name, type=property_info(given, device=True).type, value=_value(device, given.name)
        )
        for given in types.properties(device.type_name)
        if given.writable
    ]


def _value(device: Device, name: str) -> Any:
    try:
        value = device.get_property(name)
    except QmpError:
        return UNSET
    return UNSET if value is None else value
