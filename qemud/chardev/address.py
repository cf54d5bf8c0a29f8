"""Socket addresses: listening, connecting and printing them, with QEMU's texts.

Addresses are the schema's `SocketAddressLegacy`.  Listening sockets in the file system are made with mode 0600 from the start,
and take the place of a stale one only when nobody listens there.

Source: QEMU 10.0, util/qemu-sockets.c, for errors and for the order in which address families are tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, Any, TypeAlias

from qemud._generated.types.sockets import (
    FdSocketAddress,
    InetSocketAddress,
    SocketAddress,
    SocketAddressFd,
    SocketAddressInet,
    SocketAddressLegacy,
    SocketAddressLegacyFd,
    SocketAddressLegacyInet,
    SocketAddressLegacyUnix,
    SocketAddressUnix,
    UnixSocketAddress,
)
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

Address: TypeAlias = "InetSocketAddress | UnixSocketAddress | FdSocketAddress"
ResolveFd: TypeAlias = "Callable[[str], int]"
Identity: TypeAlias = "tuple[int, int]"
"""Device and inode of a socket in the file system."""

BACKLOG = 1024
"""How many clients may wait to be served, one after the other; with QEMU's 1, others at the same time are turned away."""

_SUN_PATH = 108
_PORT_MAX = 65535
_STANDARD_ERROR = 2


def flatten(address: SocketAddressLegacy) -> Address:
    """The address without the wrapping that the protocol puts around it."""
    if isinstance(address, SocketAddressLegacyUnix | SocketAddressLegacyInet | SocketAddressLegacyFd):
        return address.data
    raise AssertionError(address)


def plain(address: SocketAddress) -> Address:
    """The same for the form that other parts of the schema use."""
    if isinstance(address, SocketAddressInet):
        return InetSocketAddress(
            **{name: getattr(address, name) for name in InetSocketAddress.__struct_fields__}
        )
    if isinstance(address, SocketAddressUnix):
        return UnixSocketAddress(path=address.path, abstract=address.abstract, tight=address.tight)
    assert isinstance(address, SocketAddressFd)
    return FdSocketAddress(str=address.str)


def inherited_fd(text: str) -> int:
    """The descriptor that the command line names by its number.  GenericError: it is no number."""
    try:
        return int(text)
    except ValueError:
        raise GenericError(f"Unable to parse FD number {text}") from None


# -- listening -----------------------------------------------------------------------------------------------------------


class Listener:
    """One or more listening sockets for one address; the ones in the file system are removed with it."""

    def __init__(self, sockets: list[socket.socket], path: str | None = None) -> None:
        """`path` is that of a socket made here, to be removed when it is closed."""
        self.sockets = sockets
        self._path = path
        self.identity: Identity | None = None if path is None else _identity(path)
        try:
            for sock in sockets:
                sock.setblocking(False)
        except BaseException:
            for sock in sockets:
                sock.close()
            raise

    def close(self) -> None:
        """Close the sockets, and remove the path if it is still ours."""
        for sock in self.sockets:
            sock.close()
        if self._path is not None and self.identity is not None and _identity(self._path) == self.identity:
            os.unlink(self._path)
        self._path = None

    def local(self) -> Address | None:
        """The address that clients find it at; None for a family that has no form here."""
        return _printable(self.sockets[0])


async def listen(address: Address, resolve_fd: ResolveFd, replaces: Collection[Identity] = ()) -> Listener:
    """Listen at an address.

    `replaces` are sockets in the file system whose place may be taken although they still listen.  GenericError with QEMU's text:
    it is impossible.
    """
    if isinstance(address, UnixSocketAddress):
        return _listen_unix(address, replaces)
    if isinstance(address, InetSocketAddress):
        return Listener(await _listen_inet(address))
    sock = adopt(address, resolve_fd)
    try:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise GenericError(f"Failed to listen on fd socket: {_reason(error)}") from None
    return Listener([sock])


