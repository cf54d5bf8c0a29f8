"""A machine that leaves: its memory is sent while the guest runs, then the guest is stopped, and the rest is sent.

    await outgoing.begin(address)       # GenericError: it cannot begin
    outgoing.cancel()                   # it stays

Memory is looked at again and again (`passes.py`).  The guest is stopped when what is left is expected to be sent within
`downtime-limit`, looking for it included; or when two more passes have not made that less by a tenth: the guest changes as much as can be
sent, or looking alone takes that long, and waiting does not help.

All or nothing: whatever goes wrong up to the last word leaves the machine here, running if it ran.  With the capability `return-path`
the last word is said when the other side has told that it has everything and that it fits; without, when all was sent.

Source of states, events and texts: QEMU 10.0, migration/migration.c.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from qemud._generated.types.migration import MigrationStatus
from qemud._generated.types.migration_options import MigrationCapability
from qemud._generated.types.run_state import RunState
from qemud.logs import Logger
from qemud.machine.mailbox import Closed
from qemud.machine.snapshot import describe_memory, memory_of, save_objects, type_of
from qemud.machine.vm import NEEDS_RESET
from qemud.migration.channel import Channel
from qemud.migration.live import (
    ANSWER_SIZE,
    END,
    GO,
    Section,
    begin,
    parse_answer,
)
from qemud.migration.sender import Sender
from qemud.migration.statistics import Statistics
from qemud.migration.still import still
from qemud.migration.stream import encode_object
from qemud.migration.transport import connect, prepare
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from qemud._generated.types.migration import MigrationAddress, MigrationInfo
    from qemud.chardev.address import Address
    from qemud.machine.services import Services
    from qemud.migration.service import Migration

_RUNNING = frozenset(
    {
        MigrationStatus.SETUP,
        MigrationStatus.ACTIVE,
        MigrationStatus.PRE_SWITCHOVER,
        MigrationStatus.DEVICE,
        MigrationStatus.CANCELLING,
    }
)
_LASTING = NEEDS_RESET | {RunState.GUEST_PANICKED}
"""States of a guest that has ended meanwhile; it is so on the other side, too."""

log = Logger("migration")


class Outgoing:
    """See the module."""

    def __init__(self, migration: Migration) -> None:
        self._migration = migration
        self._options = migration.options
        self._task: asyncio.Task[None] | None = None
        self._channel: Channel | None = None
        self._continue: asyncio.Event | None = None
        self._too_late = False
        self._before: RunState | None = None
        self.status = MigrationStatus.NONE
        self.error = ""
        self.statistics = Statistics()

    @property
    def running(self) -> bool:
        """Whether a machine is about to leave."""
        return self.status in _RUNNING

    @property
    def _services(self) -> Services:
        return self._migration.services

    # As clients see it.

    async def begin(self, address: MigrationAddress) -> None:
        """Begin.  GenericError."""
        vm = self._services.vm
        self._migration.check_idle()
        if vm.state is RunState.INMIGRATE:
            raise GenericError("Guest is waiting for an incoming migration")
        if vm.state is RunState.POSTMIGRATE:
            raise GenericError("Can't migrate the vm that was paused due to previous migration")
        if vm.hold:
            raise GenericError("Live migration disabled: dump-guest-memory in progress")
        self.error = ""
        self.statistics = Statistics()
        self._too_late = False
        self._set(MigrationStatus.SETUP)
        try:
            prepared = await prepare(address, self._services.take_descriptor)
        except BaseException as error:
            self.error = str(error)
            self._set(MigrationStatus.FAILED)
            raise
        self._task = asyncio.get_running_loop().create_task(self._run(prepared))
        await asyncio.sleep(0)  # it has begun when it can be cancelled: else its end would not be seen to

    def cancel(self) -> None:
        """End it, unless it has ended, or is said to be complete at this moment."""
        if self.running and self.status is not MigrationStatus.CANCELLING and not self._too_late:
            assert self._task is not None
            self._set(MigrationStatus.CANCELLING)
            self._task.cancel()

    def go_on(self, state: MigrationStatus) -> None:
        """Go on if it waits in that state.  GenericError: it is in another."""
        if self.status is not state:
            raise GenericError(f"Migration not in expected state: {self.status.value}")
        if self._continue is not None:
            self._continue.set()

    def yank(self) -> None:
        """End the connection, which may hang: it fails."""
        if self._channel is not None:
            self._channel.abort()

    def describe(self, info: MigrationInfo) -> None:
        """Put into `info` what is known; nothing if there was none."""
        if self.status is MigrationStatus.NONE:
            return
        info.status = self.status
        info.error_desc = self.error or None
        complete = self.status is MigrationStatus.COMPLETED
        if complete or (self.running and self.status is not MigrationStatus.SETUP):
            self.statistics.describe(info, complete=complete)

    async def close(self) -> None:
        """The process ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    # The work.

    def _set(self, status: MigrationStatus) -> None:
        self.status = status
        self._migration.tell(status)

    async def _run(self, prepared: Channel | Address) -> None:
        status, channel = MigrationStatus.FAILED, None
        try:
            self._channel = channel = await connect(prepared)
            await self._send(channel)
            status = MigrationStatus.COMPLETED
        except GenericError as error:
            self.error = str(error)
        except OSError as error:
            name = channel.name if channel is not None else "channel"
            self.error = f"Unable to write to {name}: {error.strerror or error}"
        except asyncio.CancelledError:
            status = MigrationStatus.CANCELLED
        except Exception as error:
            log.exception("migration failed")
            self.error = f"Internal error: {type(error).__name__}"
        finally:
            self._too_late = True  # what comes of it is decided
            self._channel = None
            if channel is not None:
                channel.close()
            elif isinstance(prepared, Channel):
                prepared.close()
        if status is not MigrationStatus.COMPLETED:
            with contextlib.suppress(Closed):
                await self._stay()
        if self.error:
            self._migration.report(self.error)
        self.statistics.end()
        self._set(status)

    async def _stay(self) -> None:
        """Go on with what the machine was doing."""
        before, self._before = self._before, None
        vm = self._services.vm
        if before is None:
            return
        async with vm.transitions:
            if vm.state is not RunState.FINISH_MIGRATE:
                return  # the guest has ended meanwhile
            try:
                if self._services.has_block:
                    await self._services.block.activate_all()
                await vm.take_up(before)
            except GenericError as error:
                # Somebody else has a disk; `cont` tries again.
                vm.state = RunState.PAUSED
                self._migration.report(str(error))

    async def _send(self, channel: Channel) -> None:
        vm, options = self._services.vm, self._options
        answers = options.has(MigrationCapability.RETURN_PATH)
        if answers and not channel.two_way:
            raise GenericError("Unable to open return-path: the channel goes one way only")
        offer = {
            "machine": type_of(self._services.board),
            "memory": [
                {"name": item.name, "base": item.base, "size": item.size}
                for item in describe_memory(vm.memory)
            ],
        }
        regions = memory_of(vm.memory)
        numbers = self.statistics
        numbers.total = sum(region.size for region in regions)
        refused = asyncio.ensure_future(_refusal(channel)) if answers else None
        sender = Sender(channel, regions, numbers, options, vm, self._look)
        try:
            await sender.write([begin(offer, wants_answer=answers)])
            numbers.active(await sender.measure())
            await sender.send_live()
            await self._switch_over(sender, refused)
        except OSError as error:
            # Who refuses what it gets says why, and hangs up.
            if refused is not None and (reason := await _soon(refused)):
                raise GenericError(f"the other side refused: {reason}") from error
            raise
        finally:
            if refused is not None:
                refused.cancel()
                await asyncio.wait((refused,))
                if not refused.cancelled():
                    refused.exception()  # which has been told, or does not matter any more

    def _look(self) -> None:
        """Memory is looked at once more."""
        numbers = self.statistics
        numbers.passes += 1
        self._migration.tell_pass(numbers.passes)
        if self.status is MigrationStatus.SETUP:
            self._set(MigrationStatus.ACTIVE)

    async def _switch_over(self, sender: Sender, refused: asyncio.Future[str] | None) -> None:
        vm, numbers = self._services.vm, self.statistics
        async with vm.transitions:
            await _whole(self._stop())
        numbers.stopped()
        if self._options.has(MigrationCapability.PAUSE_BEFORE_SWITCHOVER):
            self._continue = asyncio.Event()
            self._set(MigrationStatus.PRE_SWITCHOVER)
            await self._continue.wait()
            self._continue = None
        self._set(MigrationStatus.DEVICE)
        async with vm.transitions:
            async with still(self._services):
                if self._services.has_block:
                    await _whole(self._services.block.inactivate_all())
                await self._send_rest(sender)
                await self._last_word(sender, refused)
            vm.state = RunState.POSTMIGRATE
        self._before = None

    async def _stop(self) -> None:
        self._before = await self._services.vm.stop_to_leave()

    async def _send_rest(self, sender: Sender) -> None:
        vm = self._services.vm
        assert self._before is not None
        status = vm.state if vm.state in _LASTING else self._before
        await sender.send_pass(limited=False)
        state = encode_object(await vm.mailboxes.call(save_objects, vm, self._services.board, status))
        await sender.write([Section.of_state(state).pack(), state])

    async def _last_word(self, sender: Sender, refused: asyncio.Future[str] | None) -> None:
        """Say that it is complete; from the very last word on there is no way back."""
        end = Section(END).pack()
        if refused is None:
            self._too_late = True
            await sender.write([end])
            await sender.channel.finish()
            return
        await sender.write([end])
        if reason := await refused:
            raise GenericError(f"the other side refused: {reason}")
        self._too_late = True
        await sender.write([Section(GO).pack()])


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Do it to its end, also when it is cancelled: half of it would leave nothing to go on with."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()
        raise


async def _refusal(channel: Channel) -> str:
    """Why the other side does not take the machine; nothing if it does.  GenericError, OSError."""
    raw = bytearray(ANSWER_SIZE)
    await channel.fill(memoryview(raw))
    refused, length = parse_answer(bytes(raw))
    text = bytearray(length)
    await channel.fill(memoryview(text))
    return (text.decode(errors="replace") or "no reason") if refused else ""


async def _soon(refused: asyncio.Future[str]) -> str:
    """The refusal, if it is there: the connection has ended, so that nothing has to be waited for."""
    try:
        return await refused
    except (OSError, GenericError):
        return ""
