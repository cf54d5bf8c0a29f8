"""The commands of `yank.json`.  Character devices have connections, and machines that come or go.

Source: QEMU 10.0, util/yank.c, for the order and the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from qemud._generated.commands.yank import YankCommands
from qemud._generated.types.yank import YankInstanceChardev, YankInstanceMigration
from qemud.qapi.runtime.errors import DeviceNotFound

if TYPE_CHECKING:
    from qemud._generated.types.yank import YankInstance
    from qemud.chardev.registry import Chardevs


class Services(Protocol):
    """What these handlers need of the process."""

    @property
    def chardevs(self) -> Chardevs:
        """The set of chardevs."""

    @property
    def has_migration(self) -> bool:
        """Whether anything has been asked of `migration` yet."""

    @property
    def migration(self) -> Any:
        """Machines that come and go."""


class CanYank(Protocol):
    """Something with a connection."""

    def yank(self) -> None:
        """End it."""


class YankHandlers(YankCommands):
    """Handlers of `yank.json`; none of them waits, since they run out of band."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._chardevs = services.chardevs

    async def yank(self, *, instances: list[YankInstance]) -> None:
        """`yank`."""
        for each in [self._find(instance) for instance in instances]:
            each.yank()

    async def query_yank(self) -> list[YankInstance]:
        """`query-yank`."""
        found: list[YankInstance] = [
            YankInstanceChardev(id=chardev.label) for chardev in self._chardevs if chardev.can_yank
        ]
        return [*found, YankInstanceMigration()] if self._migrates else found

    @property
    def _migrates(self) -> bool:
        return self._services.has_migration and bool(self._services.migration.can_yank)

    def _find(self, instance: YankInstance) -> CanYank:
        found: CanYank | None
        if isinstance(instance, YankInstanceChardev):
            chardev = self._chardevs.get(instance.id)
            found = chardev if chardev is not None and chardev.can_yank else None
        else:
            found = self._services.migration if self._migrates else None
        if found is None:
            raise DeviceNotFound("Instance not found")
        return found
