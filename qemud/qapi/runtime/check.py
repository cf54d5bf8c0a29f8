"""The input check: from JSON, already parsed, to typed arguments, or to QEMU's error text.

    arguments = parse_arguments("chardev-add", {"id": "c0", "backend": {"type": "null", "data": {}}})

Two ways lead there.  msgspec is fast, and trusted where it accepts no more than the exact check does; when it refuses,
or cannot express a type, the exact check (`qemud.qapi.runtime.exact`) has the last word and writes the text.

`use_target` says for which target the schema's conditions are evaluated; it is called once, at start-up.

Values are what the monitor's framing makes of JSON: integers that fit neither int64 nor uint64 are floats already.
"""

from __future__ import annotations

from importlib import import_module
from types import GenericAlias
from typing import TYPE_CHECKING, Any

import msgspec

from qemud.qapi.runtime import fields
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.exact import ExactVisitor, Where
from qemud.qapi.runtime.shapes import BUILTIN_NAMES, AlternateShape, EnumShape, ObjectShape, Presence
from qemud.qapi.runtime.table import holds
from qemud.qapi.runtime.wire import encode, to_wire
from qemud.qapi.targets import DEFAULT_TARGET, TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qemud.qapi.runtime.policy import Policy
    from qemud.qapi.runtime.shapes import MemberShape, Shape
    from qemud.qapi.runtime.table import CommandInfo

__all__ = [
    "Checker",
    "checker",
    "encode",
    "parse_arguments",
    "parse_type",
    "to_wire",
    "type_class",
    "use_target",
]

_TOO_DEEP = "Parameters are nested too deeply"


