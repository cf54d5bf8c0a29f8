"""Making and removing devices on request: device_add, device_del and `-device`.

Making a device is all or nothing.  On the event loop: find the type, the bus and the backends, check the properties, take the id and
hold the backends.  On the machine thread: realize, and reset.  When anything fails, all of it is undone.

The order of the checks decides which of several errors a client sees; it is QEMU's.  Source of order and texts: QEMU 10.0,
system/qdev-monitor.c and hw/core/qdev-hotplug.c.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from qemud.qapi.runtime.errors import DeviceNotFound, GenericError
from qemud.qapi.runtime.qemuopts import check_identifier
from qemud.qom.device import DEVICE_PROPERTIES, Bus, Device, reset_tree
from qemud.qom.machine import Machine
from qemud.qom.properties import Provenance
from qemud.qom.tree import descend
from qemud.qom.types import types
from qemud.qom.userobjects import UserCreatable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from qemud.qapi.runtime.events import EmitFunction
    from qemud.qom.object import Parser
    from qemud.qom.tree import Tree

_Result = TypeVar("_Result")

_PATIENCE = 5_000_000_000
"""For how long a guest that was asked to let a device go is not asked again, ns."""

_ordinals = itertools.count()

NOT_PROPERTIES = frozenset(("driver", "bus", "id"))
"""Arguments of `device_add` that are no properties of the device."""


class Call(Protocol):
    """Runs a function on the machine thread: `Mailboxes.call`."""

    def __call__(self, fn: Callable[..., Any], /, *args: Any) -> Awaitable[Any]:
        """The function's result, or what it raised."""


