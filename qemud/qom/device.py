"""Devices and buses: objects that are realized, reset, saved and unplugged.

A device's life:

    uart = Ns16550a(SerialMmOptions(regshift=0))   made: options only, nothing is claimed
    board.add_child("uart0", uart)                 it has a place
    uart.map(0, 0x1000_0000)                       wired: remembered until it is realized
    uart.connect(0, Irq(plic.set_source, 10))
    uart.bring_up(vm)                              `realize()`, then its children, then its registers are mapped
    reset_tree(board)                              three phases over all that is below
    uart.take_down()                               the reverse, `unrealize()`

A device overrides `realize`, `unrealize` and the three phases of reset.  `bring_up` leaves nothing behind when anything fails.
Everything here runs on the machine thread, save the making of objects.

Reset, as in QEMU's "resettable": `reset_enter` puts the device's own state to what it is at power-on and touches nothing outside;
`reset_hold` then drives lines to their level in reset; `reset_exit` starts what runs by itself.  Each phase is done everywhere
before the next begins, children before their parent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from qemud.qapi.runtime.errors import GenericError
from qemud.qom.object import Object, Root
from qemud.qom.properties import Property, Provenance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class Line(Protocol):
        """An interrupt line, `qemud.machine.irq.Irq` in practice."""

        def set(self, level: int) -> None:
            """Drive the line to `level`."""

        def raise_(self) -> None:
            """Drive the line high."""

        def lower(self) -> None:
            """Drive the line low."""

        def pulse(self) -> None:
            """High and low again."""

    class RegisterOps(Protocol):
        """Who answers accesses to a register region, `qemud.machine.memory.MmioOps`."""

        def read(self, offset: int, size: int) -> int:
            """The value of the register at `offset`."""

        def write(self, offset: int, value: int, size: int) -> None:
            """Store `value` to the register at `offset`."""


DEVICE_PROPERTIES = (
    ("parent_bus", "link<bus>"),
    ("realized", "bool"),
    ("hotplugged", "bool"),
    ("hotpluggable", "bool"),
)
"""Names and types of what every device shows."""


_BELOW_GLOBALS = frozenset((Provenance.DEFAULT, Provenance.VERSION, Provenance.GLOBAL))
"""Whose values those of `-global` replace."""


def _nobody(_device: Device) -> None:
    """What a device that no user has made tells."""


class Unconnected:
    """A line that leads nowhere."""

    __slots__ = ()

    def set(self, level: int) -> None:
        """Nobody listens."""

    def raise_(self) -> None:
        """Nobody listens."""

    def lower(self) -> None:
        """Nobody listens."""

    def pulse(self) -> None:
        """Nobody listens."""


NOWHERE = Unconnected()


class MmioRegion:
    """A device's registers: `size` bytes served by `ops`, mapped at `base` (None: nowhere yet)."""

    __slots__ = ("base", "key", "max_access", "min_access", "name", "ops", "size")

    def __init__(self, name: str, size: int, ops: RegisterOps, min_access: int, max_access: int) -> None:
        self.name = name
        self.size = size
        self.ops = ops
        self.min_access = min_access
        self.max_access = max_access
        self.base: int | None = None
        self.key = ""  # its name in the address space while it is mapped there


class Resettable(Object):
    """What takes part in a reset."""

    realized = False

    def reset_enter(self) -> None:
        """Put the own state to what it is at power-on; touch nothing else."""

    def reset_hold(self) -> None:
        """Drive output lines to their level in reset."""

    def reset_exit(self) -> None:
        """Leave reset: start what runs by itself."""


