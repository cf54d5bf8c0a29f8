"""The binding check: whether the lists of types, the classes and the schema say the same.

`python -m qemud.qapi check --bindings` prints what this finds and fails on it.  All rooms are imported for it.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, cast

from msgspec import NODEFAULT
from msgspec.structs import astuple, fields

from qemud.qapi.runtime.check import type_class
from qemud.qapi.runtime.fields import leaves
from qemud.qom import properties
from qemud.qom.types import Registry, TypeEntry, entry_of
from qemud.qom.values import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from qemud.qom.object import Object


def verify(registry: Registry) -> Iterator[str]:
    """A sentence for each disagreement."""
    _import_all(registry.rooms)
    for entry in registry:
        yield from _verify(registry, entry)
    for cls in registry.unlisted():
        yield f"type '{cls.type_name}' ({cls.__module__}:{cls.__qualname__}) is in no list of types"
    yield from _verify_union(registry, "ObjectOptions", "qom-type", _is_user_object)
    yield from _verify_union(registry, "DeviceOptions", "driver", _is_user_device)


def _import_all(rooms: Iterable[str]) -> None:
    """Import every module of the rooms, so that no class stays unseen."""
    for room in rooms:
        package = importlib.import_module(room)
        for module in pkgutil.walk_packages(package.__path__, room + "."):
            importlib.import_module(module.name)


def _is_user_object(registry: Registry, entry: TypeEntry) -> bool:
    return registry.is_a(entry.name, "user-creatable") and bool(entry.location) and not entry.abstract


def _is_user_device(registry: Registry, entry: TypeEntry) -> bool:
    return registry.is_a(entry.name, "device") and entry.user_creatable and not entry.abstract


def _verify_union(
    registry: Registry, union: str, tag: str, creatable: Callable[[Registry, TypeEntry], bool]
) -> Iterator[str]:
    """Whether the branches of a union are the types that users can make, each with its type's properties."""
    wanted = {
        name: entry
        for entry in registry
        if creatable(registry, entry)
        for name in (entry.name, entry.alias)
        if name
    }
    base: Any = type_class(union)
    common = {field.encode_name for field in fields(base)}
    for leaf in leaves(base):
        name = str(cast("Any", leaf).__struct_config__.tag)
        entry = wanted.pop(name, None)
        if entry is None:
            yield f"'{union}' has the {tag} '{name}', which is no type that users can make"
            continue
        members = {field.encode_name for field in fields(leaf)} - common
        given = {each.name for each in registry.properties(entry.name) if each.writable}
        if members != given:
            odd = ", ".join(sorted(members ^ given))
            yield f"'{union}' and the type '{name}' have not the same properties: {odd}"
    for name in wanted:
        yield f"type '{name}' can be made by users, but '{union}' has no such {tag}"


def _verify(registry: Registry, entry: TypeEntry) -> Iterator[str]:
    """The disagreements about one type."""
    name = entry.name
    if entry.parent and registry.entry(entry.parent) is None:
        yield f"type '{name}' has the parent '{entry.parent}', which is no type"
    for interface in entry.interfaces:
        if registry.entry(interface) is None:
            yield f"type '{name}' implements '{interface}', which is no type"
    for struct in (entry.options, entry.status):
        try:
            properties.of_struct(struct)
        except LookupError:
            yield f"type '{name}' is bound to '{struct}', which the schema does not define"
            return
    members = {given.name for given in registry.properties(name)}
    for member, target in entry.links:
        if member not in members:
            yield f"type '{name}' has a link '{member}', which is no property of it"
        if registry.entry(target) is None:
            yield f"type '{name}' links '{member}' to '{target}', which is no type"
    if not entry.location:
        return
    try:
        cls = registry.find(name)
    except (ImportError, AttributeError) as error:
        yield f"type '{name}' has no class at {entry.location}: {error}"
        return
    assert cls is not None
    if cls.__dict__.get("type_name") != name:
        yield f"type '{name}' is listed at {entry.location}, whose type is '{cls.type_name}'"
        return
    actual = entry_of(cls)
    for field, listed, bound in zip(
        TypeEntry.__struct_fields__, astuple(entry), astuple(actual), strict=True
    ):
        # Under which heading and by what other name users see it is no business of the class.
        if field not in {"alias", "category"} and listed != bound:
            yield f"type '{name}' is listed with {field} {listed!r}, its class has {bound!r}"
    state = cls.__dict__.get("state_type")
    if state is not None and getattr(state, "__state_version__", None) is None:
        yield f"the state of type '{name}' is bound to '{state.__name__}', which has no version in the schema"
    yield from _verify_defaults(cls, entry)


def _verify_defaults(cls: type[Object], entry: TypeEntry) -> Iterator[str]:
    """Whether the struct's defaults are those that the property table shows."""
    struct = cls.__dict__.get("options_type")
    if struct is None:
        return
    table = {given.name: given for given in properties.of_struct(entry.options)}
    for field in fields(struct):
        given = table.get(field.encode_name)
        if given is None:
            yield f"type '{entry.name}': '{entry.options}' has no member '{field.encode_name}' in the schema"
        elif given.has_default:
            value = field.default_factory() if field.default_factory is not NODEFAULT else field.default
            if plain(value) != given.default:
                yield (
                    f"type '{entry.name}': '{field.encode_name}' has the default {plain(value)!r} in Python "
                    f"and {given.default!r} in the schema"
                )
