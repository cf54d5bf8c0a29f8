"""The QMP commands about networks.

Source: QEMU 10.0, net/net.c, net/net-hmp-cmds.c and net/slirp.c, for texts and layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud._generated.commands.net import NetCommands
from qemud._generated.types.inventory import HumanReadableText
from qemud.net.nic import Nic
from qemud.qapi.runtime.errors import GenericError
from qemud.qapi.runtime.qemuopts import HintedError, check_identifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud._generated.types.net import AnnounceParameters, RxFilterInfo
    from qemud._generated.types.net_backends import Netdev
    from qemud.chardev.address import ResolveFd
    from qemud.machine.vm import VirtualMachine
    from qemud.net.client import NetClient
    from qemud.net.registry import Networks
    from qemud.net.user.backend import UserNet


class Services(Protocol):
    """What these handlers need of the process."""

    @property
    def net(self) -> Networks:
        """All network cards and backends."""

    @property
    def vm(self) -> VirtualMachine:
        """The machine."""

    @property
    def take_descriptor(self) -> ResolveFd:
        """Takes the descriptor that the command's client has named."""


class NetHandlers(NetCommands):
    """The commands of the schema module `net`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def netdev_add(self, arg: Netdev) -> None:
        """As in the schema."""
        try:
            check_identifier(arg.id)
        except HintedError as error:
            raise GenericError(str(error)) from None
        await self._services.net.add(arg, self._services.take_descriptor)

    async def netdev_del(self, *, id: str) -> None:  # noqa: A002 - wire name
        """As in the schema."""
        await self._services.net.remove(id)

    async def set_link(self, *, name: str, up: bool) -> None:
        """As in the schema."""
        self._services.net.set_link(name, up=up)

    async def query_rx_filter(self, *, name: str | None = None) -> list[RxFilterInfo]:
        """As in the schema."""
        services = self._services
        found = []
        for client in services.net.clients:
            if name is not None and client.name != name:
                continue
            if not isinstance(client, Nic):
                if name is not None:
                    raise GenericError(f"net client({name}) isn't a NIC")
                continue
            if client.index:
                continue  # it is the card that takes frames, not a queue
            found.append(await services.vm.mailboxes.call(client.query_filter))
            if name is not None:
                break
        if not found and name is not None:
            raise GenericError(f"invalid net client name: {name}")
        return found

    async def announce_self(self, arg: AnnounceParameters) -> None:
        """As in the schema."""
        self._services.net.announcements.begin(arg)

    async def x_query_network(self) -> HumanReadableText:
        """As in the schema."""
        return HumanReadableText(human_readable_text="".join(_shown(self._services.net)))

    async def x_query_usernet(self) -> HumanReadableText:
        """As in the schema."""
        text = ""
        networks = self._services.net
        for backend in _user_networks(networks):
            number = next((each.number for each in networks.hubs.values() if backend.peer in each.ports), -1)
            text += f"Hub {number} ({backend.name}):\n{backend.stack.connections}"
        return HumanReadableText(human_readable_text=text)

    async def x_hostfwd_add(self, *, rule: str, netdev: str | None = None) -> None:
        """As in the schema."""
        self._user_network(netdev).add_rule(rule)

    async def x_hostfwd_remove(self, *, rule: str, netdev: str | None = None) -> None:
        """As in the schema."""
        if not self._user_network(netdev).remove_rule(rule):
            raise GenericError(f"host forwarding rule for {rule} not found")

    def _user_network(self, name: str | None) -> UserNet:
        networks = self._services.net
        if name is None:
            found = next(_user_networks(networks), None)
            if found is None:
                raise GenericError("user mode network stack not in use")
            return found
        client = networks.find_netdev(name)
        if client is None:
            raise GenericError(f"unrecognized netdev id '{name}'")
        for backend in _user_networks(networks):
            if backend is client:
                return backend
        raise GenericError("invalid device specified")


def _user_networks(networks: Networks) -> Iterator[UserNet]:
    """The backends of that kind; nothing of it is imported unless there is one."""
    for client in networks.clients:
        if client.kind == "user":
            from qemud.net.user.backend import UserNet

            assert isinstance(client, UserNet)
            yield client


def _is_port(client: NetClient) -> bool:
    return client.kind == "hubport"


def _shown(networks: Networks) -> Iterator[str]:
    """What `info network` prints: hubs, then what is at none."""
    for hub in reversed(list(networks.hubs.values())):
        yield f"hub {hub.number}\n"
        for port in hub.ports:
            yield f" \\ {port.name}"
            yield f": {_describe(port.peer)}" if port.peer is not None else "\n"
    for client in networks.clients:
        peer = client.peer
        if _is_port(client) or (peer is not None and _is_port(peer)):
            continue
        if peer is None or client.is_nic:
            yield _describe(client)
        if peer is not None and client.is_nic:
            yield f" \\ {_describe(peer)}"


def _describe(client: NetClient) -> str:
    text = f"{client.name}: index={client.index},type={client.kind},{client.info}\n"
    if client.filters:
        text += "filters:\n"
        for each in client.filters:
            text += f"  - {each.id}: type={each.type_name}{each.described}\n"
    return text
