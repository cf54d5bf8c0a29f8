"""PCI buses: which function is where, and which bus has which number.

A bus has 32 devices of 8 functions.  The number of a root bus is 0, that of any other is what the guest has written into the bridge
above it; it may be wrong, twice the same, or 0, which is the guest's loss.

Source: PCI-to-PCI Bridge Architecture Specification 1.2, section 3.1; texts and the order of checks: QEMU 10.0, hw/pci/pci.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from qemud.hw.pci.registers import Reg
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Bus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.hw.pci.bridge import PciBridge
    from qemud.hw.pci.device import PciDevice
    from qemud.hw.pci.gpex import GpexHost
    from qemud.qom.device import Device

_DEVFNS = 256


class PciBus(Bus, type_name="PCI"):
    """See the module.  `bridge` is what it is behind; None for a root bus, which is behind `host`."""

    express: ClassVar[bool] = False

    def __init__(self, bus_name: str, host: GpexHost, bridge: PciBridge | None = None) -> None:
        super().__init__(bus_name)
        self.host = host
        self.bridge = bridge
        self._functions: dict[int, PciDevice] = {}

    @property
    def number(self) -> int:
        """The bus number."""
        return self.bridge.config.data[Reg.SECONDARY_BUS] if self.bridge is not None else 0

    def at(self, devfn: int) -> PciDevice | None:
        """The function there."""
        return self._functions.get(devfn)

    def function_0(self, devfn: int) -> PciDevice | None:
        """The function that the guest looks for before it looks for this one."""
        # Behind a port there is one device only, whatever number it has.
        return self._functions.get(0 if self.express and self.bridge is not None else devfn & ~7)

    def functions(self) -> Iterator[PciDevice]:
        """All functions, in the order of their numbers."""
        functions = self._functions
        for devfn in sorted(functions):
            yield functions[devfn]

    def find(self, number: int) -> PciBus | None:
        """The bus of that number, this one or one behind it."""
        if number == self.number:
            return self
        for function in self.functions():
            bus = function.secondary
            if bus is None:
                continue
            data = function.config.data
            if data[Reg.SECONDARY_BUS] <= number <= data[Reg.SUBORDINATE_BUS]:
                found = bus.find(number)
                if found is not None:
                    return found
        return None

    # -- plugging ---------------------------------------------------------------------------------------------------

    def attach(self, device: Device) -> None:
        """Give a function its place.  Raises GenericError."""
        function: PciDevice = device  # type: ignore[assignment]  # the bus's type lets no others on
        if self.bridge is not None:
            self.bridge.before_plug(function)
        devfn = self._place(function)
        if function.hotplugged:
            self._check_late(function, devfn)
        self._check_functions(function, devfn)
        super().attach(device)
        function.devfn = devfn
        function.options.addr = f"{devfn >> 3:02x}.{devfn & 7:x}"
        self._functions[devfn] = function

    def detach(self, device: Device) -> None:
        """Take a function off."""
        function: PciDevice = device  # type: ignore[assignment]
        del self._functions[function.devfn]
        super().detach(device)

    def _place(self, device: PciDevice) -> int:
        """Where the function goes."""
        wanted = device.wanted_devfn()
        name = device.type_name
        if wanted is None:
            for devfn in range(0, _DEVFNS, 8):
                if devfn not in self._functions:
                    return devfn
            raise GenericError(f"PCI: no slot/function available for {name}, all in use or reserved")
        there = self._functions.get(wanted)
        if there is not None:
            raise GenericError(
                f"PCI: slot {wanted >> 3} function {wanted & 7} not available for {name}, "
                f"in use by {there.type_name},id={there.id if there.id is not None else '(null)'}"
            )
        return wanted

    def _check_late(self, device: PciDevice, devfn: int) -> None:
        """The guest looks for functions when function 0 comes: others have to be there by then."""
        first = self.function_0(devfn)
        if first is not None:
            raise GenericError(
                f"PCI: slot {first.slot} function 0 already occupied by {first.type_name}, "
                f"new func {device.type_name} cannot be exposed to guest."
            )

    def _check_functions(self, device: PciDevice, devfn: int) -> None:
        """Function 0 says whether there are more."""
        slot, function = devfn >> 3, devfn & 7
        if function:
            first = self._functions.get(devfn & ~7)
            if first is not None and not first.options.multifunction:
                raise GenericError(
                    f"PCI: single function device can't be populated in function {slot:x}.{function:x}"
                )
        elif not device.options.multifunction:
            for other in range(1, 8):
                if devfn | other in self._functions:
                    raise GenericError(
                        f"PCI: {slot:x}.0 indicates single function, "
                        f"but {slot:x}.{other:x} is already populated."
                    )

    # -- hot-plug, which is the business of the bridge ----------------------------------------------------------------

    def plugged(self, device: Device) -> None:
        """A function is realized: tell the guest."""
        if self.bridge is not None:
            self.bridge.plugged(device)  # type: ignore[arg-type]

    def request_unplug(self, device: Device) -> bool:
        """Ask the guest to let a function go; whether it may go at once.  Raises GenericError."""
        return self.bridge is None or self.bridge.request_unplug(device)  # type: ignore[arg-type]


class PcieBus(PciBus, type_name="PCIE"):
    """A bus of PCI Express: the root bus, or the link of a port."""

    express: ClassVar[bool] = True
