"""Hubs: what comes in at one port leaves by all others.

A hub is there with its first port, `-netdev hubport,id=p0,hubid=0`, whose peer is a card, or the backend that `netdev` names.

Source of texts: QEMU 10.0, net/hub.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from qemud.net.client import NetClient, connect
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.net.client import Frames
    from qemud.net.registry import Networks


class HubPort(NetClient):
    """One port."""

    kind: ClassVar[str] = "hubport"

    def __init__(self, hub: Hub, name: str) -> None:
        super().__init__(name)
        self.model = "hub"
        self.hub = hub

    def receive(self, frames: Frames) -> bool:
        """Out by all other ports; there is room as long as one of them has."""
        has_room = [port.send(frames) for port in self.hub.ports if port is not self]
        return any(has_room) or not has_room

    def resume(self) -> None:
        """A port has room again: whoever sends into the hub may go on."""
        for port in tuple(self.hub.ports):
            if port is not self and not port.has_room:
                port.ready()

    def close(self) -> None:
        """The port is gone."""
        self.hub.remove(self)


class Hub:
    """See the module."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ports: list[HubPort] = []
        self._made = 0

    def add(self, name: str | None) -> HubPort:
        """A further port."""
        port = HubPort(self, name if name is not None else f"hub{self.number}port{self._made}")
        self._made += 1
        self.ports.insert(0, port)
        return port

    def remove(self, port: HubPort) -> None:
        """The port is gone."""
        self.ports.remove(port)

    def warnings(self) -> Iterator[str]:
        """What is odd about it."""
        for port in self.ports:
            if port.peer is None:
                yield f"hub port {port.name} has no peer"
        peers = [port.peer for port in self.ports if port.peer is not None]
        has_card = any(peer.is_nic for peer in peers)
        has_backend = any(not peer.is_nic and not isinstance(peer, HubPort) for peer in peers)
        if has_backend and not has_card:
            yield f"hub {self.number} with no nics"
        if has_card and not has_backend:
            yield f"hub {self.number} is not connected to host network"


def add_port(networks: Networks, number: int, name: str | None) -> HubPort:
    """A port of the hub of that number, which is made if need be; who asks puts it among the clients if it has a name."""
    hub = networks.hubs.get(number)
    if hub is None:
        hub = networks.hubs[number] = Hub(number)
    port = hub.add(name)
    if name is None:
        networks.clients.append(port)
    return port


async def open_hubport(networks: Networks, options: Any, _resolve_fd: object) -> HubPort:
    """As the options say.  GenericError."""
    other = None
    if options.netdev is not None:
        other = networks.find_netdev(options.netdev)
        if other is None:
            raise GenericError(f"netdev '{options.netdev}' not found")
        if other.peer is not None:
            raise GenericError(f"netdev '{options.netdev}' is in use")
    port = add_port(networks, options.hubid, options.id)
    if other is not None:
        connect(port, other)
    return port
