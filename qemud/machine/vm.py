"""The machine as the loop sees it: its run state, and what starts, stops, resets and ends it.

`VirtualMachine` belongs to the event loop and owns the run state.  What happens in the machine thread is reached by its
mailboxes; a guest that switches itself off or resets itself is halted on the spot, in the machine thread, and the loop is
told (`request_shutdown`, `request_reset`, `guest_panicked` may be called from either thread).

    vm = VirtualMachine(MachineThread(...), emit)
    await vm.cont()          # RESUME
    await vm.stop()          # STOP, and then nothing in the machine changes
    await vm.reset(ShutdownCause.HOST_QMP_SYSTEM_RESET)

Transitions are taken one at a time, in the order in which they were asked for; each emits its event before whoever asked is
answered.

Source of states, transitions and texts: QEMU 10.0, system/runstate.c and system/cpus.c.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from qemud._generated.events import run_state as events
from qemud._generated.types.run_state import (
    GuestPanicAction,
    PanicAction,
    RebootAction,
    RunState,
    ShutdownAction,
    ShutdownCause,
    WatchdogAction,
)
from qemud.logs import Logger, trace, traced
from qemud.machine.clock import HostClock, VirtualClock
from qemud.machine.dma import Dma
from qemud.machine.mailbox import Closed
from qemud.machine.memory import AddressSpace
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from typing import Any

    from qemud.machine.icount import InstructionTime
    from qemud.machine.mailbox import Mailboxes
    from qemud.machine.vcpu import Vcpu
    from qemud.qapi.runtime.events import EmitFunction

log = Logger("machine")

NEEDS_RESET = frozenset({RunState.INTERNAL_ERROR, RunState.SHUTDOWN})
"""States that only a reset leads out of."""

GUEST_CAUSES = frozenset({ShutdownCause.GUEST_SHUTDOWN, ShutdownCause.GUEST_RESET, ShutdownCause.GUEST_PANIC})
"""Causes that the guest itself is behind."""


_HALTING = frozenset({WatchdogAction.RESET, WatchdogAction.POWEROFF, WatchdogAction.PAUSE})


class Executor(Protocol):
    """What the machine needs of the machine thread; `MachineThread` is it."""

    mailboxes: Mailboxes

    @property
    def thread_id(self) -> int:
        """The kernel's number of the thread."""

    def attach(self, vcpu: Vcpu) -> None:
        """Run this processor from now on, once resumed. Machine thread only."""

    def detach(self) -> Vcpu | None:
        """Give the processor back, paused. Machine thread only."""

    def count_instructions(self, time: InstructionTime) -> None:
        """Let them drive the virtual clock. Machine thread only."""

    def resume(self) -> None:
        """Let the processors run. Machine thread only."""

    def pause(self) -> None:
        """Run no further instruction, also when called from a device's callback. Machine thread only."""

    def hold(self) -> None:
        """Let the processors wait in the middle of what they do. Machine thread only."""

    def let_go(self) -> None:
        """End one `hold`. Machine thread only."""


class Actions:
    """What a reset, a shutdown, a crash and silence do: `-action`, `-no-reboot`, `-no-shutdown`, `set-action`."""

    def __init__(self) -> None:
        self.reboot = RebootAction.RESET
        self.shutdown = ShutdownAction.POWEROFF
        self.panic = PanicAction.SHUTDOWN
        self.watchdog = WatchdogAction.RESET

    def set(
        self,
        reboot: RebootAction | None = None,
        shutdown: ShutdownAction | None = None,
        panic: PanicAction | None = None,
        watchdog: WatchdogAction | None = None,
    ) -> None:
        """Change what is given, leave the rest."""
        self.reboot = reboot or self.reboot
        self.shutdown = shutdown or self.shutdown
        self.panic = panic or self.panic
        self.watchdog = watchdog or self.watchdog


