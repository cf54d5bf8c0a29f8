"""Sockets for messages, each of them a frame: `-netdev dgram`.

    local inet, remote inet               UDP from one address to another
    remote inet, a multicast group        what everybody sends to the group is received; `local` is the interface
    local unix, remote unix               sockets in the file system
    local fd                              an open socket

Source of rules, order and texts: QEMU 10.0, net/dgram.c.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, Any, ClassVar

from qemud._generated.types.sockets import SocketAddressFd, SocketAddressInet, SocketAddressUnix
from qemud.net.address import ANY, resolve
from qemud.net.client import MAX_FRAME, NetClient
from qemud.net.stream import socket_of, usable_fd
from qemud.net.wire import MessageWire
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.chardev.address import ResolveFd
    from qemud.net.address import HostPort
    from qemud.net.client import Frame, Frames
    from qemud.net.registry import Networks

_LONGEST_PATH = 107
_MULTICAST = range(224, 240)


class DgramNet(NetClient):
    """See the module.  `remote` is where to send to; None for a socket that knows it."""

    kind: ClassVar[str] = "dgram"

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        remote: HostPort | str | None,
        info: str,
        *,
        path: str | None = None,
    ) -> None:
        super().__init__(name)
        self.info = info
        self._sock = sock
        self._remote = remote
        self._path = path
        sock.setblocking(False)
        self._wire = MessageWire(sock.fileno(), self.send, self.ready, self._read, self._send)

    def close(self) -> None:
        """Close the socket, and remove its name."""
        self._wire.close()
        self._sock.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def receive(self, frames: Frames) -> bool:
        """To the other side."""
        return self._wire.write(frames)

    def resume(self) -> None:
        """The guest has room."""
        self._wire.go_on_reading()

    def _read(self) -> Frame:
        return b"", self._sock.recv(MAX_FRAME)

    def _send(self, frame: Frame) -> None:
        if self._remote is None:
            self._sock.send(frame[1])
        else:
            self._sock.sendto(frame[1], self._remote)


def is_multicast(host: str) -> bool:
    """Whether it is the address of a group."""
    return int(host.partition(".")[0]) in _MULTICAST


def _socket(kind: int) -> socket.socket:
    try:
        return socket.socket(kind, socket.SOCK_DGRAM)
    except OSError as error:
        raise GenericError(f"can't create datagram socket: {error.strerror}") from None


def group_socket(group: HostPort, interface: str) -> socket.socket:
    """A socket that gets what is sent to a group, and sends there.  GenericError."""
    host, _ = group
    if not is_multicast(host):
        number = int.from_bytes(socket.inet_aton(host), "big")
        raise GenericError(
            f"specified mcastaddr {host} (0x{number:08x}) does not contain a multicast address"
        )
    sock = _socket(socket.AF_INET)
    step = "can't set socket option SO_REUSEADDR"
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        step = f"can't bind ip={host} to socket"
        sock.bind(group)
        step = f"can't add socket to multicast group {host}"
        member = struct.pack("4s4s", socket.inet_aton(host), socket.inet_aton(interface))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        step = "can't force multicast message to loopback"
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        if interface != ANY:
            step = "can't set the default network send interface"
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
    except OSError as error:
        sock.close()
        raise GenericError(f"{step}: {error.strerror}") from None
    return sock


def udp_socket(local: HostPort) -> socket.socket:
    """A socket that receives at an address.  GenericError."""
    sock = _socket(socket.AF_INET)
    step = "can't set socket option SO_REUSEADDR"
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        step = f"can't bind ip={local[0]} to socket"
        sock.bind(local)
    except OSError as error:
        sock.close()
        raise GenericError(f"{step}: {error.strerror}") from None
    return sock


def _unix_socket(path: str, remote: str) -> socket.socket:
    """A socket in the file system; an old one of that name makes room.  GenericError."""
    for each in (path, remote):
        if len(os.fsencode(each)) > _LONGEST_PATH or "\0" in each:
            raise GenericError(f"UNIX socket path '{each}' is too long")
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise GenericError(f"failed to unlink socket {path}: {error.strerror}") from None
    sock = _socket(socket.AF_UNIX)
    try:
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise GenericError(f"can't bind unix={path} to socket: {error.strerror}") from None
    return sock


def from_fd(name: str, fd: int) -> DgramNet:
    """A backend on an open socket.  GenericError."""
    usable_fd(fd, name)
    sock = socket_of(fd)
    kind = {socket.AF_INET: " inet", socket.AF_UNIX: " unix"}.get(sock.family, "")
    return DgramNet(name, sock, None, f"fd={fd}{kind}")


async def open_dgram(_networks: Networks, options: Any, resolve_fd: ResolveFd) -> DgramNet:
    """As the options say.  GenericError."""
    name, local, remote = options.id, options.local, options.remote
    if isinstance(remote, SocketAddressInet):
        group = await resolve(remote.host, remote.port)
        if is_multicast(group[0]):
            return await _open_group(name, group, local, resolve_fd)
    if local is None:
        raise GenericError("dgram requires local= parameter")
    if remote is not None:
        if isinstance(local, SocketAddressFd):
            raise GenericError("don't set remote with local.fd")
        if remote.type is not local.type:
            raise GenericError("remote and local types must be the same")
    elif not isinstance(local, SocketAddressFd):
        raise GenericError("type=inet or type=unix requires remote parameter")
    if isinstance(local, SocketAddressInet):
        here = await resolve(local.host, local.port)
        there = await resolve(remote.host, remote.port)
        sock = udp_socket(here)
        return DgramNet(name, sock, there, f"udp={here[0]}:{here[1]}/{there[0]}:{there[1]}")
    if isinstance(local, SocketAddressUnix):
        if local.abstract or remote.abstract:
            raise GenericError("abstract UNIX sockets are not supported here: give paths")
        sock = _unix_socket(local.path, remote.path)
        return DgramNet(name, sock, remote.path, f"udp={local.path}:{remote.path}", path=local.path)
    return from_fd(name, resolve_fd(local.str))


async def _open_group(name: str, group: HostPort, local: Any, resolve_fd: ResolveFd) -> DgramNet:
    info = f"mcast={group[0]}:{group[1]}"
    if isinstance(local, SocketAddressUnix):
        raise GenericError("only support inet or fd type for local")
    if isinstance(local, SocketAddressFd):
        fd = resolve_fd(local.str)
        usable_fd(fd, name)
        return DgramNet(name, socket_of(fd), group, f"fd={fd} (cloned {info})")
    interface = ANY
    if local is not None:
        try:
            interface = socket.inet_ntoa(socket.inet_aton(local.host))
        except (OSError, ValueError):
            raise GenericError(f"localaddr '{local.host}' is not a valid IPv4 address") from None
    return DgramNet(name, group_socket(group, interface), group, info)
