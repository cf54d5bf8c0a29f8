"""Ranges of bytes that one request at a time may work on.

    ranges = RangeLocks()
    async with ranges.hold(4096, 8192):
        ...     # nobody else holds a range that overlaps

Requests get their ranges in the order in which they came: none is overtaken by a later one that overlaps it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class _Held:
    __slots__ = ("done", "end", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.done: asyncio.Future[None] | None = None


class RangeLocks:
    """See the module; belongs to the event loop."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: list[_Held] = []

    @property
    def busy(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)

    @asynccontextmanager
    async def hold(self, start: int, end: int, *, wanted: bool = True) -> AsyncIterator[None]:
        """Have the bytes from `start` up to `end` for oneself; nothing happens unless `wanted`."""
        if not wanted:
            yield
            return
        mine = _Held(start, end)
        earlier = [each for each in self._held if each.start < end and start < each.end]
        self._held.append(mine)
        try:
            # All futures before the first wait: one that ends meanwhile is not to be waited for.
            for each in earlier:
                if each.done is None:
                    each.done = asyncio.get_running_loop().create_future()
            for each in earlier:
                assert each.done is not None
                if not each.done.done():
                    await asyncio.shield(each.done)
            yield
        finally:
            self._held.remove(mine)
            if mine.done is not None:
                mine.done.set_result(None)