def _listen_unix(address: UnixSocketAddress, replaces: Collection[Identity]) -> Listener:
    """A UNIX domain socket, in the file system or abstract."""
    path = address.path
    if not path and not address.abstract:
        import tempfile

        path = tempfile.mktemp("", "qemud-socket-", tempfile.gettempdir())  # noqa: S306 - bind refuses an existing name
    name = _sun_path(path, address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    is_bound = False
    try:
        if not address.abstract:
            os.fchmod(
                sock.fileno(), 0o600
            )  # Linux gives the path the mode of the unbound socket, less the umask
            _remove_stale(path, replaces)
        sock.bind(name)
        is_bound = not address.abstract
        listener = Listener([sock], None if address.abstract else path)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if is_bound:
            os.unlink(path)
        raise GenericError(f"Failed to bind socket to {path}: {_reason(error)}") from None
    except BaseException:
        sock.close()
        raise
    return listener


def _remove_stale(path: str, replaces: Collection[Identity]) -> None:
    """Remove a socket that nobody listens on; anything else stays, and makes the bind fail."""
    try:
        status = os.stat(path)
    except OSError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        return
    if (status.st_dev, status.st_ino) not in replaces:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                pass
            except OSError:
                return
            else:
                return
    os.unlink(path)


async def _listen_inet(address: InetSocketAddress) -> list[socket.socket]:
    """One socket for each address that the host has."""
    if address.keep_alive:
        raise GenericError("keep-alive option is not supported for passive sockets")
    family = _family(address)
    _check_port(address.port)
    # Without a host and without AI_PASSIVE these are the loopback addresses.
    flags = socket.AI_PASSIVE if address.host else 0
    if address.numeric:
        flags |= socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = await _resolve(address, address.host or None, address.port or None, family, flags)
    sockets: list[socket.socket] = []
    trouble = GenericError("Failed to create a socket")
    for family_, type_, protocol, _, given in found:
        sockaddr = given
        if sockets and not sockaddr[1]:  # the port that the system chose for the first
            sockaddr = (sockaddr[0], sockets[0].getsockname()[1], *sockaddr[2:])
        try:
            sockets.append(_bind_first(address, family_, type_, protocol, sockaddr))
        except GenericError as error:
            trouble = error
    if not sockets:
        raise trouble
    return sockets


def _bind_first(
    address: InetSocketAddress, family: int, type_: int, protocol: int, sockaddr: tuple[str | int, ...]
) -> socket.socket:
    """Listen at the first free port of the range."""
    first = int(sockaddr[1])
    last = first if address.to is None else address.to
    dual = address.ipv4 is address.ipv6 is None or (address.ipv4 is True and address.ipv6 is True)
    trouble = "Failed to create a socket"
    for port in range(first, last + 1):
        try:
            sock = socket.socket(family, type_, protocol)
        except OSError:
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            target = (sockaddr[0], port, *sockaddr[2:])
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
                try:
                    sock.bind(target)
                except OSError as error:
                    if error.errno != errno.EADDRINUSE or not dual:
                        raise
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has this port already
                    sock.bind(target)
            else:
                sock.bind(target)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise GenericError(f"Failed to bind socket: {_reason(error)}") from None
            trouble = f"Failed to find an available port: {_reason(error)}"
        else:
            return sock
    raise GenericError(trouble)


# -- connecting ----------------------------------------------------------------------------------------------------------


async def connect(address: Address, resolve_fd: ResolveFd) -> socket.socket:
    """A connected, non-blocking socket.  GenericError with QEMU's text: it is impossible."""
    if isinstance(address, FdSocketAddress):
        sock = adopt(address, resolve_fd)
        sock.setblocking(False)
        return sock
    if isinstance(address, UnixSocketAddress):
        return await _connect_unix(address)
    return await _connect_inet(address)


async def _connect_unix(address: UnixSocketAddress) -> socket.socket:
    """A UNIX domain socket.  A full backlog is waited for."""
    name = _sun_path(address.path, address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(name)
            except BlockingIOError:  # the backlog is full, and nothing tells when it is not
                await asyncio.sleep(0.01)
            else:
                return sock
    except OSError as error:
        sock.close()
        raise GenericError(f"Failed to connect to '{address.path}': {_reason(error)}") from None
    except BaseException:
        sock.close()
        raise


async def _connect_inet(address: InetSocketAddress) -> socket.socket:
    """The first of the host's addresses that answers."""
    family = _family(address)
    _check_port(address.port)
    flags = socket.AI_ADDRCONFIG | socket.AI_V4MAPPED
    if address.numeric:
        flags |= socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = await _resolve(address, address.host, address.port, family, flags)
    loop = asyncio.get_running_loop()
    reason = ""
    for family_, type_, protocol, _, sockaddr in found:
        try:
            sock = socket.socket(family_, type_, protocol)
        except OSError as error:
            raise GenericError(f"Failed to create socket family {family_}: {_reason(error)}") from None
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, sockaddr)
            if address.keep_alive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError as error:
            sock.close()
            reason = _reason(error)
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise GenericError(f"Failed to connect to '{address.host}:{address.port}': {reason}")


# -- common --------------------------------------------------------------------------------------------------------------


def adopt(address: FdSocketAddress, resolve_fd: ResolveFd) -> socket.socket:
    """The open socket that an address names; it is ours from now on."""
    fd = resolve_fd(address.str)
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except (OSError, OverflowError):
        is_socket = False
    if not is_socket:
        with contextlib.suppress(OSError, OverflowError):
            if fd > _STANDARD_ERROR:
                os.close(fd)  # it was handed over, and nobody else knows of it
        raise GenericError(f"File descriptor '{address.str}' is not a socket")
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def print_address(address: Address | None, scheme: str, *, server: bool) -> str:
    """The address as query-chardev shows it; `scheme` is tcp or telnet."""
    suffix = ",server=on" if server else ""
    if address is None:
        return "socket"
    if isinstance(address, UnixSocketAddress):
        abstract = (",abstract=on" + (",tight=on" if address.tight else "")) if address.abstract else ""
        return f"unix:{address.path}{abstract}{suffix}"
    if isinstance(address, InetSocketAddress):
        return f"{scheme}:{address.host}:{address.port}{suffix}"
    return f"fd:{address.str}{suffix}"


def print_connection(sock: socket.socket, address: Address | None, scheme: str, *, server: bool) -> str:
    """The two ends of a connection, as query-chardev shows them."""
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        shown = address if isinstance(address, UnixSocketAddress) else _printable(sock, peer=not server)
        return print_address(shown, scheme, server=server)
    try:
        ends = [sock.getsockname(), sock.getpeername()]
    except OSError:  # gone already
        return print_address(address, scheme, server=server)
    here, there = (
        f"[{end[0]}]:{end[1]}" if sock.family == socket.AF_INET6 else f"{end[0]}:{end[1]}" for end in ends
    )
    return f"{scheme}:{here}{',server=on' if server else ''} <-> {there}"


def print_peer(sock: socket.socket) -> str:
    """Who is at the other end, for people."""
    try:
        name = sock.getpeername()
    except OSError:
        return "gone already"
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "local"


def _printable(sock: socket.socket, *, peer: bool = False) -> Address | None:
    """The address that a socket, or its peer, is at."""
    try:
        name = sock.getpeername() if peer else sock.getsockname()
    except OSError:
        return None
    if sock.family == socket.AF_UNIX:
        if isinstance(name, bytes):  # abstract, without the final zero bytes that fill it up when not tight
            text = name[1:].rstrip(b"\0").decode("utf-8", "replace")
            return UnixSocketAddress(path=text, abstract=True, tight=len(name) < _SUN_PATH)
        return UnixSocketAddress(path=name)
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        return InetSocketAddress(host=name[0], port=str(name[1]))
    return None


def _sun_path(path: str, address: UnixSocketAddress) -> str | bytes:
    """The name to bind or connect to.  GenericError: it is too long."""
    encoded = os.fsencode(path)
    limit = _SUN_PATH - 1  # QEMU takes one more byte in the file system, without a final zero byte
    if len(encoded) > limit:
        raise GenericError(f"UNIX socket path '{path}' is too long")
    if b"\0" in encoded:
        raise GenericError(f"UNIX socket path '{path}' contains a zero byte".replace("\0", "\\0"))
    if not address.abstract:
        return path
    return b"\0" + (encoded if address.tight else encoded.ljust(limit, b"\0"))


def _family(address: InetSocketAddress) -> int:
    """The address family to look up."""
    if address.ipv4 is False and address.ipv6 is False:
        raise GenericError("Cannot disable IPv4 and IPv6 at same time")
    if address.ipv4 and address.ipv6:
        return socket.AF_UNSPEC if address.host else socket.AF_INET6
    if address.ipv6 or address.ipv4 is False:
        return socket.AF_INET6
    if address.ipv4 or address.ipv6 is False:
        return socket.AF_INET
    return socket.AF_UNSPEC


def _check_port(port: str) -> None:
    """Refuse a number that the C library would cut to 16 bits without a word."""
    if port.isascii() and port.isdigit() and int(port[:20]) > _PORT_MAX:
        raise GenericError(f"port {port} out of range")


async def _resolve(
    address: InetSocketAddress, host: str | None, port: str | None, family: int, flags: int
) -> Sequence[tuple[int, int, int, str, Any]]:
    """Look host and port up, without blocking."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        raise GenericError(
            f"address resolution failed for {address.host}:{address.port}: {error.strerror}"
        ) from None
    except (OSError, UnicodeError, ValueError) as error:
        raise GenericError(f"address resolution failed for {address.host}:{address.port}: {error}") from None


def _identity(path: str) -> Identity | None:
    """Device and inode, or None where nothing is."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reason(error: OSError) -> str:
    """The text of an errno."""
    return os.strerror(error.errno) if error.errno else str(error)
