"""A block backend as a device sees it: the machine thread's side.

    disk = Disk(backend, mailboxes, vm)         # in the loop, when the device claims the backend
    disk.read(offset, lease.views, done, lease)     # machine thread; `done(error)` is called there: 0 or an errno
    disk.flush(done)
    disk.close()                                # in the loop, when the device is gone

What can be done without waiting is done at once, in the call itself, and `done` is called before it returns.  Everything else
goes through the outbox to the event loop, and the end is posted back.

**Errors.**  What becomes of one is the backend's policy.  Where the machine is to stop, the request is parked: BLOCK_IO_ERROR is
sent, the machine stops in the state `io-error`, and when it is continued the request is tried again.  The device hears
nothing of that; its lease is parked meanwhile.  A device that is reset drops what is parked (`drop_parked`).

**Stop.**  Requests have ended or are parked when the machine has stopped, since their leases are waited for; then the disk is
flushed.
"""

from __future__ import annotations

import asyncio
import errno
import time
from typing import TYPE_CHECKING, Protocol

from qemud.block.buffers import total
from qemud.block.stats import FLUSH, READ, UNMAP, WRITE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qemud.block.backend import BlockBackend
    from qemud.machine.mailbox import Mailboxes

    Done = Callable[[int], object]


class Parkable(Protocol):
    """What a request keeps while it is under way: `qemud.machine.dma.Lease`."""

    @property
    def stale(self) -> bool:
        """Whether the device has gone on without the request."""

    def park(self) -> None:
        """The request waits."""

    def unpark(self) -> None:
        """The request goes on."""


class Machine(Protocol):
    """What a disk needs of its machine: `qemud.machine.vm.VirtualMachine`."""

    on_stopped: list[Callable[[], Awaitable[None]]]
    on_resume: list[Callable[[], None]]
    on_cont: list[Callable[[], None]]

    def io_error(self) -> None:
        """Stop, since a disk cannot go on."""


_READ, _WRITE, _ZEROES, _DISCARD, _FLUSH = range(5)
_ACCOUNTED = (READ, WRITE, WRITE, UNMAP, FLUSH)


class _Request:
    """What is under way or parked."""

    __slots__ = ("done", "flag", "kind", "lease", "length", "offset", "started", "views")

    def __init__(
        self,
        kind: int,
        offset: int,
        length: int,
        done: Done,
        *,
        views: Sequence[memoryview] = (),
        flag: bool = False,
        lease: Parkable | None = None,
    ) -> None:
        self.kind = kind
        self.offset = offset
        self.length = length
        self.views = views
        self.flag = flag
        self.done = done
        self.lease = lease
        self.started = time.monotonic_ns()