class VirtualMachine:
    """See the module.

    `emit` sends an event to the clients; `end` ends the process with an exit status; `reset_devices` and `on_powerdown` are
    set by whoever builds the machine: the first runs in the machine thread and puts everything into its state after power-on.
    """

    def __init__(self, executor: Executor, emit: EmitFunction, end: Callable[[int], None]) -> None:
        self.executor = executor
        self.mailboxes = executor.mailboxes
        self.emit = emit
        self.end = end
        self.clock = VirtualClock()
        self.host_clock = HostClock()
        self.instruction_time: InstructionTime | None = None
        """What drives `clock`, if instructions are counted."""
        self.rtc_offset = 0
        """What the machine's time of day is ahead of the host's when it is made, ns."""
        self.memory = AddressSpace()
        self.dma = Dma(self.memory, self.mailboxes)
        self.vcpus: list[Vcpu] = []
        self.actions = Actions()
        self._state = RunState.PRELAUNCH
        self.on_state: Callable[[RunState], object] = lambda _state: None
        self.reset_devices: Callable[[], None] = lambda: None
        self.on_powerdown: list[Callable[[], None]] = []
        self.on_stopped: list[Callable[[], Awaitable[None]]] = []
        """Called when the guest has stopped and no lease is out, before who asked is answered: disks flush here."""
        self.before_cont: list[Callable[[], Awaitable[None]]] = []
        """Called when somebody wants the guest to go on; GenericError when it cannot: disks are taken from another process here."""
        self.on_cont: list[Callable[[], None]] = []
        """Called in the loop when the guest is about to go on."""
        self.on_resume: list[Callable[[], None]] = []
        """Called in the machine thread just before the guest goes on: what failed is tried again."""
        self.autostart = True
        """Whether a machine that is waited for runs when it arrives."""
        self.hold = ""
        """Why the guest must not go on, if it must not: what is told to who wants it to."""
        self.transitions = asyncio.Lock()
        """Held while the run state changes, and by who needs it to stay as it is."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False

    @property
    def state(self) -> RunState:
        """What the machine is doing; `on_state` is told of each change."""
        return self._state

    @state.setter
    def state(self, state: RunState) -> None:
        if "runstate_set" in traced:
            trace("runstate_set", old=self._state.value, new=state.value)
        self._state = state
        self.on_state(state)

    @property
    def running(self) -> bool:
        """Whether guest code runs."""
        return self.state is RunState.RUNNING

    # Transitions, from the loop.

    async def stop(self, state: RunState = RunState.PAUSED) -> None:
        """Stop in `state`; nothing happens when the guest is stopped already, and one that is waited for will not run."""
        async with self.transitions:
            if self.state is RunState.INMIGRATE:
                self.autostart = False
            await self._stop(state)

    async def cont(self) -> None:
        """Start or resume the guest, at once or when it arrives. Raises GenericError when it has to be reset first."""
        async with self.transitions:
            if self.hold:
                raise GenericError(self.hold)
            if self.state in NEEDS_RESET:
                raise GenericError("Resetting the Virtual Machine is required")
            if self.state is RunState.FINISH_MIGRATE:
                raise GenericError("Migration is not finalized yet")
            if self.state is RunState.INMIGRATE:
                self.autostart = True
                return
            await self.get_ready()
            if not self.running:
                await self._cont()

    @asynccontextmanager
    async def held(self, state: RunState) -> AsyncIterator[RunState]:
        """Nobody else starts, stops or resets the machine inside of this; it is stopped in `state` if it ran.

        Gives what it was doing before; `take_up` ends that, or it stays stopped.  Raises GenericError when it must not go on.
        """
        async with self.transitions:
            if self.hold:
                raise GenericError(self.hold)
            if self.state is RunState.INMIGRATE:
                raise GenericError("Guest is waiting for an incoming migration")
            if self.state is RunState.FINISH_MIGRATE:
                raise GenericError("Migration is not finalized yet")
            before = self.state
            await self._stop(state)
            yield before

    async def stop_to_leave(self) -> RunState:
        """With `transitions` held: be `finish-migrate`, stopped; what the machine was doing before.  `take_up` ends that."""
        before = self.state
        await self._stop(RunState.FINISH_MIGRATE)
        self.state = RunState.FINISH_MIGRATE
        return before

    async def take_up(self, state: RunState) -> None:
        """With `transitions` held: run, or be stopped in another state.  GenericError: it cannot run."""
        if state is RunState.RUNNING:
            await self.get_ready()
            await self._cont()
        else:
            self.state = state

    async def reset(self, cause: ShutdownCause) -> None:
        """Reset the machine, or shut it down where that is the action for a reset."""
        if self.actions.reboot is RebootAction.SHUTDOWN:
            await self.shutdown(cause)
            return
        async with self.transitions:
            if self.state is RunState.INMIGRATE:
                # As it was made; and what arrives takes the place of everything.
                events.reset(self.emit, guest=cause in GUEST_CAUSES, reason=cause)
                return
            await self.mailboxes.call(self._retire_in_machine)
            await self.dma.returned()
            try:
                await self.mailboxes.call(self._reset_in_machine)
            except GenericError:
                # A kernel's file is not what it was: some of the machine is reset, some is not.
                await self._stop(RunState.INTERNAL_ERROR)
                raise
            events.reset(self.emit, guest=cause in GUEST_CAUSES, reason=cause)
            if self.running:
                await self.mailboxes.call(self._resume_in_machine)
            elif self.state is not RunState.FINISH_MIGRATE:
                self.state = RunState.PRELAUNCH

    async def shutdown(self, cause: ShutdownCause, status: int = 0) -> None:
        """Say that the machine is shut down, then end the process or keep the machine stopped, as the action is.

        Only a guest and a reset leave the choice: a client's `quit` and a signal always end the process.
        """
        async with self.transitions:
            if self._ending:
                return
            if "qemu_system_shutdown_request" in traced:
                trace("qemu_system_shutdown_request", cause=cause.value)
            chosen = cause not in {ShutdownCause.HOST_QMP_QUIT, ShutdownCause.HOST_SIGNAL}
            keep = chosen and self.actions.shutdown is ShutdownAction.PAUSE
            self._ending = not keep
            events.shutdown(self.emit, guest=cause in GUEST_CAUSES, reason=cause)
            if keep:
                await self._stop(RunState.SHUTDOWN)
                return
            await self.mailboxes.call(self._pause_in_machine)
            if cause is ShutdownCause.GUEST_PANIC and self.actions.panic is PanicAction.EXIT_FAILURE:
                status = status or 1
            self.end(status)

    async def powerdown(self) -> None:
        """Press the power button."""
        if "qemu_system_powerdown_request" in traced:
            trace("qemu_system_powerdown_request")
        events.powerdown(self.emit)
        for press in self.on_powerdown:
            await self.mailboxes.call(press)

    async def panic(self, status: int = 0) -> None:
        """Do what the action for a crash of the guest is; `status` is what the process ends with, if it does."""
        action = self.actions.panic
        if action is PanicAction.NONE:
            events.guest_panicked(self.emit, action=GuestPanicAction.RUN)
            async with self.transitions:
                if self.running:
                    await self.mailboxes.call(self._resume_in_machine)
            return
        pauses = action is PanicAction.PAUSE or (
            action is PanicAction.SHUTDOWN and self.actions.shutdown is ShutdownAction.PAUSE
        )
        events.guest_panicked(
            self.emit, action=GuestPanicAction.PAUSE if pauses else GuestPanicAction.POWEROFF
        )
        await self.stop(RunState.GUEST_PANICKED)
        if not pauses:
            await self.shutdown(ShutdownCause.GUEST_PANIC, status)

    async def watchdog(self, action: WatchdogAction) -> None:
        """Tell that a watchdog has not heard of the guest, and do something about it."""
        events.watchdog(self.emit, action=action)
        match action:
            case WatchdogAction.RESET:
                await self.reset(ShutdownCause.GUEST_RESET)
            case WatchdogAction.SHUTDOWN:
                await self.powerdown()
            case WatchdogAction.POWEROFF:
                # No shutdown, of which clients would be told: the power fails.
                async with self.transitions:
                    self._ending = True
                    await self.mailboxes.call(self._pause_in_machine)
                    self.end(0)
            case WatchdogAction.PAUSE:
                await self.stop(RunState.WATCHDOG)
            case WatchdogAction.DEBUG:
                with suppress(OSError):  # nobody may be there to read it any more
                    sys.stderr.write("watchdog: timer fired\n")
                    sys.stderr.flush()
            case _:
                pass  # no machine here has an interrupt that cannot be masked

    # Requests, from a device in the machine thread or from the loop.

    def request_reset(self, cause: ShutdownCause) -> None:
        """Reset soon; from the machine thread the guest is halted at once."""
        self._request(self.reset, cause)

    def request_shutdown(self, cause: ShutdownCause, status: int = 0) -> None:
        """Shut down soon; from the machine thread the guest is halted at once."""
        self._request(self.shutdown, cause, status)

    def guest_panicked(self, status: int = 0) -> None:
        """The guest reports a crash; from the machine thread it is halted at once."""
        self._request(self.panic, status)

    def watchdog_expired(self) -> None:
        """A watchdog, in the machine thread, has not heard of the guest, which is halted at once if it is to be."""
        action = self.actions.watchdog
        if action in _HALTING:
            self._request(self.watchdog, action)
        else:
            self.mailboxes.send(self._begin, self.watchdog, action)

    def internal_error(self) -> None:
        """The engine cannot go on: stop in the state `internal-error`."""
        self._request(self.stop, RunState.INTERNAL_ERROR)

    def io_error(self) -> None:
        """A disk cannot go on before somebody has seen to it: stop in the state `io-error`."""
        self._request(self.stop, RunState.IO_ERROR)

    def _request(self, transition: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        if self.mailboxes.on_machine_thread():
            self._pause_in_machine()
            self.mailboxes.send(self._begin, transition, *args)
        else:
            self._begin(transition, *args)

    def _begin(self, transition: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(transition, *args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, transition: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """A transition that nobody waits for, so that what goes wrong has to be told here."""
        try:
            await transition(*args)
        except Closed:
            pass  # the process ends, and what was asked for with it
        except GenericError as error:
            log.error("the machine cannot go on", reason=str(error))  # noqa: TRY400 - the text says it all

    async def get_ready(self) -> None:
        """Have what the guest needs to go on.  GenericError: it cannot."""
        for step in tuple(self.before_cont):
            await step()

    async def _cont(self) -> None:
        for tell in tuple(self.on_cont):
            tell()
        self.state = RunState.RUNNING
        events.resume(self.emit)
        await self.mailboxes.call(self._resume_in_machine)

    async def _stop(self, state: RunState) -> None:
        if self.running:
            await self.mailboxes.call(self._pause_in_machine)
            self.state = state
            try:
                await self.dma.returned()
            finally:
                events.stop(self.emit)
            for flush in tuple(self.on_stopped):
                await flush()
        elif state in NEEDS_RESET or state is RunState.GUEST_PANICKED:
            # Asked for by a guest that was stopped meanwhile: the state must tell of it all the same.
            self.state = state

    # In the machine thread.

    def _pause_in_machine(self) -> None:
        self.executor.pause()
        self.clock.stop()

    def _resume_in_machine(self) -> None:
        self.clock.start()
        for go_on in tuple(self.on_resume):
            go_on()
        self.executor.resume()

    def _retire_in_machine(self) -> None:
        self._pause_in_machine()
        self.dma.retire()

    def _reset_in_machine(self) -> None:
        self._pause_in_machine()
        self.reset_devices()
