"""Functions of PCI devices: configuration space, base addresses, interrupts.

    class Thing(PciDevice, type_name="thing", options=PciDeviceOptions):
        vendor_id, device_id, class_code = 0x1234, 0x5678, 0x00FF

        def set_up(self) -> None:
            self.config.data[Reg.INTERRUPT_PIN] = 1
            self.add_bar(0, registers, 0x1000)

        ...
            self.set_irq(1)                    the pin; or self.msix.notify(0)

The function's registers answer where the guest has mapped them, as far as the bridges above let it through (`windows.py`): nothing that
a guest writes here can be in the way of RAM or of the board's own devices.

Source: PCI Local Bus Specification 3.0, chapter 6; what a reset does, and texts: QEMU 10.0, hw/pci/pci.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.pci import PciDeviceOptions, PciDeviceState, PciDeviceStatus
from qemud.hw.pci.config import ConfigSpace
from qemud.hw.pci.registers import (
    BAR_IO,
    BAR_MEM_64,
    COMMAND_INTX_DISABLE,
    COMMAND_IO,
    COMMAND_MASTER,
    COMMAND_MEMORY,
    COMMAND_PARITY,
    COMMAND_SERR,
    CONFIG_SIZE,
    DEVCTL_FLR,
    EXTENDED_SIZE,
    HEADER_MULTI_FUNCTION,
    STATUS_INTERRUPT,
    STATUS_WRITE_1_TO_CLEAR,
    SUBSYSTEM_DEFAULT,
    VENDOR_QUMRANET,
    Exp,
    Reg,
)
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Device, reset_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from qemud.hw.pci.bus import PciBus
    from qemud.hw.pci.gpex import GpexHost
    from qemud.hw.pci.msix import Msix

    class BarOps(Protocol):
        """Who answers accesses to a base address register's addresses: 1, 2 or 4 bytes at a time, aligned."""

        def read(self, offset: int, size: int) -> int:
            """A load."""

        def write(self, offset: int, value: int, size: int) -> None:
            """A store."""


UNMAPPED = -1
_END_32 = 0xFFFF_FFFF
_END_64 = (1 << 64) - 1
_COMMAND_WRITABLE = (
    COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_PARITY | COMMAND_SERR | COMMAND_INTX_DISABLE
)


class Bar:
    """A base address register: `size` bytes, a power of two, of memory or ports; `kind` are its low bits."""

    __slots__ = ("kind", "number", "offset", "ops", "size")

    def __init__(self, number: int, ops: BarOps, size: int, kind: int) -> None:
        self.number = number
        self.offset = Reg.BASE_ADDRESS_0 + 4 * number
        self.ops = ops
        self.size = size
        self.kind = kind

    @property
    def io(self) -> bool:
        """Whether its addresses are ports."""
        return bool(self.kind & BAR_IO)

    def address(self, config: ConfigSpace) -> int:
        """Where the guest has mapped it; `UNMAPPED` where it has not, or where it would wrap around."""
        if not config.get16(Reg.COMMAND) & (COMMAND_IO if self.io else COMMAND_MEMORY):
            return UNMAPPED
        wide = not self.io and self.kind & BAR_MEM_64
        address = config.get(self.offset, 8 if wide else 4) & ~(self.size - 1)
        last = address + self.size - 1
        return UNMAPPED if last >= (_END_64 if wide else _END_32) else address


