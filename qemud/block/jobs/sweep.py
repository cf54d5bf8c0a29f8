"""Jobs that go over a disk once, from the beginning to the end: stream and commit.

What a subclass has to say is which parts are to be copied (`look`) and how (`copy`); pieces are copied side by side, and what goes
wrong is reported, tried again, or ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.block.jobs.blockjob import BlockJob
from qemud.block.jobs.copying import CHUNK, CopyError, Flights

if TYPE_CHECKING:
    from qemud._generated.types.block_info import BlockdevOnError

_LOOK = 1 << 30
"""How far to look ahead for something to copy, bytes."""


class Sweep(BlockJob):
    """See the module."""

    on_error: BlockdevOnError
    keeps_ignored = False
    """An error that is ignored is what the job fails of in the end, having done the rest; otherwise it is tried again."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.trouble: OSError | None = None
        self._flights: Flights | None = None
        self._again: list[tuple[int, int]] = []

    async def look(self, offset: int, length: int) -> tuple[int, bool]:
        """How many bytes from an offset on are of a kind, and whether they are to be copied.  OSError."""
        raise NotImplementedError

    async def copy(self, offset: int, length: int, view: memoryview) -> None:
        """Copy a piece, by a buffer of at least that size.  CopyError."""
        raise NotImplementedError

    @property
    def requests(self) -> int:
        """As in the base."""
        return 0 if self._flights is None else self._flights.count

    async def on_pause(self) -> None:
        """As in the base."""
        if self._flights is not None:
            await self._flights.all_landed()

    async def sweep(self, size: int) -> None:
        """Go over so many bytes.  OSError: what could not be copied."""
        self.set_remaining(size)
        self._flights = flights = Flights(self._piece, self._failed, self.settled)
        try:
            await self._go_over(size, flights)
        finally:
            await flights.all_landed()
            flights.close()
        if self.trouble is not None and not self.is_cancelled:
            raise self.trouble

    async def _go_over(self, size: int, flights: Flights) -> None:
        position = found = 0
        while True:
            await self.keep_pace()
            if self.is_cancelled or (self.trouble is not None and not self.keeps_ignored):
                return
            if flights.full:
                await flights.some_landed()
            elif self._again:
                flights.send(*self._again.pop())
            elif found:
                count = min(found, CHUNK)
                flights.send(position, count)
                self.limit.spend(count)
                position, found = position + count, found - count
            elif position < size:
                try:
                    count, wanted = await self.look(position, min(_LOOK, size - position))
                except OSError as error:
                    action = self._take(error, read=True)
                    if action != "ignore" or not self.keeps_ignored:
                        continue
                    count, wanted = min(CHUNK, size - position), False
                if wanted:
                    found = count
                else:
                    position += count
                    self.advance(count)
            elif flights.count:
                await flights.some_landed()
            else:
                return

    async def _piece(self, offset: int, length: int, view: memoryview) -> None:
        try:
            await self.copy(offset, length, view)
        except CopyError as error:
            self.advance(error.offset - offset)
            raise
        self.advance(length)

    def _failed(self, error: CopyError, end: int) -> None:
        action = self._take(error.error, read=error.read)
        if action == "stop" or (action == "ignore" and not self.keeps_ignored):
            self._again.append((error.offset, end - error.offset))
        elif action == "ignore":
            self.advance(end - error.offset)

    def _take(self, error: OSError, *, read: bool) -> str:
        """What is to become of an error."""
        action = self.error_action(self.on_error, error, read=read)
        if action == "report" or (action == "ignore" and self.keeps_ignored):
            self.trouble = self.trouble or error
        return action
