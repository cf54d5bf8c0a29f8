"""A connection that a machine is sent through: a socket, a pipe, a file or a program, all read and written in the same way.

    await channel.read(view)                # some bytes into the view, 0 at the end
    await channel.fill(view)                # all of it; OSError (EIO) when the stream ends before
    await channel.write([header, page])
    await channel.finish()                  # all of it is where it belongs
    channel.close()                         # at any time; who reads or writes gets an OSError

Sockets and pipes are watched by the loop, which must not wait; files are read and written in the thread pool.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
from typing import TYPE_CHECKING

from qemud.block.pool import pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PART = 256 << 10
"""Bytes that one system call moves at most, in the loop's thread."""


class Channel:
    """See the module.  The descriptor is the channel's, which closes it."""

    name = ""
    """What it is, in errors."""
    two_way = False
    """Whether the other side can answer."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.closed = False

    async def read(self, view: memoryview) -> int:
        """Fill some of the view; how many bytes, 0 at the end.  OSError."""
        raise NotImplementedError

    async def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write all of it.  OSError."""
        raise NotImplementedError

    async def fill(self, view: memoryview) -> None:
        """Fill all of the view.  OSError, EIO when the stream ends before."""
        while len(view):
            count = await self.read(view)
            if not count:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            view = view[count:]

    async def finish(self) -> None:
        """Nothing more is written: wait until everything is where it belongs.  OSError."""

    def abort(self) -> None:
        """End it although somebody may wait for something: who does gets an OSError."""
        self.close()

    def close(self) -> None:
        """End it; nothing happens when that was done."""
        if not self.closed:
            self.closed = True
            self._close()

    def _close(self) -> None:
        os.close(self.fd)


class WatchedChannel(Channel):
    """A socket or a pipe."""

    def __init__(self, fd: int, *, name: str = "") -> None:
        super().__init__(fd)
        self.two_way = stat.S_ISSOCK(os.fstat(fd).st_mode)
        self.name = name or ("socket" if self.two_way else "file")
        self._waiters: set[asyncio.Future[None]] = set()
        os.set_blocking(fd, False)

    async def read(self, view: memoryview) -> int:
        """As in the base."""
        loop = asyncio.get_running_loop()
        while True:
            self._check()
            try:
                return os.readv(self.fd, [view[:_PART]])
            except BlockingIOError:
                await self._wait(loop.add_reader, loop.remove_reader)

    async def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """As in the base."""
        loop = asyncio.get_running_loop()
        for part in parts:
            view = memoryview(part)
            while view:
                self._check()
                try:
                    view = view[os.write(self.fd, view[:_PART]) :]
                except BlockingIOError:
                    await self._wait(loop.add_writer, loop.remove_writer)

    def _check(self) -> None:
        if self.closed:
            raise OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))

    async def _wait(
        self, watch: Callable[[int, Callable[[], None]], object], leave: Callable[[int], object]
    ) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ready() -> None:
            if not waiter.done():
                waiter.set_result(None)

        fd = self.fd
        watch(fd, ready)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if not self.closed:
                leave(fd)

    def _close(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.fd)
        loop.remove_writer(self.fd)
        os.close(self.fd)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class FileChannel(Channel):
    """A file, from where its descriptor is; or anything else that the loop cannot watch."""

    name = "file"

    def __init__(self, fd: int, *, release: Callable[[int], None] = os.close) -> None:
        super().__init__(fd)
        self._release = release
        self._busy = 0

    async def read(self, view: memoryview) -> int:
        """As in the base."""
        count: int = await self._run(os.readv, self.fd, [view])
        return count

    async def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """As in the base."""
        for part in parts:
            view = memoryview(part)
            while view:
                count: int = await self._run(os.write, self.fd, view)
                view = view[count:]

    async def finish(self) -> None:
        """As in the base; it is on the disk then."""
        if stat.S_ISREG(os.fstat(self.fd).st_mode):
            await self._run(os.fsync, self.fd)

    async def _run(self, call: Callable[..., int | None], *arguments: object) -> int:
        if self.closed:
            raise OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
        self._busy += 1
        try:
            return await pool.run(call, *arguments) or 0
        finally:
            self._busy -= 1
            self._release_if_unused()

    def _close(self) -> None:
        self._release_if_unused()

    def _release_if_unused(self) -> None:
        # A thread that is in a system call still uses the number.
        if self.closed and not self._busy:
            self._release(self.fd)


class ProgramChannel(WatchedChannel):
    """The standard input or output of a program that was started for it."""

    def __init__(self, fd: int, pid: int) -> None:
        super().__init__(fd, name="command")
        self._pid = pid
        self._watch = os.pidfd_open(pid)
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._finishing = False
        asyncio.get_running_loop().add_reader(self._watch, self._reap)

    def _reap(self) -> None:
        """The program has ended."""
        asyncio.get_running_loop().remove_reader(self._watch)
        os.close(self._watch)
        _, status = os.waitpid(self._pid, 0)
        self._ended.set_result(os.waitstatus_to_exitcode(status))

    async def finish(self) -> None:
        """The program has read all, and was content."""
        self._finishing = True
        self.close()
        status = await self._ended
        if status:
            raise OSError(
                errno.EIO,
                f"the command ended by signal {-status}"
                if status < 0
                else f"the command ended with status {status}",
            )

    def abort(self) -> None:
        """As in the base; also when the program has read all, and does not end."""
        self.close()
        self._terminate()

    def _close(self) -> None:
        super()._close()
        if not self._finishing:
            self._terminate()

    def _terminate(self) -> None:
        if not self._ended.done():
            os.kill(self._pid, signal.SIGTERM)


def channel_of(fd: int) -> Channel:
    """The channel for a descriptor of any kind, which is the channel's from now on."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
        return WatchedChannel(fd)
    return FileChannel(fd)
