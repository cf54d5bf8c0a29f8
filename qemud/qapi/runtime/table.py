"""The command table's row, and conditions as data.

The generated table (`qemud._generated.table`) holds names only, so that importing it costs next to nothing: handlers
and types are imported when a command first runs.
"""

from __future__ import annotations

from typing import Any, TypeAlias

# None is "always"; a name holds when it is defined; tuples are ("all", …), ("any", …) and ("not", one).
ConditionData: TypeAlias = str | tuple[Any, ...] | None

PHASES = ("no-machine", "machine-created", "accel-created", "machine-initialized", "machine-ready")
"""The phases of a start, in their order; a start goes through all of them and never back."""
READY = PHASES[-1]
LATE = (READY,)
"""When a command may run unless its definition says otherwise."""
EARLY = PHASES[PHASES.index("accel-created") :]
"""When a command with `allow-preconfig` may run: whenever there can be a client."""


class Row:
    """A row of a generated table: plain attributes.

    Rows are not named tuples, because defining one of those costs a start-up more than all the rest of this module.
    """

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]  # rows hold dicts

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class CommandInfo(Row):
    """What the dispatcher knows of a command before it imports anything.

    `name` is the name on the wire, `module` the schema module (the key of the handler registry), `method` the handler's
    method.

    - `boxed`: the handler takes one struct instead of keyword arguments.
    - `success_response`: success is answered at all.
    - `allow_oob`: `exec-oob` may run it.
    - `phases`: those of `PHASES` in which it may run.
    - `job`: it starts a job.
    - `deprecated`, `unstable`: it has the feature.
    - `has_arguments`: it takes any.
    - `gen`: False when the handler gets the arguments unchecked, as a dict, and returns ready bytes (`msgspec.Raw`).
    - `condition`: what must be defined for the target at hand; see `holds`.
    """

    __slots__ = (
        "allow_oob",
        "boxed",
        "condition",
        "deprecated",
        "gen",
        "has_arguments",
        "job",
        "method",
        "module",
        "name",
        "phases",
        "success_response",
        "unstable",
    )

    def __init__(
        self,
        name: str,
        module: str,
        method: str,
        *,
        boxed: bool = False,
        success_response: bool = True,
        allow_oob: bool = False,
        phases: tuple[str, ...] = LATE,
        job: bool = False,
        deprecated: bool = False,
        unstable: bool = False,
        has_arguments: bool = False,
        gen: bool = True,
        condition: ConditionData = None,
    ) -> None:
        self.name = name
        self.module = module
        self.method = method
        self.boxed = boxed
        self.success_response = success_response
        self.allow_oob = allow_oob
        self.phases = phases
        self.job = job
        self.deprecated = deprecated
        self.unstable = unstable
        self.has_arguments = has_arguments
        self.gen = gen
        self.condition = condition


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
