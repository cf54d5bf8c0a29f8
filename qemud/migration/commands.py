"""The commands of `migration.json` and `migration-options.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.commands.migration import MigrationCommands
from qemud._generated.commands.migration_options import MigrationOptionsCommands
from qemud.migration.address import choose
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud._generated.types.migration import MigrationChannel, MigrationInfo, MigrationStatus
    from qemud._generated.types.migration_options import MigrationCapabilityStatus, MigrationParameters
    from qemud.machine.services import Services
    from qemud.migration.service import Migration


class MigrationHandlers(MigrationCommands):
    """Handlers of `migration.json`."""

    def __init__(self, services: Services) -> None:
        self._migration: Migration = services.migration

    async def query_migrate(self) -> MigrationInfo:
        """`query-migrate`."""
        return self._migration.info()

    async def migrate(
        self,
        *,
        uri: str | None,
        channels: Sequence[MigrationChannel] | None,
        detach: bool | None,
        resume: bool | None,
    ) -> None:
        """`migrate`."""
        del detach  # as in QEMU, nobody waits here
        address = choose(uri, channels, incoming=False)
        if resume:
            raise GenericError("Cannot resume if there is no paused migration")
        await self._migration.outgoing.begin(address)

    async def migrate_incoming(
        self, *, uri: str | None, channels: Sequence[MigrationChannel] | None, exit_on_error: bool
    ) -> None:
        """`migrate-incoming`."""
        incoming = self._migration.incoming
        incoming.check()
        await incoming.begin(choose(uri, channels, incoming=True), exit_on_error=exit_on_error)

    async def migrate_cancel(self) -> None:
        """`migrate_cancel`."""
        self._migration.outgoing.cancel()

    async def migrate_continue(self, *, state: MigrationStatus) -> None:
        """`migrate-continue`."""
        self._migration.outgoing.go_on(state)


class MigrationOptionsHandlers(MigrationOptionsCommands):
    """Handlers of `migration-options.json`."""

    def __init__(self, services: Services) -> None:
        self._migration: Migration = services.migration

    async def migrate_set_capabilities(self, *, capabilities: Sequence[MigrationCapabilityStatus]) -> None:
        """`migrate-set-capabilities`."""
        self._migration.check_idle()
        self._migration.options.switch(capabilities)

    async def query_migrate_capabilities(self) -> list[MigrationCapabilityStatus]:
        """`query-migrate-capabilities`."""
        return self._migration.options.capabilities()

    async def migrate_set_parameters(self, arg: MigrationParameters) -> None:
        """`migrate-set-parameters`."""
        self._migration.options.set(arg)

    async def query_migrate_parameters(self) -> MigrationParameters:
        """`query-migrate-parameters`."""
        return self._migration.options.parameters
