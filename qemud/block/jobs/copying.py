"""Copying much: buffers that are used again, and requests side by side.

    flights = Flights(copy, failed, changed)
    while work:
        while flights.full:
            await flights.some_landed()
        flights.send(offset, length)
    await flights.all_landed()

A job copies pieces of `CHUNK` bytes, `IN_FLIGHT` at a time: large pieces keep the price of Python small, many keep disks busy.
"""

from __future__ import annotations

import asyncio
import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

CHUNK = 1 << 20
IN_FLIGHT = 16
LARGEST_STRIDE = 1 << 30
"""How much is looked at in one piece where there is nothing to copy, bytes."""


class Buffers:
    """Pieces of memory that the kernel reads into and writes from."""

    def __init__(self, count: int, size: int) -> None:
        whole = memoryview(mmap.mmap(-1, count * size))
        self._free = [whole[start : start + size] for start in range(0, count * size, size)]

    def take(self) -> memoryview:
        """One of them."""
        return self._free.pop()

    def give(self, view: memoryview) -> None:
        """Give back what `take` gave."""
        self._free.append(view)

    def close(self) -> None:
        """Let go of the memory: it is unmapped with the last view of it."""
        self._free.clear()


def bounce(buffers: Sequence[memoryview]) -> memoryview:
    """A copy of what is in some buffers, which their owner may change meanwhile."""
    if len(buffers) == 1:
        return memoryview(bytes(buffers[0]))
    return memoryview(b"".join(buffers))


class CopyError(Exception):
    """A piece could not be copied, from some offset on."""

    def __init__(self, error: OSError, offset: int, *, read: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.offset = offset
        self.read = read


class Flights:
    """Requests side by side: as many as there are buffers.

    `send` begins `copy(offset, length, view)`, which raises CopyError; `failed(error, end)` is told of that.  `changed` is called whenever one
    has ended.
    """

    def __init__(
        self,
        copy: Callable[[int, int, memoryview], Awaitable[None]],
        failed: Callable[[CopyError, int], None],
        changed: Callable[[], None],
        size: int = CHUNK,
    ) -> None:
        self.count = 0
        self.bytes = 0
        """How much is under way."""
        self.limit = IN_FLIGHT
        self.size = size
        """The largest piece."""
        self._copy = copy
        self._failed = failed
        self._changed = changed
        self._buffers = Buffers(IN_FLIGHT, size)
        self._tasks: set[asyncio.Task[None]] = set()
        self._landed: asyncio.Future[None] | None = None

    @property
    def full(self) -> bool:
        """Whether no more may begin."""
        return self.count >= self.limit

    def send(self, offset: int, length: int) -> None:
        """Begin to copy a piece."""
        self.count += 1
        self.bytes += length
        task = asyncio.get_running_loop().create_task(self._fly(offset, length))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self, offset: int, length: int) -> None:
        view = self._buffers.take()
        try:
            await self._copy(offset, length, view)
        except CopyError as error:
            self._failed(error, offset + length)
        finally:
            self._buffers.give(view)
            self.count -= 1
            self.bytes -= length
            landed, self._landed = self._landed, None
            if landed is not None and not landed.done():
                landed.set_result(None)
            self._changed()

    async def some_landed(self) -> None:
        """Until one has ended, if any is under way."""
        if self.count:
            if self._landed is None:
                self._landed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._landed)

    async def all_landed(self) -> None:
        """Until none is under way."""
        while self.count:
            await self.some_landed()

    def close(self) -> None:
        """There will be no more: let go of the buffers."""
        self._buffers.close()
