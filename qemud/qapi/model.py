"""The model of a checked schema: what the front end hands to every generator.

The front end (`qemud.qapi.schema.load`) reads the JSON files, checks them as QEMU's own generator does and returns a
`Schema`.  Generators walk `Schema.modules`; nothing behind this page is theirs to know.

Every entity keeps the place it was defined at (`Info`), its documentation and its condition.  Names are wire names
throughout; `qemud.qapi.names` turns them into Python's.

Source: QEMU 10.0, docs/devel/qapi-code-gen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

JsonType: TypeAlias = Literal["string", "number", "int", "boolean", "null", "object", "array", "value"]


@dataclass(frozen=True, slots=True)
class Info:
    """A place in a schema file; `parent` is the `include` that led there."""

    file: str
    line: int
    parent: Info | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """An `if`: a name, or `all`/`any`/`not` of conditions.  `Condition.TRUE` is "always"."""

    op: Literal["true", "name", "all", "any", "not"] = "true"
    name: str = ""
    operands: tuple[Condition, ...] = ()

    def evaluate(self, defined: frozenset[str]) -> bool:
        """Whether the condition holds where exactly the names in `defined` are defined."""
        match self.op:
            case "true":
                return True
            case "name":
                return self.name in defined
            case "all":
                return all(operand.evaluate(defined) for operand in self.operands)
            case "any":
                return any(operand.evaluate(defined) for operand in self.operands)
            case "not":
                return not self.operands[0].evaluate(defined)


ALWAYS = Condition()


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of a definition or of a member; `deprecated` and `unstable` are special."""

    name: str
    condition: Condition = ALWAYS
    info: Info | None = None


@dataclass(slots=True)
class Doc:
    """A parsed documentation comment: plain text by section, in the schema's own (rST-like) markup."""

    body: str = ""
    members: dict[str, str] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)
    returns: str = ""
    errors: str = ""
    since: str = ""
    details: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Entity:
    """What every named definition has."""

    name: str
    info: Info | None
    doc: Doc | None
    condition: Condition
    features: tuple[Feature, ...]
    module: str  # name of the schema module ("char", "run-state"); "" for built-in types

    def has_feature(self, name: str) -> bool:
        """Whether the definition carries the feature `name`."""
        return any(feature.name == name for feature in self.features)


@dataclass(slots=True)
class BuiltinType(Entity):
    """`str`, `int`, `int8` … `uint64`, `size`, `number`, `bool`, `null`, `any`.

    `QType` is built in too, as an `EnumType` without place and module.
    """

    json_type: JsonType


@dataclass(frozen=True, slots=True)
class EnumMember:
    """One value of an enumeration."""

    name: str
    condition: Condition = ALWAYS
    features: tuple[Feature, ...] = ()
    info: Info | None = None


@dataclass(slots=True)
class EnumType(Entity):
    """An enumeration; `prefix` only matters to C."""

    members: tuple[EnumMember, ...]
    prefix: str | None = None


@dataclass(slots=True)
class ArrayType(Entity):
    """An array of `element`; its name is the element's with `List` behind, as in QEMU."""

    element: SchemaType


@dataclass(slots=True)
class Member:
    """A member of a struct or union, or an argument.

    `default` is this project's one extension of a member: the value that stands for an absent one, with `has_default`
    telling "no default" from "default null".  A member with a default is optional.
    """

    name: str
    type: SchemaType
    optional: bool = False
    condition: Condition = ALWAYS
    features: tuple[Feature, ...] = ()
    info: Info | None = None
    has_default: bool = False
    default: object = None


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch of a union: its tag's value and the struct (or union, or the empty object type) it adds."""

    name: str
    type: ObjectType
    condition: Condition = ALWAYS
    info: Info | None = None


@dataclass(slots=True)
class Variants:
    """The branches of a union and the member (of its base) that chooses one.

    Tag values with no branch of their own are listed too, with the empty type.
    """

    tag: Member
    branches: tuple[Branch, ...]


@dataclass(slots=True)
class ObjectType(Entity):
    """A struct or a union, or the implicit type of a command's or event's inline arguments (`implicit`).

    `members` holds all common members, the base's first; `local_members` those defined here.  `version` is the version
    of a saved-state struct (this project's extension), else None.  `mixins` are structs whose members are copied (another
    extension): they stand between the base's and those defined here.
    """

    base: ObjectType | None
    local_members: tuple[Member, ...]
    members: tuple[Member, ...]
    variants: Variants | None = None
    implicit: bool = False
    version: int | None = None
    mixins: tuple[ObjectType, ...] = ()

    @property
    def own_members(self) -> tuple[Member, ...]:
        """All that is not the base's."""
        return tuple(member for mixin in self.mixins for member in mixin.members) + self.local_members


@dataclass(slots=True)
class AlternateType(Entity):
    """A choice by JSON type; `Branch.name` is only documentation, so alternatives are (name, type) members."""

    alternatives: tuple[Member, ...]


SchemaType: TypeAlias = BuiltinType | EnumType | ArrayType | ObjectType | AlternateType


@dataclass(slots=True)
class Command(Entity):
    """A QMP command.

    `job` and `phases` are this project's columns: whether it starts a job, and the phases in which it may run
    (empty: when the machine is ready, and with `allow_preconfig` before that).
    """

    arguments: ObjectType | None
    returns: SchemaType | None
    gen: bool = True
    success_response: bool = True
    boxed: bool = False
    allow_oob: bool = False
    allow_preconfig: bool = False
    coroutine: bool = False
    job: bool = False
    phases: tuple[str, ...] = ()


@dataclass(slots=True)
class Event(Entity):
    """A QMP event."""

    arguments: ObjectType | None
    boxed: bool = False


Definition: TypeAlias = SchemaType | Command | Event


@dataclass(slots=True)
class Module:
    """The definitions of one schema file, in the file's order; `docs` are its free-form comments.

    Types that nobody wrote down (arrays, inline arguments and bases) are not among the definitions; `Schema.entities`
    has them.  `name` is the file's path from the root file's directory, without `.json`.
    """

    name: str
    path: str
    definitions: list[Definition] = field(default_factory=list)
    docs: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Schema:
    """A whole schema: modules in the order of first inclusion, and every named entity."""

    modules: list[Module]
    entities: dict[str, Definition]

    def types(self) -> Iterator[SchemaType]:
        """Every type, built-in and implicit ones too."""
        for entity in self.entities.values():
            if not isinstance(entity, Command | Event):
                yield entity

    def commands(self) -> Iterator[Command]:
        """Every command, in the schema's order."""
        for entity in self.entities.values():
            if isinstance(entity, Command):
                yield entity

    def events(self) -> Iterator[Event]:
        """Every event, in the schema's order."""
        for entity in self.entities.values():
            if isinstance(entity, Event):
                yield entity
