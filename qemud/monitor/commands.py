"""The commands about the monitor itself: `control.json` and `introspect.json`."""

from __future__ import annotations

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
    dispatcher: Dispatcher


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
        # Not by pathlib: the first command of a client would wait for its import.
        with open(f"{_generated.__path__[0]}/introspection-{services.target}.json", "rb") as file:
            self._schema = Raw(file.read())
        self._services = services

    async def query_qmp_schema(self) -> Raw:
        """`query-qmp-schema`; without what is deprecated, where a policy hides that."""
        policy = self._services.dispatcher.policy
        if policy is not None and policy.hides(("deprecated",)):
            return Raw(msgspec.json.encode(_without_deprecated(msgspec.json.decode(self._schema))))
        return self._schema


def _without_deprecated(schema: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entities that are not deprecated, without deprecated members of objects, and without `values`, which is one."""

    def kept(each: dict[str, Any]) -> bool:
        return "deprecated" not in each.get("features", ())

    shown = []
    for entity in filter(kept, schema):
        entity.pop("values", None)
        if entity["meta-type"] == "object":
            entity["members"] = [member for member in entity["members"] if kept(member)]
        shown.append(entity)
    return shown
