"""The two ends of a cable, and how frames travel between them.

    class Null(NetClient):
        kind = "null"

        def receive(self, frames: Frames) -> bool:          # from the peer
            return True

    connect(card, backend)
    backend.send([(b"", frame)])                            # reaches card.receive, past all filters

Frames travel in batches, so that what comes in one turn of the event loop costs one call an end.  Everything here belongs to the loop.

**Back-pressure.**  `receive` takes all that it is given, and answers False when it wants no more for now; `send` hands the answer on.
A sender that can stop does so until its `resume` is called; for one that cannot, up to `QUEUE_LIMIT` frames wait with the receiver,
and the rest is lost, as on any network.  The receiver calls `ready` when it has room again.

**Queues.**  A backend, and a card, may have several: each is an end of its own, with a cable of its own to the other side's queue of that
number.  The first one stands for all of them.

**Offload.**  A frame is a pair: a header of virtio-net (10 bytes) and the frame itself.  The header is empty unless the
frame still lacks a checksum or is to be cut into smaller ones; such frames are only given to ends whose `offload` says that they
take them.

Source: QEMU 10.0, net/net.c and net/queue.c, for what becomes of frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from qemud.net.offload import Offload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qemud.net.filters.base import NetFilter

Frame: TypeAlias = tuple[bytes, bytes]
"""A virtio-net header or nothing, and an Ethernet frame."""
Frames: TypeAlias = list[Frame]

QUEUE_LIMIT = 10_000
"""Frames that wait at most for a receiver that has no room; more are lost."""
MAX_FRAME = 68 << 10
"""The largest frame that is taken from outside, in bytes."""


class NetClient:
    """One end of a cable; see the module.

    `kind` is the backend's type, "nic" for a card, and `model` what unnamed ends are named after.  `info` is what people are told of it.
    """

    kind: ClassVar[str]
    model: str
    is_nic: ClassVar[bool] = False
    offload = Offload()
    """Which frames it takes that lack a checksum or are to be cut, and may give."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = self.kind
        self.info = ""
        self.options: Any = None
        """What a backend was made of, a `Netdev` of the schema; None for others."""
        self.peer: NetClient | None = None
        self.queues: list[NetClient] = [self]
        """All queues of the backend or card, of which this is the one at `index`."""
        self.index = 0
        self.link_down = False
        self.filters: list[NetFilter] = []
        self.is_netdev = False
        """Whether `netdev_del` may remove it."""
        self._waiting: Frames = []
        self._blocked = False
        self.lost = 0
        """Frames that came while too many waited."""

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    # -- for the author of a kind -----------------------------------------------------------------------------------

    def receive(self, frames: Frames) -> bool:
        """Take frames from the peer; False when there is no room for more until `ready` is called."""
        raise NotImplementedError

    def resume(self) -> None:
        """The peer has room again."""

    def set_offload(self, offload: Offload) -> None:
        """The driver of the card at the other end takes such frames from now on; for those that have `offload`."""

    def set_used(self, *, used: bool) -> None:
        """The card uses this one of several queues, or no longer."""

    def link_changed(self) -> None:
        """`link_down` of this end or of its peer has changed."""

    def current_options(self) -> Any:
        """What would make the same backend now."""
        return self.options

    def own_chardevs(self) -> Iterable[str]:
        """The names of character devices that were made for it alone."""
        return ()

    def close(self) -> None:
        """Give everything back."""

    async def closed(self) -> None:
        """The rest of that, for what takes a while."""

    # -- sending ----------------------------------------------------------------------------------------------------

    def send(self, frames: Frames) -> bool:
        """Send frames to the peer; False: it has no room for more, and will call `resume`."""
        peer = self.peer
        if peer is None or self.link_down:
            return True
        if self.filters or peer.filters:
            from qemud.net.filters.base import pass_filters

            frames = pass_filters(self, peer, frames)
            if not frames:
                return peer.has_room
        return peer.accept(frames)

    def accept(self, frames: Frames) -> bool:
        """Frames have passed all filters; the answer is that of `send`."""
        if self.link_down:
            return True
        if self._blocked:
            room = QUEUE_LIMIT - len(self._waiting)
            self._waiting += frames[:room]
            self.lost += max(len(frames) - room, 0)
        elif not self.receive(frames):
            self._blocked = True
        return not self._blocked

    @property
    def has_room(self) -> bool:
        """Whether frames that are sent here need not wait."""
        return not self._blocked

    def ready(self) -> None:
        """There is room again: what waits comes first."""
        self._blocked = False
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.accept(waiting)
        if not self._blocked and self.peer is not None:
            self.peer.resume()

    def forget(self) -> None:
        """Forget what waits."""
        self._waiting = []
        self._blocked = False


def join(queues: Sequence[NetClient]) -> None:
    """Make ends the queues of one backend or card."""
    for index, each in enumerate(queues):
        each.queues, each.index = list(queues), index


def connect(one: NetClient, other: NetClient) -> None:
    """Put the cable in."""
    assert one.peer is None
    assert other.peer is None
    one.peer, other.peer = other, one


def disconnect(one: NetClient) -> None:
    """Take the cable out at both ends; what is under way is lost, and nobody waits for the other side any longer."""
    other = one.peer
    if other is not None:
        one.peer = other.peer = None
        for end in (one, other):
            end.forget()
        for end in (one, other):
            end.resume()