class Disk:
    """See the module."""

    def __init__(self, backend: BlockBackend, mailboxes: Mailboxes, vm: Machine | None = None) -> None:
        self.backend = backend
        self.parked: list[_Request] = []
        """Machine thread: what waits for the user."""
        self._mailboxes = mailboxes
        self._vm = vm
        self._stats = backend.stats
        self._tasks: set[asyncio.Task[None]] = set()
        backend.iostatus_enabled = True
        if vm is not None:
            vm.on_stopped.append(self._flush_for_stop)
            vm.on_resume.append(self._retry)
            vm.on_cont.append(backend.reset_iostatus)

    def close(self) -> None:
        """Loop: the device is gone."""
        vm = self._vm
        if vm is not None:
            vm.on_stopped.remove(self._flush_for_stop)
            vm.on_resume.remove(self._retry)
            vm.on_cont.remove(self.backend.reset_iostatus)
            self._vm = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.backend.size

    @property
    def read_only(self) -> bool:
        """Whether the medium cannot be written to."""
        return self.backend.read_only

    # Requests, in the machine thread.

    def read(
        self, offset: int, views: Sequence[memoryview], done: Done, lease: Parkable | None = None
    ) -> None:
        """Fill the views."""
        backend = self.backend
        lock = backend.at_once
        if lock.acquire(blocking=False):
            served = False
            started = time.monotonic_ns()
            try:
                node = backend.node_now
                served = node is not None and node.read_now(offset, views)
            finally:
                lock.release()
            if served:
                self._stats.done(READ, total(views), started)
                done(0)
                return
        self._begin(_Request(_READ, offset, total(views), done, views=views, lease=lease))

    def write(
        self,
        offset: int,
        views: Sequence[memoryview],
        done: Done,
        lease: Parkable | None = None,
        *,
        fua: bool = False,
    ) -> None:
        """Write the views; with `fua` they are stable when `done` is called."""
        backend = self.backend
        lock = backend.at_once
        if not fua and backend.enable_write_cache and lock.acquire(blocking=False):
            served = False
            started = time.monotonic_ns()
            try:
                node = backend.node_now
                served = node is not None and node.write_now(offset, views)
            finally:
                lock.release()
            if served:
                self._stats.done(WRITE, total(views), started)
                done(0)
                return
        self._begin(_Request(_WRITE, offset, total(views), done, views=views, flag=fua, lease=lease))

    def write_zeroes(
        self, offset: int, length: int, done: Done, lease: Parkable | None = None, *, unmap: bool = False
    ) -> None:
        """Make a range read as zeroes."""
        self._begin(_Request(_ZEROES, offset, length, done, flag=unmap, lease=lease))

    def discard(self, offset: int, length: int, done: Done, lease: Parkable | None = None) -> None:
        """A range is not needed any more."""
        self._begin(_Request(_DISCARD, offset, length, done, lease=lease))

    def flush(self, done: Done, lease: Parkable | None = None) -> None:
        """Make everything stable whose `done` has been called."""
        self._begin(_Request(_FLUSH, 0, 0, done, lease=lease))

    def invalid(self, kind: int) -> None:
        """A request made no sense, and the device has refused it; a kind of `qemud.block.stats`."""
        self._stats.refuse(kind)

    def _begin(self, request: _Request) -> None:
        self._mailboxes.send(self._start, request)

    # In the loop.

    def _start(self, request: _Request) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, request: _Request) -> None:
        backend = self.backend
        error = 0
        try:
            kind = request.kind
            if kind == _READ:
                await backend.readv(request.offset, request.views)
            elif kind == _WRITE:
                await backend.writev(request.offset, request.views, fua=request.flag)
            elif kind == _FLUSH:
                await backend.flush()
            elif kind == _ZEROES:
                await backend.write_zeroes(request.offset, request.length, unmap=request.flag)
            else:
                await backend.discard(request.offset, request.length)
        except OSError as failure:
            error = failure.errno or errno.EIO
        except asyncio.CancelledError:
            error = errno.ECANCELED
            raise
        except BaseException:
            error = errno.EIO
            raise
        finally:
            self._mailboxes.post(self._end, request, error)

    async def _flush_for_stop(self) -> None:
        """The machine has stopped: what its guest has written is to be stable."""
        backend = self.backend
        if backend.available and not backend.read_only:
            try:
                await backend.flush()
            except OSError as failure:
                action = backend.error_action(failure.errno or errno.EIO, read=False)
                if action != "ignore":
                    backend.report_error("report", failure.errno or errno.EIO, read=False)

    def _stop_machine(self, number: int, read: bool) -> None:
        self.backend.report_error("stop", number, read=read)
        if self._vm is not None:
            self._vm.io_error()

    # Back in the machine thread.

    def _end(self, request: _Request, error: int) -> None:
        kind = _ACCOUNTED[request.kind]
        if not error:
            self._stats.done(kind, request.length, request.started)
            request.done(0)
            return
        lease = request.lease
        if error == errno.ECANCELED or (lease is not None and lease.stale):
            self._stats.fail(kind, request.started)
            request.done(error)
            return
        read = request.kind == _READ
        action = self.backend.error_action(error, read=read)
        if action == "stop" and self._vm is not None:
            if lease is not None:
                lease.park()
            self.parked.append(request)
            self._mailboxes.send(self._stop_machine, error, read)
            return
        self._mailboxes.send(self._report, action, error, read)
        if action == "ignore":
            self._stats.done(kind, request.length, request.started)
            request.done(0)
        else:
            self._stats.fail(kind, request.started)
            request.done(error)

    def _report(self, action: str, number: int, read: bool) -> None:
        self.backend.report_error(action, number, read=read)

    def _retry(self) -> None:
        """The machine goes on: so do its requests."""
        parked, self.parked = self.parked, []
        for request in parked:
            if request.lease is not None:
                request.lease.unpark()
            self._begin(request)

    def drop_parked(self) -> None:
        """The device begins anew: what is parked ends, with ECANCELED."""
        parked, self.parked = self.parked, []
        for request in parked:
            if request.lease is not None:
                request.lease.unpark()
            request.done(errno.ECANCELED)

    async def drain(self) -> None:
        """Loop: wait until nothing of it is under way."""
        await self.backend.drain()
