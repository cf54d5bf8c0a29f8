"""Names of one scope that come out the same: who has a name, and the complaint when two have it.

Names are compared as Python spells them, which also finds all that C would confuse (`a-b`, `a.b` and `a_b`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qemud.qapi import names
from qemud.qapi.diagnostics import SchemaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.qapi.diagnostics import Site


@dataclass(frozen=True, slots=True)
class Named:
    """A member, value, branch or feature (`role`), its name, and the definition that has it (`owner`)."""

    role: str
    name: str
    owner: str

    def describe(self, site: Site) -> str:
        """In the words for a diagnostic about `site`, which is not told its own name."""
        role, owner, kind = self.role, self.owner, "type"
        if owner.startswith("q_obj_"):
            owner = owner.removeprefix("q_obj_")
            if owner.endswith("-arg"):
                role, kind, owner = "parameter", "command", owner.removesuffix("-arg")
            else:
                role, owner = f"base {role}", owner.removesuffix("-base")
        text = f"{role} '{self.name}'"
        return text if owner == site.name else f"{text} of {kind} '{owner}'"


class Scope(dict[str, Named]):
    """The names of one scope, by their Python spelling, in order."""

    def add(self, named: Named, site: Site, spelling: Callable[[str], str] = names.python_name) -> None:
        """Enter a name; `SchemaError` when another comes out the same."""
        other = self.setdefault(spelling(named.name), named)
        if other is not named:
            raise SchemaError.at(site, f"{named.describe(site)} collides with {other.describe(site)}")

    def reject_any_of(self, inner: Scope, site: Site) -> None:
        """Complain of the first name of `inner`, which is to be added to this scope in some branch, that is taken."""
        for key, named in inner.items():
            other = self.get(key)
            if other is not None:
                raise SchemaError.at(site, f"{named.describe(site)} collides with {other.describe(site)}")
