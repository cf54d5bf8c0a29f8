"""Filters: objects, made by `object-add`, that see the frames of one backend.

    class FilterNull(NetFilter, type_name="filter-null", ...):
        def handle(self, frames: Frames, sender: NetClient) -> Frames:
            return []                                          # what goes on its way

    pass_filters(sender, receiver, frames)                     # from `NetClient.send`

A backend's filters have an order.  What the backend sends meets them from the first to the last, what is sent to it from the last
to the first; `queue` says which of the two a filter is about.

Source of rules and texts: QEMU 10.0, net/filter.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.types.net_filter import NetFilterDirection, NetfilterInsert, NetfilterProperties
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.userobjects import UserCreatable

if TYPE_CHECKING:
    from qemud.net.client import Frames, NetClient
    from qemud.net.registry import Networks

_HEAD, _TAIL = "head", "tail"
_ID = "id="
_ON = "on"


class NetFilter(
    UserCreatable,
    type_name="netfilter",
    abstract=True,
    options=NetfilterProperties,
    interfaces=("user-creatable",),
):
    """See the module.  `netdev` is the backend."""

    options: Any
    netdev: NetClient

    # -- for the author of a filter ---------------------------------------------------------------------------------

    def handle(self, frames: Frames, sender: NetClient) -> Frames:
        """Look at frames; the answer are those that go on their way."""
        raise NotImplementedError

    async def set_up(self, networks: Networks) -> None:
        """Take what the options name.  GenericError; nothing is left behind then."""

    def shut_down(self) -> None:
        """Give it back."""

    def status_changed(self) -> None:
        """The filter was switched on or off."""

    def inject(self, frames: Frames, sender: NetClient) -> None:
        """Send frames on their way as if `handle` had let them pass."""
        receiver = sender.peer
        if receiver is None or not frames:
            return
        chain = _chain(sender, receiver)
        if self in chain:
            frames = _pass(chain[chain.index(self) + 1 :], sender, frames)
        if frames:
            receiver.accept(frames)

    # -- life -------------------------------------------------------------------------------------------------------

    async def complete(self) -> None:
        """Stand in the backend's way."""
        options = self.options
        root: Any = self.root
        networks: Networks = root.services.net
        netdev = networks.find_netdev(options.netdev)
        if netdev is None:
            raise GenericError("Parameter 'netdev' expects a network backend id")
        if len(netdev.queues) > 1:
            raise GenericError("multiqueue is not supported")
        self.netdev = netdev
        self._check_status()
        place = self._place()
        await self.set_up(networks)
        netdev.filters.insert(place, self)

    def _place(self) -> int:
        """Where among the backend's filters."""
        filters, position = self.netdev.filters, self.options.position
        if position == _TAIL:
            return len(filters)
        if position == _HEAD:
            return 0
        if not position.startswith(_ID):
            raise GenericError("Parameter 'position' expects 'head', 'tail' or 'id=<id>'")
        name = position.removeprefix(_ID)
        other = self.parent.children.get(name) if self.parent is not None else None
        if other is None or not isinstance(other, NetFilter):
            raise GenericError(f"filter '{name}' not found")
        if other not in filters:
            raise GenericError(f"filter '{name}' belongs to a different netdev")
        return filters.index(other) + (self.options.insert is NetfilterInsert.BEHIND)

    @property
    def is_on(self) -> bool:
        """Whether it looks at frames."""
        return bool(self.options.status == _ON)

    def property_changed(self, name: str) -> None:
        """It is switched on or off."""
        if name == "status":
            self._check_status()
            self.status_changed()

    def _check_status(self) -> None:
        if self.options.status not in {_ON, "off"}:
            raise GenericError("Invalid value for netfilter status, should be 'on' or 'off'")

    def remove(self) -> None:
        """The backend goes, and the filter with it."""
        self.close()
        self.unparent()

    def close(self) -> None:
        """Leave the backend."""
        if self in self.netdev.filters:
            self.netdev.filters.remove(self)
            self.shut_down()

    @property
    def described(self) -> str:
        """What `info network` tells of it."""
        return "".join(
            f",{each.name}={self.get_property(each.name)}"
            for each in self.list_properties()
            if each.name != "type"
        )


def pass_filters(sender: NetClient, receiver: NetClient, frames: Frames) -> Frames:
    """What is left of frames when all filters have seen them."""
    return _pass(_chain(sender, receiver), sender, frames)


def _chain(sender: NetClient, receiver: NetClient) -> list[NetFilter]:
    """The filters in the way, in their order."""
    return [each for each in sender.filters if each.options.queue is not NetFilterDirection.RX] + [
        each for each in reversed(receiver.filters) if each.options.queue is not NetFilterDirection.TX
    ]


def _pass(chain: list[NetFilter], sender: NetClient, frames: Frames) -> Frames:
    for each in chain:
        if each.is_on:
            frames = each.handle(frames, sender)
            if not frames:
                break
    return frames
