"""The commands of `run-state.json`: start, stop, reset and switch off the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud._generated.commands.run_state import RunStateCommands
from qemud._generated.types.run_state import ShutdownCause, StatusInfo

if TYPE_CHECKING:
    from qemud._generated.types.run_state import PanicAction, RebootAction, ShutdownAction, WatchdogAction
    from qemud.machine.services import Services


class RunStateHandlers(RunStateCommands):
    """Handlers of `run-state.json`."""

    def __init__(self, services: Services) -> None:
        self._vm = services.vm

    async def query_status(self) -> StatusInfo:
        """`query-status`."""
        return StatusInfo(running=self._vm.running, status=self._vm.state)

    async def stop(self) -> None:
        """`stop`."""
        await self._vm.stop()

    async def cont(self) -> None:
        """`cont`."""
        await self._vm.cont()

    async def system_reset(self) -> None:
        """`system_reset`."""
        await self._vm.reset(ShutdownCause.HOST_QMP_SYSTEM_RESET)

    async def system_powerdown(self) -> None:
        """`system_powerdown`."""
        await self._vm.powerdown()

    async def set_action(
        self,
        *,
        reboot: RebootAction | None = None,
        shutdown: ShutdownAction | None = None,
        panic: PanicAction | None = None,
        watchdog: WatchdogAction | None = None,
    ) -> None:
        """`set-action`."""
        self._vm.actions.set(reboot, shutdown, panic, watchdog)

    async def watchdog_set_action(self, *, action: WatchdogAction) -> None:
        """`watchdog-set-action`."""
        self._vm.actions.set(watchdog=action)
