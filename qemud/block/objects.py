"""Objects that a client makes for block nodes: `throttle-group`, the limits that nodes of the filter `throttle` share.

Source of rules and texts: QEMU 10.0, block/throttle-groups.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from qemud._generated.types.block_throttle import ThrottleGroupProperties, ThrottleLimits
from qemud.block.throttle import Limits, find_group, group_of, leave
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.userobjects import UserCreatable
from qemud.qom.values import attribute_of

if TYPE_CHECKING:
    from qemud.block.throttle import Group

_UINT_MAX = (1 << 32) - 1


class ThrottleGroup(
    UserCreatable,
    type_name="throttle-group",
    options=ThrottleGroupProperties,
    interfaces=("user-creatable",),
):
    """See the module.  Its members hold it."""

    options: ThrottleGroupProperties
    _group: Group | None = None

    async def complete(self) -> None:
        """Make the group."""
        name = self.id or ""
        if find_group(name) is not None:
            raise GenericError("A group with this name already exists")
        limits = self._merged(Limits({}))
        group = self._group = group_of(name)
        group.users += 1
        group.owner = self
        group.configure(limits)
        self._show(limits)

    def close(self) -> None:
        """There are no members left."""
        group, self._group = self._group, None
        if group is not None:
            group.owner = None
            leave(group)

    def property_changed(self, name: str) -> None:
        """Other limits; those that are not given stay."""
        if name == "limits" and self._group is not None:
            limits = self._merged(self._group.limits)
            self._group.configure(limits)
            self._show(limits)

    def _merged(self, before: Limits) -> Limits:
        """The limits that there are with those of the property.  GenericError."""
        values = before.values()
        given = self.options.limits
        if given is not None:
            for name in values:
                value = getattr(given, attribute_of(ThrottleLimits, name))
                if value is None:
                    continue
                if name.endswith("-length") and value > _UINT_MAX:
                    raise GenericError(f"{name} value must be in the range [0, {_UINT_MAX}]")
                values[name] = value
        return Limits(values)

    def _show(self, limits: Limits) -> None:
        """Let the property have all limits, as QEMU's does."""
        self.options.limits = msgspec.convert(limits.values(), ThrottleLimits)
