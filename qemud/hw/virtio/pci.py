"""Virtio over PCI: a function that a virtio device is behind.

The function is what the user makes; the virtio device is its child `virtio-backend`, on its bus `virtio-bus`, and has those of its
properties that are no function's.

Drivers of the standard find four blocks of registers in base address 4, by capabilities: common configuration, interrupt status, the
device's own configuration, notifications; a fifth capability reaches the same through the configuration space.  Legacy drivers use
ports in base address 0.  Base address 1 has the interrupt messages.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 4.1; which base address is for what, and texts: QEMU 10.0,
hw/virtio/virtio-pci.c.
"""

from __future__ import annotations

import importlib
from types import new_class
from typing import TYPE_CHECKING, Any, ClassVar

from qemud._generated.types.common import OnOffAuto
from qemud._generated.types.virtio_pci import VirtioPciOptions, VirtioPciState
from qemud.hw.pci.device import PciDevice
from qemud.hw.pci.express import add_endpoint_controls, add_express, add_power_management
from qemud.hw.pci.msix import MAX_VECTORS, NO_VECTOR, Msix
from qemud.hw.pci.registers import (
    BAR_IO,
    BAR_MEM_64,
    BAR_PREFETCH,
    CAP_VENDOR,
    COMMAND_MASTER,
    TYPE_ENDPOINT,
    Reg,
)
from qemud.hw.virtio.device import STATUS_DRIVER_OK, TransportStatus, VirtioBus, VirtioDevice
from qemud.hw.virtio.functions import KINDS, SUFFIXES, VARIANTS, Kind
from qemud.hw.virtio.legacy_ports import LegacyPorts
from qemud.hw.virtio.modern_registers import (
    CAPABILITIES,
    CONFIG_CAPABILITY,
    NOTIFY_AT,
    QUEUES_MAX,
    ModernRegisters,
)
from qemud.hw.virtio.queue import FEATURE_BAD
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.types import types
from qemud.qom.values import attribute_of

if TYPE_CHECKING:
    from qemud.qom.properties import Provenance

ISR_QUEUE = 1
ISR_CONFIG = 2
_LEGACY_BAR, _MSIX_BAR, _MODERN_BAR = 0, 1, 4
_DEVICE_ID_BASE = 0x1040
_UNSPECIFIED = (1 << 32) - 1
_POWER_STATES = 3


class VirtioPciBus(VirtioBus, type_name="virtio-pci-bus"):
    """Where the function's device plugs in."""


