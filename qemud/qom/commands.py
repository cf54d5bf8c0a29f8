"""Handlers of the QMP commands on objects and devices.

What is asked about types is answered from the schema's tables; nothing is imported or made for it.  What is asked about objects is
answered on the event loop, but for values that live in the machine: those are fetched from the machine thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Raw

from qemud._generated.commands.qdev import QdevCommands
from qemud._generated.commands.qom import QomCommands
from qemud._generated.types.qom import (
    ObjectPropertiesValues,
    ObjectPropertyInfo,
    ObjectPropertyValue,
    ObjectTypeInfo,
    PropertyProvenance,
)
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError, QmpError
from qemud.qapi.runtime.fields import UNSET
from qemud.qom.properties import DYNAMIC, property_info
from qemud.qom.types import types
from qemud.qom.userobjects import add_object, remove_object

if TYPE_CHECKING:
    from typing import Protocol

    from qemud._generated.types.qom import ObjectOptions
    from qemud.qapi.runtime.events import EmitFunction
    from qemud.qom.creation import Call, DeviceMaker
    from qemud.qom.object import Object
    from qemud.qom.properties import PropertyInfo
    from qemud.qom.tree import Tree

    class Mailboxes(Protocol):
        """The way to the machine thread."""

        @property
        def call(self) -> Call:
            """Runs a function there."""

    class Vm(Protocol):
        """The machine."""

        @property
        def mailboxes(self) -> Mailboxes:
            """The way to its thread."""

    class Services(Protocol):
        """What these handlers need of the process."""

        @property
        def tree(self) -> Tree:
            """The composition tree."""

        @property
        def has_migration(self) -> bool:
            """Whether anything has been asked of `migration` yet."""

        @property
        def migration(self) -> Any:
            """Machines that come and go."""

        @property
        def vm(self) -> Vm:
            """The machine."""

        @property
        def emit(self) -> EmitFunction:
            """Sends an event to all clients."""

        @property
        def startup(self) -> Any:
            """What makes the machine phase by phase; None where it was made at once."""


class QomHandlers(QomCommands):
    """Commands of the schema module `qom`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def qom_list(self, *, path: str) -> list[ObjectPropertyInfo]:
        """The properties of an object."""
        return [
            ObjectPropertyInfo(name=info.name, type=info.type)
            for info in self._services.tree.get(path).list_properties()
        ]

    async def qom_list_get(
        self, *, paths: list[str], provenance: bool = False
    ) -> list[ObjectPropertiesValues]:
        """The properties of several objects with their values."""
        found = [self._services.tree.get(path) for path in paths]
        return [
            ObjectPropertiesValues(properties=await self._values(each, provenance=provenance))
            for each in found
        ]

    async def _values(self, target: Object, *, provenance: bool) -> list[ObjectPropertyValue]:
        values: list[ObjectPropertyValue]
        if _lives_in_machine(target):
            values = await self._services.vm.mailboxes.call(_read_all, target)
        else:
            values = _read_all(target)
        if provenance:
            options = {given.name for given in types.properties(target.type_name) if given.writable}
            for value in values:
                if value.name in options:
                    value.provenance = PropertyProvenance(target.provenance_of(value.name).value)
        return values

    async def qom_get(self, *, path: str, property: str) -> Any:  # noqa: A002 - the schema's name
        """The value of a property."""
        target = self._services.tree.get(path)
        given = target.find_property(property)
        if (
            given is not None
            and (not given.writable or DYNAMIC in given.features)
            and _lives_in_machine(target)
        ):
            return await self._services.vm.mailboxes.call(target.get_property, property)
        return target.get_property(property)

    async def qom_set(self, *, path: str, property: str, value: Any) -> None:  # noqa: A002 - the schema's name
        """Set a property."""
        target = self._services.tree.get(path)
        if _lives_in_machine(target):
            await self._services.vm.mailboxes.call(target.set_property, property, value)
        else:
            target.set_property(property, value)

    async def qom_list_types(
        self, *, implements: str | None = None, abstract: bool = False
    ) -> list[ObjectTypeInfo]:
        """The types."""
        return [
            ObjectTypeInfo(name=entry.name, abstract=entry.abstract or None, parent=entry.parent)
            for entry in types
            if (abstract or not entry.abstract) and (implements is None or types.is_a(entry.name, implements))
        ]

    async def qom_list_properties(self, *, typename: str) -> list[ObjectPropertyInfo]:
        """The properties of a type."""
        if types.entry(typename) is None:
            raise DeviceNotFound(f"Class '{typename}' not found")
        if not types.is_a(typename, "object"):
            raise GenericError("Parameter 'typename' expects a QOM type")
        standard = [ObjectPropertyInfo(name="type", type="string")]
        if types.is_a(typename, "device"):
            from qemud.qom.device import DEVICE_PROPERTIES

            standard += [ObjectPropertyInfo(name=name, type=type_) for name, type_ in DEVICE_PROPERTIES]
        return standard + _type_properties(typename)

    async def object_add(self, arg: ObjectOptions) -> None:
        """Make an object."""
        await add_object(self._services.tree, arg)

    async def object_del(self, *, id: str) -> None:  # noqa: A002 - the schema's name
        """Remove an object."""
        remove_object(self._services.tree, id)


