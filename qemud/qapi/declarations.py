"""Definitions as they are written: what the expression checker hands to the analyser.

Shapes are right and names follow the rules, but types are still names (`TypeRef`), and nothing has been looked up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from qemud.qapi.model import ALWAYS, Condition, EnumMember, Feature

if TYPE_CHECKING:
    from qemud.qapi.diagnostics import Site
    from qemud.qapi.docs import DocComment
    from qemud.qapi.parser import Value


@dataclass(frozen=True, slots=True)
class TypeRef:
    """The name of a type, or of the element of an array of it."""

    name: str
    is_array: bool = False

    @property
    def type_name(self) -> str:
        """The name of the type itself: an array type's is its element's with `List` behind."""
        return self.name + "List" if self.is_array else self.name


@dataclass(frozen=True, slots=True)
class MemberDeclaration:
    """A member, argument, branch or alternative."""

    name: str
    type: TypeRef
    optional: bool = False
    condition: Condition = ALWAYS
    features: tuple[Feature, ...] = ()
    has_default: bool = False
    default: Value = None


@dataclass(slots=True)
class Declaration:
    """What all definitions have."""

    site: Site
    doc: DocComment | None
    condition: Condition = field(default=ALWAYS, init=False)
    features: tuple[Feature, ...] = field(default=(), init=False)

    @property
    def name(self) -> str:
        """The name that is defined."""
        return self.site.name


@dataclass(slots=True)
class EnumDeclaration(Declaration):
    """An `enum`."""

    members: tuple[EnumMember, ...]
    prefix: str | None


@dataclass(slots=True)
class StructDeclaration(Declaration):
    """A `struct`."""

    members: tuple[MemberDeclaration, ...]
    base: str | None
    version: int | None
    mixins: tuple[str, ...]


@dataclass(slots=True)
class UnionDeclaration(Declaration):
    """A `union`; its base is a type's name or the members written in its place."""

    base: str | tuple[MemberDeclaration, ...]
    discriminator: str
    branches: tuple[MemberDeclaration, ...]


@dataclass(slots=True)
class AlternateDeclaration(Declaration):
    """An `alternate`."""

    alternatives: tuple[MemberDeclaration, ...]


@dataclass(slots=True)
class CommandDeclaration(Declaration):
    """A `command`."""

    arguments: str | tuple[MemberDeclaration, ...] | None
    returns: TypeRef | None
    flags: frozenset[str]  # of those with a value: `boxed`, `gen` (which is false then) …
    phases: tuple[str, ...] = ()


@dataclass(slots=True)
class EventDeclaration(Declaration):
    """An `event`."""

    arguments: str | tuple[MemberDeclaration, ...] | None
    boxed: bool


AnyDeclaration: TypeAlias = (
    EnumDeclaration
    | StructDeclaration
    | UnionDeclaration
    | AlternateDeclaration
    | CommandDeclaration
    | EventDeclaration
)
