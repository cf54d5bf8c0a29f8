"""The registry of QOM types: what there is, by name, and which class it is.

Each room lists its types in a module `qom_types` that holds nothing but data: names, parents, structs and the place of the
class.  The lists are read when somebody first asks; a class is imported when somebody needs that class.  So a client's
hundred questions about types at start-up import no device.

    types.find("serial-mm")            -> the class, or None
    types.is_a("serial-mm", "device")  -> True, and nothing was imported
    verify_bindings()                  -> sentences on every disagreement of lists, classes and schema

A class that is defined without an entry (in a test) enters the registry when it is defined.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from qemud.qapi.runtime.errors import DeviceNotFound, GenericError
from qemud.qom import properties

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qemud.qom.object import Object
    from qemud.qom.properties import Property

ROOMS = (
    "qemud.qom",
    "qemud.machine",
    "qemud.net",
    "qemud.accel",
    "qemud.crypto",
    "qemud.chardev",
    "qemud.block",
    "qemud.hw",
)
"""Packages with a `qom_types`; names only, so that no import goes up."""


class TypeEntry(Struct, frozen=True):
    """What is known of a type without its class.

    `location` is "package.module:Class", empty for an interface.  `options` and `status` name structs of the schema:
    the properties that can be given and those that can only be read.  `links` pairs members of `options` with the
    QOM type of the object that they name.  `category` is the heading under which `-device help` lists a device, see
    `qemud.qom.help`, and `alias` a shorter name under which users may ask for it.
    """

    name: str
    parent: str | None
    location: str = ""
    abstract: bool = False
    options: str = ""
    status: str = ""
    interfaces: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    user_creatable: bool = False
    category: str = "Misc"
    alias: str = ""


class Registry:
    """All types of the process."""

    def __init__(self, rooms: Iterable[str] = ROOMS) -> None:
        self.rooms = tuple(rooms)
        self._listed: dict[str, TypeEntry] | None = None
        self._aliases: dict[str, str] | None = None
        self._classes: dict[str, type[Object]] = {}
        self._properties: dict[str, tuple[Property, ...]] = {}

    @property
    def _entries(self) -> dict[str, TypeEntry]:
        entries = self._listed
        if entries is None:
            entries = {}
            for room in self.rooms:
                for entry in importlib.import_module(room + ".qom_types").TYPES:
                    if entry.name in entries:
                        raise GenericError(f"type '{entry.name}' is listed twice, again in {room}.qom_types")
                    entries[entry.name] = entry
            for cls in self._classes.values():
                entries.setdefault(cls.type_name, entry_of(cls))
            self._listed = entries
        return entries

    def bind(self, cls: type[Object]) -> None:
        """Enter a class; called when a class with a `type_name` is defined."""
        self._classes[cls.type_name] = cls
        if self._listed is not None:
            self._listed.setdefault(cls.type_name, entry_of(cls))

    def unbind(self, name: str) -> None:
        """Forget a class that is in no list (for tests that define types)."""
        self._classes.pop(name, None)
        self._properties.pop(name, None)
        self._listed = None

    def entry(self, name: str) -> TypeEntry | None:
        """What is known of the type, or None when there is none of that name."""
        return self._entries.get(name)

    def resolve(self, name: str) -> str:
        """The type that a shorter name of devices stands for; any other name as it is."""
        if self._aliases is None:
            self._aliases = {entry.alias: entry.name for entry in self if entry.alias}
        return name if name in self._entries else self._aliases.get(name, name)

    def check_device(self, name: str) -> None:
        """Raise DeviceNotFound or GenericError unless the type is one of devices that can be made."""
        entry = self.entry(name)
        if entry is None:
            raise DeviceNotFound(f"Device '{name}' not found")
        if entry.abstract or not self.is_a(name, "device"):
            raise GenericError("Parameter 'typename' expects a non-abstract device type")

    def __iter__(self) -> Iterator[TypeEntry]:
        return iter(tuple(self._entries.values()))

    def find(self, name: str) -> type[Object] | None:
        """The class of the type, imported now if need be; None for unknown names and interfaces."""
        cls = self._classes.get(name)
        if cls is None:
            entry = self.entry(name)
            if entry is None or not entry.location:
                return None
            module, _, attribute = entry.location.partition(":")
            found: type[Object] = getattr(importlib.import_module(module), attribute)
            cls = self._classes.setdefault(name, found)
        return cls

    def unlisted(self) -> list[type[Object]]:
        """Classes of this package, known so far, that no list has."""
        listed = {
            entry.name for room in self.rooms for entry in importlib.import_module(room + ".qom_types").TYPES
        }
        return [
            cls
            for name, cls in self._classes.items()
            if name not in listed and cls.__module__.startswith("qemud.")
        ]

    def lineage(self, name: str) -> Iterator[TypeEntry]:
        """The type and its ancestors, nearest first; nothing for an unknown name."""
        entry = self.entry(name)
        while entry is not None:
            yield entry
            entry = self.entry(entry.parent) if entry.parent else None

    def is_a(self, name: str, ancestor: str) -> bool:
        """Whether the type is `ancestor`, descends from it or implements it."""
        for entry in self.lineage(name):
            if entry.name == ancestor or ancestor in entry.interfaces:
                return True
            if any(self.is_a(interface, ancestor) for interface in entry.interfaces):
                return True
        return False

    def properties(self, name: str) -> tuple[Property, ...]:
        """The type's properties from its structs: those that can be given, then those that can only be read.

        A type without structs of its own has its parent's.
        """
        found = self._properties.get(name)
        if found is None:
            found = self._properties[name] = self._collect(name)
        return found

    def _collect(self, name: str) -> tuple[Property, ...]:
        lineage = tuple(self.lineage(name))
        options = next((entry.options for entry in lineage if entry.options), "")
        status = next((entry.status for entry in lineage if entry.status), "")
        links: dict[str, str] = {}
        for entry in reversed(lineage):
            links.update(entry.links)
        found = [
            replace(given, link=links[given.name]) if given.name in links else given
            for given in properties.of_struct(options)
        ]
        found += [replace(read, writable=False, has_default=False) for read in properties.of_struct(status)]
        return tuple(found)


def entry_of(cls: type[Object]) -> TypeEntry:
    """The entry that a class itself amounts to."""
    parent = cls.parent_type()
    own = cls.__dict__
    options = own.get("options_type")
    status = own.get("status_type")
    return TypeEntry(
        cls.type_name,
        parent.type_name if parent else None,
        f"{cls.__module__}:{cls.__qualname__}",
        abstract=cls.abstract,
        options=options.__name__ if options else "",
        status=status.__name__ if status else "",
        interfaces=own.get("interfaces", ()),
        links=tuple(own.get("links", {}).items()),
        user_creatable=cls.user_creatable,
    )


def verify_bindings(registry: Registry | None = None) -> list[str]:
    """Compare lists, classes and schema; a sentence for each disagreement.  See `qemud.qom.bindings`."""
    from qemud.qom.bindings import verify

    return list(verify(registry or types))


types = Registry()
