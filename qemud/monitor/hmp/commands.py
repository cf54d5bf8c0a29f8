"""The command of `hmp.json`: a line of the human monitor by QMP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud._generated.commands.hmp import HmpCommands
from qemud.monitor.hmp.arguments import Reading
from qemud.monitor.hmp.shell import Shell
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.monitor.dispatch import Dispatcher


class HmpServices(Protocol):
    """What these handlers use of the process."""

    dispatcher: Dispatcher


class HmpHandlers(HmpCommands):
    """Handlers of `hmp.json`."""

    def __init__(self, services: HmpServices) -> None:
        self._execute = services.dispatcher.execute_for_people
        self._reading = Reading()  # a format is the next line's default, as at a terminal

    async def human_monitor_command(self, *, command_line: str, cpu_index: int | None) -> str:
        """`human-monitor-command`."""
        shell = Shell(self._execute, reading=self._reading, cpu_index=cpu_index)
        if cpu_index is not None:
            known = [cpu["cpu-index"] for cpu in await shell.qmp("query-cpus-fast")]
            if cpu_index not in known:
                raise GenericError("Parameter 'cpu-index' expects a CPU number")
        return (await shell.run(command_line)).replace("\n", "\r\n")
