"""Values of generated structs, seen from the wire: members by their names there, values as JSON has them."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import msgspec


def attribute_of(struct: type[msgspec.Struct], name: str) -> str:
    """The Python attribute of a struct's member of that wire name."""
    found = _attributes.get(struct)
    if found is None:
        pairs = zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True)
        found = _attributes[struct] = dict(pairs)
    return found[name]


_attributes: dict[type[msgspec.Struct], dict[str, str]] = {}


def plain(value: object) -> Any:
    """A value of a struct as JSON has it: enumerations by name, structs as objects."""
    if value is None or isinstance(value, bool | int | str | float):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    from qemud.qapi.runtime.check import to_wire

    return to_wire(value)
