"""What definitions mean: types looked up, members laid out, clashes and cycles found, documentation connected.

`analyse(parsed, declarations)` builds the model.  All names are defined first, then every entity is checked in the order
of definition, because the first error is the one that is reported; checking an object type checks those it contains
first.  Names are compared as C and Python would see them, so that neither language's generator meets a clash.

Source: QEMU 10.0, docs/devel/qapi-code-gen, "Schema syntax"; its limit of 64 features is kept.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from qemud.qapi import names
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
from qemud.qapi.defaults import check_default
from qemud.qapi.diagnostics import SchemaError, Site, render
from qemud.qapi.model import (
    ALWAYS,
    AlternateType,
    ArrayType,
    Branch,
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
    Member,
    Module,
    ObjectType,
    Schema,
    SchemaType,
    Variants,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.qapi.parser import ParsedSchema

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
_QTYPES = ("none", "qnull", "qnum", "qstring", "qdict", "qlist", "qbool")
_SPECIAL_FEATURES = ("deprecated", "unstable")
_MAX_FEATURES = 64
# Bases and branches, one inside the other; generators walk them by recursion.
_MAX_DEPTH = 50
_NUMBER_LIKE = re.compile(r"[-+0-9.]")


@dataclass(frozen=True, slots=True)
class _Named:
    """Who has a name: a member, value, branch or feature, and what defines it."""

    role: str
    name: str
    owner: str

    def describe(self, site: Site) -> str:
        """In the words for a diagnostic about `site`."""
        role, owner, kind = self.role, self.owner, "type"
        if owner.startswith("q_obj_"):
            owner = owner.removeprefix("q_obj_")
            if owner.endswith("-arg"):
                role, kind, owner = "parameter", "command", owner.removesuffix("-arg")
            else:
                role, owner = f"base {role}", owner.removesuffix("-base")
        text = f"{role} '{self.name}'"
        return text if owner == site.name else f"{text} of {kind} '{owner}'"


def _add_name(
    named: _Named, seen: dict[str, _Named], site: Site, key: Callable[[str], str] = names.python_name
) -> None:
    """Note a name; complain when another in `seen` comes out the same."""
    other = seen.setdefault(key(named.name), named)
    if other is not named:
        raise SchemaError.at(site, f"{named.describe(site)} collides with {other.describe(site)}")


@dataclass(slots=True)
class _ObjectWork:
    """An object type on its way through the analysis."""

    type: ObjectType
    site: Site
    base: str | None
    members: tuple[MemberDeclaration, ...]
    union: UnionDeclaration | None = None
    state: Literal["new", "checking", "done"] = "new"
    depth: int = 0  # of the longest chain of bases and branches below
    # The names of common members, and those with all that branches add, however deep: by Python name, in order.
    own_names: dict[str, _Named] = field(default_factory=dict)
    all_names: dict[str, _Named] = field(default_factory=dict)


def analyse(parsed: ParsedSchema, declarations: list[AnyDeclaration]) -> Schema:
    """The model of the schema; `SchemaError` for the first definition that makes no sense."""
    return _Analyser(parsed).run(declarations)


class _Analyser:
    def __init__(self, parsed: ParsedSchema) -> None:
        self._parsed = parsed
        self._pragmas = parsed.pragmas
        self._entities: dict[str, Definition] = {}
        self._sites: dict[str, Site] = {}  # of what the schema defines, and of what that implies
        self._objects: dict[str, _ObjectWork] = {}
        self._checks: list[Callable[[], None]] = []
        self._default_checks: list[Callable[[], None]] = []
        self._features: dict[str, Site | None] = dict.fromkeys(_SPECIAL_FEATURES)
        self._modules = self._make_modules()
        self._unknown = BuiltinType("any", None, None, ALWAYS, (), "", "value")

    def run(self, declarations: list[AnyDeclaration]) -> Schema:
        self._define_builtins()
        for declaration in declarations:
            self._define(declaration)
        for check in self._checks:
            check()
        for doc in self._parsed.docs:
            doc.finish()
        self._check_feature_count()
        for check in self._default_checks:
            check()
        self._check_python_names(declarations)
        for declaration in declarations:
            entity = self._entities[declaration.name]
            if declaration.doc is not None:
                entity.doc = declaration.doc.to_model()
            self._modules[entity.module].definitions.append(entity)
        for entity in self._entities.values():
            if isinstance(entity, ArrayType):
                entity.condition = entity.element.condition
                entity.module = entity.element.module
        return Schema(list(self._modules.values()), self._entities)

    def _make_modules(self) -> dict[str, Module]:
        """A module for each file, by name; the names must differ in Python too."""
        modules: dict[str, Module] = {}
        seen: dict[str, str] = {}
        for file in self._parsed.files:
            name = self._module_of(file.path)
            other = seen.setdefault(names.module_name(name), file.path)
            if other != file.path:
                raise SchemaError(
                    f"file '{file.path}' collides with '{other}': both are Python module"
                    f" '{names.module_name(name)}'",
                    file.included,
                )
            modules[name] = Module(name, file.path, [], [doc.sections[0].text for doc in file.free_docs])
        return modules

    def _module_of(self, path: str) -> str:
        """The schema module of a file: its path from the root file's directory, without `.json`."""
        root = os.path.dirname(self._parsed.files[0].path)
        return os.path.relpath(path, root or ".").removesuffix(".json")

    # Definitions.

    def _define_builtins(self) -> None:
        for name, json_type in BUILTIN_TYPES.items():
            builtin = BuiltinType(name, None, None, ALWAYS, (), "", json_type)
            self._entities[name] = builtin
            self._entities[name + "List"] = ArrayType(name + "List", None, None, ALWAYS, (), "", builtin)
        empty = ObjectType("q_empty", None, None, ALWAYS, (), "", None, (), (), implicit=True)
        self._entities["q_empty"] = empty
        nowhere = Site(Info("<built-in>", 0), "struct", "q_empty")
        self._objects["q_empty"] = _ObjectWork(empty, nowhere, None, (), state="done")
        values = tuple(EnumMember(value) for value in _QTYPES)
        self._entities["QType"] = EnumType("QType", None, None, ALWAYS, (), "", values)

    def _define(self, declaration: AnyDeclaration) -> None:
        """Enter a definition and the types that it implies; note what is to be checked, in order."""
        self._count_features(declaration.features, declaration.site)
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

    def _common(
        self, declaration: AnyDeclaration
    ) -> tuple[str, Info, None, Condition, tuple[Feature, ...], str]:
        """The fields of every entity; documentation follows when it was checked."""
        site = declaration.site
        module = self._module_of(site.info.file)
        return site.name, site.info, None, declaration.condition, declaration.features, module

    def _enter(self, entity: Definition, site: Site) -> None:
        other = self._entities.get(entity.name)
        if other is not None:
            if other.info is None:
                raise SchemaError.at(site, f"{self._describe(other)} is already defined")
            previous = render("previous definition", other.info, site=self._sites[other.name])
            raise SchemaError.at(site, f"'{entity.name}' is already defined\n{previous}")
        self._entities[entity.name] = entity
        self._sites[entity.name] = site

    def _define_enum(self, declaration: EnumDeclaration) -> None:
        for member in declaration.members:
            self._count_features(member.features, declaration.site)
        entity = EnumType(*self._common(declaration), declaration.members, declaration.prefix)
        self._enter(entity, declaration.site)
        self._checks.append(lambda: self._check_enum(entity, declaration))

    def _define_struct(self, declaration: StructDeclaration) -> None:
        self._define_member_types(declaration.members, declaration.site)
        entity = ObjectType(*self._common(declaration), None, (), (), version=declaration.version)
        work = _ObjectWork(entity, declaration.site, declaration.base, declaration.members)
        self._enter_object(work, declaration)

    def _define_union(self, declaration: UnionDeclaration) -> None:
        if isinstance(declaration.base, str):
            base: str | None = declaration.base
        else:
            base = self._define_implicit(declaration, declaration.base, "base")
        entity = ObjectType(*self._common(declaration), None, (), ())
        work = _ObjectWork(entity, declaration.site, base, (), declaration)
        self._enter_object(work, declaration)

    def _enter_object(self, work: _ObjectWork, declaration: AnyDeclaration | None) -> None:
        self._enter(work.type, work.site)
        self._objects[work.type.name] = work
        self._checks.append(lambda: self._check_object(work))
        if declaration is not None:
            self._checks.append(lambda: self._document_object(work, declaration))

    def _define_implicit(
        self, declaration: AnyDeclaration, members: tuple[MemberDeclaration, ...], role: str
    ) -> str | None:
        """The type of members that are written in the place of a type's name; none for no members."""
        if not members:
            return None
        self._define_member_types(members, declaration.site)
        name = f"q_obj_{declaration.name}-{role}"
        if name not in self._entities:  # else the definition itself is a second one, which will be told
            _, info, doc, condition, _, module = self._common(declaration)
            entity = ObjectType(name, info, doc, condition, (), module, None, (), (), implicit=True)
            self._enter_object(_ObjectWork(entity, declaration.site, None, members), None)
        return name

    def _define_member_types(self, members: tuple[MemberDeclaration, ...], site: Site) -> None:
        for member in members:
            self._define_array(member.type, site)
            self._count_features(member.features, site)

    def _define_array(self, ref: TypeRef, site: Site) -> None:
        """The array type that `ref` asks for, if it is one and new."""
        name = _type_name(ref)
        if not ref.is_array or name in self._entities:
            return
        # The element may be defined further down; the check looks it up.
        array = ArrayType(name, site.info, None, ALWAYS, (), "", self._unknown)
        self._enter(array, site)
        self._checks.append(lambda: self._check_array(array, ref.name, site))

    def _define_alternate(self, declaration: AlternateDeclaration) -> None:
        for alternative in declaration.alternatives:
            self._define_array(alternative.type, declaration.site)
        entity = AlternateType(*self._common(declaration), ())
        self._enter(entity, declaration.site)
        self._checks.append(lambda: self._check_alternate(entity, declaration))

    def _define_command(self, declaration: CommandDeclaration) -> None:
        arguments = self._define_arguments(declaration, declaration.arguments)
        if declaration.returns is not None:
            self._define_array(declaration.returns, declaration.site)
        flags = declaration.flags
        entity = Command(
            *self._common(declaration),
            None,
            None,
            gen="gen" not in flags,
            success_response="success-response" not in flags,
            boxed="boxed" in flags,
            allow_oob="allow-oob" in flags,
            allow_preconfig="allow-preconfig" in flags,
            coroutine="coroutine" in flags,
            job="job" in flags,
        )
        self._enter(entity, declaration.site)
        self._checks.append(lambda: self._check_command(entity, declaration, arguments))

    def _define_event(self, declaration: EventDeclaration) -> None:
        arguments = self._define_arguments(declaration, declaration.arguments)
        entity = Event(*self._common(declaration), None, boxed=declaration.boxed)
        self._enter(entity, declaration.site)
        self._checks.append(lambda: self._check_event(entity, declaration, arguments))

    def _define_arguments(
        self,
        declaration: CommandDeclaration | EventDeclaration,
        arguments: str | tuple[MemberDeclaration, ...] | None,
    ) -> str | None:
        if isinstance(arguments, tuple):
            return self._define_implicit(declaration, arguments, "arg")
        return arguments

    # Types by name.

    def _type(self, name: str) -> SchemaType | None:
        entity = self._entities.get(name)
        return None if isinstance(entity, Command | Event) else entity

    def _resolve(self, name: str, site: Site, user: str) -> SchemaType:
        found = self._type(name)
        if found is None:
            raise SchemaError.at(site, f"{user} uses unknown type '{name}'")
        return found

    def _describe(self, entity: Definition) -> str:
        """A definition in the words for a diagnostic."""
        match entity:
            case BuiltinType():
                return f"built-in type '{entity.name}'"
            case EnumType():
                return f"enum type '{entity.name}'"
            case ArrayType():
                return f"array type ['{entity.name.removesuffix('List')}']"
            case ObjectType():
                kind = "struct" if self._objects[entity.name].union is None else "union"
                return f"{kind} type '{entity.name}'"
            case AlternateType():
                return f"alternate type '{entity.name}'"
            case Command():
                return f"command '{entity.name}'"
            case Event():
                return f"event '{entity.name}'"

    # Checks, each followed by its definition's documentation.

    def _count_features(self, features: tuple[Feature, ...], site: Site) -> None:
        for feature in features:
            self._features.setdefault(feature.name, site)

    def _check_feature_count(self) -> None:
        if len(self._features) > _MAX_FEATURES:
            site = list(self._features.values())[_MAX_FEATURES]
            assert site
            raise SchemaError.at(site, f"Maximum of {_MAX_FEATURES} schema features is permitted")

    def _check_features(self, features: tuple[Feature, ...], owner: str, site: Site) -> None:
        seen: dict[str, _Named] = {}
        for feature in features:
            _add_name(_Named("feature", feature.name, owner), seen, site)

    def _check_type_features(self, features: tuple[Feature, ...], site: Site) -> None:
        self._check_features(features, site.name, site)
        for feature in features:
            if feature.name in _SPECIAL_FEATURES:
                raise SchemaError.at(site, f"feature '{feature.name}' is not supported for types")

    def _check_enum(self, entity: EnumType, declaration: EnumDeclaration) -> None:
        site = declaration.site
        self._check_type_features(entity.features, site)
        seen: dict[str, _Named] = {}
        for member in entity.members:
            _add_name(_Named("value", member.name, entity.name), seen, site, names.constant_name)
        self._document(declaration, "value", entity.members)

    def _check_array(self, array: ArrayType, element: str, site: Site) -> None:
        array.element = self._resolve(element, site, site.kind)
        if isinstance(array.element, ArrayType):
            raise SchemaError.at(site, f"{self._describe(array)} cannot take {self._describe(array.element)}")

    def _check_object(self, work: _ObjectWork, nesting: int = 0) -> None:
        """Lay out an object type, and those that its values contain before it."""
        site = work.site
        if work.state == "done":
            return
        if work.state == "checking":
            raise SchemaError.at(site, f"object {work.type.name} contains itself")
        if nesting > _MAX_DEPTH:
            raise SchemaError.at(site, f"object {work.type.name} is nested too deep")
        work.state = "checking"
        entity = work.type
        if not entity.implicit:
            self._check_type_features(entity.features, site)
        inherited: tuple[Member, ...] = ()
        seen: dict[str, _Named] = {}
        if work.base is not None:
            base = self._resolve(work.base, site, "'base'")
            base_work = self._objects.get(base.name)
            if not isinstance(base, ObjectType) or base_work is None or base_work.union is not None:
                raise SchemaError.at(site, f"'base' requires a struct type, {self._describe(base)} isn't")
            self._check_object(base_work, nesting + 1)
            work.depth = base_work.depth + 1
            entity.base, inherited = base, base.members
            seen = dict(base_work.own_names)
        local = []
        for declaration in work.members:
            named = _Named("member", declaration.name, entity.name)
            local.append(self._member(declaration, named, site))
            _add_name(named, seen, site)
        entity.local_members = tuple(local)
        entity.members = inherited + entity.local_members
        work.own_names = seen
        work.all_names = dict(seen)
        if work.union is not None:
            self._check_branches(work, work.union, nesting)
        if work.depth > _MAX_DEPTH:
            raise SchemaError.at(site, f"object {entity.name} is nested too deep")
        work.state = "done"

    def _member(self, declaration: MemberDeclaration, named: _Named, site: Site) -> Member:
        resolved = self._resolve(_type_name(declaration.type), site, named.describe(site))
        self._check_features(declaration.features, declaration.name, site)
        member = Member(
            declaration.name,
            resolved,
            declaration.optional,
            declaration.condition,
            declaration.features,
            site.info,
            declaration.has_default,
            declaration.default,
        )
        if declaration.has_default:
            self._default_checks.append(
                lambda: check_default(
                    member.name, declaration.default, member.type, lambda text: SchemaError.at(site, text)
                )
            )
        return member

    def _check_branches(self, work: _ObjectWork, union: UnionDeclaration, nesting: int) -> None:
        site, entity = work.site, work.type
        tag = self._tag(work, union.discriminator)
        assert isinstance(tag.type, EnumType)
        declared = {branch.name for branch in union.branches}
        uncovered = [
            MemberDeclaration(value.name, TypeRef("q_empty"), condition=value.condition)
            for value in tag.type.members
            if value.name not in declared
        ]
        values = {value.name for value in tag.type.members}
        branches = []
        for declaration in (*union.branches, *uncovered):
            named = _Named("branch", declaration.name, entity.name)
            branch = self._resolve(declaration.type.name, site, named.describe(site))
            if declaration.name not in values:
                raise SchemaError.at(
                    site, f"branch '{declaration.name}' is not a value of {self._describe(tag.type)}"
                )
            if not isinstance(branch, ObjectType):
                raise SchemaError.at(site, f"{named.describe(site)} cannot use {self._describe(branch)}")
            self._check_object(self._objects[branch.name], nesting + 1)
            branches.append(Branch(declaration.name, branch, declaration.condition, site.info))
        if not branches:
            raise SchemaError.at(site, "union has no branches")
        entity.variants = Variants(tag, tuple(branches))
        for branch_type in (branch.type for branch in branches):
            branch_work = self._objects[branch_type.name]
            work.depth = max(work.depth, branch_work.depth + 1)
            # The branch is free of clashes in itself, so each of its names need only be held against the common ones.
            for key, named in branch_work.all_names.items():
                if key in work.own_names:
                    other = work.own_names[key]
                    raise SchemaError.at(site, f"{named.describe(site)} collides with {other.describe(site)}")
        for branch_type in (branch.type for branch in branches):
            work.all_names = {**self._objects[branch_type.name].all_names, **work.all_names}

    def _tag(self, work: _ObjectWork, discriminator: str) -> Member:
        """The member that chooses the branch of a union."""
        site = work.site
        tag = next((member for member in work.type.members if member.name == discriminator), None)
        if tag is None:
            raise SchemaError.at(site, f"discriminator '{discriminator}' is not a member of 'base'")
        owner = work.own_names[names.python_name(discriminator)].owner
        base = "'base'" if owner.startswith("q_obj_") else f"base type '{owner}'"
        source = f"discriminator member '{discriminator}' of {base}"
        if not isinstance(tag.type, EnumType):
            raise SchemaError.at(site, f"{source} must be of enum type")
        if tag.optional:
            raise SchemaError.at(site, f"{source} must not be optional")
        if tag.condition != ALWAYS:
            raise SchemaError.at(site, f"{source} must not be conditional")
        return tag

    def _check_alternate(self, entity: AlternateType, declaration: AlternateDeclaration) -> None:
        site = declaration.site
        self._check_type_features(entity.features, site)
        named = [_Named("branch", alternative.name, entity.name) for alternative in declaration.alternatives]
        entity.alternatives = tuple(
            self._member(alternative, name, site)
            for alternative, name in zip(declaration.alternatives, named, strict=True)
        )
        seen: dict[str, _Named] = {}
        users: dict[str, str] = {}
        for alternative, name in zip(entity.alternatives, named, strict=True):
            _add_name(name, seen, site)
            kinds = _json_kinds(alternative.type)
            if not kinds:
                raise SchemaError.at(
                    site, f"{name.describe(site)} cannot use {self._describe(alternative.type)}"
                )
            for kind in kinds:
                if kind in users:
                    raise SchemaError.at(
                        site, f"{name.describe(site)} can't be distinguished from '{users[kind]}'"
                    )
            users.update(dict.fromkeys(kinds, alternative.name))
        self._document(declaration, "branch", entity.alternatives)

    def _check_command(self, entity: Command, declaration: CommandDeclaration, arguments: str | None) -> None:
        site = declaration.site
        self._check_features(entity.features, entity.name, site)
        entity.arguments = self._arguments(arguments, "command", site, boxed=entity.boxed)
        if declaration.returns is not None:
            returns = self._resolve(_type_name(declaration.returns), site, "command's 'returns'")
            element = returns.element if isinstance(returns, ArrayType) else returns
            if (
                not isinstance(element, ObjectType)
                and entity.name not in self._pragmas.command_returns_exceptions
            ):
                raise SchemaError.at(site, f"command's 'returns' cannot take {self._describe(returns)}")
            entity.returns = returns
        self._document_arguments(declaration, entity.arguments)

    def _check_event(self, entity: Event, declaration: EventDeclaration, arguments: str | None) -> None:
        self._check_features(entity.features, entity.name, declaration.site)
        entity.arguments = self._arguments(arguments, "event", declaration.site, boxed=entity.boxed)
        self._document_arguments(declaration, entity.arguments)

    def _arguments(self, name: str | None, kind: str, site: Site, *, boxed: bool) -> ObjectType | None:
        if name is None:
            return None
        found = self._resolve(name, site, f"{kind}'s 'data'")
        if not isinstance(found, ObjectType):
            raise SchemaError.at(site, f"{kind}'s 'data' cannot take {self._describe(found)}")
        work = self._objects[found.name]
        if work.union is not None and not boxed:
            raise SchemaError.at(
                site, f"{kind}'s 'data' can take {self._describe(found)} only with 'boxed': true"
            )
        self._check_object(work)
        if not boxed and any(member.condition != ALWAYS for member in found.members):
            raise SchemaError.at(site, f"conditional {kind} arguments require 'boxed': true")
        return found

    def _check_python_names(self, declarations: list[AnyDeclaration]) -> None:
        """Definitions of one kind must differ in Python too."""
        seen: dict[tuple[str, str], Definition] = {}
        for declaration in declarations:
            entity = self._entities[declaration.name]
            match entity:
                case Command():
                    key = ("command", names.python_name(entity.name))
                case Event():
                    key = ("event", names.event_function_name(entity.name))
                case _:
                    key = ("type", names.class_name(entity.name))
            other = seen.setdefault(key, entity)
            if other is not entity:
                raise SchemaError.at(
                    declaration.site, f"{self._describe(entity)} collides with {self._describe(other)}"
                )

    # Documentation.

    def _document(
        self, declaration: AnyDeclaration, role: str, members: tuple[Member | EnumMember, ...]
    ) -> None:
        doc, site = declaration.doc, declaration.site
        if doc is None:
            return
        required = doc.symbol not in self._pragmas.documentation_exceptions
        for feature in declaration.features:
            doc.connect_feature(feature.name, site)
        for member in members:
            doc.connect_member(role, member.name, site, required=required)
            for feature in member.features:
                doc.connect_feature(feature.name, site)

    def _document_object(self, work: _ObjectWork, declaration: AnyDeclaration) -> None:
        base = work.type.base
        inline = base.local_members if base is not None and base.implicit else ()
        self._document(declaration, "member", inline + work.type.local_members)

    def _document_arguments(self, declaration: AnyDeclaration, arguments: ObjectType | None) -> None:
        members = arguments.local_members if arguments is not None and arguments.implicit else ()
        self._document(declaration, "member", members)


def _type_name(ref: TypeRef) -> str:
    return ref.name + "List" if ref.is_array else ref.name


def _json_kinds(type_: SchemaType) -> tuple[str, ...]:
    """The kinds of JSON values an alternative takes, with those that text forms of it would be mistaken for.

    (On the command line every scalar is a string.)  Empty when it cannot be told by its kind.
    """
    match type_:
        case EnumType():
            kinds = ["string"]
            if any(member.name in {"on", "off"} for member in type_.members):
                kinds.append("boolean")
            if any(_NUMBER_LIKE.match(member.name) for member in type_.members):
                kinds.append("number")
            return tuple(kinds)
        case ArrayType():
            return ("array",)
        case ObjectType():
            return ("object",)
        case AlternateType():
            return ()
        case BuiltinType():
            match type_.json_type:
                case "string":
                    return ("string", "number", "boolean")
                case "int" | "number":
                    return ("number",)
                case "value":
                    return ()
                case kind:
                    return (kind,)
