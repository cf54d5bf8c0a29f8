"""Objects: what everything with a name in the machine is.

An object is made from its options, an instance of the struct that its class is bound to; it gets a place in the
composition tree when a parent adopts it, and loses it (and its children theirs) with `unparent`.

    backend = MemoryBackendRam(MemoryBackendRamProperties(size=4096))
    tree.objects.add_child("m0", backend)
    backend.path                     -> "/objects/m0"
    backend.get_property("size")     -> 4096
    backend.provenance_of("size")    -> Provenance.MACHINE, or what the maker said

Error texts are those of QEMU 10.0 (qom/object.c), which clients match on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from qemud.qapi.runtime.errors import DeviceNotFound, GenericError
from qemud.qom.properties import DYNAMIC, Property, PropertyInfo, Provenance, property_info
from qemud.qom.types import types
from qemud.qom.values import attribute_of, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import msgspec

    Parser = Callable[[str, dict[str, Any]], Any]
    """Makes a struct of that name from its members in some syntax: `parse_type`, `parse_keyval_type`."""

_Child = TypeVar("_Child", bound="Object")


class Object:
    """The root of all types.  `.options` holds the properties' values, see the module."""

    type_name: ClassVar[str] = "object"
    abstract: ClassVar[bool] = True
    options_type: ClassVar[type[msgspec.Struct] | None] = None
    status_type: ClassVar[type[msgspec.Struct] | None] = None
    state_type: ClassVar[type[msgspec.Struct] | None] = None
    interfaces: ClassVar[tuple[str, ...]] = ()
    links: ClassVar[Mapping[str, str]] = {}
    user_creatable: ClassVar[bool] = False
    is_device: ClassVar[bool] = False
    on_machine_thread: ClassVar[bool] = False
    """Whether live values are to be read and set on the machine thread."""

    options: Any
    state: Any

    def __init_subclass__(
        cls,
        *,
        type_name: str | None = None,
        options: type[msgspec.Struct] | None = None,
        status: type[msgspec.Struct] | None = None,
        state: type[msgspec.Struct] | None = None,
        abstract: bool = False,
        interfaces: tuple[str, ...] = (),
        links: Mapping[str, str] | None = None,
        user_creatable: bool = False,
        **keywords: Any,
    ) -> None:
        """Bind a class to a type; a class without a `type_name` is of its parent's type and only shares code."""
        super().__init_subclass__(**keywords)
        if type_name is None:
            return
        cls.type_name = type_name
        cls.abstract = abstract
        cls.user_creatable = user_creatable
        if options is not None:
            cls.options_type = options
        if status is not None:
            cls.status_type = status
        if state is not None:
            cls.state_type = state
        if interfaces:
            cls.interfaces = interfaces
        if links:
            cls.links = links
        types.bind(cls)

    def __init__(
        self, options: msgspec.Struct | None = None, *, creator: Provenance = Provenance.MACHINE
    ) -> None:
        """An object with these options (their defaults when None); `creator` is who gave those that are no defaults."""
        kind = type(self)
        if options is None and kind.options_type is not None:
            options = kind.options_type()
        self.options = options
        self.state = self.initial_state()
        self._creator = creator
        self._provenance: dict[str, Provenance] = {}
        self._children: dict[str, Object] = {}
        self._targets: dict[str, tuple[str, Object | None]] = {}
        self._aliases: dict[str, tuple[Object, str]] = {}
        self.parent: Object | None = None
        self.name = ""
        self.id: str | None = None
        self.in_use = False

    def __repr__(self) -> str:
        return f"<{self.type_name} {self.path or 'without a place'}>"

    # -- type -------------------------------------------------------------------------------------------------------

    @classmethod
    def parent_type(cls) -> type[Object] | None:
        """The class of the parent type: the next one with a type of its own."""
        for base in cls.__mro__[1:]:
            if issubclass(base, Object) and "type_name" in base.__dict__:
                return base
        return None

    @classmethod
    def is_a(cls, type_name: str) -> bool:
        """Whether the object's type is `type_name`, descends from it or implements it."""
        return types.is_a(cls.type_name, type_name)

    def initial_state(self) -> Any:
        """A fresh state struct; None where there is none, or where only the class can make it (members without a default)."""
        if self.state_type is None:
            return None
        try:
            return self.state_type()
        except TypeError:
            return None

    # -- state ------------------------------------------------------------------------------------------------------

    def save(self) -> Any:
        """The state as plain data, see `qemud.qom.state`."""
        self.before_save()
        return plain(self.state)

    def load(self, value: Any) -> None:
        """Take on a state that `save` returned; GenericError, and no change, if it does not fit."""
        from qemud.qom.state import parse_state

        self.state = parse_state(self, value)
        self.after_load()

    def before_save(self) -> None:
        """Bring `.state` up to date with what lives elsewhere."""

    def check_state(self, state: Any) -> None:
        """Raise GenericError when `state`, though right by the schema, is none that the object can be in."""

    def after_load(self) -> None:
        """Do what follows from a new `.state`: drive lines, arm timers."""

    # -- composition ------------------------------------------------------------------------------------------------

    @property
    def children(self) -> Mapping[str, Object]:
        """The children by name, in the order of their adoption (a copy)."""
        return dict(self._children)

    def add_child(self, name: str, child: _Child) -> _Child:
        """Adopt an object under `name`; `name[*]` takes the first free index.

        Raises GenericError when the object has a property of that name already.
        """
        assert child.parent is None, f"{child!r} has a parent"
        if name.endswith("[*]"):
            index = 0
            while f"{name[:-3]}[{index}]" in self._children:
                index += 1
            name = f"{name[:-3]}[{index}]"
        if self._has(name):
            raise GenericError(
                f"attempt to add duplicate property '{name}' to object (type '{self.type_name}')"
            )
        child.parent = self
        child.name = name
        self._children[name] = child
        return child

    def abandon(self, name: str) -> None:
        """Let go of the child `name`."""
        child = self._children.pop(name)
        child.parent = None
        child.name = ""

    def unparent(self) -> None:
        """Take the object, with all below it, out of the tree."""
        if self.parent is not None:
            self.parent.abandon(self.name)

    @property
    def path(self) -> str:
        """The canonical path; empty for an object that is in no tree."""
        parts: list[str] = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        if not isinstance(node, Root):
            return ""
        return "/" + "/".join(reversed(parts))

    @property
    def root(self) -> Object:
        """The topmost object above this one, itself if it has no parent."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    def walk(self) -> Iterator[Object]:
        """The object and all below it, parents first."""
        yield self
        for child in tuple(self._children.values()):
            yield from child.walk()

    def step(self, component: str) -> Object | None:
        """The child or the link's target of that name: one component of a path."""
        child = self._children.get(component)
        if child is not None:
            return child
        target = self._targets.get(component)
        return target[1] if target is not None else None

    # -- links ------------------------------------------------------------------------------------------------------

    def set_link(self, name: str, type_name: str, target: Object | None) -> None:
        """Let the property `name` point at `target`, of type `type_name`; read-only from outside."""
        self._targets[name] = (type_name, target)

    def drop_link(self, name: str) -> None:
        """Take the property `name` away."""
        del self._targets[name]

    def link(self, name: str) -> Object | None:
        """What the link points at."""
        target = self._targets.get(name)
        return target[1] if target is not None else None

    def linked(self) -> list[Object]:
        """The objects that the options name."""
        found = (self.link(name) for name in self.links)
        return [target for target in found if target is not None]

    def resolve_links(self) -> None:
        """Find the objects that the options of type link name, from the root of the tree.

        Raises DeviceNotFound when there is none of that name, GenericError when it is ambiguous or of the wrong type.
        """
        from qemud.qom.tree import AmbiguousPathError, resolve

        for given in types.properties(self.type_name):
            if not given.link:
                continue
            path = self.option(given.name)
            target = None
            if path:
                try:
                    target = resolve(self.root, path, given.link)
                except AmbiguousPathError:
                    raise GenericError(f"Path '{path}' does not uniquely identify an object") from None
                if target is None:
                    try:
                        other = resolve(self.root, path) is not None
                    except AmbiguousPathError:
                        other = True
                    if other:
                        raise GenericError(
                            f"Invalid parameter type for '{given.name}', expected: {given.link}"
                        )
                    raise DeviceNotFound(f"Device '{path}' not found")
            self._targets[given.name] = (given.link, target)

    # -- properties -------------------------------------------------------------------------------------------------

    def add_alias(self, name: str, target: Object, property_name: str) -> None:
        """Show another object's property as this object's `name`."""
        assert not self._has(name)
        self._aliases[name] = (target, property_name)

    def option(self, name: str) -> Any:
        """The value of the option of that wire name, as the struct holds it."""
        return getattr(self.options, attribute_of(type(self.options), name))

    def shown_option(self, name: str) -> Any:
        """The value of an option as it is shown: where it names what may have been replaced since, what is there now.  Any thread."""
        return self.option(name)

    def status(self) -> Any:
        """The read-only properties, an instance of the struct bound with `status=`."""
        return None

    def standard_properties(self) -> Iterator[tuple[str, str]]:
        """Names and types of the properties that every object of the kind has besides those of the schema."""
        yield "type", "string"

    def standard_property(self, name: str) -> object:
        """The value of one of `standard_properties`."""
        assert name == "type"
        return self.type_name

    def list_properties(self) -> Iterator[PropertyInfo]:
        """All properties: standard ones, the schema's, aliases, links and children."""
        for name, type_ in self.standard_properties():
            yield PropertyInfo(name, type_)
        for given in types.properties(self.type_name):
            yield property_info(given, device=self.is_device)
        for name, (target, property_name) in tuple(self._aliases.items()):
            yield PropertyInfo(name, target.property_type(property_name))
        for name, (type_, _) in tuple(self._targets.items()):
            if name not in self.links:
                yield PropertyInfo(name, f"link<{type_}>")
        for name, child in tuple(self._children.items()):
            yield PropertyInfo(name, f"child<{child.type_name}>")

    def property_type(self, name: str) -> str:
        """The type of a property, in QOM's words; GenericError when there is none of that name."""
        for info in self.list_properties():
            if info.name == name:
                return info.type
        raise self.no_property(name)

    def find_property(self, name: str) -> Property | None:
        """The schema's property of that name."""
        if self.options_type is None and self.status_type is None:
            return None  # as is so of all containers; the lists of types need not be read for it
        for given in types.properties(self.type_name):
            if given.name == name:
                return given
        return None

    def get_property(self, name: str) -> object:
        """The value of a property, ready for JSON; a child's or a link's is its path.

        Raises GenericError when there is no such property.
        """
        given = self.find_property(name)
        if given is not None:
            if given.link:
                target = self.link(name)
                return target.path if target is not None else (self.option(name) or "")
            if given.writable:
                value = plain(self.shown_option(name))
            else:
                status = self.status()
                value = plain(getattr(status, attribute_of(type(status), name)))
            return "" if value is None and given.type == "str" else value
        for standard, _ in self.standard_properties():
            if standard == name:
                return self.standard_property(name)
        if name in self._aliases:
            target, property_name = self._aliases[name]
            return target.get_property(property_name)
        child = self._children.get(name)
        if child is not None:
            return child.path
        if name in self._targets:
            end = self._targets[name][1]
            return end.path if end is not None else ""
        raise self.no_property(name)

    def set_property(
        self,
        name: str,
        value: object,
        provenance: Provenance = Provenance.USER,
        *,
        parse: Parser | None = None,
    ) -> None:
        """Set a property from its JSON form (`parse` takes another syntax), checked against the schema.

        Raises GenericError when there is no such property, it cannot be set (now), or the value is wrong.
        """
        if name in self._aliases:
            target, property_name = self._aliases[name]
            target.set_property(property_name, value, provenance, parse=parse)
            return
        given = self.find_property(name)
        if given is None and not self._has(name):
            raise self.no_property(name)
        if given is None or not given.writable:
            raise GenericError(f"Property '{self.type_name}.{name}' is not writable")
        if self.in_use and DYNAMIC not in given.features:
            raise self.too_late(given)
        struct = type(self.options)
        attribute = attribute_of(struct, name)
        new = getattr(self._parsed(name, value, parse), attribute)
        old = getattr(self.options, attribute)
        setattr(self.options, attribute, new)
        try:
            self.property_changed(name)
        except BaseException:
            setattr(self.options, attribute, old)
            raise
        self._provenance[name] = provenance

    def _parsed(self, name: str, value: object, parse: Parser | None) -> Any:
        """A struct of the options' type that holds the checked value (and whatever else is required)."""
        if parse is None:
            from qemud.qapi.runtime.check import parse_type

            parse = parse_type
        struct = type(self.options)
        rest = {
            given.name: plain(getattr(self.options, attribute_of(struct, given.name)))
            for given in types.properties(self.type_name)
            if given.writable and not given.optional and given.name != name
        }
        return parse(struct.__name__, {**rest, name: value})

    def property_changed(self, name: str) -> None:
        """Called after an option got a new value; an error raised here restores the old one."""

    def too_late(self, given: Property) -> GenericError:
        """The error on setting a property that may no longer change."""
        return GenericError(f"cannot change property '{given.name}' of {self.type_name}")

    def no_property(self, name: str) -> GenericError:
        """The error on a property that does not exist."""
        return GenericError(f"Property '{self.type_name}.{name}' not found")

    def provenance_of(self, name: str) -> Provenance:
        """Who gave the property its value; GenericError when there is no such option."""
        given = self.find_property(name)
        if given is None or not given.writable:
            raise self.no_property(name)
        known = self._provenance.get(name)
        if known is not None:
            return known
        value = plain(self.option(name))
        default = given.default if given.has_default else None
        return Provenance.DEFAULT if value == default else self._creator

    def set_provenance(self, name: str, provenance: Provenance) -> None:
        """Note who gave an option its value."""
        self._provenance[name] = provenance

    def apply_overlay(self) -> None:
        """Give options that have the schema's default the values of the machine's version."""
        root = self.root
        if not isinstance(root, Root):
            return
        for type_name, name, value in root.overlay:
            if self.is_a(type_name) and self.provenance_of(name) in {Provenance.DEFAULT, Provenance.VERSION}:
                self.set_property(name, value, Provenance.VERSION)

    def _has(self, name: str) -> bool:
        return (
            name in self._children
            or name in self._targets
            or name in self._aliases
            or self.find_property(name) is not None
            or any(name == standard for standard, _ in self.standard_properties())
        )


class Container(Object, type_name="container"):
    """An object that only holds others."""


class Root(Container):
    """The top of a composition tree.

    `overlay` is what the machine's version says: types, properties and values as in JSON.  `globals` are the (driver, property,
    value) of `-global`, in their order.  `services` is where objects that clients make find the rest of the process
    (`qemud.machine.services.Services`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.overlay: tuple[tuple[str, str, Any], ...] = ()
        self.globals: list[tuple[str, str, str]] = []
        self.services: Any = None


types.bind(Object)
