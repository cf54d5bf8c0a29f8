"""`-compat`: the policy that the command line asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.runtime.policy import Policy
from qemud.qapi.runtime.shapes import MARKS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemud._generated.types.compat import CompatPolicy


def policy_of(given: Iterable[CompatPolicy]) -> Policy:
    """One policy of all that were given; a later one replaces what it says itself."""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for each in given:
        for mark in MARKS:
            if (arriving := getattr(each, f"{mark}_input")) is not None:
                inputs[mark] = arriving.value
            if (leaving := getattr(each, f"{mark}_output")) is not None:
                outputs[mark] = leaving.value
    return Policy(
        {mark: what for mark, what in inputs.items() if what != "accept"},
        {mark for mark, what in outputs.items() if what == "hide"},
    )