class Checker:
    """The input check of one generated package, for one target."""

    def __init__(self, package: str, target: str = DEFAULT_TARGET) -> None:
        self._package = package
        self._shapes: dict[str, Shape] = {}
        self._classes: dict[tuple[str, str], Any] = {}
        self._parsers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self._fast: dict[str, Callable[[Any], Any] | None] = {}
        self._policy: Policy | None = None
        self.use_target(target)

    def use_target(self, target: str, defined: frozenset[str] | None = None) -> None:
        """Evaluate conditions for `target` (or for exactly the names `defined`) from now on."""
        self.target = target
        self.defined = TARGETS[target] if defined is None else defined
        self._exact = ExactVisitor(self, self.defined)
        self._parsers.clear()

    def use_policy(self, policy: Policy) -> None:
        """Refuse in the arguments of commands what `policy` refuses, from now on."""
        self._policy = policy
        self._parsers.clear()

    @property
    def commands(self) -> Mapping[str, CommandInfo]:
        """The command table, with the commands that only other targets have."""
        commands: Mapping[str, CommandInfo] = import_module(f"{self._package}.table").COMMANDS
        return commands

    def available(self, info: CommandInfo) -> bool:
        """Whether the target has the command."""
        return holds(info.condition, self.defined)

    def parse_arguments(self, command: str, value: dict[str, Any]) -> Any:
        """The arguments of `command` from the `arguments` of a QMP request.

        A dict of keyword arguments with every member in it (absent ones are None, UNSET where None is JSON's null, or
        their default); for a boxed command the struct; for a command with `gen: false` `{"arguments": value}`.
        Raises `GenericError`, and `KeyError` when there is no such command.
        """
        parser = self._parsers.get(command)
        if parser is None:
            parser = self._parsers[command] = self._make_parser(command)
        try:
            return parser(value)
        except RecursionError:
            raise GenericError(_TOO_DEEP) from None

    def parse_type(self, type_name: str, value: Any, where: str | None = None) -> Any:
        """The typed value of a type of the schema (`Name`, or `[Name]` for an array) from parsed JSON.

        `where` is the name error texts give to the value, if it has one.
        """
        try:
            fast = self.fast(type_name)
            if fast is not None:
                try:
                    return fast(value)
                except (msgspec.ValidationError, RecursionError):
                    pass
            return self._exact.visit(type_name, value, None if where is None else (None, where))
        except RecursionError:
            raise GenericError(_TOO_DEEP) from None

    def parse_exactly(
        self, type_name: str, value: Any, visitor: ExactVisitor | None = None, where: Where = None
    ) -> Any:
        """As `parse_type`, by the exact check alone; `visitor` for another syntax than JSON."""
        try:
            return (visitor or self._exact).visit(type_name, value, where)
        except RecursionError:
            raise GenericError(_TOO_DEEP) from None

    def parse_arguments_exactly(self, command: str, value: dict[str, Any]) -> Any:
        """As `parse_arguments`, by the exact check alone, for a command that has `gen`."""
        table = import_module(f"{self._package}.table")
        info: CommandInfo = table.COMMANDS[command]
        if not info.has_arguments:
            return _no_arguments(value)
        type_name: str = table.ARGUMENTS[command]
        try:
            if info.boxed:
                return self._exact.visit(type_name, value, None)
            return self._exact.arguments(type_name, value)
        except RecursionError:
            raise GenericError(_TOO_DEEP) from None

    def type_class(self, type_name: str) -> Any:
        """The class of a struct or enumeration, the abstract class of a union."""
        shape = self.shape(type_name)
        assert not isinstance(shape, AlternateShape)
        return self.python_class(type_name, shape.class_name)

    def arguments_shape(self, command: str) -> ObjectShape:
        """The shape of the arguments of a command that takes any."""
        shape = self.shape(import_module(f"{self._package}.table").ARGUMENTS[command])
        assert isinstance(shape, ObjectShape)
        return shape

    def absent(self, member: MemberShape) -> Any:
        """What stands for an absent member: None, UNSET or its default."""
        return self._exact.absent(member)

    # What the exact visitor asks for

    def shape(self, name: str) -> Shape:
        """The shape of a named type."""
        shape = self._shapes.get(name)
        if shape is None:
            table = import_module(f"{self._package}.table")
            shapes = import_module(f"{self._package}.shapes.{table.TYPES[name]}")
            self._shapes |= shapes.SHAPES
            shape = self._shapes[name]
        return shape

    def python_class(self, type_name: str, class_name: str) -> Any:
        """A class made for the type `type_name`."""
        key = type_name, class_name
        found = self._classes.get(key)
        if found is None:
            table = import_module(f"{self._package}.table")
            types = import_module(f"{self._package}.types.{table.TYPES[type_name]}")
            found = self._classes[key] = getattr(types, class_name)
        return found

    # Making the fast way

    def _make_parser(self, command: str) -> Callable[[dict[str, Any]], Any]:
        table = import_module(f"{self._package}.table")
        info: CommandInfo = table.COMMANDS[command]
        if not info.has_arguments:
            return _no_arguments
        if not info.gen:
            return lambda value: {"arguments": value}
        type_name: str = table.ARGUMENTS[command]
        shape = self.shape(type_name)
        assert isinstance(shape, ObjectShape)
        exact = self._exact
        if self._policy is not None:
            from qemud.qapi.runtime.policy import PolicyVisitor

            exact = PolicyVisitor(self, self.defined, self._policy)
            if info.boxed:
                return lambda value: exact.visit(type_name, value, None)
            return lambda value: exact.arguments(type_name, value)
        if info.boxed:
            return lambda value: self.parse_type(type_name, value)
        if not shape.fast:
            return lambda value: exact.arguments(type_name, value)
        fast = self._arguments_struct(command, shape)

        def parse(value: dict[str, Any]) -> dict[str, Any]:
            try:
                return msgspec.structs.asdict(msgspec.convert(value, fast))
            except (msgspec.ValidationError, RecursionError):
                return exact.arguments(type_name, value)

        return parse

    def _arguments_struct(self, command: str, shape: ObjectShape) -> type[msgspec.Struct]:
        """A struct whose fields are the command's arguments, for msgspec only."""
        members: list[Any] = []
        for member in shape.members:
            annotation = self._annotation(member.type)
            match member.presence:
                case Presence.REQUIRED:
                    members.append((member.name, annotation))
                case Presence.NONE:
                    members.append((member.name, annotation, None))
                case Presence.UNSET:
                    members.append((member.name, annotation, msgspec.UNSET))
                case _:
                    default = self._exact.absent(member)
                    factory = list if default == [] else lambda default=default: default
                    members.append((member.name, annotation, msgspec.field(default_factory=factory)))
        return msgspec.defstruct(
            f"{command} arguments",
            members,
            kw_only=True,
            forbid_unknown_fields=True,
            rename={member.name: member.wire for member in shape.members},
        )

    def fast(self, reference: str) -> Callable[[Any], Any] | None:
        """The fast way to a type's values, which raises `ValidationError`; None where only the exact one may go."""
        if reference not in self._fast:
            self._fast[reference] = self._make_fast(reference) if self._is_fast(reference) else None
        return self._fast[reference]

    def _make_fast(self, reference: str) -> Callable[[Any], Any]:
        annotation = self._annotation(reference)
        if isinstance(annotation, type):
            return lambda value: msgspec.convert(value, annotation)
        # msgspec remembers how to convert to a struct, but works it out each time for a union.
        box: Any = msgspec.defstruct("Box", [("value", annotation)])
        return lambda value: msgspec.convert({"value": value}, box).value

    def _is_fast(self, reference: str) -> bool:
        element = reference.strip("[]")
        if element in BUILTIN_NAMES:
            return True
        shape = self.shape(element)
        return not shape.conditions if isinstance(shape, EnumShape) else shape.fast

    def _annotation(self, reference: str) -> Any:
        """The type of a fast value as msgspec takes it."""
        builtin = BUILTIN_NAMES.get(reference)
        if builtin is not None:
            return getattr(fields, builtin)
        if reference[0] == "[":
            return GenericAlias(list, (self._annotation(reference[1:-1]),))
        shape = self.shape(reference)
        if isinstance(shape, AlternateShape):
            first, *others = (self._annotation(choice.type) for choice in shape.alternatives.values())
            for other in others:
                first = first | other
            return first
        found = self.python_class(reference, shape.class_name)
        if isinstance(shape, ObjectShape) and shape.variants is not None:
            return fields.one_of(found)
        return found


def _no_arguments(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        raise GenericError(f"Parameter '{name}' is unexpected")
    return value


checker = Checker("qemud._generated")
"""The check of qemud's own schema."""

parse_arguments = checker.parse_arguments
parse_type = checker.parse_type
type_class = checker.type_class
use_target = checker.use_target
