"""The commands of `yank.json`.  Character devices are all that has connections so far.

Source: QEMU 10.0, util/yank.c, for the order and the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud._generated.commands.yank import YankCommands
from qemud._generated.types.yank import YankInstanceChardev
from qemud.qapi.runtime.errors import DeviceNotFound

if TYPE_CHECKING:
    from qemud._generated.types.yank import YankInstance
    from qemud.chardev.registry import Chardevs
    from qemud.chardev.stream import Chardev


class Services(Protocol):
    """What these handlers need of the process."""

    @property
    def chardevs(self) -> Chardevs:
        """The set of chardevs."""


class YankHandlers(YankCommands):
    """Handlers of `yank.json`; none of them waits, since they run out of band."""

    def __init__(self, services: Services) -> None:
        self._chardevs = services.chardevs

    async def yank(self, *, instances: list[YankInstance]) -> None:
        """`yank`."""
        for chardev in [self._find(instance) for instance in instances]:
            chardev.yank()

    async def query_yank(self) -> list[YankInstance]:
        """`query-yank`."""
        return [YankInstanceChardev(id=chardev.label) for chardev in self._chardevs if chardev.can_yank]

    def _find(self, instance: YankInstance) -> Chardev:
        assert isinstance(instance, YankInstanceChardev)
        chardev = self._chardevs.get(instance.id)
        if chardev is None or not chardev.can_yank:
            raise DeviceNotFound("Instance not found")
        return chardev