class DeviceMaker:
    """Adds devices to the machine of `tree` and removes them; `call` runs code on the machine thread.

    `services` is where devices find the backends that their options name.
    """

    def __init__(self, tree: Tree, call: Call, emit: EmitFunction, services: Any = None) -> None:
        self._tree = tree
        self._call = call
        self._emit = emit
        self._services = services
        self._leaving: set[Device] = set()
        self._running: set[asyncio.Task[Any]] = set()

    async def add(
        self, arguments: dict[str, Any], *, hotplug: bool = True, parse: Parser | None = None
    ) -> Device:
        """Make a device from the arguments of `device_add`, and realize it.

        `hotplug` is false while the machine is made.  `parse` reads the properties' values, JSON ones by default;
        `qemud.qapi.runtime.keyval.parse_keyval_type` is for those of the command line.  Raises GenericError or
        DeviceNotFound, and leaves nothing behind, when anything is wrong.
        """
        return await self._to_the_end(self._add(arguments, hotplug=hotplug, parse=parse))

    def check(self, arguments: dict[str, Any]) -> None:
        """Raise what `add` would raise whatever buses there are: no such type, or wrong properties."""
        _options(_device_class(_driver(arguments), self._board()), arguments, None)

    async def remove(self, name: str) -> None:
        """Unplug the device of that id or path; DEVICE_DELETED is sent once it is gone.

        Raises DeviceNotFound, or GenericError when it cannot be unplugged.
        """
        await self._to_the_end(self._remove(name))

    async def _to_the_end(self, steps: Coroutine[Any, Any, _Result]) -> _Result:
        """Go on even if the client that asked goes away: what the machine thread has begun cannot be called back."""
        task = asyncio.ensure_future(steps)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for the task has it; if nobody does, nobody misses it

    async def _add(self, arguments: dict[str, Any], *, hotplug: bool, parse: Parser | None) -> Device:
        board = self._board()
        cls = _device_class(_driver(arguments), board)
        bus = self._find_bus(cls, arguments.get("bus"))
        if hotplug:
            _check_hotplug(cls, bus, board)
        name = arguments.get("id")
        if not isinstance(name, str):
            name = None
        else:
            # QEMU lets QMP clients take ids that are no identifiers; one with a slash in it could never be named again.
            check_identifier(name)
            if name == "type" or name in board.peripheral.children:
                raise GenericError(
                    f"Duplicate ID '{name}' for device"
                    if parse is not None
                    else f"Duplicate device ID '{name}'"
                )
        device = cls(_options(cls, arguments, parse), creator=Provenance.USER)
        self._check_boot_index(device)
        for given in arguments:
            if given not in NOT_PROPERTIES:
                device.set_provenance(given, Provenance.USER)
        device.hotplugged = hotplug
        device.ordinal = next(_ordinals)
        device.on_leave = self._left
        device.on_refusal = self._refused
        if name is not None:
            device.id = name
            board.peripheral.add_child(name, device)
        else:
            board.peripheral_anon.add_child(f"device[{board.anonymous_devices}]", device)
            board.anonymous_devices += 1
        held: list[UserCreatable] = []
        try:
            device.resolve_links()
            for target in device.linked():
                if isinstance(target, UserCreatable):
                    target.hold()
                    held.append(target)
            await device.claim(self._services)
            try:
                await self._call(_plug, device, board, bus)
            except BaseException:
                await device.give_up()
                raise
        except BaseException:
            for target in held:
                target.release()
            device.unparent()
            raise
        return device

    async def _remove(self, name: str) -> None:
        board = self._board()
        parts = tuple(part for part in name.split("/") if part)
        found = descend(self._tree.root if name.startswith("/") else board.peripheral, parts)
        if found is None:
            raise DeviceNotFound(f"Device '{name}' not found")
        if not isinstance(found, Device):
            raise GenericError(f"{name} is not a device")
        if found in self._leaving:
            raise GenericError(f"Device {name} is already in the process of unplug")
        if not found.realized:
            raise GenericError(f"Device '{name}' is not realized yet")
        _check_hotplug(type(found), found.bus, board)
        self._leaving.add(found)
        try:
            gone = await self._call(_request_unplug, found, name)
            if gone is not None:
                await self._farewell(gone)
        finally:
            self._leaving.discard(found)

    def _left(self, device: Device) -> None:
        """On the machine thread: the guest has let go of a device."""
        device.machine.mailboxes.send(self._begin_farewell, device, _unplug(device))

    def _begin_farewell(self, device: Device, gone: list[Device]) -> None:
        self._leaving.add(device)
        task = asyncio.ensure_future(self._farewell(gone))
        self._running.add(task)
        task.add_done_callback(self._ended)
        task.add_done_callback(lambda _task: self._leaving.discard(device))

    async def _farewell(self, gone: list[Device]) -> None:
        """On the loop: give back what unrealized devices had, take them out of the tree, and tell of it.

        A device that is a part of another one shares its backends, and goes with it.
        """
        from qemud._generated.events.qdev import device_deleted

        for device in gone:
            await device.settled()
        paths = {device: device.path for device in gone}
        for device in gone:
            if device.parent not in paths:
                await device.give_up()
                for target in device.linked():
                    if isinstance(target, UserCreatable):
                        target.release()
        for device in gone:
            device.unparent()
            device_deleted(self._emit, device=device.id, path=paths[device])

    def _refused(self, device: Device) -> None:
        """On the machine thread: the guest keeps a device that it was asked to let go."""
        device.machine.mailboxes.send(self._tell_refusal, device)

    def _tell_refusal(self, device: Device) -> None:
        from qemud._generated.events.qdev import device_unplug_guest_error

        device_unplug_guest_error(self._emit, device=device.id, path=device.path)

    def _check_boot_index(self, device: Device) -> None:
        """Raise GenericError when firmware is to boot from another device in that place already."""
        place = getattr(device.options, "bootindex", None)
        if place is None or place < 0:
            return
        for other in self._tree.root.walk():
            if isinstance(other, Device) and getattr(other.options, "bootindex", None) == place:
                raise GenericError(f"The bootindex {place} has already been used")

    def _board(self) -> Machine:
        board = self._tree.machine
        if not isinstance(board, Machine):
            raise GenericError("there is no machine yet")
        return board

    def _find_bus(self, cls: type[Device], path: object) -> Bus | None:
        buses = [node for node in self._tree.root.walk() if isinstance(node, Bus)]
        if isinstance(path, str):
            bus = _bus_by_path(buses, path)
            if cls.bus_type is None or not bus.is_a(cls.bus_type):
                raise GenericError(f"Device '{cls.type_name}' can't go on {bus.type_name} bus")
            return bus
        if cls.bus_type is None:
            return None
        first = _search(self._board().sysbus, cls.bus_type)
        if first is not None:
            return first
        for candidate in buses:
            if candidate.is_a(cls.bus_type) and not candidate.full:
                return candidate
        raise GenericError(f"No '{cls.bus_type}' bus found for device '{cls.type_name}'")


def _driver(arguments: dict[str, Any]) -> str:
    """The type's name among the arguments, where a shorter one may stand for it."""
    driver = arguments.get("driver")
    if not isinstance(driver, str):
        raise GenericError("Parameter 'driver' is missing")
    return types.resolve(driver)


def check_driver(driver: str) -> None:
    """Raise GenericError unless users may make devices of the type on some board."""
    if not types.is_a(driver, "device"):
        raise GenericError(f"'{driver}' is not a valid device model name")
    entry = types.entry(driver)
    assert entry is not None
    if entry.abstract:
        raise GenericError("Parameter 'driver' expects a non-abstract device type")
    if not entry.user_creatable:
        raise GenericError("Parameter 'driver' expects a pluggable device type")


def check_property(driver: str, name: str) -> None:
    """Raise GenericError unless devices of the type have a property of that name that can be given."""
    given = {each.name: each for each in types.properties(driver)}
    if name in given and given[name].writable:
        return
    if name in given or name == "type" or name in dict(DEVICE_PROPERTIES):
        raise GenericError(f"Property '{driver}.{name}' is not writable")
    raise GenericError(f"Property '{driver}.{name}' not found")


