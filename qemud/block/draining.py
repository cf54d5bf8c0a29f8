"""How a node is drained: who uses it holds back, and what is on its way is waited for.

    async with node.drained():
        ...     # no request is in the node, and none will come

`drain_begin` and `drain_end` count, and go up: from a node to all who use it, and through nodes above to theirs.  What is below goes on;
nothing comes to it from here.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from qemud.block.driver import Driver
from qemud.block.edges import Edge, InFlight, first_busy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class DrainedNode(Driver):
    """The part of `BlockNode` that is about draining."""

    quiesced = 0
    """How many drains hold back who uses this node."""
    parents: list[Edge]
    _requests: InFlight

    def description(self) -> str:
        """As `User`."""
        return f"node '{self.node_name}'"

    def users(self) -> Sequence[Edge]:
        """As `User`."""
        return self.parents

    def child_resized(self, edge: Edge) -> None:
        """As `User`: a child has another size; filters and raw take it over."""
        del edge

    @property
    def in_flight(self) -> int:
        """As `User`."""
        return self._requests.count

    async def idle(self) -> None:
        """As `User`."""
        await self._requests.idle()

    def drain_begin(self) -> None:
        """As `User`: hold back whoever uses this node; does not wait."""
        self.quiesced += 1
        if self.quiesced == 1:
            self.on_drain(begin=True)
        for edge in list(self.parents):
            edge.settle(self.quiesced)

    def drain_end(self) -> None:
        """As `User`."""
        self.quiesced -= 1
        for edge in list(self.parents):
            edge.settle(self.quiesced)
        if not self.quiesced:
            self.on_drain(begin=False)

    async def begin_drain(self) -> None:
        """Hold back all users, and wait until no request is in this node or on its way to it."""
        self.drain_begin()
        try:
            await self.until_idle()
        except BaseException:
            self.drain_end()
            raise

    def end_drain(self) -> None:
        """The end of `begin_drain`."""
        self.drain_end()

    async def until_idle(self) -> None:
        """Until no request is in this node or on its way to it; `drain_begin` has been called."""
        while True:
            busy = first_busy(self)
            if busy is None:
                return
            await busy.idle()

    @asynccontextmanager
    async def drained(self) -> AsyncIterator[None]:
        """No request is in the node, and none will come, inside of this."""
        await self.begin_drain()
        try:
            yield
        finally:
            self.end_drain()

    async def drain(self) -> None:
        """Wait once until nothing is on its way."""
        async with self.drained():
            pass
