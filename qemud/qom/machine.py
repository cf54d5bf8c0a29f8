"""Machine: what every board is.

A board derives from it, adds its devices in `build` and names the sysbus devices that a user may add.  It stands at
`/machine` and has the containers that clients look into:

    class VirtMachine(Machine, type_name="virt-machine", options=VirtMachineOptions):
        def build(self) -> None:
            plic = self.add_child("plic", SifivePlic(...))
            plic.bring_up(self.machine, self.sysbus)

Devices that `build` adds and does not bring up itself are brought up after it, in order, sysbus devices on the system bus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Device, SysBusDevice, SystemBus
from qemud.qom.object import Container, Object
from qemud.qom.properties import Provenance
from qemud.qom.tree import AmbiguousPathError, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    import msgspec


class Machine(Object, type_name="machine", abstract=True):
    """The board.  `machine` is the virtual machine it belongs to: memory, clock, mailboxes."""

    on_machine_thread = True
    dynamic_sysbus: ClassVar[frozenset[str]] = frozenset()
    """Types of sysbus devices that `-device` may add."""

    machine: Any = None
    overlay: tuple[tuple[str, str, Any], ...] = ()
    """What its version says of properties: types, properties, values as in JSON."""
    version_type: str = ""
    """The QOM type of the version that it is, whatever it was asked for as; empty for its own."""
    default_memory: Any = None
    """The backend of its memory (`qemud.machine.backends`) where the user has named none."""

    def __init__(
        self, options: msgspec.Struct | None = None, *, creator: Provenance = Provenance.USER
    ) -> None:
        super().__init__(options, creator=creator)
        self.peripheral = self.add_child("peripheral", Container())
        self.peripheral_anon = self.add_child("peripheral-anon", Container())
        self.unattached = self.add_child("unattached", Container())
        self.sysbus = self.unattached.add_child("sysbus", SystemBus("main-system-bus"))
        self.anonymous_devices = 0  # ever added, so that no name is used twice

    async def claim(self, services: Any) -> None:
        """From the loop, before `bring_up`: take the drives that the options name.  All or nothing; raises GenericError.

        `services` is `qemud.machine.services.Services`.
        """

    async def settled(self) -> None:
        """From the loop, before the process ends: wait until nothing of the board is under way outside of it."""

    def build(self) -> None:
        """Add and wire the board's devices; on the machine thread, `machine` is set."""

    def bring_up(self, machine: Any) -> None:
        """Build the board.  What fails leaves no device realized."""
        self.machine = machine
        self.sysbus.realized = True
        try:
            self.build()
            for child in self.children.values():
                if isinstance(child, Device) and not child.realized:
                    child.bring_up(machine, self.sysbus if isinstance(child, SysBusDevice) else None)
        except BaseException:
            self.take_down()
            raise
        self.in_use = True

    def take_down(self) -> None:
        """Unrealize all devices, the last first."""
        self.in_use = False
        for holder in (self.peripheral_anon, self.peripheral, self):
            for child in reversed(tuple(holder.children.values())):
                if isinstance(child, Device) and child.realized:
                    child.take_down()

    def legacy_paths(self) -> Mapping[str, Object]:
        """Paths at which clients of QEMU know what stands elsewhere here."""
        return {}

    def memory_backend(self, default_id: str, size: int | None) -> Any | None:
        """The backend (`qemud.machine.backends`) that the option `memory-backend` names, else the one made for it, if any.

        `size` is what the user wants, None for whatever the backend has; `default_id` is the id of the memory that the board makes
        itself.  GenericError when there is no such backend, or it does not fit, or the default's id is taken.
        """
        name = self.option("memory-backend")
        if not name and self.default_memory is not None:
            self.set_link("memory-backend", "memory-backend", self.default_memory)
            self.set_provenance("memory-backend", Provenance.MACHINE)
            return self.default_memory
        if not name:
            if self.root.children["objects"].step(default_id) is not None:
                raise GenericError(
                    f"object's id '{default_id}' is reserved for the default RAM backend, "
                    "it can't be used for any other purposes"
                )
            return None
        try:
            backend = resolve(self.root, name, "memory-backend")
        except AmbiguousPathError:
            backend = None
        if backend is None:
            raise GenericError(f"Memory backend '{name}' not found")
        if size is not None and size != backend.get_property("size"):
            raise GenericError("Machine memory size does not match the size of the memory backend")
        self.set_link("memory-backend", "memory-backend", backend)
        return backend

    def can_hotplug(self, device: type[Device]) -> bool:
        """Whether a device that sits on no bus may come and go while the machine exists."""
        del device
        return False
