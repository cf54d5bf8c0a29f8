"""The commands about the monitor itself: `control.json` and `introspect.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Raw

from qemud import __version__, _generated
from qemud._generated.commands.control import ControlCommands
from qemud._generated.commands.introspect import IntrospectCommands
from qemud._generated.types.control import CommandInfo, VersionInfo, VersionTriple
from qemud.monitor.qmp.envelope import encode
from qemud.monitor.qmp.server import current_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.control import QMPCapability
    from qemud.monitor.dispatch import Dispatcher

QEMU_VERSION: Final = (10, 0, 2)
"""The version of QEMU whose interface this is."""


def version_text() -> bytes:
    """What query-version returns, as JSON text; the greeting has it too."""
    major, minor, micro = QEMU_VERSION
    package = f"qemud {__version__}"
    return encode({"qemu": {"micro": micro, "minor": minor, "major": major}, "package": package})


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
        return VersionInfo(qemu=qemu, package=f"qemud {__version__}")

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
