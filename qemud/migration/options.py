"""What a client has chosen for migrations: capabilities and parameters, with their checks.

Source of ranges, defaults and texts: QEMU 10.0, migration/options.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.types.migration_options import (
    MigrationCapability,
    MigrationCapabilityStatus,
    MigrationParameters,
)
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

_RANGES = (
    ("downtime_limit", 0, 2_000_000, "an integer in the range of 0 to (2000 * 1000) ms"),
    ("announce_initial", 0, 100_000, "a value between 0 and 100000"),
    ("announce_max", 0, 100_000, "a value between 0 and 100000"),
    ("announce_rounds", 0, 1000, "a value between 0 and 1000"),
    ("announce_step", 1, 10_000, "a value between 0 and 10000"),
)


class Options:
    """See the module.  `parameters` has a value for everything."""

    def __init__(self) -> None:
        self._capabilities = dict.fromkeys(MigrationCapability, False)
        self.parameters = MigrationParameters(
            announce_initial=50,
            announce_max=550,
            announce_rounds=5,
            announce_step=100,
            max_bandwidth=128 << 20,
            avail_switchover_bandwidth=0,
            downtime_limit=300,
        )

    def has(self, capability: MigrationCapability) -> bool:
        """Whether a capability is switched on."""
        return self._capabilities[capability]

    def switch(self, given: Sequence[MigrationCapabilityStatus]) -> None:
        """Switch capabilities on or off."""
        self._capabilities.update((each.capability, each.state) for each in given)

    def capabilities(self) -> list[MigrationCapabilityStatus]:
        """All of them."""
        return [
            MigrationCapabilityStatus(capability=capability, state=state)
            for capability, state in self._capabilities.items()
        ]

    def set(self, given: MigrationParameters) -> None:
        """Give values to those that are there.  GenericError: one is out of its range, and none changes."""
        for name, least, most, expected in _RANGES:
            value = getattr(given, name)
            if value is not None and not least <= value <= most:
                raise GenericError(f"Parameter '{name}' expects {expected}")
        for name in MigrationParameters.__struct_fields__:
            value = getattr(given, name)
            if value is not None:
                setattr(self.parameters, name, value)
