"""The end of the cable at a user-mode network: `-netdev user`.

Source of texts: QEMU 10.0, net/slirp.c.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec.structs import replace

from qemud._generated.types.net_backends import String
from qemud.net.client import NetClient
from qemud.net.offload import Offload, coalesce, complete
from qemud.net.user import abi
from qemud.net.user.config import check
from qemud.net.user.rules import GuestRule, guest_rule, host_end, host_rule
from qemud.net.user.stack import Stack
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qemud.chardev.stream import Chardev, Port
    from qemud.net.client import Frames
    from qemud.net.registry import Networks

_MOST_PENDING = 1 << 20
_READ = 16 << 10


class UserNet(NetClient):
    """See the module."""

    kind: ClassVar[str] = "user"
    offload = Offload(csum=True, tso4=True, tso6=True)

    def __init__(self, networks: Networks, options: Any) -> None:
        super().__init__(options.id)
        network = check(options)
        rules = [(host_rule(item.str), item.str) for item in options.hostfwd or ()]
        self._host_rules = [text for _, text in rules]
        self._guest_rules = [(guest_rule(item.str), item.str) for item in options.guestfwd or ()]
        self.networks = networks
        self._wanted = Offload()
        self._forwards: list[GuestForward] = []
        shown = socket.inet_ntoa(network.network)
        self.info = f"net={shown},restrict={'on' if options.restrict else 'off'}"
        self.stack = Stack(network, options, self._arrived)
        try:
            for rule, text in rules:
                self.stack.add_host_rule(rule, text)
        except BaseException:
            self.close()
            raise
        self.stack.on_round = self._round

    async def open(self) -> None:
        """Open what rules for the guest lead to.  GenericError."""
        for rule, text in self._guest_rules:
            self._forwards.append(await GuestForward.open(self, self.networks, rule, text))

    def close(self) -> None:
        """All connections end."""
        for forward in self._forwards:
            forward.close()
        self.stack.close()

    async def closed(self) -> None:
        """Character devices that were made for rules go with them."""
        for forward in self._forwards:
            await forward.closed()

    # -- frames -----------------------------------------------------------------------------------------------------

    def set_offload(self, offload: Offload) -> None:
        """The driver of the card takes such frames."""
        self._wanted = offload

    def receive(self, frames: Frames) -> bool:
        """From the guest; the stack takes all, and drops what it cannot keep, as a network may."""
        self.stack.input([complete(header, frame) if header else frame for header, frame in frames])
        return True

    def _arrived(self, frames: list[bytes]) -> None:
        """From the stack."""
        if self._wanted.tso4:
            self.send(coalesce(frames))
        else:
            self.send([(b"", frame) for frame in frames])

    # -- ports ------------------------------------------------------------------------------------------------------

    def add_rule(self, text: str) -> None:
        """Have a port of the host lead to the guest.  GenericError."""
        self.stack.add_host_rule(host_rule(text), text)
        self._host_rules.append(text)

    def remove_rule(self, text: str) -> bool:
        """Undo that; False if it is not so.  GenericError."""
        end = udp, host, port = host_end(text)
        if not self.stack.remove_host_rule(host, port, udp=udp):
            return False
        gone = next((each for each in self._host_rules if host_rule(each)[:3] == end), None)
        if gone is not None:
            self._host_rules.remove(gone)
        return True

    def current_options(self) -> Any:
        """With the rules that there are now."""
        return replace(self.options, hostfwd=[String(str=text) for text in self._host_rules] or None)

    def own_chardevs(self) -> Iterable[str]:
        """Those of rules that lead the guest to one in the short form."""
        return (forward.chardev.label for forward in self._forwards if forward.chardev is not None)

    def _round(self) -> None:
        for forward in self._forwards:
            forward.look()


class GuestForward:
    """An address of the user network that leads the guest to a character device."""

    def __init__(self, backend: UserNet, rule: GuestRule, chardev: Chardev | None, port: Port | None) -> None:
        self._stack = backend.stack
        self._chardevs = backend.networks.chardevs
        self._rule = rule
        self.chardev = chardev
        """The one that was made for the rule."""
        self._port = port
        self._address = abi.InAddr.of(rule.server)
        self._granted = 0
        self._write: Callable[..., int] | None = None

    @classmethod
    async def open(cls, backend: UserNet, networks: Networks, rule: GuestRule, text: str) -> GuestForward:
        """As a rule says.  GenericError."""
        if rule.target.startswith("cmd:"):
            forward = cls(backend, rule, None, None)
            forward._add_command(text)
            return forward
        chardevs = networks.chardevs
        named = rule.target.startswith("chardev:")
        try:
            chardev = await chardevs.open_compact(rule.label, rule.target, mux_monitor=True)
        except GenericError:
            raise GenericError(f"Could not open guest forwarding device '{rule.label}'") from None
        try:
            port = chardev.attach()
        except GenericError:
            if not named:
                await chardevs.remove(rule.label)
            raise
        forward = cls(backend, rule, None if named else chardev, port)
        try:
            forward._add_port(text)
        except BaseException:
            port.detach()
            if not named:
                await chardevs.remove(rule.label)
            raise
        return forward

    def _add_command(self, text: str) -> None:
        command = self._rule.target.removeprefix("cmd:").encode()
        stack = self._stack
        if stack.library.slirp_add_exec(stack.stack, command, self._by_reference(), self._rule.port):
            raise _conflict(text)

    def _add_port(self, text: str) -> None:
        stack = self._stack
        self._write = abi.SEND_PACKET(self._from_guest)
        if stack.library.slirp_add_guestfwd(
            stack.stack, self._write, None, self._by_reference(), self._rule.port
        ):
            raise _conflict(text)
        assert self._port is not None
        # The library has put the server's address in where the rule had none.
        self._port.start(self._to_guest, credit=0)

    def _by_reference(self) -> Any:
        import ctypes

        return ctypes.byref(self._address)

    def _from_guest(self, data: int, size: int, _opaque: int | None) -> int:
        import ctypes

        port = self._port
        if port is None or port.pending > _MOST_PENDING:
            return -1  # nobody takes it: the connection ends
        port.write(ctypes.string_at(data, size))
        return size

    def look(self) -> None:
        """Take as much from the character device as there is room for on the way to the guest."""
        port = self._port
        if port is None or self._granted:
            return
        stack = self._stack
        room = stack.library.slirp_socket_can_recv(stack.stack, self._address, self._rule.port)
        if room:
            self._granted = min(room, _READ)
            port.grant(self._granted)

    def _to_guest(self, data: bytes) -> None:
        self._granted -= len(data)
        stack = self._stack
        stack.library.slirp_socket_recv(stack.stack, self._address, self._rule.port, data, len(data))
        stack.soon()

    def close(self) -> None:
        """Leave the character device."""
        port, self._port = self._port, None
        if port is not None:
            port.detach()

    async def closed(self) -> None:
        """Remove the character device, if it was made for this."""
        chardev, self.chardev = self.chardev, None
        if chardev is not None and self._chardevs.get(chardev.label) is chardev:
            await self._chardevs.remove(chardev.label)


def _conflict(text: str) -> GenericError:
    return GenericError(f"Conflicting/invalid host:port in guest forwarding rule '{text}'")


async def open_user(networks: Networks, options: Any, _resolve_fd: object) -> UserNet:
    """As the options say.  GenericError."""
    backend = UserNet(networks, options)
    try:
        await backend.open()
    except BaseException:
        backend.close()
        raise
    return backend
