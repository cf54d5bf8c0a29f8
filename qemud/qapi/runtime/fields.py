"""The vocabulary of generated type modules: the schema's built-in types as msgspec sees them.

A generated struct reads like the schema it comes from:

    class Uart(Struct, kw_only=True):
        base: Uint64
        chardev: Maybe[Str] = None
        fifo: Bool = default(True)

The names are capitalised so that a member called `str` or `list` cannot hide them inside its own class.  To a type
checker they are the plain Python types.  At run time they also carry the ranges, and two of them mean less than they
say, because msgspec is told only what JSON may hold: `Maybe[T]` is `T` (an absent member is None, a `null` is an
error), and `OneOf[U]` is the union of the leaf classes of the union `U`.

Source of the ranges: QEMU 10.0, docs/devel/qapi-code-gen, "Built-in Types".
"""

from __future__ import annotations

import sys
from functools import reduce
from importlib import import_module
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

# msgspec takes typing_extensions where some other package has brought it: 3 ms of every start, for nothing that this Python lacks.
if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec
    finally:
        del sys.modules["typing_extensions"]

import msgspec
from msgspec import UNSET, Meta, UnsetType

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "UNSET",
    "AnyValue",
    "Bool",
    "Int",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "List",
    "Maybe",
    "Null",
    "Number",
    "OneOf",
    "QType",
    "Size",
    "Str",
    "Struct",
    "TypeAlias",
    "Uint8",
    "Uint16",
    "Uint32",
    "Uint64",
    "UnsetType",
    "default",
    "lazy_default",
    "lazy_module",
    "leaves",
]

T = TypeVar("T")

if TYPE_CHECKING:
    Maybe: TypeAlias = T | None
    OneOf = Annotated[T, "a leaf class"]
else:

    class Maybe:
        """`T`, when present: what an absent member's default (None) is does not concern msgspec."""

        def __class_getitem__(cls, item: object) -> object:
            return item

    class OneOf:
        """Any leaf class of a union's abstract class."""

        def __class_getitem__(cls, item: type) -> object:
            return one_of(item)


UNKNOWN_BRANCH = "__unknown_branch__"
"""An attribute of classes that are made at run time for branches of unions that no schema knows."""

Str: TypeAlias = str
Bool: TypeAlias = bool
Number: TypeAlias = float
Null: TypeAlias = None
AnyValue: TypeAlias = Any
List: TypeAlias = list
QType: TypeAlias = Literal["none", "qnull", "qnum", "qstring", "qdict", "qlist", "qbool"]

Int8 = Annotated[int, Meta(ge=-(2**7), le=2**7 - 1)]
Int16 = Annotated[int, Meta(ge=-(2**15), le=2**15 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Int = Int64
Uint8 = Annotated[int, Meta(ge=0, le=2**8 - 1)]
Uint16 = Annotated[int, Meta(ge=0, le=2**16 - 1)]
Uint32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
# msgspec keeps bounds in 64 signed bits; the upper bound is the framing's, which reads larger numbers as floats.
Uint64 = Annotated[int, Meta(ge=0)]
Size = Uint64


class Struct(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The base of every generated struct: keywords only, absent members left out on the wire."""


def default(value: T) -> T:
    """A member's default from the schema.

    It is a factory to msgspec, which leaves out values that *are* the default: on the wire a default is spelled out.
    """
    return msgspec.field(default_factory=lambda: value)


def lazy_default(make: Callable[[], T]) -> T:
    """A member's default that is made anew for each instance, or whose class is defined further down."""
    return msgspec.field(default_factory=make)


class LazyModule:
    """A module that is imported when one of its names is first needed.

    Annotations name classes of other schema modules through these, so that importing one schema module's types does
    not import all the others', and so that modules may name each other in a circle.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


def lazy_module(name: str) -> LazyModule:
    """The module `name`, imported on first use."""
    return LazyModule(name)


def one_of(union: type) -> Any:
    """What `OneOf[union]` is at run time."""
    return reduce(or_, leaves(union))


def leaves(union: type) -> list[type]:
    """The leaf classes of a union's abstract class, in the order of definition."""
    # Clients make classes of their own for branches that the schema does not know.
    subclasses: list[type] = union.__subclasses__()
    children = [child for child in subclasses if UNKNOWN_BRANCH not in child.__dict__]
    return [leaf for child in children for leaf in leaves(child)] if children else [union]
