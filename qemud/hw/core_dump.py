"""The commands of `dump.json`: the guest's memory and registers in a core file.

The guest is stopped while a dump is written, and nobody can let it go on; a thread of its own writes, the loop only waits.  A dump that
was begun is written to its end, whether or not its client is still there.

Source: QEMU 10.0, dump/dump.c, for order and texts.  As there, what could not be written stays as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from qemud._generated.commands.dump import DumpCommands
from qemud._generated.events import dump as events
from qemud._generated.types.dump import (
    DumpGuestMemoryCapability,
    DumpGuestMemoryFormat,
    DumpQueryResult,
    DumpStatus,
)
from qemud._generated.types.run_state import RunState
from qemud.block.pool import pool
from qemud.hw.core_file import CoreFile, DumpError, cut, note, physical_regions
from qemud.hw.kdump_file import KdumpFile
from qemud.logs import Logger
from qemud.machine.descriptors import FdsetError, close_file, names_fdset, open_file
from qemud.machine.mailbox import Closed
from qemud.qapi.runtime.errors import GenericError, QmpError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.services import Services
    from qemud.machine.vm import VirtualMachine

    DumpFile = CoreFile | KdumpFile

log = Logger("dump")

_BUSY = "There is a dump in process, please wait."
_GPRS = range(1, 32)


class DumpHandlers(DumpCommands):
    """Handlers of `dump.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._status = DumpStatus.NONE
        self._core: DumpFile | None = None
        self._task: asyncio.Task[None] | None = None
        self._busy = False

    async def query_dump_guest_memory_capability(self) -> DumpGuestMemoryCapability:
        """`query-dump-guest-memory-capability`."""
        return DumpGuestMemoryCapability(formats=list(DumpGuestMemoryFormat))

    async def query_dump(self) -> DumpQueryResult:
        """`query-dump`."""
        return self._result()

    async def dump_guest_memory(
        self,
        *,
        paging: bool,
        protocol: str,
        detach: bool = False,
        begin: int | None = None,
        length: int | None = None,
        format: DumpGuestMemoryFormat = DumpGuestMemoryFormat.ELF,  # noqa: A002 - the schema's name
    ) -> None:
        """`dump-guest-memory`."""
        if self._services.vm.state is RunState.INMIGRATE:
            raise GenericError("Dump not allowed during incoming migration.")
        if self._busy:
            raise GenericError(_BUSY)
        if self._services.has_migration and self._services.migration.outgoing.running:
            raise GenericError(
                "disallowing migration blocker (migration/snapshot in progress) for: "
                "Live migration disabled: dump-guest-memory in progress"
            )
        whole = not paging and begin is None and length is None
        if format is not DumpGuestMemoryFormat.ELF and not whole:
            raise GenericError("kdump-compressed format doesn't support paging or filter")
        if begin is not None and length is None:
            raise GenericError("Parameter 'length' is missing")
        if begin is None and length is not None:
            raise GenericError("Parameter 'begin' is missing")
        part = None if begin is None or length is None else (begin, length)
        raw = format is DumpGuestMemoryFormat.KDUMP_RAW_ZLIB
        self._busy = True
        try:
            fd, sparse = await self._open(protocol)
            if raw:
                _check_seekable(fd)
        except BaseException:
            self._busy = False
            raise
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._task = asyncio.create_task(self._dump(fd, format, part, begun, sparse=sparse))
        for each in (begun, task):
            each.add_done_callback(_look_at)
        await asyncio.shield(begun)
        if not detach:
            await asyncio.shield(task)

    async def _open(self, protocol: str) -> tuple[int, bool]:
        """The descriptor to write to, and whether it is a new file."""
        kind, colon, name = protocol.partition(":")
        if kind == "fd" and colon:
            return self._services.take_descriptor(name), False
        if kind == "file" and colon:
            fd: int = await _in_pool(_create, name)
            return fd, not names_fdset(name)
        raise GenericError("parameter 'protocol' must start with 'file:' or 'fd:'")

    async def _dump(
        self,
        fd: int,
        form: DumpGuestMemoryFormat,
        part: tuple[int, int] | None,
        begun: asyncio.Future[None],
        *,
        sparse: bool,
    ) -> None:
        """Stop the guest, write, and let it go on.  `begun` tells that writing has begun, or what is wrong."""
        vm: VirtualMachine = self._services.vm
        runs = vm.running
        problem: QmpError | None = None
        self._core = None
        self._status = DumpStatus.ACTIVE
        vm.hold = _BUSY
        try:
            core = await self._begin(vm, fd, form, part)
            if not begun.done():
                begun.set_result(None)
            await self._write(core, fd, sparse=sparse)
        except QmpError as error:
            problem = error
        finally:
            vm.hold = ""
            self._busy = False
            if runs:
                await _go_on(vm)
            if problem is None:
                begun.cancel()
        if problem is not None:
            if begun.done():
                raise problem
            begun.set_exception(problem)

    async def _begin(
        self, vm: VirtualMachine, fd: int, form: DumpGuestMemoryFormat, part: tuple[int, int] | None
    ) -> DumpFile:
        try:
            await vm.stop(RunState.SAVE_VM)
            self._core = core = await vm.mailboxes.call(_prepare, vm, form, part)
        except BaseException:
            self._status = DumpStatus.FAILED
            close_file(fd)
            raise
        return core

    async def _write(self, core: DumpFile, fd: int, *, sparse: bool) -> None:
        problem = None
        try:
            await _in_pool(_write_and_close, core, fd, sparse)
            self._status = DumpStatus.COMPLETED
        except DumpError as error:
            problem = str(error)
            self._status = DumpStatus.FAILED
        events.dump_completed(self._services.emit, result=self._result(), error=problem)
        if problem is not None:
            raise GenericError(problem)

    def _result(self) -> DumpQueryResult:
        core = self._core
        return DumpQueryResult(
            status=self._status, completed=core.completed if core else 0, total=core.total if core else 0
        )


def _prepare(vm: VirtualMachine, form: DumpGuestMemoryFormat, part: tuple[int, int] | None) -> DumpFile:
    """What there is to write.  Machine thread."""
    if part is not None and not part[1]:
        raise GenericError("parameter 'length' expects a non-zero size")
    regions = physical_regions(vm.memory)
    if part is not None:
        regions = cut(regions, *part)
    if not regions:
        raise GenericError("dump: no guest memory to dump")
    notes = [note(vcpu.index + 1, vcpu.pc, [vcpu.gpr(n) for n in _GPRS]) for vcpu in vm.vcpus]
    if form is DumpGuestMemoryFormat.ELF:
        return CoreFile(regions, notes)
    return KdumpFile(regions, notes, raw=form is DumpGuestMemoryFormat.KDUMP_RAW_ZLIB)


def _check_seekable(fd: int) -> None:
    try:
        os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        close_file(fd)
        raise GenericError("kdump-raw formats require a seekable file") from None


def _look_at(future: asyncio.Future[None]) -> None:
    """What is wrong has been seen: nobody else may be there any more to do so."""
    if not future.cancelled():
        future.exception()


async def _go_on(vm: VirtualMachine) -> None:
    """Let the guest run again; nobody is told when it cannot."""
    try:
        await vm.cont()
    except Closed:
        pass  # the process ends
    except GenericError as error:
        log.error("the machine cannot go on after a dump", reason=str(error))  # noqa: TRY400 - the text says it all


# In threads of the pool.


def _create(path: str) -> int:
    """Make or empty a file.  GenericError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    if not names_fdset(path):
        flags |= os.O_NONBLOCK  # or a FIFO that nobody reads would be waited for without end
    try:
        fd = open_file(path, flags, 0o400)
        os.set_blocking(fd, True)
    except FdsetError as error:
        raise GenericError(error.reason) from None
    except OSError as error:
        raise GenericError(f"Could not create '{path}': {error.strerror}") from None
    return fd


def _write_and_close(core: DumpFile, fd: int, sparse: bool) -> None:
    try:
        core.write(fd, sparse=sparse)
    finally:
        close_file(fd)


async def _in_pool(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a worker thread.  Who is cancelled does not wait for it: a reader of a pipe may never read."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def done(result: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, future, result, error)

    pool.submit(done, function, *arguments)
    return await future


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
