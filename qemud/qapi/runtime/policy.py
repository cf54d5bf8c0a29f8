"""Policies for what the schema marks as deprecated or unstable: `-compat`.

    policy = Policy({"unstable": "reject"}, {"deprecated"})
    policy.check_input(("unstable",), "command", "query-config", CommandNotFound)      # raises
    policy.shown("ChardevInfo", value)                                     # the value without its deprecated members

It is for those who test programs that use QMP, and costs nothing where there is no policy: `Checker.use_policy` takes it, then
only the exact check reads arguments.  Source: QEMU 10.0, qapi/qapi-util.c, qapi/qobject-output-visitor.c.
"""

from __future__ import annotations

import faulthandler
import os
from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.exact import ExactVisitor
from qemud.qapi.runtime.shapes import EMPTY_TYPE, MARKS, AlternateShape, ObjectShape

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from enum import Enum

    from qemud.qapi.runtime.errors import QmpError
    from qemud.qapi.runtime.exact import Types, Where
    from qemud.qapi.runtime.shapes import EnumShape, MemberShape


class Policy:
    """`refused` maps marks to `reject` or `crash`; `hidden` are the marks of what is not sent."""

    def __init__(self, refused: Mapping[str, str], hidden: Collection[str] = ()) -> None:
        self._refused = refused
        self._hidden = frozenset(hidden)

    def check_input(
        self, features: Iterable[str], kind: str, name: str, error: type[QmpError] = GenericError
    ) -> None:
        """Raise `error` when something that came from a client is marked, and the policy refuses it."""
        for mark in MARKS:
            if mark in features and mark in self._refused:
                if self._refused[mark] == "crash":
                    faulthandler.disable()  # it is no defect: nobody needs to know where
                    os.abort()
                raise error(f"{mark.capitalize()} {kind} {name} disabled by policy")

    def hides(self, features: Iterable[str]) -> bool:
        """Whether what has these features is not sent."""
        return not self._hidden.isdisjoint(features)

    def shown(self, types: Types, reference: str, value: Any) -> Any:
        """What is sent of a value of the schema's type `reference`, as JSON has it."""
        if not self._hidden:
            return value
        if isinstance(value, list):
            return [self.shown(types, reference[1:-1], each) for each in value]
        if not isinstance(value, dict) or reference in {"any", EMPTY_TYPE}:
            return value
        shape = types.shape(reference)
        if isinstance(shape, AlternateShape):
            return self.shown(types, shape.alternatives["dict"].type, value)
        rest = dict(value)
        while isinstance(shape, ObjectShape):
            for member in shape.members:
                if member.wire in rest:
                    if self.hides(member.features):
                        del rest[member.wire]
                    else:
                        rest[member.wire] = self.shown(types, member.type, rest[member.wire])
            if shape.variants is None:
                break
            branch = shape.variants.branches[value[shape.variants.tag]][0]
            if branch == EMPTY_TYPE:
                break
            shape = types.shape(branch)
        return rest


class PolicyVisitor(ExactVisitor):
    """The exact check that also refuses what a policy does."""

    def __init__(self, types: Types, defined: frozenset[str], policy: Policy) -> None:
        super().__init__(types, defined)
        self._policy = policy

    def _admit(self, member: MemberShape) -> None:
        self._policy.check_input(member.features, "parameter", member.wire)

    def _enum(self, reference: str, shape: EnumShape, value: Any, where: Where) -> Enum:
        found = super()._enum(reference, shape, value, where)
        self._policy.check_input(shape.features.get(found.value, ()), "value", found.value)
        return found
