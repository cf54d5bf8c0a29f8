"""Commands about descriptors that come over the monitor's socket; `qemud.monitor.passed` holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qemud.monitor.hmp.shell import Shell


async def getfd(shell: Shell, arguments: dict[str, Any]) -> None:
    """`getfd`."""
    await shell.qmp("getfd", arguments)


async def closefd(shell: Shell, arguments: dict[str, Any]) -> None:
    """`closefd`."""
    await shell.qmp("closefd", arguments)