class Device(Resettable, type_name="device", abstract=True):
    """What a machine is made of.  `machine` is the virtual machine around it, set before `realize` is called."""

    is_device = True
    on_machine_thread = True
    hotpluggable: ClassVar[bool] = True
    bus_type: ClassVar[str | None] = None
    machine: Any = None

    def __init_subclass__(
        cls,
        *,
        type_name: str | None = None,
        hotpluggable: bool | None = None,
        bus_type: str | None = None,
        **keywords: Any,
    ) -> None:
        """`hotpluggable`: may come and go, where its bus or the board lets it; `bus_type`: the kind of bus it needs."""
        super().__init_subclass__(type_name=type_name, **keywords)
        if hotpluggable is not None:
            cls.hotpluggable = hotpluggable
        if bus_type is not None:
            cls.bus_type = bus_type

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.bus: Bus | None = None
        self.realized = False
        self.hotplugged = False
        self.ordinal = 0
        """The how manieth it is of those that users have made."""
        self.unplug_deadline: int | None = None
        """While it has been asked to leave and has not yet: until when it is not asked again, ns of virtual time."""
        self.on_leave: Callable[[Device], None] = _nobody
        self.on_refusal: Callable[[Device], None] = _nobody

    # -- for the device's author ------------------------------------------------------------------------------------

    def realize(self) -> None:
        """Come to life: check the options, claim what is needed.  What fails raises GenericError and claims nothing."""

    def unrealize(self) -> None:
        """Give back what `realize` claimed."""

    async def claim(self, services: Any) -> None:
        """From the loop, before `bring_up`: take the backends that the options name.  All or nothing; raises GenericError.

        `services` is `qemud.machine.services.Services`.
        """

    async def settled(self) -> None:
        """From the loop, after `take_down`: wait until nothing of the device is under way outside of the machine."""

    async def give_up(self) -> None:
        """From the loop, last of all: give back what `claim` took."""

    # -- for the bus's controller -------------------------------------------------------------------------------------

    @property
    def unplug_requested(self) -> bool:
        """Whether the guest was asked to let it go, and has not answered."""
        return self.unplug_deadline is not None

    def leave(self) -> None:
        """The guest has let go of the device: take it away, with all that is on buses below it."""
        self.on_leave(self)

    def unplug_refused(self) -> None:
        """The guest keeps the device."""
        self.unplug_deadline = None
        self.on_refusal(self)

    # -- for the board ----------------------------------------------------------------------------------------------

    def bring_up(self, machine: Any, bus: Bus | None = None) -> None:
        """Realize the device on `bus` (if it needs one) and then the devices below it; all or nothing."""
        assert not self.realized
        assert not self.abstract
        self.apply_overlay()
        self._apply_globals()
        self.machine = machine
        if bus is not None:
            bus.attach(self)
        try:
            self.realize()
            try:
                self._bring_up_rest()
            except BaseException:
                self._take_down_rest()
                self.unrealize()
                raise
        except BaseException:
            if bus is not None:
                bus.detach(self)
            raise
        self.realized = True
        self.in_use = True

    def take_down(self) -> None:
        """Unrealize the devices below and the device itself."""
        assert self.realized
        self.realized = False
        self.in_use = False
        self._take_down_rest()
        self.unrealize()
        if self.bus is not None:
            self.bus.detach(self)

    def _bring_up_rest(self) -> None:
        """Realize the devices below that `realize` has not brought up itself."""
        for child in tuple(self.children.values()):
            if isinstance(child, Device) and not child.realized:
                child.bring_up(self.machine)
            elif isinstance(child, Bus):
                child.realized = True

    def _take_down_rest(self) -> None:
        for child in reversed(tuple(self.children.values())):
            if isinstance(child, Bus):
                for device in reversed(tuple(child.devices)):
                    if device.realized:
                        device.take_down()
                child.realized = False
            elif isinstance(child, Device) and child.realized:
                child.take_down()

    def _apply_globals(self) -> None:
        """Give options that nobody set the values of `-global`."""
        root = self.root
        if not isinstance(root, Root):
            return
        for driver, name, value in root.globals:
            if not self.is_a(driver):
                continue
            try:
                if self.provenance_of(name) in _BELOW_GLOBALS:
                    from qemud.qapi.runtime.keyval import parse_keyval_type

                    self.set_property(name, value, Provenance.GLOBAL, parse=parse_keyval_type)
            except GenericError as error:
                raise GenericError(f"can't apply global {driver}.{name}={value}: {error}") from None

    # -- properties -------------------------------------------------------------------------------------------------

    def standard_properties(self) -> Iterator[tuple[str, str]]:
        """What every device shows."""
        yield "type", "string"
        yield from DEVICE_PROPERTIES

    def standard_property(self, name: str) -> object:
        """The value of one of `standard_properties`."""
        match name:
            case "parent_bus":
                return self.bus.path if self.bus is not None else ""
            case "realized":
                return self.realized
            case "hotplugged":
                return self.hotplugged
            case "hotpluggable":
                return self.hotpluggable and (self.bus is None or self.bus.hotpluggable)
            case _:
                return super().standard_property(name)

    def step(self, component: str) -> Object | None:
        """A component of a path: the bus is a link, too."""
        if component == "parent_bus":
            return self.bus
        return super().step(component)

    def too_late(self, given: Property) -> GenericError:
        """The error on setting a property of a realized device."""
        who = f"device '{self.id}'" if self.id is not None else "anonymous device"
        return GenericError(
            f"Attempt to set property '{given.name}' on {who} (type '{self.type_name}') after it was realized"
        )


