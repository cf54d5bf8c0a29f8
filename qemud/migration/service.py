"""The migrations of this process: one from here at a time, and one to here if it was started to receive one.

migration = services.migration
await migration.outgoing.begin(address)
await migration.incoming.begin(address)
migration.info()                            # of the last one, for `query-migrate`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.events import migration as events
from qemud._generated.types.migration import MigrationInfo, MigrationStatus
from qemud._generated.types.migration_options import MigrationCapability
from qemud.migration.incoming import Incoming
from qemud.migration.options import Options
from qemud.migration.outgoing import Outgoing
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.services import Services


class Migration:
    """See the module.

    `report` writes a line for who looks at the process's messages; `find_descriptor` knows the descriptors that the process was
    started with.
    """

    def __init__(
        self, services: Services, report: Callable[[str], None], find_descriptor: Callable[[str], int]
    ) -> None:
        self.services = services
        self.report = report
        self.find_descriptor = find_descriptor
        self.options = Options()
        self.outgoing = Outgoing(self)
        self.incoming = Incoming(self)

    def check_idle(self) -> None:
        """Raise GenericError while the machine leaves."""
        if self.outgoing.running:
            raise GenericError("There's a migration process in progress")

    def check_devices(self, command: str) -> None:
        """Raise GenericError while no device may come or go."""
        if self.outgoing.running or self.incoming.loading:
            raise GenericError(f"{command} not allowed while migrating")

    @property
    def can_yank(self) -> bool:
        """Whether a connection is there, or is made."""
        return self.outgoing.running or self.incoming.waiting

    def yank(self) -> None:
        """End connections that may hang."""
        self.outgoing.yank()
        self.incoming.yank()

    def tell(self, status: MigrationStatus) -> None:
        """Send the event for a status, if it is wanted."""
        if self.options.has(MigrationCapability.EVENTS):
            events.migration(self.services.emit, status=status)

    def tell_pass(self, number: int) -> None:
        """Send the event for a look at memory, if it is wanted."""
        if self.options.has(MigrationCapability.EVENTS):
            events.migration_pass(self.services.emit, pass_=number)

    def info(self) -> MigrationInfo:
        """What is known of the last migration; one from here hides one to here."""
        info = MigrationInfo()
        self.incoming.describe(info)
        self.outgoing.describe(info)
        return info

    async def close(self) -> None:
        """The process ends: nothing goes on."""
        await self.outgoing.close()
        await self.incoming.close()
