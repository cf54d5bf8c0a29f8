"""The older way to connect emulators: `-netdev socket`, which says in one option what `stream` and `dgram` say in two.

Source of rules, order and texts: QEMU 10.0, net/socket.c.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, ClassVar

from qemud._generated.types.sockets import InetSocketAddress
from qemud.net.address import ANY, host_port
from qemud.net.dgram import DgramNet, group_socket, udp_socket
from qemud.net.stream import StreamNet, socket_of, usable_fd
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.chardev.address import ResolveFd
    from qemud.net.client import NetClient
    from qemud.net.registry import Networks


class OldStream(StreamNet):
    """A connection; no events tell of it.  `where` is what it connects to, or None."""

    kind: ClassVar[str] = "socket"
    where: str | None = None

    def tell_connected(self, sock: socket.socket) -> None:
        """Tell people alone."""
        if self.where is not None:
            self.info = f"socket: connect to {self.where}"
            return
        try:
            name = sock.getpeername()
        except OSError:
            name = ""
        shown = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "a socket"
        self.info = f"socket: connection from {shown}"

    def tell_disconnected(self) -> None:
        """Tell people alone."""
        self.info = ""


class OldDgram(DgramNet):
    """Messages."""

    kind: ClassVar[str] = "socket"


async def open_socket(networks: Networks, options: Any, resolve_fd: ResolveFd) -> NetClient:
    """As the options say.  GenericError."""
    name = options.id
    ways = (options.fd, options.listen, options.connect, options.mcast, options.udp)
    if sum(way is not None for way in ways) != 1:
        raise GenericError("exactly one of listen=, connect=, mcast= or udp= is required")
    if options.localaddr is not None and options.mcast is None and options.udp is None:
        raise GenericError("localaddr= is only valid with mcast= or udp=")
    if options.fd is not None:
        return _from_fd(networks, name, resolve_fd(options.fd))
    if options.listen is not None:
        host, port = await host_port(options.listen)
        server = OldStream(networks, name)
        await server.listen(InetSocketAddress(host=host, port=str(port), ipv4=True), resolve_fd)
        server.info = ""
        return server
    if options.connect is not None:
        host, port = await host_port(options.connect)
        client = OldStream(networks, name)
        client.where = f"{host}:{port}"
        client.connect(InetSocketAddress(host=host, port=str(port), ipv4=True), resolve_fd)
        return client
    if options.mcast is not None:
        group = await host_port(options.mcast)
        interface = ANY
        if options.localaddr is not None:
            try:
                interface = socket.inet_ntoa(socket.inet_aton(options.localaddr))
            except (OSError, ValueError):
                raise GenericError(f"localaddr '{options.localaddr}' is not a valid IPv4 address") from None
        sock = group_socket(group, interface)
        return OldDgram(name, sock, group, f"socket: mcast={group[0]}:{group[1]}")
    if options.localaddr is None:
        raise GenericError("localaddr= is mandatory with udp=")
    here, there = await host_port(options.localaddr), await host_port(options.udp)
    return OldDgram(name, udp_socket(here), there, f"socket: udp={there[0]}:{there[1]}")


def _from_fd(networks: Networks, name: str, fd: int) -> NetClient:
    usable_fd(fd, name)
    sock = socket_of(fd)
    if sock.type == socket.SOCK_DGRAM:
        kind = {socket.AF_INET: " inet", socket.AF_UNIX: " unix"}.get(sock.family, "")
        return OldDgram(name, sock, None, f"socket: fd={fd}{kind}")
    if sock.type == socket.SOCK_STREAM:
        stream = OldStream(networks, name)
        stream.serve(sock)
        stream.info = f"socket: fd={fd}"
        return stream
    sock.close()
    raise GenericError(f"socket type={int(sock.type)} for fd={fd} must be either SOCK_DGRAM or SOCK_STREAM")
