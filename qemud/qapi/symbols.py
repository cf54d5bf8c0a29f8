"""Names first: every definition entered under its name, with the types it implies, before any is looked into.

`define(parsed, declarations)` makes the model's entities, as yet hollow, and a list of what is to be checked, in the order
in which QEMU's front end does it: an array type goes before the definition that first mentions it, and the implicit type
of inline members before theirs.  `qemud.qapi.analysis` takes it from there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from qemud.qapi import names
from qemud.qapi.clashes import Scope
from qemud.qapi.declarations import (
    AlternateDeclaration,
    AnyDeclaration,
    CommandDeclaration,
    EnumDeclaration,
    EventDeclaration,
    MemberDeclaration,
    StructDeclaration,
    TypeRef,
    UnionDeclaration,
)
from qemud.qapi.diagnostics import SchemaError, Site, render
from qemud.qapi.model import (
    ALWAYS,
    AlternateType,
    ArrayType,
    BuiltinType,
    Command,
    Condition,
    Definition,
    EnumMember,
    EnumType,
    Event,
    Feature,
    Info,
    JsonType,
    Module,
    ObjectType,
    SchemaType,
)

if TYPE_CHECKING:
    from qemud.qapi.parser import ParsedSchema, SourceFile

BUILTIN_TYPES: dict[str, JsonType] = {
    "str": "string",
    "number": "number",
    "int": "int",
    "int8": "int",
    "int16": "int",
    "int32": "int",
    "int64": "int",
    "uint8": "int",
    "uint16": "int",
    "uint32": "int",
    "uint64": "int",
    "size": "int",
    "bool": "boolean",
    "any": "value",
    "null": "null",
}
EMPTY_TYPE = "q_empty"
_QTYPE_VALUES = ("none", "qnull", "qnum", "qstring", "qdict", "qlist", "qbool")
_SPECIAL_FEATURES = ("deprecated", "unstable")
_NOWHERE = Site(Info("<built-in>", 0), "struct", EMPTY_TYPE)


@dataclass(slots=True)
class EnumWork:
    """An enumeration to be checked."""

    entity: EnumType
    declaration: EnumDeclaration


@dataclass(slots=True)
class ArrayWork:
    """An array type whose element is still only a name; `site` is who asked for it first."""

    entity: ArrayType
    element: str
    site: Site


@dataclass(slots=True)
class ObjectWork:
    """A struct, union or implicit object type to be laid out.

    `declaration` is that of the definition, None for an implicit type.  The rest is filled when it is checked.
    """

    entity: ObjectType
    site: Site
    base: str | None
    members: tuple[MemberDeclaration, ...]
    declaration: StructDeclaration | UnionDeclaration | None = None
    state: Literal["new", "checking", "done"] = "new"
    depth: int = 0  # of the longest chain of bases and branches below
    own_names: Scope = field(default_factory=Scope)  # of the members common to all branches
    all_names: Scope = field(default_factory=Scope)  # with those that branches add, however deep


@dataclass(slots=True)
class AlternateWork:
    """An alternate to be checked."""

    entity: AlternateType
    declaration: AlternateDeclaration


@dataclass(slots=True)
class CommandWork:
    """A command to be checked; `arguments` names their type."""

    entity: Command
    declaration: CommandDeclaration
    arguments: str | None


@dataclass(slots=True)
class EventWork:
    """An event to be checked; `arguments` names their type."""

    entity: Event
    declaration: EventDeclaration
    arguments: str | None


Work: TypeAlias = EnumWork | ArrayWork | ObjectWork | AlternateWork | CommandWork | EventWork


def define(parsed: ParsedSchema, declarations: list[AnyDeclaration]) -> Symbols:
    """All names of a schema; `SchemaError` for one that is defined twice."""
    symbols = Symbols(parsed.files)
    for declaration in declarations:
        symbols.define(declaration)
    return symbols


class Symbols:
    """The entities of a schema by name, its modules, and the work list."""

    def __init__(self, files: list[SourceFile]) -> None:
        self.entities: dict[str, Definition] = {}
        self.objects: dict[str, ObjectWork] = {}
        self.work: list[Work] = []
        # The first user of each feature; the special ones are always there.
        self.features: dict[str, Site | None] = dict.fromkeys(_SPECIAL_FEATURES)
        self._sites: dict[str, Site] = {}
        self._root = os.path.dirname(files[0].path) or "."
        self.modules = self._make_modules(files)
        self._define_builtins()

    # Looking up.

    def type(self, name: str) -> SchemaType | None:
        """The type called `name`, if there is one."""
        entity = self.entities.get(name)
        return None if isinstance(entity, Command | Event) else entity

    def resolve(self, name: str, site: Site, user: str) -> SchemaType:
        """The type called `name`; `SchemaError` on behalf of `user`, a part of `site`, if there is none."""
        found = self.type(name)
        if found is None:
            raise SchemaError.at(site, f"{user} uses unknown type '{name}'")
        return found

    def is_union(self, type_: ObjectType) -> bool:
        """Whether an object type, checked or not, is a union."""
        return isinstance(self.objects[type_.name].declaration, UnionDeclaration)

    def describe(self, entity: Definition) -> str:
        """A definition in the words for a diagnostic."""
        match entity:
            case BuiltinType():
                return f"built-in type '{entity.name}'"
            case EnumType():
                return f"enum type '{entity.name}'"
            case ArrayType():
                return f"array type ['{entity.name.removesuffix('List')}']"
            case ObjectType():
                return f"{'union' if self.is_union(entity) else 'struct'} type '{entity.name}'"
            case AlternateType():
                return f"alternate type '{entity.name}'"
            case Command():
                return f"command '{entity.name}'"
            case Event():
                return f"event '{entity.name}'"

    # Defining.

    def define(self, declaration: AnyDeclaration) -> None:
        """Enter a definition and the types that it implies."""
        self._note_features(declaration.features, declaration.site)
        match declaration:
            case EnumDeclaration():
                self._define_enum(declaration)
            case StructDeclaration():
                self._define_struct(declaration)
            case UnionDeclaration():
                self._define_union(declaration)
            case AlternateDeclaration():
                self._define_alternate(declaration)
            case CommandDeclaration():
                self._define_command(declaration)
            case EventDeclaration():
                self._define_event(declaration)

    def _define_builtins(self) -> None:
        for name, json_type in BUILTIN_TYPES.items():
            builtin = BuiltinType(name, None, None, ALWAYS, (), "", json_type)
            array = ArrayType(name + "List", None, None, ALWAYS, (), "", builtin)
            self.entities |= {builtin.name: builtin, array.name: array}
        empty = ObjectType(EMPTY_TYPE, None, None, ALWAYS, (), "", None, (), (), implicit=True)
        values = tuple(EnumMember(value) for value in _QTYPE_VALUES)
        qtype = EnumType("QType", None, None, ALWAYS, (), "", values)
        self.entities |= {empty.name: empty, qtype.name: qtype}
        self.objects[empty.name] = ObjectWork(empty, _NOWHERE, None, (), state="done")

    def _make_modules(self, files: list[SourceFile]) -> dict[str, Module]:
        """A module for each file, by name; the names must differ in Python too."""
        modules: dict[str, Module] = {}
        seen: dict[str, str] = {}
        for file in files:
            name = self._module_of(file.path)
            python_module = names.module_name(name)
            other = seen.setdefault(python_module, file.path)
            if other != file.path:
                raise SchemaError(
                    f"file '{file.path}' collides with '{other}': both are Python module '{python_module}'",
                    file.included,
                )
            modules[name] = Module(name, file.path, [], [doc.sections[0].text for doc in file.free_docs])
        return modules

    def _module_of(self, path: str) -> str:
        """The schema module of a file: its path from the root file's directory, without `.json`."""
        return os.path.relpath(path, self._root).removesuffix(".json")

    def _common(
        self, declaration: AnyDeclaration
    ) -> tuple[str, Info, None, Condition, tuple[Feature, ...], str]:
        """The fields of every entity; documentation follows once it was checked."""
        info = declaration.site.info
        module = self._module_of(info.file)
        return declaration.name, info, None, declaration.condition, declaration.features, module

    def _enter(self, entity: Definition, site: Site) -> None:
        other = self.entities.get(entity.name)
        if other is not None:
            if other.info is None:
                raise SchemaError.at(site, f"{self.describe(other)} is already defined")
            previous = render("previous definition", other.info, site=self._sites[other.name])
            raise SchemaError.at(site, f"'{entity.name}' is already defined\n{previous}")
        self.entities[entity.name] = entity
        self._sites[entity.name] = site

    def _enter_object(self, work: ObjectWork) -> None:
        self._enter(work.entity, work.site)
        self.objects[work.entity.name] = work
        self.work.append(work)

    def _note_features(self, features: tuple[Feature, ...], site: Site) -> None:
        for feature in features:
            self.features.setdefault(feature.name, site)

    def _define_enum(self, declaration: EnumDeclaration) -> None:
        for member in declaration.members:
            self._note_features(member.features, declaration.site)
        entity = EnumType(*self._common(declaration), declaration.members, declaration.prefix)
        self._enter(entity, declaration.site)
        self.work.append(EnumWork(entity, declaration))

    def _define_struct(self, declaration: StructDeclaration) -> None:
        self._define_member_types(declaration.members, declaration.site)
        entity = ObjectType(*self._common(declaration), None, (), (), version=declaration.version)
        self._enter_object(
            ObjectWork(entity, declaration.site, declaration.base, declaration.members, declaration)
        )

    def _define_union(self, declaration: UnionDeclaration) -> None:
        if isinstance(declaration.base, str):
            base: str | None = declaration.base
        else:
            base = self._define_implicit(declaration, declaration.base, "base")
        entity = ObjectType(*self._common(declaration), None, (), ())
        self._enter_object(ObjectWork(entity, declaration.site, base, (), declaration))

    def _define_alternate(self, declaration: AlternateDeclaration) -> None:
        for alternative in declaration.alternatives:
            self._define_array(alternative.type, declaration.site)
        entity = AlternateType(*self._common(declaration), ())
        self._enter(entity, declaration.site)
        self.work.append(AlternateWork(entity, declaration))

    def _define_command(self, declaration: CommandDeclaration) -> None:
        arguments = self._define_arguments(declaration)
        if declaration.returns is not None:
            self._define_array(declaration.returns, declaration.site)
        flags = declaration.flags
        entity = Command(
            *self._common(declaration),
            arguments=None,
            returns=None,
            gen="gen" not in flags,
            success_response="success-response" not in flags,
            boxed="boxed" in flags,
            allow_oob="allow-oob" in flags,
            allow_preconfig="allow-preconfig" in flags,
            coroutine="coroutine" in flags,
            job="job" in flags,
            phases=declaration.phases,
        )
        self._enter(entity, declaration.site)
        self.work.append(CommandWork(entity, declaration, arguments))

    def _define_event(self, declaration: EventDeclaration) -> None:
        arguments = self._define_arguments(declaration)
        entity = Event(*self._common(declaration), arguments=None, boxed=declaration.boxed)
        self._enter(entity, declaration.site)
        self.work.append(EventWork(entity, declaration, arguments))

    def _define_arguments(self, declaration: CommandDeclaration | EventDeclaration) -> str | None:
        """The name of the type of a command's or event's arguments."""
        if isinstance(declaration.arguments, tuple):
            return self._define_implicit(declaration, declaration.arguments, "arg")
        return declaration.arguments

    def _define_implicit(
        self,
        declaration: UnionDeclaration | CommandDeclaration | EventDeclaration,
        members: tuple[MemberDeclaration, ...],
        role: Literal["arg", "base"],
    ) -> str | None:
        """The type of members that are written in the place of a type's name; none for no members."""
        if not members:
            return None
        self._define_member_types(members, declaration.site)
        name = f"q_obj_{declaration.name}-{role}"
        if name not in self.entities:  # else the definition itself is the second of its name, as will be told
            _, info, doc, condition, _, module = self._common(declaration)
            entity = ObjectType(name, info, doc, condition, (), module, None, (), (), implicit=True)
            self._enter_object(ObjectWork(entity, declaration.site, None, members))
        return name

    def _define_member_types(self, members: tuple[MemberDeclaration, ...], site: Site) -> None:
        for member in members:
            self._define_array(member.type, site)
            self._note_features(member.features, site)

    def _define_array(self, ref: TypeRef, site: Site) -> None:
        """The array type that `ref` asks for, if it is one and new."""
        if ref.is_array and ref.type_name not in self.entities:
            # The element may be defined further down; until the check looks it up, any type stands in.
            array = ArrayType(ref.type_name, site.info, None, ALWAYS, (), "", self.resolve("any", site, ""))
            self._enter(array, site)
            self.work.append(ArrayWork(array, ref.name, site))
