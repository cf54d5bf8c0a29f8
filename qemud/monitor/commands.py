"""The commands about the monitor itself: `control.json` and `introspect.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import Raw

from qemud import _generated
from qemud._generated.commands.control import ControlCommands
from qemud._generated.commands.introspect import IntrospectCommands
from qemud._generated.types.control import CommandInfo, VersionInfo, VersionTriple
from qemud.monitor.qmp.server import current_session
from qemud.monitor.version import PACKAGE, QEMU_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.control import QMPCapability
    from qemud.monitor.dispatch import Dispatcher


class ControlServices(Protocol):
    """What these handlers use of the process."""

    dispatcher: Dispatcher
    request_quit: Callable[[], None]


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

    async def quit(self) -> None:
        """`quit`."""
        self._services.request_quit()


class IntrospectHandlers(IntrospectCommands):
    """Handlers of `introspect.json`."""

    def __init__(self, services: IntrospectServices) -> None:
        path = Path(_generated.__path__[0]) / f"introspection-{services.target}.json"
        self._schema = Raw(path.read_bytes())

    async def query_qmp_schema(self) -> Raw:
        """`query-qmp-schema`."""
        return self._schema
