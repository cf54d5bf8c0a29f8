"""What definitions mean: types looked up, members laid out, clashes and cycles found, documentation connected.

`analyse(parsed, declarations)` builds the model.  Entities are checked in the order of definition, because the first error
is the one that is reported; checking an object type checks those it contains first.

Source: QEMU 10.0, docs/devel/qapi-code-gen, "Schema syntax"; its limit of 64 features is kept.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qemud.qapi import names
from qemud.qapi.clashes import Named, Scope
from qemud.qapi.declarations import (
    AnyDeclaration,
    MemberDeclaration,
    StructDeclaration,
    TypeRef,
    UnionDeclaration,
)
from qemud.qapi.defaults import check_default
from qemud.qapi.diagnostics import SchemaError, Site
from qemud.qapi.model import (
    ALWAYS,
    AlternateType,
    ArrayType,
    Branch,
    BuiltinType,
    Command,
    Definition,
    EnumMember,
    EnumType,
    Event,
    Feature,
    Member,
    ObjectType,
    Schema,
    SchemaType,
    Variants,
)
from qemud.qapi.symbols import (
    EMPTY_TYPE,
    AlternateWork,
    ArrayWork,
    CommandWork,
    EnumWork,
    EventWork,
    ObjectWork,
    Work,
    define,
)

if TYPE_CHECKING:
    from qemud.qapi.parser import ParsedSchema

_SPECIAL_FEATURES = ("deprecated", "unstable")
_MAX_FEATURES = 64
# Bases and branches, one inside the other; generators walk them by recursion.
_MAX_DEPTH = 50
# All members of all types, inherited ones and those of branches counted wherever they turn up: fifty times QEMU's.
_MAX_MEMBERS = 1_000_000
_NUMBER_LIKE = re.compile(r"[-+0-9.]")


def analyse(parsed: ParsedSchema, declarations: list[AnyDeclaration]) -> Schema:
    """The model of the schema; `SchemaError` for the first definition that makes no sense."""
    return _Analyser(parsed, declarations).run()


class _Analyser:
    def __init__(self, parsed: ParsedSchema, declarations: list[AnyDeclaration]) -> None:
        self._parsed = parsed
        self._pragmas = parsed.pragmas
        self._declarations = declarations
        self._symbols = define(parsed, declarations)
        self._with_default: list[tuple[Member, Site]] = []
        self._members_seen = 0

    def run(self) -> Schema:
        for work in self._symbols.work:
            self._check(work)
        for doc in self._parsed.docs:
            doc.finish()
        self._check_feature_count()
        for member, site in self._with_default:
            check_default(member, site)
        self._check_python_names()
        return self._finish()

    def _finish(self) -> Schema:
        """The model, now that all is well: documentation in place, definitions in their modules."""
        entities, modules = self._symbols.entities, self._symbols.modules
        for declaration in self._declarations:
            entity = entities[declaration.name]
            if declaration.doc is not None:
                entity.doc = declaration.doc.to_model()
            modules[entity.module].definitions.append(entity)
        for entity in entities.values():
            if isinstance(entity, ArrayType):
                entity.condition = entity.element.condition
                entity.module = entity.element.module
        return Schema(list(modules.values()), entities)

    def _check(self, work: Work) -> None:
        """Check a definition, then its documentation."""
        match work:
            case EnumWork():
                self._check_enum(work)
                self._document(work.declaration, "value", work.entity.members)
            case ArrayWork():
                self._check_array(work)
            case ObjectWork():
                self._check_object(work)
                self._document_object(work)
            case AlternateWork():
                self._check_alternate(work)
                self._document(work.declaration, "branch", work.entity.alternatives)
            case CommandWork():
                self._check_command(work)
                self._document_arguments(work.declaration, work.entity.arguments)
            case EventWork():
                self._check_event(work)
                self._document_arguments(work.declaration, work.entity.arguments)

    # Features.

    def _check_feature_count(self) -> None:
        features = self._symbols.features
        if len(features) > _MAX_FEATURES:
            site = list(features.values())[_MAX_FEATURES]
            assert site
            raise SchemaError.at(site, f"Maximum of {_MAX_FEATURES} schema features is permitted")

    @staticmethod
    def _check_features(features: tuple[Feature, ...], owner: str, site: Site) -> None:
        scope = Scope()
        for feature in features:
            scope.add(Named("feature", feature.name, owner), site)

    def _check_type_features(self, features: tuple[Feature, ...], site: Site) -> None:
        self._check_features(features, site.name, site)
        for feature in features:
            if feature.name in _SPECIAL_FEATURES:
                raise SchemaError.at(site, f"feature '{feature.name}' is not supported for types")

    # Types.

    def _check_enum(self, work: EnumWork) -> None:
        site = work.declaration.site
        self._check_type_features(work.entity.features, site)
        scope = Scope()
        for member in work.entity.members:
            scope.add(Named("value", member.name, work.entity.name), site, names.constant_name)

    def _check_array(self, work: ArrayWork) -> None:
        array = work.entity
        array.element = self._symbols.resolve(work.element, work.site, work.site.kind)
        if isinstance(array.element, ArrayType):
            describe = self._symbols.describe
            raise SchemaError.at(work.site, f"{describe(array)} cannot take {describe(array.element)}")

    def _check_object(self, work: ObjectWork, nesting: int = 0) -> None:
        """Lay out an object type, after those that its values contain."""
        site, entity = work.site, work.entity
        if work.state == "done":
            return
        if work.state == "checking":
            raise SchemaError.at(site, f"object {entity.name} contains itself")
        if nesting > _MAX_DEPTH:
            raise SchemaError.at(site, f"object {entity.name} is nested too deep")
        work.state = "checking"
        if work.declaration is not None:
            self._check_type_features(entity.features, site)
        if work.base is not None:
            self._inherit(work, work.base, nesting)
        if isinstance(work.declaration, StructDeclaration):
            for name in work.declaration.mixins:
                self._mix_in(work, name, nesting)
        local = []
        for declaration in work.members:
            named = Named("member", declaration.name, entity.name)
            local.append(self._member(declaration, named, site))
            work.own_names.add(named, site)
        entity.local_members = tuple(local)
        entity.members += entity.local_members
        work.all_names.update(work.own_names)
        if isinstance(work.declaration, UnionDeclaration):
            self._check_branches(work, work.declaration, nesting)
        if work.depth > _MAX_DEPTH:
            raise SchemaError.at(site, f"object {entity.name} is nested too deep")
        work.state = "done"

    def _inherit(self, work: ObjectWork, base_name: str, nesting: int) -> None:
        base = self._symbols.resolve(base_name, work.site, "'base'")
        if not isinstance(base, ObjectType) or self._symbols.is_union(base):
            raise SchemaError.at(
                work.site, f"'base' requires a struct type, {self._symbols.describe(base)} isn't"
            )
        base_work = self._symbols.objects[base.name]
        self._check_object(base_work, nesting + 1)
        self._count_members(base_work.own_names, work.site)
        work.depth = base_work.depth + 1
        work.own_names.update(base_work.own_names)
        work.entity.base = base
        work.entity.members = base.members

    def _mix_in(self, work: ObjectWork, name: str, nesting: int) -> None:
        """Copy the members of a struct, inherited ones too."""
        mixin = self._symbols.resolve(name, work.site, "'mixins' member")
        if not isinstance(mixin, ObjectType) or self._symbols.is_union(mixin):
            raise SchemaError.at(
                work.site, f"'mixins' requires struct types, {self._symbols.describe(mixin)} isn't"
            )
        mixin_work = self._symbols.objects[mixin.name]
        self._check_object(mixin_work, nesting + 1)
        self._count_members(mixin_work.own_names, work.site)
        work.own_names.reject_any_of(mixin_work.own_names, work.site)
        work.depth = max(work.depth, mixin_work.depth)
        work.own_names.update(mixin_work.own_names)
        work.entity.mixins += (mixin,)
        work.entity.members += mixin.members

    def _count_members(self, scope: Scope, site: Site) -> None:
        """Note that the members of `scope` are to be copied; they may not multiply without end."""
        self._members_seen += len(scope)
        if self._members_seen > _MAX_MEMBERS:
            raise SchemaError.at(site, f"schema has more than {_MAX_MEMBERS} members, with inherited ones")

    def _member(self, declaration: MemberDeclaration, named: Named, site: Site) -> Member:
        member = Member(
            declaration.name,
            self._symbols.resolve(declaration.type.type_name, site, named.describe(site)),
            declaration.optional,
            declaration.condition,
            declaration.features,
            site.info,
            declaration.has_default,
            declaration.default,
        )
        self._check_features(declaration.features, declaration.name, site)
        if member.has_default:
            # Its type may not be complete yet.
            self._with_default.append((member, site))
        return member

    def _check_branches(self, work: ObjectWork, union: UnionDeclaration, nesting: int) -> None:
        site, entity = work.site, work.entity
        tag, tag_type = self._tag(work, union.discriminator)
        values = frozenset(value.name for value in tag_type.members)
        branches = []
        for declaration in (*union.branches, *_uncovered(union, tag_type)):
            source = Named("branch", declaration.name, entity.name).describe(site)
            found = self._symbols.resolve(declaration.type.name, site, source)
            if declaration.name not in values:
                raise SchemaError.at(site, f"{source} is not a value of {self._symbols.describe(tag_type)}")
            if not isinstance(found, ObjectType):
                raise SchemaError.at(site, f"{source} cannot use {self._symbols.describe(found)}")
            self._check_object(self._symbols.objects[found.name], nesting + 1)
            branches.append(Branch(declaration.name, found, declaration.condition, site.info))
        if not branches:
            raise SchemaError.at(site, "union has no branches")
        entity.variants = Variants(tag, tuple(branches))
        below = [
            self._symbols.objects[name] for name in dict.fromkeys(branch.type.name for branch in branches)
        ]
        # A branch is free of clashes in itself, so each of its names need only be held against the common ones.
        for branch_work in below:
            self._count_members(branch_work.all_names, site)
            work.own_names.reject_any_of(branch_work.all_names, site)
        for branch_work in below:
            work.depth = max(work.depth, branch_work.depth + 1)
            for key, named in branch_work.all_names.items():
                work.all_names.setdefault(key, named)

    def _tag(self, work: ObjectWork, discriminator: str) -> tuple[Member, EnumType]:
        """The member that chooses the branch of a union, and its type."""
        site = work.site
        tag = next((member for member in work.entity.members if member.name == discriminator), None)
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
        return tag, tag.type

    def _check_alternate(self, work: AlternateWork) -> None:
        entity, site = work.entity, work.declaration.site
        self._check_type_features(entity.features, site)
        named = [Named("branch", declared.name, entity.name) for declared in work.declaration.alternatives]
        entity.alternatives = tuple(
            self._member(alternative, name, site)
            for alternative, name in zip(work.declaration.alternatives, named, strict=True)
        )
        scope = Scope()
        users: dict[str, str] = {}
        for alternative, name in zip(entity.alternatives, named, strict=True):
            scope.add(name, site)
            source = name.describe(site)
            kinds = _json_kinds(alternative.type)
            if not kinds:
                raise SchemaError.at(site, f"{source} cannot use {self._symbols.describe(alternative.type)}")
            for kind in kinds:
                if kind in users:
                    raise SchemaError.at(site, f"{source} can't be distinguished from '{users[kind]}'")
            users.update(dict.fromkeys(kinds, alternative.name))

    # Commands and events.

    def _check_command(self, work: CommandWork) -> None:
        entity, site = work.entity, work.declaration.site
        self._check_features(entity.features, entity.name, site)
        entity.arguments = self._arguments(work.arguments, site, boxed=entity.boxed)
        if work.declaration.returns is not None:
            returns = self._symbols.resolve(work.declaration.returns.type_name, site, "command's 'returns'")
            element = returns.element if isinstance(returns, ArrayType) else returns
            excepted = entity.name in self._pragmas.command_returns_exceptions
            if not isinstance(element, ObjectType) and not excepted:
                raise SchemaError.at(
                    site, f"command's 'returns' cannot take {self._symbols.describe(returns)}"
                )
            entity.returns = returns

    def _check_event(self, work: EventWork) -> None:
        entity, site = work.entity, work.declaration.site
        self._check_features(entity.features, entity.name, site)
        entity.arguments = self._arguments(work.arguments, site, boxed=entity.boxed)

    def _arguments(self, name: str | None, site: Site, *, boxed: bool) -> ObjectType | None:
        if name is None:
            return None
        source = f"{site.kind}'s 'data'"
        found = self._symbols.resolve(name, site, source)
        if not isinstance(found, ObjectType):
            raise SchemaError.at(site, f"{source} cannot take {self._symbols.describe(found)}")
        if self._symbols.is_union(found) and not boxed:
            described = self._symbols.describe(found)
            raise SchemaError.at(site, f"{source} can take {described} only with 'boxed': true")
        self._check_object(self._symbols.objects[found.name])
        if not boxed and any(member.condition != ALWAYS for member in found.members):
            raise SchemaError.at(site, f"conditional {site.kind} arguments require 'boxed': true")
        return found

    def _check_python_names(self) -> None:
        """Definitions of one kind must differ in Python too."""
        seen: dict[tuple[str, str], Definition] = {}
        for declaration in self._declarations:
            entity = self._symbols.entities[declaration.name]
            match entity:
                case Command():
                    key = ("command", names.python_name(entity.name))
                case Event():
                    key = ("event", names.event_function_name(entity.name))
                case _:
                    key = ("type", names.class_name(entity.name))
            other = seen.setdefault(key, entity)
            if other is not entity:
                describe = self._symbols.describe
                raise SchemaError.at(declaration.site, f"{describe(entity)} collides with {describe(other)}")

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

    def _document_object(self, work: ObjectWork) -> None:
        if work.declaration is not None:
            base = work.entity.base
            inline = base.local_members if base is not None and base.implicit else ()
            self._document(work.declaration, "member", inline + work.entity.local_members)

    def _document_arguments(self, declaration: AnyDeclaration, arguments: ObjectType | None) -> None:
        inline = arguments.local_members if arguments is not None and arguments.implicit else ()
        self._document(declaration, "member", inline)


def _uncovered(union: UnionDeclaration, values: EnumType) -> list[MemberDeclaration]:
    """Branches for the values that have none of their own: they add nothing."""
    covered = {branch.name for branch in union.branches}
    return [
        MemberDeclaration(value.name, TypeRef(EMPTY_TYPE), condition=value.condition)
        for value in values.members
        if value.name not in covered
    ]


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