class QdevHandlers(QdevCommands):
    """Commands of the schema module `qdev`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._maker: DeviceMaker | None = None

    @property
    def maker(self) -> DeviceMaker:
        """What makes and removes devices; the command line's `-device` uses it, too."""
        if self._maker is None:
            from qemud.qom.creation import DeviceMaker

            services = self._services
            self._maker = DeviceMaker(services.tree, services.vm.mailboxes.call, services.emit, services)
        return self._maker

    async def device_list_properties(self, *, typename: str) -> list[ObjectPropertyInfo]:
        """The properties of a type of devices."""
        found = _device_properties.get(typename)
        if found is None:
            types.check_device(typename)
            found = _device_properties[typename] = _type_properties(typename)
        return found

    async def device_add(self, arguments: dict[str, Any]) -> Raw:
        """Add a device.  The arguments come unchecked: the errors are the device's, not the schema's."""
        self._check_migration("device_add")
        startup = self._services.startup
        hotplug = startup is None or startup.ready
        if not hotplug:
            self.maker.check(arguments)  # a mistake makes no board
            await startup.before_device()
        await self.maker.add(arguments, hotplug=hotplug)
        return Raw(b"{}")

    async def device_del(self, *, id: str) -> None:  # noqa: A002 - the schema's name
        """Remove a device."""
        self._check_migration("device_del")
        await self.maker.remove(id)

    def _check_migration(self, command: str) -> None:
        """Raise GenericError while the machine comes or goes: both sides have to have the same devices."""
        if self._services.has_migration:
            self._services.migration.check_devices(command)


def _lives_in_machine(target: Object) -> bool:
    return target.on_machine_thread and target.in_use


def _read_all(target: Object) -> list[ObjectPropertyValue]:
    """All properties with their values; what cannot be read has none."""
    return [
        ObjectPropertyValue(name=info.name, type=info.type, value=_read(target, info))
        for info in target.list_properties()
    ]


def _read(target: Object, info: PropertyInfo) -> Any:
    try:
        value = target.get_property(info.name)
    except QmpError:
        return UNSET
    return UNSET if value is None else value


def _type_properties(typename: str) -> list[ObjectPropertyInfo]:
    """The schema's properties of a type, cached: clients ask for them by the hundred."""
    found = _type_properties_cache.get(typename)
    if found is None:
        device = types.is_a(typename, "device")
        infos = (property_info(given, device=device) for given in types.properties(typename))
        found = [
            ObjectPropertyInfo(
                name=info.name,
                type=info.type,
                description=info.description or None,
                default_value=info.default if info.has_default else UNSET,
            )
            for info in infos
        ]
        _type_properties_cache[typename] = found
    return found


_type_properties_cache: dict[str, list[ObjectPropertyInfo]] = {}
_device_properties: dict[str, list[ObjectPropertyInfo]] = {}
"""Those of types that are known to be devices that can be made."""
