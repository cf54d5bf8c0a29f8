"""The commands of `migration.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.commands.migration import MigrationCommands
from qemud._generated.types.migration import MigrationCapability, MigrationCapabilityStatus

if TYPE_CHECKING:
    from collections.abc import Sequence


class MigrationHandlers(MigrationCommands):
    """Handlers of `migration.json`; they keep the settings."""

    def __init__(self, services: object) -> None:
        del services
        self._capabilities = dict.fromkeys(MigrationCapability, False)

    async def migrate_set_capabilities(self, *, capabilities: Sequence[MigrationCapabilityStatus]) -> None:
        """`migrate-set-capabilities`."""
        self._capabilities.update((given.capability, given.state) for given in capabilities)

    async def query_migrate_capabilities(self) -> list[MigrationCapabilityStatus]:
        """`query-migrate-capabilities`."""
        return [
            MigrationCapabilityStatus(capability=capability, state=state)
            for capability, state in self._capabilities.items()
        ]
