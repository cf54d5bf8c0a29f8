"""Files under a chardev: they cannot be watched by the loop, and a disk may be slow, so a pool thread serves them.

`PooledWriter` writes in the order of the calls, one burst at a time, whatever the file is; `PooledReader` reads a piece whenever
the user takes input.  Neither ever makes the loop wait, except `PooledWriter.close`, which writes what is left: nothing is lost.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

from qemud.chardev.stream import LOW_WATER, READ_SIZE
from qemud.machine.descriptors import close_file

if TYPE_CHECKING:
    from collections.abc import Callable


class PooledWriter:
    """Bytes on their way into a file; it owns the descriptor."""

    def __init__(
        self,
        fd: int,
        *,
        failed: Callable[[OSError], object] | None = None,
        drained: Callable[[], object] | None = None,
    ) -> None:
        """`failed` is told of each error; the bytes concerned are lost, later ones are tried again."""
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._failed = failed
        self._drained = drained
        self._queue: deque[bytes] = deque()
        self._writing = Lock()  # held by the thread that takes from the queue
        self._scheduled = False
        self.pending = 0

    def write(self, data: bytes) -> None:
        """Write soon."""
        if self._fd < 0 or not data:
            return
        self._queue.append(data)
        self.pending += len(data)
        if not self._scheduled:
            self._scheduled = True
            self._loop.run_in_executor(None, self._flush).add_done_callback(self._flushed)

    def close(self) -> None:
        """Write what is left, now, and close the file."""
        self._flush()
        with self._writing:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                close_file(fd)
        self.pending = 0

    def _flush(self) -> OSError | None:
        """Empty the queue; in a pool thread, or at the end on the loop."""
        trouble: OSError | None = None
        with self._writing:
            while self._queue and self._fd >= 0:
                burst = b"".join([self._queue.popleft() for _ in range(len(self._queue))])
                rest = memoryview(burst)
                while rest:
                    try:
                        rest = rest[os.write(self._fd, rest) :]
                    except OSError as error:
                        trouble = error
                        break
        return trouble

    def _flushed(self, done: asyncio.Future[OSError | None]) -> None:
        """A burst is in the file; back on the loop."""
        self._scheduled = False
        if done.cancelled() or self._fd < 0:
            return
        before, self.pending = self.pending, sum(map(len, self._queue))
        if self._queue:  # it came after the thread looked last
            self._scheduled = True
            self._loop.run_in_executor(None, self._flush).add_done_callback(self._flushed)
        if (error := done.result()) is not None and self._failed is not None:
            self._failed(error)
        if self._drained is not None and (not self.pending or self.pending <= LOW_WATER < before):
            self._drained()


class PooledReader:
    """Input from a file, a piece at a time; it does not own the descriptor."""

    def __init__(self, fd: int, allowance: Callable[[], int], received: Callable[[bytes], object]) -> None:
        """`allowance` says how much may come; `received` gets the pieces, and b"" at the end."""
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._allowance = allowance
        self._received = received
        self._reading = False
        self._ended = False

    def resume(self) -> None:
        """Read on, if the user takes something."""
        if not self._reading and not self._ended and (size := self._allowance()) > 0:
            self._reading = True
            self._loop.run_in_executor(None, self._read, min(size, READ_SIZE)).add_done_callback(self._done)

    def close(self) -> None:
        """Deliver nothing any more."""
        self._ended = True

    def _read(self, size: int) -> bytes:
        """In a pool thread."""
        try:
            return os.read(self._fd, size)
        except OSError:
            return b""

    def _done(self, done: asyncio.Future[bytes]) -> None:
        """A piece has been read; back on the loop."""
        self._reading = False
        if self._ended or done.cancelled():
            return
        data = done.result()
        self._ended = not data
        self._received(data)
        self.resume()
