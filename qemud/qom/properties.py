"""Properties: what the schema says about each member of an object's structs, in the words of QOM.

The build writes one light table (`qemud._generated.properties`), so that listing the properties of a type needs neither
the type's class nor the code behind it.

Who set a value is kept beside the value (`Provenance`).  Whether it may change once the object is in use is said by the
member's feature `dynamic` in the schema; docs/decisions/0003-properties.md tells why.
"""

from __future__ import annotations

import enum

from msgspec import Struct

DYNAMIC = "dynamic"
"""The feature of a member that may be set while the object is in use."""

_INTEGERS = frozenset(
    ("int", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "size")
)


class Provenance(enum.Enum):
    """Where a property's value came from, weakest first."""

    DEFAULT = "default"  # the schema
    VERSION = "machine-version"  # the version of the board
    GLOBAL = "global"  # -global
    MACHINE = "machine"  # the board's own code, which wires its parts
    USER = "user"  # whoever created the object, or set it later
    GUEST = "guest"  # software in the machine


class Property(Struct, frozen=True):
    """A property of a type.

    `type` is a type's name in the schema (`uint32`, `str`, an enumeration), with `[]` behind for an array.  `default` means
    something only with `has_default`.  `link` is the QOM type that a member of type `str` names an object of.
    """

    name: str
    type: str
    optional: bool = False
    has_default: bool = False
    default: object = None
    description: str = ""
    features: tuple[str, ...] = ()
    link: str = ""
    writable: bool = True

    def qom_type(self, *, device: bool) -> str:
        """The name QEMU's QOM prints for the type; devices and other objects differ there.

        >>> Property("size", "size").qom_type(device=False)
        'int'
        >>> Property("chardev", "str").qom_type(device=True)
        'str'
        """
        if self.link:
            return f"link<{self.link}>"
        if self.type.endswith("[]"):
            return "list" if device else self.type[:-2] + "List"
        if device:
            return self.type
        if self.type in _INTEGERS:
            return "int"
        return "string" if self.type == "str" else self.type


class PropertyInfo:
    """A property of one object, as qom-list shows it; `description` and `default` only where the schema has them."""

    __slots__ = ("default", "description", "has_default", "name", "type")

    def __init__(
        self,
        name: str,
        type_: str,
        description: str = "",
        *,
        has_default: bool = False,
        default: object = None,
    ) -> None:
        self.name = name
        self.type = type_
        self.description = description
        self.has_default = has_default
        self.default = default


def property_info(given: Property, *, device: bool) -> PropertyInfo:
    """What qom-list-properties says of a property of the schema."""
    return PropertyInfo(
        given.name,
        given.qom_type(device=device),
        given.description,
        has_default=given.has_default and given.default is not None,
        default=given.default,
    )


def of_struct(name: str) -> tuple[Property, ...]:
    """The members of a struct of the schema, as properties.  LookupError when the schema has no such struct."""
    if not name:
        return ()
    found = _cache.get(name)
    if found is None:
        from qemud._generated.properties import STRUCTS

        found = _cache[name] = tuple(Property(*row) for row in STRUCTS[name])
    return found


_cache: dict[str, tuple[Property, ...]] = {}
