"""The commands of `monitor.json`: monitors come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud._generated.commands.monitor import MonitorCommands
from qemud._generated.types.monitor import MonitorInfo
from qemud._generated.types.options import MonitorMode
from qemud.monitor.qmp.server import current_session
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.qemuopts import check_identifier

if TYPE_CHECKING:
    from qemud.chardev.registry import Chardevs
    from qemud.monitor.registry import Monitors


class Services(Protocol):
    """What these handlers use of the process."""

    chardevs: Chardevs
    monitors: Monitors


class MonitorHandlers(MonitorCommands):
    """Handlers of `monitor.json`."""

    def __init__(self, services: Services) -> None:
        self._chardevs = services.chardevs
        self._monitors = services.monitors

    async def query_monitors(self) -> list[MonitorInfo]:
        """`query-monitors`."""
        return [
            MonitorInfo(id=entry.label, mode=MonitorMode(entry.mode), chardev=entry.chardev)
            for entry in self._monitors
        ]

    async def monitor_add(self, *, id: str, chardev: str) -> None:  # noqa: A002 - wire name
        """`monitor-add`."""
        check_identifier(id)
        found = self._chardevs.get(chardev)
        if found is None:
            raise GenericError(f'chardev "{chardev}" not found')
        self._monitors.add(id, found)

    async def monitor_remove(self, *, id: str) -> None:  # noqa: A002 - wire name
        """`monitor-remove`."""
        entry = self._monitors.remove(id)
        own = entry.monitor is not None and entry.monitor.session is current_session.get()
        chardev = self._chardevs.get(entry.chardev)
        if chardev is not None and not own:
            chardev.yank()