class PciDevice(
    Device,
    type_name="pci-device",
    abstract=True,
    options=PciDeviceOptions,
    status=PciDeviceStatus,
    state=PciDeviceState,
    bus_type="PCI",
):
    """See the module."""

    vendor_id: ClassVar[int] = VENDOR_QUMRANET
    device_id: ClassVar[int] = 0
    revision: ClassVar[int] = 0
    class_code: ClassVar[int] = 0
    bridge: ClassVar[bool] = False
    express: bool = False
    """Whether it has the extended configuration space."""

    options: PciDeviceOptions
    state: PciDeviceState
    bus: PciBus
    config: ConfigSpace
    host: GpexHost

    devfn: int
    secondary: PciBus | None = None
    """The bus behind it, if it is a bridge."""
    powered = True
    """Whether its slot has power: without, it is not there for the guest."""

    def set_up(self) -> None:
        """Fill in the configuration space.  Raises GenericError."""

    def take_apart(self) -> None:
        """Give back what `set_up` claimed."""

    # -- life -------------------------------------------------------------------------------------------------------

    @property
    def slot(self) -> int:
        """The device number."""
        return self.devfn >> 3

    @property
    def function(self) -> int:
        """The function number."""
        return self.devfn & 7

    def status(self) -> PciDeviceStatus:
        """The number of its bus."""
        return PciDeviceStatus(busnr=self.bus.number if self.realized else 0)

    def wanted_devfn(self) -> int | None:
        """What `addr` says: device number times 8 plus function number.  Raises GenericError."""
        text = self.options.addr
        if text is None:
            return None
        slot, dot, function = text.partition(".")
        try:
            numbers = int(slot, 16), int(function, 16) if dot else 0
        except ValueError:
            numbers = (-1, -1)
        if not (0 <= numbers[0] < 32 and 0 <= numbers[1] < 8):
            raise GenericError(f"Property '{self.type_name}.addr' doesn't take value '{text}'")
        return numbers[0] << 3 | numbers[1]

    def realize(self) -> None:
        """Make the configuration space and show it to the guest."""
        self.host = self.bus.host
        self.bars: dict[int, Bar] = {}
        self.msix: Msix | None = None
        self.express_at = 0  # where the PCI Express capability is, if there is one
        self.pm_at = 0  # the same for power management
        self._driven = False
        self.config = config = ConfigSpace(EXTENDED_SIZE if self.express else CONFIG_SIZE)
        self._fill(config)
        self.set_up()
        self._line = self._route_pin()
        self._initial = bytes(config.data)
        self.host.invalidate()

    def _fill(self, config: ConfigSpace) -> None:
        """The header."""
        config.set16(Reg.VENDOR_ID, self.vendor_id)
        config.set16(Reg.DEVICE_ID, self.device_id)
        config.data[Reg.REVISION_ID] = self.revision
        config.set16(Reg.CLASS_DEVICE, self.class_code)
        config.writable(Reg.COMMAND, _COMMAND_WRITABLE, 2)
        config.write_1_to_clear(Reg.STATUS, STATUS_WRITE_1_TO_CLEAR, 2)
        config.changes(Reg.STATUS, STATUS_INTERRUPT, 2)
        config.writable(Reg.CACHE_LINE_SIZE, 0xFF, 1)
        config.writable(Reg.INTERRUPT_LINE, 0xFF, 1)
        if not self.bridge:
            config.set16(Reg.SUBSYSTEM_VENDOR_ID, VENDOR_QUMRANET)
            config.set16(Reg.SUBSYSTEM_ID, SUBSYSTEM_DEFAULT)
        if self.options.multifunction:
            config.data[Reg.HEADER_TYPE] |= HEADER_MULTI_FUNCTION

    def _route_pin(self) -> int:
        """Which of the host bridge's lines the pin leads to: every bridge on the way up turns the pins by a device number."""
        pin = max(self.config.data[Reg.INTERRUPT_PIN] - 1, 0)
        node: PciDevice | None = self
        while node is not None:
            pin = (node.slot + pin) % 4
            node = node.bus.bridge
        return pin

    def unrealize(self) -> None:
        """Be no longer there."""
        self._drive(level=False)
        self.take_apart()
        self.host.invalidate()

    def reset_enter(self) -> None:
        """What the guest has written is gone."""
        config = self.config
        for offset, initial in enumerate(self._initial):
            mask = config.write_mask[offset] | config.clear_mask[offset]
            if mask:
                config.data[offset] = config.data[offset] & ~mask | initial & mask
        if self.msix is not None:
            self.msix.reset()
        self.state.irq_level = False
        self.host.invalidate()

    def reset_hold(self) -> None:
        """The pin to low."""
        self.set_irq(0)

    # -- for the device's author ------------------------------------------------------------------------------------

    def add_bar(self, number: int, ops: BarOps, size: int, kind: int = 0) -> Bar:
        """Answer at addresses of the guest's choice: `size` bytes, a power of two; `kind` is made of BAR_…."""
        assert size & (size - 1) == 0
        assert number not in self.bars
        bar = self.bars[number] = Bar(number, ops, size, kind)
        config = self.config
        config.set32(bar.offset, kind)
        wide = not bar.io and kind & BAR_MEM_64
        config.writable(bar.offset, -size & (_END_64 if wide else _END_32), 8 if wide else 4)
        return bar

    def set_irq(self, level: int) -> None:
        """Drive the interrupt pin."""
        self.state.irq_level = bool(level)
        self.config.change16(Reg.STATUS, STATUS_INTERRUPT, STATUS_INTERRUPT if level else 0)
        self._update_pin()

    @property
    def bus_master(self) -> bool:
        """Whether the guest lets it reach into memory."""
        return self.powered and bool(self.config.data[Reg.COMMAND] & COMMAND_MASTER)

    def _update_pin(self) -> None:
        disabled = self.config.get16(Reg.COMMAND) & COMMAND_INTX_DISABLE
        self._drive(level=self.state.irq_level and not disabled)

    def _drive(self, *, level: bool) -> None:
        if level != self._driven:
            self._driven = level
            self.host.drive(self._line, self, level=level)

    # -- for the bus ------------------------------------------------------------------------------------------------

    @property
    def visible(self) -> bool:
        """Whether the guest sees it: a device that came late shows when its function 0 is there."""
        return self.powered and (not self.hotplugged or self.bus.function_0(self.devfn) is not None)

    @property
    def awake(self) -> bool:
        """Whether its registers answer: it has power, and has not been told to sleep."""
        return self.powered and not (self.pm_at and self.config.data[self.pm_at + 4] & 3)

    def mapped(self) -> Iterator[tuple[Bar, int]]:
        """The base address registers that answer, and where."""
        if not self.awake:
            return
        for number in sorted(self.bars):
            bar = self.bars[number]
            address = bar.address(self.config)
            if address != UNMAPPED:
                yield bar, address

    def config_read(self, offset: int, size: int) -> int:
        """A load from the configuration space: 1, 2 or 4 bytes, aligned."""
        if offset + size > self.config.size:
            return (1 << 8 * size) - 1
        return self.config.get(offset, size)

    def config_write(self, offset: int, value: int, size: int) -> None:
        """A store to the configuration space: 1, 2 or 4 bytes, aligned."""
        config = self.config
        if offset + size > config.size:
            return
        config.write(offset, value, size)
        if offset < Reg.INTERRUPT_LINE or (self.pm_at and self.pm_at <= offset < self.pm_at + 8):
            # Command, base addresses, windows of bridges, power state.
            self.host.invalidate()
        if offset < Reg.REVISION_ID:
            self._update_pin()
        msix = self.msix
        if msix is not None and offset <= msix.offset + 3 and offset + size > msix.offset + 2:
            msix.config_written()
        if self.express_at and config.write_mask[self.express_at + Exp.DEVCTL + 1] & DEVCTL_FLR >> 8:
            control = self.express_at + Exp.DEVCTL
            if config.change16(control, DEVCTL_FLR, 0) & DEVCTL_FLR:
                reset_tree(self)

    def set_power(self, *, on: bool) -> None:
        """Switch it on or off, as the slot's power control does."""
        if on == self.powered:
            return
        self.powered = on
        self.host.invalidate()
        if not on:
            reset_tree(self)

    # -- state ------------------------------------------------------------------------------------------------------

    def before_save(self) -> None:
        """Note what the registers are."""
        state = self.state
        state.config = self.config.data.hex()
        if self.msix is not None:
            state.msix_table = self.msix.table.hex()
            state.msix_pending = self.msix.pending.hex()

    def check_state(self, state: PciDeviceState) -> None:
        """Refuse what no function like this can be in."""
        problem = self.config.problem(_bytes(state.config))
        table, pending = _bytes(state.msix_table), _bytes(state.msix_pending)
        if not problem and self.msix is not None:
            problem = self.msix.problem(table, pending)
        elif not problem and (table or pending):
            problem = "interrupt messages, here it has none"
        if problem:
            raise GenericError(problem)

    def after_load(self) -> None:
        """Take on the registers."""
        self.config.data[:] = _bytes(self.state.config)
        if self.msix is not None:
            self.msix.table[:] = _bytes(self.state.msix_table)
            self.msix.pending[:] = _bytes(self.state.msix_pending)
        self.set_irq(self.state.irq_level)
        self.host.invalidate()


def _bytes(text: str) -> bytes:
    """Bytes from hexadecimal digits.  Raises GenericError."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise GenericError("registers are not written in hexadecimal") from None