class SysBusDevice(Device, type_name="sys-bus-device", abstract=True, bus_type="System"):
    """A device on the system bus: registers at fixed addresses, interrupt lines that the board connects."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.mmio: list[MmioRegion] = []
        self.irqs: list[Line] = []

    def init_mmio(
        self,
        name: str,
        size: int,
        ops: RegisterOps | None = None,
        *,
        min_access: int = 1,
        max_access: int = 8,
    ) -> MmioRegion:
        """Declare a region of registers; `ops` is the device itself unless given.  Call it when making or realizing."""
        served: Any = self if ops is None else ops
        region = MmioRegion(name, size, served, min_access, max_access)
        self.mmio.append(region)
        return region

    def init_irq(self, count: int = 1) -> None:
        """Declare `count` more output lines."""
        self.irqs.extend([NOWHERE] * count)

    def map(self, index: int, base: int) -> None:
        """Put the registers of region `index` at `base`, at once or when the device is realized.

        Raises GenericError, naming both, when something is there already.
        """
        region = self.mmio[index]
        self._unmap(region)
        region.base = base
        if self.realized:
            self._map(region)

    def connect(self, index: int, line: Line) -> None:
        """Connect output line `index`."""
        self.irqs[index] = line

    def _map(self, region: MmioRegion) -> None:
        key = f"{self.path or self.type_name}/{region.name}"
        self.machine.memory.add_mmio(
            key,
            region.base,
            region.size,
            region.ops,
            min_access=region.min_access,
            max_access=region.max_access,
        )
        region.key = key

    def _unmap(self, region: MmioRegion) -> None:
        if region.key:
            self.machine.memory.remove(region.key)
            region.key = ""

    def _bring_up_rest(self) -> None:
        super()._bring_up_rest()
        for region in self.mmio:
            if region.base is not None:
                self._map(region)

    def _take_down_rest(self) -> None:
        for region in self.mmio:
            self._unmap(region)
        super()._take_down_rest()


class Bus(Resettable, type_name="bus", abstract=True):
    """What devices plug into: a child of its controller, with a link to each device on it.

    `bus_name` is what `device_add` calls it; `capacity` is the greatest number of devices, None for no limit.
    """

    on_machine_thread = True
    hotpluggable = False
    capacity: int | None = None

    def __init__(self, bus_name: str) -> None:
        super().__init__()
        self.bus_name = bus_name
        self.devices: list[Device] = []
        self._next_index = 0
        self._indexes: dict[Device, str] = {}

    @property
    def full(self) -> bool:
        """Whether no further device fits."""
        return self.capacity is not None and len(self.devices) >= self.capacity

    def attach(self, device: Device) -> None:
        """Plug a device in.  Raises GenericError when the bus is full."""
        if self.full:
            raise GenericError(f"Bus '{self.bus_name}' is full")
        name = f"child[{self._next_index}]"
        self._next_index += 1
        self.set_link(name, device.type_name, device)
        self._indexes[device] = name
        self.devices.append(device)
        device.bus = self

    def detach(self, device: Device) -> None:
        """Take a device off."""
        self.devices.remove(device)
        self.drop_link(self._indexes.pop(device))
        device.bus = None

    def plugged(self, device: Device) -> None:
        """A device that a user has made is realized (and reset, if it comes late): the place to tell the guest."""

    def request_unplug(self, device: Device) -> bool:
        """Whether the device may go at once; else the guest is asked, and `device.leave()` comes later.  Raises GenericError."""
        del device
        return True

    def child_links(self) -> list[str]:
        """The names of the links to the devices, in their order."""
        return [self._indexes[device] for device in self.devices]

    def standard_properties(self) -> Iterator[tuple[str, str]]:
        """What every bus shows."""
        yield "type", "string"
        yield "realized", "bool"

    def standard_property(self, name: str) -> object:
        """The value of one of `standard_properties`."""
        return self.realized if name == "realized" else super().standard_property(name)


class SystemBus(Bus, type_name="System"):
    """The bus of all that has fixed addresses."""


def reset_tree(root: Object) -> None:
    """Reset every realized device and bus at and below `root`, phase by phase, children first."""
    order = [node for node in _children_first(root) if isinstance(node, Resettable) and node.realized]
    for node in order:
        node.reset_enter()
    for node in order:
        node.reset_hold()
    for node in order:
        node.reset_exit()


def _children_first(root: Object) -> Iterator[Object]:
    for child in root.children.values():
        yield from _children_first(child)
    yield root