def _device_class(driver: str, board: Machine) -> type[Device]:
    """The class of a type that users may make on this board."""
    check_driver(driver)
    if types.is_a(driver, "sys-bus-device") and driver not in board.dynamic_sysbus:
        raise GenericError("Parameter 'driver' expects a dynamic sysbus device type for the machine")
    cls = types.find(driver)
    assert cls is not None
    assert issubclass(cls, Device)
    return cls


def _check_hotplug(cls: type[Device], bus: Bus | None, board: Machine) -> None:
    """Raise GenericError unless a device of the type may come or go while the machine exists."""
    if not cls.hotpluggable:
        raise GenericError(f"Device '{cls.type_name}' does not support hotplugging")
    if bus is not None:
        if not bus.hotpluggable:
            raise GenericError(f"Bus '{bus.bus_name}' does not support hotplugging")
    elif not board.can_hotplug(cls):
        raise GenericError(f"Device '{cls.type_name}' can not be hotplugged on this machine")


def _options(cls: type[Device], arguments: dict[str, Any], parse: Parser | None) -> Any:
    """The options struct from the arguments that are properties."""
    values = {name: value for name, value in arguments.items() if name not in NOT_PROPERTIES}
    for name in values:
        check_property(cls.type_name, name)
    if cls.options_type is None:
        return None
    if parse is None:
        from qemud.qapi.runtime.check import parse_type

        parse = parse_type
    return parse(cls.options_type.__name__, values)


def _plug(device: Device, board: Machine, bus: Bus | None) -> None:
    """Realize a device, on the machine thread; one that comes late is reset, as all the others were."""
    if bus is not None and not bus.realized:
        # Its controller was unplugged after the bus had been found.
        raise GenericError(f"Bus '{bus.bus_name}' not found")
    device.bring_up(board.machine, bus)
    if device.hotplugged:
        try:
            reset_tree(device)
        except BaseException:
            device.take_down()
            raise
    if bus is not None:
        bus.plugged(device)


def _request_unplug(device: Device, name: str) -> list[Device] | None:
    """Ask for a device to go, on the machine thread: what went with it, or None when the guest has to let go of it first."""
    if device.unplug_deadline is not None and device.machine.clock.now() < device.unplug_deadline:
        raise GenericError(f"Device {name} is already in the process of unplug")
    if device.bus is None or device.bus.request_unplug(device):
        return _unplug(device)
    device.unplug_deadline = device.machine.clock.now() + _PATIENCE
    return None


def _unplug(device: Device) -> list[Device]:
    """Unrealize a device, on the machine thread; it and all that went with it."""
    gone = _dependents(device)
    device.take_down()
    return gone


def _dependents(device: Device) -> list[Device]:
    """The device and all devices on buses below it, the last first."""
    found = [device]
    for node in device.walk():
        if isinstance(node, Bus):
            for other in node.devices:
                found += _dependents(other)
    return found[::-1]


def _search(bus: Bus, kind: str) -> Bus | None:
    """The first bus of the kind, at or below `bus`, where there is room; what was plugged in last is looked at first."""
    if bus.is_a(kind) and not bus.full:
        return bus
    for device in reversed(bus.devices):
        for child in reversed(tuple(device.children.values())):
            if isinstance(child, Bus) and (found := _search(child, kind)) is not None:
                return found
    return None


def _bus_by_path(buses: list[Bus], path: str) -> Bus:
    """The bus that `bus=` names: a bus's name, then devices on it and buses below these, between slashes."""
    parts = [part for part in path.split("/") if part]
    bus: Bus | None
    if path.startswith("/"):
        bus = next((candidate for candidate in buses if candidate.bus_name == "main-system-bus"), None)
    else:
        first = parts.pop(0) if parts else ""
        named = [candidate for candidate in buses if candidate.bus_name == first]
        bus = next((candidate for candidate in named if not candidate.full), named[0] if named else None)
        if bus is None:
            raise GenericError(f"Bus '{first}' not found")
    if bus is None:
        raise GenericError(f"Bus '{path}' not found")
    while parts:
        bus = _bus_below(bus, parts)
    if bus.full:
        raise GenericError(f"Bus '{path}' is full")
    return bus


def _bus_below(bus: Bus, parts: list[str]) -> Bus:
    """One step of `_bus_by_path`: takes a device, and if there is one a bus, from the front of `parts`."""
    element = parts.pop(0)
    device = next((other for other in bus.devices if other.id == element), None) or next(
        (other for other in bus.devices if other.type_name == types.resolve(element)), None
    )
    if device is None:
        raise DeviceNotFound(f"Device '{element}' not found")
    below = [child for child in device.children.values() if isinstance(child, Bus)]
    if not parts:
        if len(below) == 1:
            return below[0]
        lack = "multiple child buses" if below else "no child bus"
        raise GenericError(f"Device '{element}' has {lack}")
    element = parts.pop(0)
    for candidate in below:
        if candidate.bus_name == element:
            return candidate
    raise GenericError(f"Bus '{element}' not found")
