"""The command table's row, and conditions as data.

The generated table (`qemud._generated.table`) holds names only, so that importing it costs next to nothing: handlers
and types are imported when a command first runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

# None is "always"; a name holds when it is defined; tuples are ("all", …), ("any", …) and ("not", one).
ConditionData: TypeAlias = str | tuple[Any, ...] | None


class CommandInfo(NamedTuple):
    """What the dispatcher knows of a command before it imports anything."""

    name: str
    """The name on the wire."""
    module: str
    """The schema module, the key of the handler registry."""
    method: str
    """The handler's method."""
    boxed: bool = False
    """Whether the handler takes one struct instead of keyword arguments."""
    success_response: bool = True
    """Whether success is answered at all."""
    allow_oob: bool = False
    """Whether `exec-oob` may run it."""
    allow_preconfig: bool = False
    """Whether it may run before the machine is made."""
    job: bool = False
    """Whether it starts a job."""
    deprecated: bool = False
    unstable: bool = False
    has_arguments: bool = False
    gen: bool = True
    """False: the handler gets the arguments unchecked, as a dict, and returns ready bytes (`msgspec.Raw`)."""
    condition: ConditionData = None
    """What must be defined for the target at hand; see `holds`."""


def holds(condition: ConditionData, defined: frozenset[str]) -> bool:
    """Whether a condition holds where exactly the names in `defined` are defined."""
    if condition is None:
        return True
    if isinstance(condition, str):
        return condition in defined
    operator, *operands = condition
    if operator == "all":
        return all(holds(operand, defined) for operand in operands)
    if operator == "any":
        return any(holds(operand, defined) for operand in operands)
    return not holds(operands[0], defined)
