"""All ends of cables in the process, by name: `services.net`.

    backend = await networks.add(options)                 # an instance of the schema's `Netdev`
    card = networks.claim("net0", card)                   # a card takes the backend of that name
    networks.set_link("net0", up=False)
    await networks.remove("net0")
    await networks.close()

Each kind of backend is imported when the first of it is made.

Source of rules and texts: QEMU 10.0, net/net.c.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from qemud.net.client import connect, disconnect
from qemud.net.mac import MacPool
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qemud._generated.types.net_backends import Netdev
    from qemud.chardev.address import ResolveFd
    from qemud.chardev.registry import Chardevs
    from qemud.net.announce import Announcements
    from qemud.net.client import NetClient
    from qemud.net.hub import Hub
    from qemud.net.nic import Nic
    from qemud.qapi.runtime.events import EmitFunction

KINDS = {
    "user": "qemud.net.user.backend:open_user",
    "tap": "qemud.net.tap:open_tap",
    "socket": "qemud.net.oldsocket:open_socket",
    "stream": "qemud.net.stream:open_stream",
    "dgram": "qemud.net.dgram:open_dgram",
    "hubport": "qemud.net.hub:open_hubport",
}
"""Who makes a backend of each kind: `async (networks, options, resolve_fd) -> NetClient`."""


class Networks:
    """See the module.  All of it belongs to the event loop.

    `emit` sends events, `report` takes lines for people; `chardevs` are for ports that lead the guest to one.
    """

    def __init__(
        self,
        emit: EmitFunction,
        chardevs: Chardevs,
        resolve_fd: ResolveFd,
        report: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.emit = emit
        self.chardevs = chardevs
        self.report = report
        self.resolve_fd = resolve_fd
        self.clients: list[NetClient] = []
        self.macs = MacPool()
        self.hubs: dict[int, Hub] = {}
        self._opening: set[str] = set()
        self._announcements: Announcements | None = None

    # -- names ------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> NetClient | None:
        """The card or backend of that name."""
        return next((client for client in self.clients if client.name == name), None)

    def find_netdev(self, name: str) -> NetClient | None:
        """The backend of that name."""
        return next((each for each in self.clients if each.name == name and not each.is_nic), None)

    @property
    def nics(self) -> Iterator[Nic]:
        """The cards."""
        from qemud.net.nic import Nic

        return (client for client in self.clients if isinstance(client, Nic) and not client.index)

    def name_for(self, model: str, index: int = 0) -> str:
        """A name for a card without an id, or one of its further queues: the model's, with a number."""
        return f"{model}.{index + sum(client.model == model for client in self.clients)}"

    # -- backends ---------------------------------------------------------------------------------------------------

    async def add(
        self, options: Netdev, resolve_fd: ResolveFd | None = None, *, hub: bool = False
    ) -> NetClient:
        """Make a backend; all or nothing.  `resolve_fd` finds descriptors that a client has named.  GenericError.

        With `hub` it is connected to hub 0, as those of `-net` are.
        """
        name = options.id
        if self.find_netdev(name) is not None or name in self._opening:
            raise GenericError(f"Duplicate ID '{name}'")
        module, _, function = KINDS[options.type.value].partition(":")
        make = getattr(importlib.import_module(module), function)
        self._opening.add(name)
        try:
            backend: NetClient = await make(self, options, resolve_fd or self.resolve_fd)
        finally:
            self._opening.discard(name)
        for each in backend.queues:
            each.options = options
            each.is_netdev = not hub
            self.clients.append(each)
        if hub:
            from qemud.net.hub import add_port

            connect(add_port(self, 0, None), backend)
        return backend

    async def remove(self, name: str) -> None:
        """Remove a backend; a card that uses it keeps the end of a cable that leads nowhere.  DeviceNotFound or GenericError."""
        backend = self.find_netdev(name)
        if backend is None:
            raise DeviceNotFound(f"Device '{name}' not found")
        if not backend.is_netdev:
            raise GenericError(f"Device '{name}' is not a netdev")
        for each in list(backend.filters):
            each.remove()
        for queue in backend.queues:
            peer = queue.peer
            self.clients.remove(queue)
            disconnect(queue)
            if peer is not None and peer.is_nic:
                peer.link_down = True
                peer.link_changed()
            queue.close()
        for queue in backend.queues:
            await queue.closed()

    def plug(self, card: Nic, netdev: str | None) -> None:
        """A card comes, with as many queues as the backend of that name, which it takes.

        GenericError: there is none, or another card has it.
        """
        backend = None
        if netdev is not None:
            backend = self.free_netdev(card.device.type_name, netdev)
        self.clients += card.queues
        if backend is not None:
            for mine, its in zip(card.queues, backend.queues, strict=True):
                connect(mine, its)

    def free_netdev(self, driver: str, name: str) -> NetClient:
        """The backend that a device's option `netdev` names.  GenericError."""
        backend = self.find_netdev(name)
        if backend is None:
            raise GenericError(f"Property '{driver}.netdev' can't find value '{name}'")
        if any(each.peer is not None for each in backend.queues):
            raise GenericError(f"Property '{driver}.netdev' can't take value '{name}', it's in use")
        return backend

    def unplug(self, card: Nic) -> None:
        """The card is gone; its backend is free."""
        for each in card.queues:
            disconnect(each)
            if each in self.clients:
                self.clients.remove(each)

    def set_link(self, name: str, *, up: bool) -> None:
        """Plug the cable in or pull it out.  DeviceNotFound."""
        client = self.find(name)
        if client is None:
            raise DeviceNotFound(f"Device '{name}' not found")
        for each in client.queues:
            each.link_down = not up
            if each.peer is not None and each.peer.is_nic:
                each.peer.link_down = not up
        peer = client.peer
        client.link_changed()
        if peer is not None:
            peer.link_changed()

    @property
    def announcements(self) -> Announcements:
        """What cards are telling their networks."""
        if self._announcements is None:
            from qemud.net.announce import Announcements

            self._announcements = Announcements(self)
        return self._announcements

    def warnings(self) -> Iterator[str]:
        """What is odd about cards and backends when the machine is complete."""
        for hub in self.hubs.values():
            yield from hub.warnings()
        for client in self.clients:
            if client.peer is None:
                yield f"{'nic' if client.is_nic else 'netdev'} {client.name} has no peer"

    async def close(self) -> None:
        """Remove all backends."""
        if self._announcements is not None:
            self._announcements.close()
        for client in list(self.clients):
            if not client.is_nic:
                self.clients.remove(client)
                disconnect(client)
                client.close()