class VirtioPci(
    PciDevice, type_name="virtio-pci", abstract=True, options=VirtioPciOptions, state=VirtioPciState
):
    """See the module.  `device` is the virtio device behind it, while that is realized."""

    kind: ClassVar[Kind]
    variant: ClassVar[str] = ""
    features = FEATURE_BAD
    state: VirtioPciState
    options: Any  # a struct of the kind's own, with the members of VirtioPciOptions

    def __init__(self, options: Any = None, *, creator: Provenance | None = None) -> None:
        super().__init__(options, **({} if creator is None else {"creator": creator}))
        self.device: VirtioDevice | None = None
        self.legacy = self.modern = False
        self.virtio_bus = self.add_child("virtio-bus", VirtioPciBus("virtio-bus", self))
        cls = types.find(f"{self.kind.name}-device")
        assert cls is not None
        assert issubclass(cls, VirtioDevice)
        self.backend = self.add_child("virtio-backend", cls())
        for given in types.properties(cls.type_name):
            if not given.writable:
                self.add_alias(given.name, self.backend, given.name)
        self._share_options()

    def _share_options(self) -> None:
        """Give the device the options that are its own."""
        options = self.backend.options
        for name in options.__struct_fields__:
            setattr(options, name, getattr(self.options, name))
        for name, type_name in self.backend.links.items():
            self.backend.set_link(name, type_name, self.link(name))

    def shown_option(self, name: str) -> Any:
        """The device's own options are shown as it shows them."""
        owner = (
            self.backend if hasattr(self.backend.options, attribute_of(type(self.options), name)) else None
        )
        return super().shown_option(name) if owner is None else owner.shown_option(name)

    def property_changed(self, name: str) -> None:
        """One of the device's own options may change while it is in use."""
        if self.in_use and self.backend.find_property(name) is not None:
            self._share_options()
            self.backend.property_changed(name)

    async def claim(self, services: Any) -> None:
        """Take the device's backends."""
        self._share_options()
        await self.backend.claim(services)

    async def give_up(self) -> None:
        """Give them back."""
        await self.backend.give_up()

    # -- setting up -------------------------------------------------------------------------------------------------

    def realize(self) -> None:
        """Decide which drivers can use it."""
        behind_port = self.bus.express and self.bus.bridge is not None
        self.modern, self.legacy = self._interfaces(behind_port=behind_port)
        self.express = behind_port and self.modern
        super().realize()

    def _interfaces(self, *, behind_port: bool) -> tuple[bool, bool]:
        """Whether drivers of the standard, and legacy ones, can use it."""
        if self.variant:
            modern, legacy = True, self.variant == "Transitional"
        else:
            given: OnOffAuto = self.options.disable_legacy
            legacy = not behind_port if given is OnOffAuto.AUTO else given is OnOffAuto.OFF
            modern = not self.options.disable_modern
        if not modern and not legacy:
            raise GenericError("device cannot work as neither modern nor legacy mode is enabled")
        if legacy and self.options.iommu_platform:
            raise GenericError(
                "VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor transitional device"
            )
        return modern, legacy

    def set_up(self) -> None:
        """Bring up the device behind it, and show how it is reached."""
        config = self.config
        if self.express:
            self.express_at = add_express(config, TYPE_ENDPOINT)
            self.pm_at = add_power_management(config, states=_POWER_STATES)
            add_endpoint_controls(config, self.express_at)
        self._share_options()
        self.backend.bring_up(self.machine, self.virtio_bus)
        try:
            self._show()
        except BaseException:
            self.backend.take_down()
            raise

    def _show(self) -> None:
        config, backend, kind = self.config, self.backend, self.kind
        if self.legacy:
            config.set16(Reg.DEVICE_ID, kind.transitional_id)
            config.set16(Reg.SUBSYSTEM_ID, backend.device_id)
        else:
            config.set16(Reg.DEVICE_ID, _DEVICE_ID_BASE + backend.device_id)
            config.data[Reg.REVISION_ID] = 1
        config.set16(Reg.CLASS_DEVICE, self._class_code())
        config.data[Reg.INTERRUPT_PIN] = 1
        self.config_at = 0
        if self.modern:
            self._add_modern()
        vectors = self._vectors()
        if vectors:
            self.msix = Msix(self, vectors, _MSIX_BAR)
        if self.legacy:
            ports = LegacyPorts(self)
            self.add_bar(_LEGACY_BAR, ports, _power_of_two(ports.size), BAR_IO)

    def _class_code(self) -> int:
        return getattr(self.options, "class_", 0) or self.kind.class_code

    def _vectors(self) -> int:
        wanted: int = self.options.vectors
        kind = self.kind
        if wanted == _UNSPECIFIED:
            wanted = kind.vectors or len(self.backend.queue_sizes) + kind.more_vectors
        if wanted > MAX_VECTORS:
            raise GenericError("The number of MSI-X vectors is invalid")
        return wanted

    def _add_modern(self) -> None:
        config = self.config
        multiplier = 4096 if self.options.page_per_vq else 4
        for number, offset, size, length in CAPABILITIES:
            at = config.add_capability(CAP_VENDOR, length)
            config.data[at + 2 : at + 5] = bytes((length, number, _MODERN_BAR))
            config.set32(at + 8, offset)
            config.set32(at + 12, size or multiplier * QUEUES_MAX)
            if not size:
                config.set32(at + 16, multiplier)
        self.config_at = at = config.add_capability(CAP_VENDOR, 20)
        config.data[at + 2 : at + 4] = bytes((20, CONFIG_CAPABILITY))
        config.writable(at + 4, 0xFF, 1)
        config.writable(at + 8, (1 << 64) - 1, 8)
        config.writable(at + 16, 0xFFFF_FFFF, 4)
        self.registers = ModernRegisters(self, multiplier)
        size = _power_of_two(NOTIFY_AT + multiplier * QUEUES_MAX)
        self.add_bar(_MODERN_BAR, self.registers, size, BAR_MEM_64 | BAR_PREFETCH)

    # -- the device's transport -------------------------------------------------------------------------------------

    def plugged(self, device: VirtioDevice) -> None:
        """The device is there."""
        self.device = device
        self._forget()

    def unplugged(self) -> None:
        """It is there no longer."""
        self.device = None

    def queue_interrupt(self, index: int) -> None:
        """A message for the queue, or the pin."""
        self.state.isr |= ISR_QUEUE
        self._interrupt(self.state.queue_vectors[index])

    def config_interrupt(self) -> None:
        """A message for the configuration, or the pin."""
        self.state.isr |= ISR_CONFIG | ISR_QUEUE
        self._interrupt(self.state.config_vector)

    def transport_status(self) -> TransportStatus:
        """For those who look for faults."""
        state = self.state
        name = f"{self.id}.0" if self.id and self.kind.names_bus else None
        return TransportStatus(state.isr, state.queue_select, state.disabled, name)

    def _interrupt(self, vector: int) -> None:
        msix = self.msix
        if msix is None or not msix.enabled:
            self.set_irq(self.state.isr & ISR_QUEUE)
        elif vector != NO_VECTOR:
            msix.notify(vector)

    # -- for both kinds of registers ----------------------------------------------------------------------------------

    def read_isr(self) -> int:
        """Why there was an interrupt; reading takes the pin back."""
        isr = self.state.isr
        self.state.isr = 0
        self.set_irq(0)
        return isr

    def vector(self, value: int) -> int:
        """The message that the driver asks for, or none, from which it sees that it cannot have it."""
        return value if self.msix is not None and value < self.msix.vectors else NO_VECTOR

    def notify(self, index: int) -> None:
        """The driver says that there is something in a queue."""
        if self.device is not None and self.bus_master:
            self.device.driver_notify(index)

    def reset_device(self) -> None:
        """The driver resets the device."""
        self._forget()
        self.set_irq(0)
        if self.device is not None:
            self.device.reset()

    def _forget(self) -> None:
        state = self.state
        state.device_feature_select = state.driver_feature_select = 0
        state.driver_features = 0
        state.queue_select = 0
        state.isr = 0
        state.disabled = False
        state.config_vector = NO_VECTOR
        state.queue_vectors = [NO_VECTOR] * len(self.backend.queue_sizes)

    # -- the function -----------------------------------------------------------------------------------------------

    def reset_enter(self) -> None:
        """The state after power-on; the device resets itself."""
        super().reset_enter()
        self._forget()

    def config_read(self, offset: int, size: int) -> int:
        """A load from the configuration space, and maybe through it from the registers."""
        at = self.config_at
        if at and at + 16 <= offset < at + 20:
            address, length = self._through()
            if length:
                self.config.set(at + 16, self.registers.read(address, length), length)
        return super().config_read(offset, size)

    def config_write(self, offset: int, value: int, size: int) -> None:
        """A store to the configuration space, and maybe through it to the registers."""
        super().config_write(offset, value, size)
        at = self.config_at
        if at and at + 16 <= offset < at + 20:
            address, length = self._through()
            if length:
                self.registers.write(address, self.config.get(at + 16, length), length)
        device = self.device
        if offset <= Reg.COMMAND < offset + size and device is not None:
            self.state.disabled = not self.config.data[Reg.COMMAND] & COMMAND_MASTER
            if self.state.disabled and device.state.status & STATUS_DRIVER_OK:
                # It reaches into memory no more.
                device.driver_status(device.state.status & ~STATUS_DRIVER_OK)

    def _through(self) -> tuple[int, int]:
        """Which register the capability is about: offset and size, the latter 0 for none."""
        config, at = self.config, self.config_at
        bar, offset, length = config.data[at + 4], config.get32(at + 8), config.get32(at + 12)
        if bar != _MODERN_BAR or length not in {1, 2, 4} or offset >= self.bars[_MODERN_BAR].size:
            return 0, 0
        return offset & ~(length - 1), length

    def check_state(self, state: VirtioPciState) -> None:  # type: ignore[override]  # its own state only
        """Refuse what no function like this can be in."""
        super().check_state(state)
        if len(state.queue_vectors) != len(self.backend.queue_sizes):
            raise GenericError(f"it has {len(state.queue_vectors)} queues' messages")


def _power_of_two(size: int) -> int:
    """The least one that is not smaller."""
    return 1 << (size - 1).bit_length()


def _define() -> None:
    """The classes of all kinds."""
    structs = importlib.import_module("qemud._generated.types.virtio_pci")
    for kind in KINDS:
        base = _class(
            f"{kind.class_name}Base", VirtioPci, {"kind": kind}, f"{kind.name}-pci-base", abstract=True
        )
        for ending, options in VARIANTS:
            _class(
                f"{kind.class_name}{ending}",
                base,
                {"variant": ending},
                f"{kind.name}-pci{SUFFIXES[ending]}",
                options=getattr(structs, f"{kind.class_name}{options}"),
                user_creatable=True,
                links=dict(kind.links) or None,
            )


def _class(name: str, base: type[VirtioPci], members: dict[str, Any], type_name: str, **keywords: Any) -> Any:
    def fill(namespace: dict[str, Any]) -> None:
        namespace.update(members, __module__=__name__)

    made = globals()[name] = new_class(name, (base,), {"type_name": type_name, **keywords}, fill)
    return made


_define()
