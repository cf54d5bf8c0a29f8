"""The commands of `balloon.json`: how much memory the guest is to have, and has.

Source of texts: QEMU 10.0, system/balloon.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.commands.balloon import BalloonCommands
from qemud._generated.types.balloon import BalloonInfo
from qemud.hw.virtio.balloon import VirtioBalloon
from qemud.qapi.runtime.errors import DeviceNotActive, GenericError

if TYPE_CHECKING:
    from qemud.machine.services import Services


class BalloonHandlers(BalloonCommands):
    """Handlers of `balloon.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def balloon(self, *, value: int) -> None:
        """`balloon`."""
        found = self._find()
        if value <= 0:
            raise GenericError("Parameter 'value' expects a size")
        await self._services.vm.mailboxes.call(found.ask_for, value)

    async def query_balloon(self) -> BalloonInfo:
        """`query-balloon`."""
        found = self._find()
        return BalloonInfo(actual=await self._services.vm.mailboxes.call(lambda: found.actual))

    def _find(self) -> VirtioBalloon:
        for node in self._services.tree.root.walk():
            if isinstance(node, VirtioBalloon) and node.realized:
                return node
        raise DeviceNotActive("No balloon device has been activated")
