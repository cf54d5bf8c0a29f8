"""Root ports (`pcie-root-port`): slots of PCI Express, whose devices come and go (native hot-plug).

The slot has a power controller, a power indicator, an attention indicator, an attention button, and knows whether a device is there.
Its registers tell the guest's driver, which is told of changes by an interrupt.

    a device comes:  it is present, and the button is pressed; the driver switches power on, and finds it
    it is to go:     the button is pressed; the driver lets the indicator blink, then switches indicator and power off
    without power:   the device is taken out, which is when it is gone

The driver that lets the indicator blink and then shine again has refused: `DEVICE_UNPLUG_GUEST_ERROR`.

Source: PCI Express Base Specification 5.0, sections 6.7 (hot-plug) and 7.5.3 (registers); texts, and what happens when: QEMU 10.0,
hw/pci/pcie.c and hw/pci-bridge/pcie_root_port.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.pci import PcieRootPortOptions
from qemud.hw.pci.bridge import PciBridge
from qemud.hw.pci.express import (
    ERR_SIZE,
    add_access_control,
    add_error_capability,
    add_error_reports,
    add_express,
    set_link,
)
from qemud.hw.pci.msix import Msix
from qemud.hw.pci.registers import (
    ATTN_IND_OFF,
    CAP_SSVID,
    CAP_VENDOR,
    COMMAND_IO,
    CONFIG_SIZE,
    DEVCAP2_ARI,
    DEVCTL2_ARI,
    DEVCTL2_EETLPPB,
    PWR_IND_BLINK,
    PWR_IND_OFF,
    PWR_IND_ON,
    SLTCAP_ABP,
    SLTCAP_AIP,
    SLTCAP_EIP,
    SLTCAP_HPC,
    SLTCAP_HPS,
    SLTCAP_PCP,
    SLTCAP_PIP,
    SLTCAP_PSN_SHIFT,
    SLTCTL_ABPE,
    SLTCTL_AIC,
    SLTCTL_CCIE,
    SLTCTL_EIC,
    SLTCTL_HPIE,
    SLTCTL_PCC,
    SLTCTL_PDCE,
    SLTCTL_PIC,
    SLTSTA_ABP,
    SLTSTA_CC,
    SLTSTA_EIS,
    SLTSTA_MRLSC,
    SLTSTA_PDC,
    SLTSTA_PDS,
    SLTSTA_PFD,
    TYPE_ROOT_PORT,
    VENDOR_REDHAT,
    Exp,
    Reg,
)
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.hw.pci.device import PciDevice

_SSVID_AT = 0x40
_EXPRESS_AT = 0x54
_NOT_RESERVED = (1 << 64) - 1
_NO_BUSES = (1 << 32) - 1
_EVENTS = SLTSTA_ABP | SLTSTA_PDC | SLTSTA_CC
"""What the guest can be told of by an interrupt."""
_ALL_EVENTS = _EVENTS | SLTSTA_PFD | SLTSTA_MRLSC
_CONTROL_WRITABLE = (
    SLTCTL_PIC | SLTCTL_AIC | SLTCTL_HPIE | SLTCTL_CCIE | SLTCTL_PDCE | SLTCTL_ABPE | SLTCTL_EIC
)
_EBUSY = "Device or resource busy"


def _is_off(control: int) -> bool:
    """Whether the guest has switched the slot off: power, and the indicator that says so."""
    return bool(control & SLTCTL_PCC) and control & SLTCTL_PIC == PWR_IND_OFF


class PciePort(PciBridge, type_name="pcie-port", abstract=True):
    """An end of a link."""


class PcieSlot(PciePort, type_name="pcie-slot", abstract=True):
    """One that a device can be plugged into."""


class PcieRootPortBase(PcieSlot, type_name="pcie-root-port-base", abstract=True):
    """One of the root complex."""


class PcieRootPort(
    PcieRootPortBase,
    type_name="pcie-root-port",
    options=PcieRootPortOptions,
    user_creatable=True,
):
    """See the module."""

    device_id: ClassVar[int] = 0x000C
    express = True
    options: PcieRootPortOptions

    def realize(self) -> None:
        """Make the bus, where devices can come and go if the slot lets them."""
        super().realize()
        self.secondary.hotpluggable = self.options.hotplug

    # -- registers --------------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Bridge, link and slot."""
        options, config = self.options, self.config
        self._notified = False
        self._check_reserves()
        config.data[Reg.INTERRUPT_PIN] = 1
        self.close_windows()
        at = config.add_capability(CAP_SSVID, 8, _SSVID_AT)
        config.set16(at + 4, VENDOR_REDHAT)
        self.msix = Msix(self, 1, 0)
        self.express_at = exp = add_express(config, TYPE_ROOT_PORT, port=options.port, at=_EXPRESS_AT)
        config.set32(exp + Exp.DEVCAP2, config.get32(exp + Exp.DEVCAP2) | DEVCAP2_ARI)
        config.writable(exp + Exp.DEVCTL2, DEVCTL2_ARI | DEVCTL2_EETLPPB, 2)
        add_error_reports(config, exp)
        config.writable(exp + Exp.RTCTL, 0x7, 2)
        self._set_up_slot(exp)
        add_error_capability(config, CONFIG_SIZE, root=True)
        add_access_control(config, CONFIG_SIZE + ERR_SIZE)
        self._add_reserves()
        self._claim_slot()

    def _set_up_slot(self, exp: int) -> None:
        options, config = self.options, self.config
        config.set16(exp + Exp.FLAGS, config.get16(exp + Exp.FLAGS) | 0x100)
        slot = SLTCAP_EIP | SLTCAP_PIP | SLTCAP_AIP | SLTCAP_ABP | (options.slot & 0x1FFF) << SLTCAP_PSN_SHIFT
        if options.hotplug:
            slot |= SLTCAP_HPS | SLTCAP_HPC
        writable = _CONTROL_WRITABLE
        if options.power_controller_present:
            slot |= SLTCAP_PCP
            writable |= SLTCTL_PCC
        config.set32(exp + Exp.SLTCAP, slot)
        config.set16(exp + Exp.SLTCTL, PWR_IND_OFF | ATTN_IND_OFF)
        config.writable(exp + Exp.SLTCTL, writable, 2)
        config.write_1_to_clear(exp + Exp.SLTSTA, _EVENTS, 2)
        config.changes(exp + Exp.SLTSTA, 0xFFFF, 2)

    def _check_reserves(self) -> None:
        options = self.options
        if _NOT_RESERVED not in {options.pref32_reserve, options.pref64_reserve}:
            raise GenericError("PCI resource reserve cap: PREF32 and PREF64 conflict")
        if 1 << 32 <= options.mem_reserve != _NOT_RESERVED:
            raise GenericError("PCI resource reserve cap: mem-reserve must be less than 4G")
        if 1 << 32 <= options.pref32_reserve != _NOT_RESERVED:
            raise GenericError("PCI resource reserve cap: pref32-reserve  must be less than 4G")

    def _add_reserves(self) -> None:
        """What firmware is asked to keep free, in a capability of Red Hat's."""
        options, config = self.options, self.config
        wide = (options.io_reserve, options.mem_reserve, options.pref32_reserve, options.pref64_reserve)
        if options.bus_reserve != _NO_BUSES or any(value != _NOT_RESERVED for value in wide):
            at = config.add_capability(CAP_VENDOR, 32)
            config.data[at + 2] = 32
            config.data[at + 3] = 1
            config.set32(at + 4, options.bus_reserve)
            config.set(at + 8, options.io_reserve, 8)
            config.set32(at + 16, options.mem_reserve & _NO_BUSES)
            config.set32(at + 20, options.pref32_reserve & _NO_BUSES)
            config.set(at + 24, options.pref64_reserve, 8)
        if options.io_reserve == 0:
            mask = int.from_bytes(config.write_mask[Reg.COMMAND : Reg.COMMAND + 2], "little")
            config.writable(Reg.COMMAND, mask & ~COMMAND_IO, 2)
            config.writable(Reg.IO_BASE, 0, 2)

    def _claim_slot(self) -> None:
        """Slots of one chassis have different numbers."""
        place = self.options.chassis, self.options.slot
        if self.host.slots.setdefault(place, self) is not self:
            raise GenericError("Can't add chassis slot, error -16")

    def take_apart(self) -> None:
        """The slot's number is free."""
        self.host.slots.pop((self.options.chassis, self.options.slot), None)

    def reset_enter(self) -> None:
        """The slot is on where a device is in it, and off where none is."""
        super().reset_enter()
        config, exp = self.config, self.express_at
        config.change16(exp + Exp.SLTSTA, SLTSTA_EIS | SLTSTA_CC | SLTSTA_PDC | SLTSTA_ABP, 0)
        if self.options.power_controller_present:
            populated = self.secondary.at(0) is not None
            # The indicator is off either way, as in QEMU; the guest's driver sets it to what it finds.
            config.change16(exp + Exp.SLTCTL, SLTCTL_PCC, 0 if populated else SLTCTL_PCC)
        self._notified = False

    def reset_hold(self) -> None:
        """Power, as the registers say."""
        super().reset_hold()
        self._update_power()

    def after_load(self) -> None:
        """The same."""
        super().after_load()
        for function in self.secondary.functions():
            function.powered = self._power
        self.host.invalidate()
        self._update_notified()

    @property
    def _control(self) -> int:
        return self.config.get16(self.express_at + Exp.SLTCTL)

    @property
    def _status(self) -> int:
        return self.config.get16(self.express_at + Exp.SLTSTA)

    @property
    def _power(self) -> bool:
        return not (self.options.power_controller_present and self._control & SLTCTL_PCC)

    def _change_status(self, clear: int, put: int) -> None:
        self.config.change16(self.express_at + Exp.SLTSTA, clear, put)

    def config_write(self, offset: int, value: int, size: int) -> None:
        """A store to the configuration space."""
        control, status = self._control, self._status
        super().config_write(offset, value, size)
        at = self.express_at + Exp.SLTSTA
        if offset < at + 2 and offset + size > at:
            written = value << 8 * (offset - at) if offset >= at else value >> 8 * (at - offset)
            if written & ~status & _ALL_EVENTS:
                # Drivers clear all events when they begin.  One that came in between must not be lost.
                self._change_status(_ALL_EVENTS, status & _ALL_EVENTS)
            self._notify()
        at = self.express_at + Exp.SLTCTL
        if offset < at + 2 and offset + size > at:
            self._control_written(control)

    def _control_written(self, before: int) -> None:
        """Carry out what the guest wants of the slot, and say that it is done."""
        if self._control & SLTCTL_EIC:
            self.config.change16(self.express_at + Exp.SLTCTL, SLTCTL_EIC, 0)
            self._change_status(self._status & SLTSTA_EIS, ~self._status & SLTSTA_EIS)
        now = self._control
        # A slot that was off already is not emptied: drivers write its registers before they switch it on.
        if self._status & SLTSTA_PDS and _is_off(now) and not _is_off(before):
            self._empty()
        elif before & SLTCTL_PIC == PWR_IND_BLINK and now & SLTCTL_PIC == PWR_IND_ON:
            for function in self.secondary.functions():
                if function.unplug_requested:
                    function.unplug_refused()
        self._update_power()
        self._notify()
        self._event(SLTSTA_CC)

    def _update_power(self) -> None:
        for function in tuple(self.secondary.functions()):
            function.set_power(on=self._power)

    # -- interrupts -------------------------------------------------------------------------------------------------

    def _event(self, event: int) -> None:
        if self._status & event != event:
            self._change_status(0, event)
            self._notify()

    def _update_notified(self) -> bool:
        """Whether that has changed: whether there is an event that the guest wants to know of."""
        before = self._notified
        control = self._control
        self._notified = bool(control & SLTCTL_HPIE) and bool(self._status & control & _EVENTS)
        return before != self._notified

    def _notify(self) -> None:
        if not self._update_notified():
            return
        if self.msix is not None and self.msix.enabled:
            if self._notified:
                self.msix.notify(0)
        else:
            self.set_irq(self._notified)

    # -- the slot ---------------------------------------------------------------------------------------------------

    def _check_slot(self, what: str) -> None:
        if not self.options.hotplug:
            raise GenericError(f"Hot-{what} failed: unsupported by the port device '{self.id or '(null)'}'")
        self._check_lock()

    def _check_lock(self) -> None:
        if self._status & SLTSTA_EIS:
            raise GenericError(f"slot is electromechanically locked: {_EBUSY}")

    def before_plug(self, device: PciDevice) -> None:
        """A device that comes while the guest runs needs a slot that can take it."""
        if device.hotplugged:
            self._check_slot("plug")
        else:
            self._check_lock()

    def plugged(self, device: PciDevice) -> None:
        """A device is in the slot; of one that comes late the guest is told with its function 0."""
        if not device.hotplugged:
            self._show()
            self._update_power()
        elif self.secondary.function_0(device.devfn) is not None:
            self._show()
            self._event(SLTSTA_PDC | SLTSTA_ABP)
            self._update_power()
        else:
            device.set_power(on=self._power)

    def _show(self) -> None:
        self._change_status(0, SLTSTA_PDS)
        set_link(self.config, self.express_at, active=True)

    def request_unplug(self, device: PciDevice) -> bool:
        """Press the button.

        What is in a slot that is off goes without the guest's word, as does a function that it has not seen yet.
        """
        self._check_slot("unplug")
        if self._control & SLTCTL_PIC == PWR_IND_BLINK:
            raise GenericError("Hot-unplug failed: guest is busy (power indicator blinking)")
        if device.devfn and self.secondary.at(0) is None:
            return True
        if _is_off(self._control):
            self._empty()
            self._notify()
            self._change_status(SLTSTA_ABP, 0)
            return False
        self._event(SLTSTA_ABP)
        return False

    def _empty(self) -> None:
        """The guest has let go of the device: take out all of its functions."""
        for function in tuple(self.secondary.functions()):
            function.leave()
        self._hide()

    def _hide(self) -> None:
        self._change_status(SLTSTA_PDS, SLTSTA_PDC)
        set_link(self.config, self.express_at, active=False)
