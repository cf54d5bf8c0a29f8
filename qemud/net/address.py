"""Addresses of sockets that carry frames, as the schema has them, as people see them, and as older options write them.

Source of texts: QEMU 10.0, net/net.c (parse_host_port) and util/qemu-sockets.c (socket_uri).
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, TypeAlias

from qemud._generated.types.sockets import SocketAddressFd, SocketAddressInet, SocketAddressUnix
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.sockets import SocketAddress

HostPort: TypeAlias = tuple[str, int]
ANY = "0.0.0.0"  # noqa: S104 - where frames are sent to or received at is the user's choice
_PORTS = 1 << 16


def address_of(sock: socket.socket, *, peer: bool) -> SocketAddress:
    """Where a socket, or its peer, is."""
    try:
        name = sock.getpeername() if peer else sock.getsockname()
    except OSError:
        name = ""
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        host, port = (name[0], name[1]) if name else ("", 0)
        is_ipv4 = sock.family == socket.AF_INET
        return SocketAddressInet(
            host=host, port=str(port), ipv4=True if is_ipv4 else None, ipv6=None if is_ipv4 else True
        )
    if isinstance(name, bytes):
        return SocketAddressUnix(path=name[1:].rstrip(b"\0").decode("utf-8", "replace"), abstract=True)
    return SocketAddressUnix(path=name)


def uri(address: SocketAddress) -> str:
    """For people."""
    if isinstance(address, SocketAddressInet):
        return f"tcp:{address.host}:{address.port}"
    if isinstance(address, SocketAddressUnix):
        return f"unix:{address.path}"
    assert isinstance(address, SocketAddressFd)
    return f"fd:{address.str}"


async def host_port(text: str) -> HostPort:
    """Host and port of `HOST:PORT`, looked up.  GenericError."""
    host, colon, port = text.partition(":")
    if not colon:
        raise GenericError(f"host address '{text}' doesn't contain ':' separating host from port")
    return await resolve(host, port)


async def resolve(host: str, port: str) -> HostPort:
    """An IPv4 address, looked up, and a port.  GenericError."""
    try:
        number = int(port, 0) if len(port) < _PORTS and port.isascii() else -1
    except ValueError:
        number = -1
    if not host:
        found = ANY
    elif host[0].isdigit():
        try:
            found = socket.inet_ntoa(socket.inet_aton(host))
        except (OSError, ValueError):
            raise GenericError(f"host address '{host}' is not a valid IPv4 address") from None
    else:
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError):
            raise GenericError(f"can't resolve host address '{host}'") from None
        found = str(infos[0][4][0])
    if not 0 <= number < _PORTS:
        raise GenericError(f"port number '{port}' is invalid")
    return found, number
