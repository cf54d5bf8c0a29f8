"""Networks as a document of the machine has them: what there is now, for whoever makes the same again.

    found = Description(networks)
    found.netdevs               # of the schema's Netdev, each after those that it names
    found.name_for(device)      # the name that the option `netdev` of a card is to have, if it is plugged in
    found.displaced             # filters that only their order puts into their places again

Backends of `-nic` and `-net`, and the ports of hub 0 for the latter, have names that no client can give: they get others.  Cards that
no board makes are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from qemud._generated.types.net_backends import NetdevHubport
from qemud.net.hub import HubPort

if TYPE_CHECKING:
    from qemud._generated.types.net_backends import Netdev
    from qemud.net.client import NetClient
    from qemud.net.registry import Networks

_GENERATED = "#"
"""What names begin with that no client can give."""


class Description:
    """See the module."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        backends = [client for client in networks.clients if not client.is_nic and not client.index]
        self._names: dict[NetClient, str] = {}
        for each in backends:
            self._names[each] = self._name(each)
        self.netdevs = [self._netdev(each) for each in backends]
        self.displaced = [each for backend in backends if _has_gaps(backend) for each in backend.filters]
        """Filters of backends of which one was put next to a filter that is gone: in this order each comes last."""

    def name_for(self, device: object) -> str | None:
        """What the card of a device is plugged into; None when it is nothing."""
        card = next((each for each in self._networks.nics if each.device is device), None)
        return self.name_of(card.peer) if card is not None and card.peer is not None else None

    def has(self, device: object) -> bool:
        """Whether a device is a card."""
        return any(each.device is device for each in self._networks.nics)

    def name_of(self, backend: NetClient) -> str:
        """The name of a backend in the document."""
        return self._names.get(backend, backend.name)

    @property
    def chardevs(self) -> frozenset[str]:
        """Character devices that backends make for themselves."""
        return frozenset(name for each in self._names for name in each.own_chardevs())

    def _name(self, backend: NetClient) -> str:
        """A backend's own name, or one like it that a client may give."""
        if not backend.name.startswith(_GENERATED):
            return backend.name
        base = made = backend.name.removeprefix(_GENERATED)
        number = 0
        while self._networks.find(made) is not None or made in self._names.values():
            number += 1
            made = f"{base}-{number}"
        return made

    def _netdev(self, backend: NetClient) -> Netdev:
        if isinstance(backend, HubPort):
            return NetdevHubport(
                id=self._names[backend], hubid=backend.hub.number, netdev=self._behind(backend)
            )
        options: Any = backend.current_options()
        made: Netdev = replace(options, id=self._names[backend])
        return made

    def _behind(self, port: HubPort) -> str | None:
        """The backend that a port is connected to, as far as the port has to name it."""
        other = port.peer
        if other is None or other.is_nic:
            return None
        given = port.options
        if isinstance(other, HubPort) and (given is None or given.netdev != other.name):
            return None  # it is the other that names this one
        return self._names[other]


def _has_gaps(backend: NetClient) -> bool:
    """Whether a filter was put next to one that is gone."""
    there = {f"id={each.id}" for each in backend.filters}
    return any(
        each.options.position.startswith("id=") and each.options.position not in there
        for each in backend.filters
    )
