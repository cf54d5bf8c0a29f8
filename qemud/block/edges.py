"""Who uses a block node: edges of the graph, what they are for, and what can be asked of those who have them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from qemud.block import permission

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud.block.node import BlockNode


class Role:
    """What a child is to its parent; a sum of these.  QEMU's BdrvChildRole."""

    DATA = 1
    METADATA = 2
    FILTERED = 4
    COW = 8
    PRIMARY = 16


class User(Protocol):
    """What has an edge to a node: another node, a backend, a job."""

    def description(self) -> str:
        """For error messages: "node 'x'", "block device 'hd0'"."""

    def drain_begin(self) -> None:
        """Send no new requests until as many `drain_end` have been called."""

    def drain_end(self) -> None:
        """See `drain_begin`."""

    @property
    def in_flight(self) -> int:
        """How many requests of this user have begun and not ended."""

    async def idle(self) -> None:
        """Wait until `in_flight` is 0."""

    def users(self) -> Sequence[Edge]:
        """Who uses this user: what may cause it to send requests."""

    def child_resized(self, edge: Edge) -> None:
        """The node has another size now."""


class Edge:
    """The use of a node by somebody: a child of a node, or the root of a backend, a job or an export.

    Made by `Graph.attach`, ended by `Graph.detach`.
    """

    __slots__ = ("name", "needs", "node", "quiesced", "role", "shares", "user")

    def __init__(  # noqa: PLR0917 - a record; only `Graph` makes it
        self, user: User, name: str, node: BlockNode, role: int, needs: int, shares: int
    ) -> None:
        self.user = user
        self.name = name
        """`file`, `backing`, … for a child; `root` for others."""
        self.node = node
        self.role = role
        self.needs = needs
        self.shares = shares
        self.quiesced = 0

    def settle(self, target: int) -> None:
        """Tell the user so often to hold back, or to go on, that it is held back by `target` drains of the node."""
        while self.quiesced < target:
            self.quiesced += 1
            self.user.drain_begin()
        while self.quiesced > target:
            self.quiesced -= 1
            self.user.drain_end()


class InFlight:
    """A count of requests that can be waited for."""

    __slots__ = ("_waiting", "count")

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[asyncio.Future[None]] = []

    def leave(self) -> None:
        """A request has ended."""
        self.count -= 1
        if not self.count and self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def idle(self) -> None:
        """Wait until the count is 0."""
        while self.count:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future


def first_busy(node: User) -> User | None:
    """The user itself, or who uses it directly or not, with requests in flight."""
    seen: set[int] = set()
    stack: list[User] = [node]
    while stack:
        user = stack.pop()
        if id(user) in seen:
            continue
        seen.add(id(user))
        if user.in_flight:
            return user
        stack.extend(edge.user for edge in user.users())
    return None


def needs_of_child(
    role: int, needs: int, shares: int, *, writable: bool, inactive: bool = False
) -> tuple[int, int]:
    """What a node needs of a child of that role, and shares, when its own users need and share this."""
    if role & Role.FILTERED:
        return needs, shares
    changes = permission.WRITE | permission.RESIZE
    if role & Role.COW:
        others = changes if inactive or shares & permission.WRITE else 0
        return (
            needs & permission.CONSISTENT_READ,
            others | permission.CONSISTENT_READ | permission.WRITE_UNCHANGED,
        )
    if role & Role.METADATA:
        # A format may touch its tables even if the guest does not write.
        if writable:
            needs |= changes
        needs |= permission.CONSISTENT_READ
        shares &= ~changes
    if role & Role.DATA:
        shares &= ~permission.RESIZE
        if needs & permission.WRITE_UNCHANGED:
            needs |= permission.WRITE
        if needs & permission.WRITE:
            needs |= permission.RESIZE
    if inactive:
        shares |= changes
    return needs, shares
