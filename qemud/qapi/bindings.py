"""The binding check: whether the schema and the code that is bound to it say the same.

    python -m qemud.qapi check --bindings

prints a sentence for each disagreement: a command without a handler or with two, a handler without a command, a type that
users may name without a class, a class without a type, a default that differs.  Signatures are mypy's to compare: handler
classes inherit from the generated protocols.

Everything above this floor is named by strings and imported only while the check runs.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from qemud.qapi.names import camel_case, module_name
from qemud.qapi.runtime.check import Checker
from qemud.qapi.runtime.shapes import Presence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from qemud.qapi.runtime.table import CommandInfo

HANDLER_REGISTRY = "qemud.daemon.handlers"
TYPE_REGISTRY = "qemud.qom.types"


def verify() -> list[str]:
    """Every disagreement between qemud and its schema."""
    handlers: Mapping[str, str] = import_module(HANDLER_REGISTRY).HANDLERS
    types: Callable[[], list[str]] = import_module(TYPE_REGISTRY).verify_bindings
    return [*verify_handlers("qemud._generated", handlers), *types()]


def verify_handlers(package: str, handlers: Mapping[str, str]) -> Iterator[str]:
    """Every disagreement between the command table of a generated package and handlers by schema module."""
    check = Checker(package)
    by_module: dict[str, list[CommandInfo]] = {}
    for info in check.commands.values():
        by_module.setdefault(info.module, []).append(info)
    for module in handlers:
        if module not in by_module:
            yield f"there is a handler class for the schema module '{module}', which has no commands"
    classes: dict[str, type] = {}
    for module, infos in by_module.items():
        if module not in handlers:
            for info in infos:
                yield f"command '{info.name}' has no handler: the schema module '{module}' has no handler class"
            continue
        try:
            classes[module] = _find(handlers[module])
        except (ImportError, AttributeError, ValueError) as error:
            yield f"the handler class of the schema module '{module}' is not at {handlers[module]}: {error}"
    for module, cls in classes.items():
        yield from _verify_class(package, module, cls, by_module[module])
        for info in by_module[module]:
            yield from _verify_default_arguments(check, cls, info)
    yield from _verify_once(classes, by_module)


def _find(location: str) -> type:
    module, _, name = location.partition(":")
    found: type = getattr(import_module(module), name)
    return found


def _verify_class(package: str, module: str, cls: type, infos: list[CommandInfo]) -> Iterator[str]:
    """A handler class against its protocol: the base, and a coroutine method for each command."""
    protocol = getattr(
        import_module(f"{package}.commands.{module_name(module)}"), f"{camel_case(module)}Commands"
    )
    where = f"{cls.__module__}:{cls.__qualname__}"
    if protocol not in cls.__mro__:
        yield f"the handler class {where} does not inherit from the protocol {protocol.__name__}"
    for info in infos:
        method = inspect.getattr_static(cls, info.method, None)
        if method is None or getattr(method, "__isabstractmethod__", False):
            yield f"command '{info.name}' has no handler: {where} has no method '{info.method}'"
        elif not inspect.iscoroutinefunction(method):
            yield f"the handler of command '{info.name}', {where}.{info.method}, is not a coroutine function"
    commands = {info.method for info in infos}
    for name in _public_coroutines(cls):
        if name not in commands:
            yield f"{where} has a public coroutine method '{name}', which is no command of '{module}'"


def _public_coroutines(cls: type) -> Iterator[str]:
    for name in dir(cls):
        if not name.startswith("_") and inspect.iscoroutinefunction(inspect.getattr_static(cls, name)):
            yield name


def _verify_once(classes: Mapping[str, type], by_module: Mapping[str, list[CommandInfo]]) -> Iterator[str]:
    """No command may have a handler in the class of another schema module, too."""
    for module, infos in by_module.items():
        for info in infos:
            for other, cls in classes.items():
                if other != module and info.method in _public_coroutines(cls):
                    yield f"command '{info.name}' has two handlers: the other one is in {cls.__module__}:{cls.__qualname__}"


def _verify_default_arguments(check: Checker, cls: type, info: CommandInfo) -> Iterator[str]:
    """A default in a handler's signature is a second definition; it may at most repeat the schema."""
    method = inspect.getattr_static(cls, info.method, None)
    if method is None or not info.has_arguments or info.boxed or not info.gen or not callable(method):
        return
    members = dict(_defaults(check, info))
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.default is inspect.Parameter.empty or name == "self":
            continue
        place = f"{cls.__module__}:{cls.__qualname__}.{info.method}"
        if name not in members:
            yield f"{place} has a default for '{name}', which command '{info.name}' requires or does not have"
        elif parameter.default != members[name]:
            yield (
                f"{place} has the default {parameter.default!r} for '{name}', "
                f"the schema has {members[name]!r}"
            )


def _defaults(check: Checker, info: CommandInfo) -> Iterator[tuple[str, Any]]:
    """The optional arguments of a command, and what stands for each when it is absent."""
    shape = check.arguments_shape(info.name)
    for member in shape.members:
        if member.presence != Presence.REQUIRED:
            yield member.name, check.absent(member)
