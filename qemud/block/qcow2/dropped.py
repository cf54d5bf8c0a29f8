"""Clusters that nothing refers to any more, on their way to being free.

They are free when two things are true: nothing on the disk refers to them, and no request that began before they were dropped
is still under way, since it may be reading or writing there.  Requests in the event loop take a ticket; the machine thread, which
serves one request at a time, sets `at_once`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qemud.block.qcow2.image import Image

_TOO_MANY = 4096
"""So many clusters wait for a flush that one is made."""


class Run:
    """Clusters that follow each other, dropped at the same time for the same reason."""

    __slots__ = ("born", "count", "kind", "offset", "sealed", "written")

    def __init__(self, offset: int, count: int, kind: str, born: int) -> None:
        self.offset = offset
        self.count = count
        self.kind = kind
        self.born = born
        """The first ticket of those who cannot have found them."""
        self.sealed = False
        """That they are not referred to is on its way to the disk: no others can join them."""
        self.written = False
        """It has been written, though perhaps not flushed."""


class Dropped:
    """See the module."""

    def __init__(self, image: Image) -> None:
        self.at_once = False
        """The machine thread is using what it has found in tables."""
        self._image = image
        self._tickets: dict[int, None] = {}
        self._next_ticket = 0
        self._runs: list[Run] = []
        self._clusters = 0

    def enter(self) -> int:
        """As `Image.enter`."""
        ticket = self._next_ticket
        self._next_ticket = ticket + 1
        self._tickets[ticket] = None
        return ticket

    def leave(self, ticket: int) -> None:
        """As `Image.leave`."""
        del self._tickets[ticket]

    @property
    def too_many(self) -> bool:
        """Whether so much waits for a flush that it should not wait any longer."""
        return self._clusters > _TOO_MANY

    def add(self, offset: int, clusters: int, kind: str) -> None:
        """As `Image.drop`."""
        self._clusters += clusters
        last = self._runs[-1] if self._runs else None
        if (
            last is not None
            and not last.sealed
            and (last.kind, last.born) == (kind, self._next_ticket)
            and last.offset + last.count * self._image.cluster_size == offset
        ):
            last.count += clusters
        else:
            self._runs.append(Run(offset, clusters, kind, self._next_ticket))

    def seal(self) -> list[Run]:
        """What has been dropped so far: whoever writes the tables as they are now says afterwards that it is `written`."""
        found = [each for each in self._runs if not each.written]
        for each in found:
            each.sealed = True
        return found

    async def free(self) -> None:
        """Free what can be freed.  OSError: the file could not be flushed."""
        written = [each for each in self._runs if each.written]
        if not written:
            return
        await self._image.flush_file()
        if self.at_once:
            return  # the machine thread may have found one of them just before; another flush will come
        oldest = next(iter(self._tickets), self._next_ticket)
        ready = {each for each in written if each.born <= oldest}.intersection(self._runs)
        self._runs = [each for each in self._runs if each not in ready]
        for run in sorted(ready, key=lambda each: each.offset):
            self._clusters -= run.count
            try:
                await self._image.refcounts.change(run.offset, run.count, -1)
            except OSError:
                continue  # never free again, which hurts nobody
            if run.kind in self._image.discards:
                await self._discard(run.offset, run.count)

    async def _discard(self, offset: int, clusters: int) -> None:
        """Tell the file that clusters are not needed, those that nobody uses."""
        image = self._image
        refcounts, bits = image.refcounts, image.cluster_bits
        first = offset >> bits
        try:
            # Nobody can get one of them meanwhile.
            async with refcounts.lock:
                free = [each for each in range(first, first + clusters) if not await refcounts.get(each)]
                start = 0
                for i in range(1, len(free) + 1):
                    if i == len(free) or free[i] != free[i - 1] + 1:
                        await image.file.discard(free[start] << bits, (i - start) << bits)
                        start = i
        except OSError:
            return  # it was a favour
