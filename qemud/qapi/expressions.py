"""The shape of each definition: keys, flags, names, conditions, features; sugar is taken off on the way.

`declare(parsed)` turns the parser's JSON-like expressions into declarations.  It looks at one definition at a time and
knows no types yet; that is `qemud.qapi.analysis`.

Source: QEMU 10.0, docs/devel/qapi-code-gen, "Schema syntax".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from qemud.qapi import naming
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
from qemud.qapi.diagnostics import SchemaError, Site
from qemud.qapi.model import ALWAYS, Condition, EnumMember, Feature
from qemud.qapi.runtime.table import PHASES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from qemud.qapi.docs import DocComment
    from qemud.qapi.parser import Expression, ParsedSchema, Pragmas, Value

_KINDS = ("enum", "struct", "union", "alternate", "command", "event")
_CONDITION_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_FALSE_FLAGS = ("gen", "success-response")
_EXTENSIONS = frozenset(("version", "mixins", "job", "phases"))
_TRUE_FLAGS = ("boxed", "allow-oob", "allow-preconfig", "coroutine", "job")

_D = TypeVar("_D", bound=AnyDeclaration)


def declare(parsed: ParsedSchema) -> list[AnyDeclaration]:
    """The declarations of a parsed schema, in its order; `SchemaError` for the first with a wrong shape."""
    extended = _uses_extensions(parsed.expressions)
    return [_declare(expression, parsed.pragmas, extended=extended) for expression in parsed.expressions]


def _declare(expression: Expression, pragmas: Pragmas, *, extended: bool) -> AnyDeclaration:
    value, info = expression.value, expression.info
    kinds = [kind for kind in _KINDS if kind in value]
    if len(kinds) != 1:
        raise SchemaError(
            "expression must have exactly one key 'enum', 'struct', 'union', 'alternate', 'command', 'event'",
            info,
        )
    kind = kinds[0]
    name = value[kind]
    if not isinstance(name, str):
        raise SchemaError(f"'{kind}' requires a string name", info)
    return _Checker(Site(info, kind, name), expression, pragmas, extended=extended).declare()


def _uses_extensions(expressions: Iterable[Expression]) -> bool:
    """Whether the schema uses a key that QEMU's language lacks.

    Only then do diagnostics count those keys among the valid ones: a schema in the plain language gets QEMU's words.
    """
    for expression in expressions:
        if not _EXTENSIONS.isdisjoint(expression.value):
            return True
        for key in ("data", "base"):
            members = expression.value.get(key)
            if isinstance(members, dict):
                for member in members.values():
                    if isinstance(member, dict) and "default" in member:
                        return True
    return False


class _Checker:
    """Checks one expression."""

    def __init__(self, site: Site, expression: Expression, pragmas: Pragmas, *, extended: bool) -> None:
        self._site = site
        self._value = expression.value
        self._doc = expression.doc
        self._pragmas = pragmas
        self._extended = extended

    def declare(self) -> AnyDeclaration:
        kind, name = self._site.kind, self._site.name
        self._check_definition_name(kind, name)
        doc = self._doc
        if doc is not None:
            if doc.symbol != name:
                raise self._fail(f"documentation comment is for '{doc.symbol}'")
            doc.check_kind(kind, returns="returns" in self._value)
        elif self._pragmas.doc_required:
            raise self._fail("documentation comment required")
        match kind:
            case "enum":
                self._check_keys(self._value, kind, ["enum", "data"], ["if", "features", "prefix"])
                return self._finish(self._enum(doc))
            case "union":
                required = ["union", "base", "discriminator", "data"]
                self._check_keys(self._value, kind, required, ["if", "features"])
                return self._finish(self._union(doc))
            case "alternate":
                self._check_keys(self._value, kind, ["alternate", "data"], ["if", "features"])
                return self._finish(self._alternate(doc))
            case "struct":
                optional = ["base", "if", "features"]
                self._check_keys(self._value, kind, ["struct", "data"], optional, ["version", "mixins"])
                return self._finish(self._struct(doc))
            case "command":
                optional = ["data", "returns", "boxed", "if", "features", "gen", "success-response"]
                optional += ["allow-oob", "allow-preconfig", "coroutine"]
                self._check_keys(self._value, kind, ["command"], optional, ["job", "phases"])
                return self._finish(self._command(doc))
            case _:
                self._check_keys(self._value, kind, ["event"], ["data", "boxed", "if", "features"])
                return self._finish(self._event(doc))

    def _finish(self, declaration: _D) -> _D:
        """What all definitions share, checked last."""
        declaration.condition = self._condition(self._value, self._site.kind)
        declaration.features = self._features(self._value)
        self._check_flags()
        return declaration

    def _fail(self, text: str) -> SchemaError:
        return SchemaError.at(self._site, text)

    # The kinds of definitions.

    def _enum(self, doc: DocComment | None) -> EnumDeclaration:
        data = self._value["data"]
        prefix = self._value.get("prefix")
        if not isinstance(data, list):
            raise self._fail("'data' must be an array")
        if "prefix" in self._value and not isinstance(prefix, str):
            raise self._fail("'prefix' must be a string")
        members = tuple(self._enum_member(member) for member in data)
        return EnumDeclaration(self._site, doc, members, prefix if isinstance(prefix, str) else None)

    def _enum_member(self, value: Value) -> EnumMember:
        member: dict[str, Value] = value if isinstance(value, dict) else {"name": value}
        source = "'data' member"
        self._check_keys(member, source, ["name"], ["if", "features"])
        name = member["name"]
        if not isinstance(name, str):
            raise self._fail(f"{source} requires a string name")
        source = f"{source} '{name}'"
        # An enumeration's value may start with a digit, which the rules for names are not to see.
        visible = "d" + name if name[:1].isdigit() else name
        self._check_member_name(visible, source, self._site.name)
        return EnumMember(name, self._condition(member, source), self._features(member), self._site.info)

    def _struct(self, doc: DocComment | None) -> StructDeclaration:
        members = self._members(self._value["data"], "'data'", self._site.name)
        base = self._type_name(self._value.get("base"), "'base'") if "base" in self._value else None
        version = self._value.get("version")
        if "version" in self._value and (
            not isinstance(version, int) or isinstance(version, bool) or version < 1
        ):
            raise self._fail("'version' must be a positive integer")
        return StructDeclaration(
            self._site, doc, members, base, version if isinstance(version, int) else None, self._mixins()
        )

    def _mixins(self) -> tuple[str, ...]:
        value = self._value.get("mixins", [])
        if not isinstance(value, list):
            raise self._fail("'mixins' must be an array")
        return tuple(self._type_name(name, "'mixins' member") for name in value)

    def _union(self, doc: DocComment | None) -> UnionDeclaration:
        base_value = self._value["base"]
        base: str | tuple[MemberDeclaration, ...]
        if isinstance(base_value, str):
            base = base_value
        else:
            base = self._members(base_value, "'base'", self._site.name)
        discriminator = self._value["discriminator"]
        if not isinstance(discriminator, str):
            raise self._fail("'discriminator' requires a string name")
        data = self._value["data"]
        if not isinstance(data, dict):
            raise self._fail("'data' must be an object")
        branches = []
        for key, value in data.items():
            source = f"'data' member '{key}'"
            branch = _long_form(value)
            self._check_keys(branch, source, ["type"], ["if"])
            condition = self._condition(branch, source)
            branches.append(
                MemberDeclaration(key, TypeRef(self._type_name(branch["type"], source)), condition=condition)
            )
        return UnionDeclaration(self._site, doc, base, discriminator, tuple(branches))

    def _alternate(self, doc: DocComment | None) -> AlternateDeclaration:
        data = self._value["data"]
        if not data:
            raise self._fail("'data' must not be empty")
        if not isinstance(data, dict):
            raise self._fail("'data' must be an object")
        alternatives = []
        for key, value in data.items():
            source = f"'data' member '{key}'"
            naming.check_lower(key, source, self._fail)
            alternative = _long_form(value)
            self._check_keys(alternative, source, ["type"], ["if"])
            condition = self._condition(alternative, source)
            alternatives.append(
                MemberDeclaration(key, self._type_or_array(alternative["type"], source), condition=condition)
            )
        return AlternateDeclaration(self._site, doc, tuple(alternatives))

    def _command(self, doc: DocComment | None) -> CommandDeclaration:
        arguments = self._arguments()
        returns = None
        if "returns" in self._value:
            returns = self._type_or_array(self._value["returns"], "'returns'")
        flags = frozenset(flag for flag in (*_FALSE_FLAGS, *_TRUE_FLAGS) if flag in self._value)
        return CommandDeclaration(self._site, doc, arguments, returns, flags, self._phases())

    def _phases(self) -> tuple[str, ...]:
        """When a command may run; nothing where it does not say so."""
        if "phases" not in self._value:
            return ()
        if "allow-preconfig" in self._value:
            raise self._fail("keys 'phases' and 'allow-preconfig' are incompatible")
        value = self._value["phases"]
        if not isinstance(value, list) or not value:
            raise self._fail("'phases' must be an array of phases")
        for phase in value:
            if phase not in PHASES:
                raise self._fail(
                    f"'phases' member {phase!r} is no phase, expected one of {', '.join(map(repr, PHASES))}"
                )
        return tuple(phase for phase in PHASES if phase in value)

    def _event(self, doc: DocComment | None) -> EventDeclaration:
        return EventDeclaration(self._site, doc, self._arguments(), "boxed" in self._value)

    # Their parts.

    def _arguments(self) -> str | tuple[MemberDeclaration, ...] | None:
        """The `data` of a command or event."""
        data = self._value.get("data")
        if self._value.get("boxed"):
            if "data" not in self._value:
                raise self._fail("'boxed': true requires 'data'")
            return self._type_name(data, "'data'")
        if "data" not in self._value or isinstance(data, str):
            return data if isinstance(data, str) else None
        return self._members(data, "'data'", None)

    def _members(self, value: Value, source: str, owner: str | None) -> tuple[MemberDeclaration, ...]:
        """Members written in place; `owner` is the type that the pragmas on names know them by."""
        if not isinstance(value, dict):
            raise self._fail(f"{source} should be an object or type name")
        return tuple(
            self._member(key, _long_form(member), f"{source} member '{key}'", owner)
            for key, member in value.items()
        )

    def _member(self, key: str, value: dict[str, Value], source: str, owner: str | None) -> MemberDeclaration:
        optional = key.startswith("*")
        name = key[1:] if optional else key
        self._check_member_name(name, source, owner)
        if naming.is_reserved(name) and owner not in self._pragmas.qom_name_exceptions:
            raise self._fail(f"{source} uses reserved name")
        self._check_keys(value, source, ["type"], ["if", "features"], ["default"])
        condition = self._condition(value, source)
        features = self._features(value)
        type_ref = self._type_or_array(value["type"], source)
        if "default" in value and not optional:
            raise self._fail(f"{source} has a default but is not optional")
        return MemberDeclaration(
            name, type_ref, optional, condition, features, "default" in value, value.get("default")
        )

    def _check_definition_name(self, kind: str, name: str) -> None:
        if kind == "event":
            naming.check_upper(name, kind, self._fail)
        elif kind == "command":
            allow = name in self._pragmas.command_name_exceptions
            naming.check_lower(name, kind, self._fail, allow_underscore=allow)
        else:
            naming.check_type(name, kind, self._fail)

    def _check_member_name(self, name: str, source: str, owner: str | None) -> None:
        if owner in self._pragmas.qom_name_exceptions:
            naming.check_qom(name, source, self._fail)
        else:
            allow = owner in self._pragmas.member_name_exceptions
            naming.check_lower(name, source, self._fail, allow_upper=allow, allow_underscore=allow)

    def _check_keys(
        self,
        value: dict[str, Value],
        source: str,
        required: Collection[str],
        optional: Collection[str],
        extensions: Collection[str] = (),
    ) -> None:
        missing = set(required) - set(value)
        if missing:
            raise self._fail(f"{source} misses key{'s' if len(missing) > 1 else ''} {_listed(missing)}")
        known = {*required, *optional}
        unknown = set(value) - known - set(extensions)
        if unknown:
            valid = known | set(extensions) if self._extended else known
            raise self._fail(
                f"{source} has unknown key{'s' if len(unknown) > 1 else ''} {_listed(unknown)}\n"
                f"Valid keys are {_listed(valid)}."
            )

    def _check_flags(self) -> None:
        for flag in _FALSE_FLAGS:
            if flag in self._value and self._value[flag] is not False:
                raise self._fail(f"flag '{flag}' may only use false value")
        for flag in _TRUE_FLAGS:
            if flag in self._value and self._value[flag] is not True:
                raise self._fail(f"flag '{flag}' may only use true value")
        if "allow-oob" in self._value and "coroutine" in self._value:
            raise self._fail("flags 'allow-oob' and 'coroutine' are incompatible")

    def _type_name(self, value: Value, source: str) -> str:
        if not isinstance(value, str):
            raise self._fail(f"{source} should be a type name")
        return value

    def _type_or_array(self, value: Value, source: str) -> TypeRef:
        if isinstance(value, str):
            return TypeRef(value)
        if not isinstance(value, list):
            raise self._fail(f"{source} should be a type name or array")
        if len(value) != 1 or not isinstance(value[0], str):
            raise self._fail(f"{source}: array type must contain single type name")
        return TypeRef(value[0], is_array=True)

    def _features(self, value: dict[str, Value]) -> tuple[Feature, ...]:
        if "features" not in value:
            return ()
        features = value["features"]
        if not isinstance(features, list):
            raise self._fail("'features' must be an array")
        return tuple(self._feature(feature) for feature in features)

    def _feature(self, value: Value) -> Feature:
        feature: dict[str, Value] = value if isinstance(value, dict) else {"name": value}
        source = "'features' member"
        self._check_keys(feature, source, ["name"], ["if"])
        name = feature["name"]
        if not isinstance(name, str):
            raise self._fail(f"{source} requires a string name")
        source = f"{source} '{name}'"
        naming.check_lower(name, source, self._fail)
        return Feature(name, self._condition(feature, source), self._site.info)

    def _condition(self, value: dict[str, Value], source: str) -> Condition:
        return self._parse_condition(value["if"], source) if "if" in value else ALWAYS

    def _parse_condition(self, value: Value, source: str) -> Condition:
        if isinstance(value, str):
            if not _CONDITION_NAME.fullmatch(value):
                raise self._fail(f"'if' condition '{value}' of {source} is not a valid identifier")
            return Condition("name", value)
        if not isinstance(value, dict):
            raise self._fail(f"'if' condition of {source} must be a string or an object")
        self._check_keys(value, f"'if' condition of {source}", [], ["all", "any", "not"])
        if len(value) != 1:
            raise self._fail(f"'if' condition of {source} has conflicting keys")
        if "not" in value:
            return Condition("not", operands=(self._parse_condition(value["not"], source),))
        if "all" in value:
            return Condition("all", operands=self._operands("all", value["all"], source))
        return Condition("any", operands=self._operands("any", value["any"], source))

    def _operands(self, operator: str, value: Value, source: str) -> tuple[Condition, ...]:
        if not isinstance(value, list):
            raise self._fail(f"'{operator}' condition of {source} must be an array")
        if not value:
            raise self._fail(f"'if' condition [] of {source} is useless")
        return tuple(self._parse_condition(operand, source) for operand in value)


def _long_form(value: Value) -> dict[str, Value]:
    """A member as an object: a type alone is short for `{'type': …}`."""
    return value if isinstance(value, dict) else {"type": value}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
