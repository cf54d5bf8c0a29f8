"""The commands about the monitor itself: `control.json` and `introspect.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import Raw

from qemud import _generated
from qemud._generated.commands.control import ControlCommands
from qemud._generated.commands.introspect import IntrospectCommands
from qemud._generated.types.control import (
    CommandInfo,
    EventRecord,
    EventReplay,
    VersionInfo,
    VersionTriple,
)
from qemud.monitor.qmp.server import current_session
from qemud.monitor.version import PACKAGE, QEMU_VERSION
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qemud._generated.types.control import QMPCapability
    from qemud.monitor.dispatch import Dispatcher
    from qemud.monitor.qmp.events import Events


class ControlServices(Protocol):
    """What these handlers use of the process."""

    dispatcher: Dispatcher
    events: Events
    quit: Callable[[], Coroutine[Any, Any, None]]


class IntrospectServices(Protocol):
    """What `IntrospectHandlers` uses of the process."""

    target: str


class ControlHandlers(ControlCommands):
    """Handlers of `control.json`."""

    def __init__(self, services: ControlServices) -> None:
        self._services = services

    async def qmp_capabilities(self, *, enable: list[QMPCapability] | None) -> None:
        """`qmp_capabilities`."""
        current_session.get().negotiate([capability.value for capability in enable or []])

    async def query_version(self) -> VersionInfo:
        """`query-version`."""
        major, minor, micro = QEMU_VERSION
        qemu = VersionTriple(major=major, minor=minor, micro=micro)
        return VersionInfo(qemu=qemu, package=PACKAGE)

    async def query_commands(self) -> list[CommandInfo]:
        """`query-commands`."""
        return [CommandInfo(name=name) for name in self._services.dispatcher.names]

    async def replay_events(self, *, since: int | None) -> EventReplay:
        """`replay-events`."""
        history = self._services.events.history
        known = history.last if since is None else since
        if known > history.last:
            raise GenericError(f"Parameter 'since' expects the number of an event, {history.last} or less")
        kept = history.since(known)
        return EventReplay(
            instance=history.instance,
            last=history.last,
            lost=history.last - known - len(kept),
            events=[EventRecord(sequence=number, **msgspec.json.decode(line)) for number, line in kept],
        )

    async def quit(self) -> None:
        """`quit`."""
        await self._services.quit()


class IntrospectHandlers(IntrospectCommands):
    """Handlers of `introspect.json`."""

    def __init__(self, services: IntrospectServices) -> None:
        path = Path(_generated.__path__[0]) / f"introspection-{services.target}.json"
        self._schema = Raw(path.read_bytes())

    async def query_qmp_schema(self) -> Raw:
        """`query-qmp-schema`."""
        return self._schema
