"""Objects that a client makes and removes: object-add, object-del and `-object`.

A class becomes one of them by deriving from `UserCreatable` and implementing the interface `user-creatable`; its branch of the
schema's `ObjectOptions` is flat, its class is bound to the branch's struct.  Making an object is all or nothing: it has its place
in the tree while `complete` does the work, and loses it again when that fails.

Whoever uses such an object holds it (`hold`, `release`); what is held cannot be removed.

Source of order and texts: QEMU 10.0, qom/object_interfaces.c.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from qemud.qapi.runtime import scalars
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.qemuopts import check_identifier, parse, split
from qemud.qom.object import Object
from qemud.qom.properties import Provenance
from qemud.qom.types import types

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from qemud.qom.tree import Tree


_LONGEST_RANGE = 65536
_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)")


class UserCreatable(Object):
    """What `object-add` makes.  `confidential` names the properties that are in no document of the machine."""

    confidential: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.holders = 0

    async def complete(self) -> None:
        """Do what the options ask for; what fails raises GenericError and leaves nothing behind."""

    def close(self) -> None:
        """Give everything back; called once, when the object is removed."""

    def hold(self) -> None:
        """Use the object: it cannot be removed until `release`."""
        self.holders += 1

    def release(self) -> None:
        """Use the object no longer."""
        self.holders -= 1


async def add_object(tree: Tree, arguments: Any, creator: Provenance = Provenance.USER) -> UserCreatable:
    """Make an object from an instance of the schema's `ObjectOptions` and put it below `/objects`.

    Raises GenericError (or DeviceNotFound, for an object that it names) and leaves nothing behind when anything is wrong.
    """
    name = arguments.id
    check_identifier(name)
    cls = types.find(arguments.qom_type.value)
    assert cls is not None
    assert issubclass(cls, UserCreatable)
    made = cls(struct_from(cls.options_type, arguments), creator=creator)
    made.id = name
    tree.objects.add_child(name, made)
    try:
        made.apply_overlay()
        made.resolve_links()
        await made.complete()
    except BaseException:
        made.unparent()
        raise
    made.in_use = True
    return made


def options_from_text(text: str, warn: Callable[[str], None]) -> Any:
    """An instance of `ObjectOptions` from `-object TYPE,id=ID,KEY=VALUE…`; `warn` is told of words without a value.

    A list takes several values, and ranges: `host-nodes=0-2,host-nodes=5`.  Raises GenericError in the words of QEMU's option
    visitor.
    """
    from qemud.qapi.runtime.keyval import parse_keyval_type

    values: dict[str, Any] = dict(parse(text, implied="qom-type", warn=warn))
    given = {each.name: each for each in types.properties(values.get("qom-type", ""))}
    for name, each in given.items():
        if each.type.endswith("[]") and name in values:
            if "int" not in each.type:
                raise GenericError(f"Parameter '{name}' expects an array, which is written in JSON only")
            parts = [part.partition("=") for part in split(text)]
            values[name] = [
                number for key, _, value in parts if key == name for number in _numbers(name, value)
            ]
        elif each.type == "int" and name in values and not _is_int64(values[name]):
            raise GenericError(f"Parameter '{name}' expects an int64 value")
    strange = [name for name in values if given and name not in given and name not in {"qom-type", "id"}]
    known = {name: value for name, value in values.items() if name not in strange}
    options = parse_keyval_type("ObjectOptions", known)
    if strange:
        raise GenericError(f"Invalid parameter '{strange[0]}'")
    return options


def _is_int64(text: str) -> bool:
    try:
        scalars.parse_int64(text)
    except ValueError:
        return False
    return bool(_INTEGER.fullmatch(text))


def _numbers(name: str, text: str) -> list[str]:
    """The numbers of `N` or `N-M`."""
    first, dash, last = text.partition("-")
    if first.isdecimal() and not dash:
        return [first]
    if first.isdecimal() and last.isdecimal() and len(first) < 10 and len(last) < 10:
        low, high = int(first), int(last)
        if low <= high < low + _LONGEST_RANGE:
            return [str(number) for number in range(low, high + 1)]
    raise GenericError(f"Parameter '{name}' expects a uint64 value or range")


def remove_object(tree: Tree, name: str) -> None:
    """Remove an object of `add_object`.  GenericError when there is none of that name or it is in use."""
    found = tree.objects.children.get(name)
    if not isinstance(found, UserCreatable):
        raise GenericError(f"object '{name}' not found")
    if found.holders or not found.in_use:
        raise GenericError(f"object '{name}' is in use, can not be deleted")
    found.unparent()
    found.close()


def struct_from(struct: type[msgspec.Struct] | None, arguments: Any) -> msgspec.Struct | None:
    """The members of `arguments`, a leaf of a union, that `struct` has; shared, not copied."""
    if struct is None:
        return None
    return struct(**{name: getattr(arguments, name) for name in struct.__struct_fields__})
