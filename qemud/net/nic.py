"""The guest's network card as the network sees it, and the way to it in the machine thread.

    nic = Nic(device, queues, mailboxes, model="virtio-net-device", name="net0", mac=mac)        # loop
    networks.plug(nic, "hostnet0")

    nic.transmit(frames)                  # machine thread: to the network; `nic.has_room_out` says whether to send more
    nic.arrived                           # machine thread: frames for the guest, the first of which is `arrived[0]`
    nic.taken()                           # it has the first one now, or never will

**Back-pressure.**  Both ways no more than about `LIMIT` is under way.  A card that finds no room out stops, and asks with
`want_room` to be called (`go_on`) when there is some; the network is told by `receive`'s answer that the guest has no buffers, and
called (`ready`) when the card has taken what had come.

A card with several pairs of queues has one for each, made one by `client.join`, of which the first is what people know; the calls about
the card as a whole go to that one.

Two counters tell how much is under way, each written by one thread alone: no message is needed while all goes well.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar, Protocol

from qemud.net.client import NetClient
from qemud.net.mac import show

if TYPE_CHECKING:
    from qemud._generated.types.net import RxFilterInfo
    from qemud.machine.mailbox import Mailboxes
    from qemud.net.client import Frame, Frames
    from qemud.net.offload import Offload

LIMIT = 1 << 20
"""How much may be under way, in bytes; a frame counts for some more than it has."""
_COST = 128


class Card(Protocol):
    """What a device of the guest is to its `Nic`; all of it in the machine thread."""

    @property
    def type_name(self) -> str:
        """The device's type."""

    def cable_changed(self, *, up: bool) -> None:
        """The cable is plugged in, or out."""

    def query_filter(self, name: str) -> RxFilterInfo:
        """Which frames it takes."""

    def announce_itself(self) -> None:
        """Have the driver announce itself to the network, if it can."""


class CardQueues(Protocol):
    """The queues of the card that a `Nic` is for; all of it in the machine thread."""

    def look(self) -> None:
        """Frames have arrived."""

    def go_on(self) -> None:
        """There is room on the way out again."""


def cost_of(frames: Frames) -> int:
    """What frames count for."""
    return sum([len(frame) for _, frame in frames]) + _COST * len(frames)


class Nic(NetClient):
    """See the module."""

    kind: ClassVar[str] = "nic"
    is_nic: ClassVar[bool] = True

    def __init__(
        self,
        device: Card,
        card_queues: CardQueues,
        mailboxes: Mailboxes,
        *,
        model: str,
        name: str,
        mac: bytes,
    ) -> None:
        super().__init__(name)
        self.device = device
        self._card_queues = card_queues
        self.model = model
        self._mailboxes = mailboxes
        self.mac = mac
        self.show_mac(mac)
        self.tells_filter = True
        """Whether the next change of what the card takes is told of; machine thread."""
        # Into the machine.
        self._posted = 0  # written by the loop
        self._consumed = 0  # by the machine thread
        self.arrived: deque[Frame] = deque()
        self._tell_when_empty = False
        # Out of it.
        self._sent = 0  # written by the machine thread
        self._left = 0  # by the loop
        self._behind = 0
        self._is_asked = False

    def show_mac(self, mac: bytes) -> None:
        """What people are told of it."""
        self.info = f"model={self.model},macaddr={show(mac)}"

    # -- loop: from the network -------------------------------------------------------------------------------------

    def receive(self, frames: Frames) -> bool:
        """To the machine."""
        self._posted += cost_of(frames)
        self._mailboxes.post(self._arrive, frames)
        if self._posted - self._consumed < LIMIT:
            return True
        self._mailboxes.post(self._ask_for_room)
        return False

    def link_changed(self) -> None:
        """Tell the guest."""
        self._mailboxes.post(self._cable_changed, not self.link_down)

    def announce(self) -> None:
        """Tell the network where the card is."""
        from qemud.net.announce import rarp

        self.send([(b"", rarp(self.mac))])
        self._mailboxes.post(self.device.announce_itself)

    # -- loop: to the network ---------------------------------------------------------------------------------------

    def _leave(self, frames: Frames, cost: int) -> None:
        self._behind += cost
        if self.send(frames):
            self.resume()

    def resume(self) -> None:
        """The network has room."""
        self._left += self._behind
        self._behind = 0
        if self._is_asked:
            self._is_asked = False
            self._mailboxes.post(self._card_queues.go_on)

    def _answer(self) -> None:
        if self._behind:
            self._is_asked = True
        else:
            self._mailboxes.post(self._card_queues.go_on)

    def _take_offload(self, offload: Offload) -> None:
        if self.peer is not None and self.peer.offload.csum:
            self.peer.set_offload(offload)

    def _use_queues(self, count: int) -> None:
        for each in self.queues:
            if each.peer is not None:
                each.peer.set_used(used=each.index < count)

    # -- machine thread: to the network -----------------------------------------------------------------------------

    def transmit(self, frames: Frames) -> None:
        """Send frames."""
        cost = cost_of(frames)
        self._sent += cost
        self._mailboxes.send(self._leave, frames, cost)

    @property
    def has_room_out(self) -> bool:
        """Whether more may be sent now."""
        return self._sent - self._left < LIMIT

    def want_room(self) -> None:
        """Have `go_on` called once there is room."""
        self._mailboxes.send(self._answer)

    def takes(self, offload: Offload) -> None:
        """The driver takes such frames from now on."""
        self._mailboxes.send(self._take_offload, offload)

    def uses_queues(self, count: int) -> None:
        """The driver uses so many of the card's pairs of queues from now on."""
        if len(self.queues) > 1:
            self._mailboxes.send(self._use_queues, count)

    def query_filter(self) -> RxFilterInfo:
        """Which frames the card takes."""
        return self.device.query_filter(self.name)

    def mac_changed(self, mac: bytes) -> None:
        """The driver has given the card another address."""
        self._mailboxes.send(self.show_mac, mac)

    # -- machine thread: from the network ---------------------------------------------------------------------------

    def _arrive(self, frames: Frames) -> None:
        self.arrived += frames
        self._card_queues.look()

    def taken(self) -> None:
        """The first of `arrived` is done with."""
        _, frame = self.arrived.popleft()
        self._consumed += len(frame) + _COST
        if self._tell_when_empty and not self.arrived:
            self._tell_when_empty = False
            self._mailboxes.send(self.ready)

    def drop_arrived(self) -> None:
        """The card takes none of what has come so far."""
        while self.arrived:
            self.taken()

    def _ask_for_room(self) -> None:
        if self.arrived:
            self._tell_when_empty = True
        else:
            self._mailboxes.send(self.ready)

    def _cable_changed(self, up: bool) -> None:
        self.device.cable_changed(up=up)
