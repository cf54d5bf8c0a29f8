"""A connection that carries frames: `-netdev stream`, to another emulator, to `passt`, or whatever else speaks so.

A client connects in the background, and again and again with `reconnect-ms`; a server has one client at a time.  Without a
connection, the guest's frames are lost.

Source of texts: QEMU 10.0, net/stream.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, ClassVar

from qemud._generated.events.net import netdev_stream_connected, netdev_stream_disconnected
from qemud._generated.types.sockets import FdSocketAddress
from qemud.chardev import address as addresses
from qemud.net.address import address_of, uri
from qemud.net.client import NetClient
from qemud.net.wire import StreamWire
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.chardev.address import Address, Listener, ResolveFd
    from qemud.net.client import Frames
    from qemud.net.registry import Networks

_ACCEPT_AGAIN = 1.0
_MOST_MILLISECONDS = (1 << 32) - 1


class StreamNet(NetClient):
    """See the module.  A subclass says how it tells people of its connection."""

    kind: ClassVar[str] = "stream"

    def __init__(self, networks: Networks, name: str, *, reconnect_ms: int = 0) -> None:
        super().__init__(name)
        self._networks = networks
        self._loop = asyncio.get_running_loop()
        self._reconnect_ms = reconnect_ms
        self._wire: StreamWire | None = None
        self._sock: socket.socket | None = None
        self._listener: Listener | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._address: Address | None = None
        self._resolve_fd: ResolveFd = networks.resolve_fd
        self._is_accepting = False
        self.link_down = True

    # -- what is told -----------------------------------------------------------------------------------------------

    def tell_connected(self, sock: socket.socket) -> None:
        """There is a connection."""
        # The other side of a socket in the file system has no name.
        by_name = self._listener is not None and sock.family == socket.AF_UNIX
        where = address_of(sock, peer=not by_name)
        self.info = uri(where)
        netdev_stream_connected(self._networks.emit, netdev_id=self.name, addr=where)

    def tell_disconnected(self) -> None:
        """It is gone."""
        netdev_stream_disconnected(self._networks.emit, netdev_id=self.name)

    # -- opening and closing ----------------------------------------------------------------------------------------

    async def listen(self, address: Address, resolve_fd: ResolveFd) -> None:
        """Wait for the other side.  GenericError."""
        self._listener = await addresses.listen(address, resolve_fd)
        self.info = "listening"
        self._accept_on()

    def connect(self, address: Address, resolve_fd: ResolveFd) -> None:
        """Connect, in the background."""
        self._address, self._resolve_fd = address, resolve_fd
        self.info = "connecting"
        self._task = self._loop.create_task(self._connect())

    def serve(self, sock: socket.socket) -> None:
        """There is a connection."""
        sock.setblocking(False)
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self.link_down = False
        self._wire = StreamWire(sock, self.send, self.ready, self._gone)
        self.tell_connected(sock)

    def close(self) -> None:
        """End everything."""
        if self._task is not None:
            self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._drop()
        if self._listener is not None:
            self._accept_off()
            self._listener.close()

    async def _connect(self) -> None:
        assert self._address is not None
        try:
            sock = await addresses.connect(self._address, self._resolve_fd)
        except GenericError as error:
            if not self._reconnect_ms:
                self._networks.report(f"warning: netdev {self.name}: {error}")
            self.info = f"error: {error}"
            self._connect_later()
        else:
            self.serve(sock)
        finally:
            self._task = None

    def _connect_later(self) -> None:
        if self._reconnect_ms:
            self.info = "connecting"
            self._timer = self._loop.call_later(self._reconnect_ms / 1000, self._connect_again)

    def _connect_again(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._connect())

    def _gone(self) -> None:
        """The other side has gone."""
        self._drop()
        self.link_down = True
        self.forget()
        if self.peer is not None:
            self.peer.resume()
        if self._listener is not None:
            self.info = "listening"
            self._accept_on()
        self.tell_disconnected()
        self._connect_later()

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        sock, self._sock = self._sock, None
        if wire is not None:
            wire.close()
        if sock is not None:
            sock.close()

    # -- clients ----------------------------------------------------------------------------------------------------

    def _accept_on(self) -> None:
        self._timer = None
        if self._listener is not None and not self._is_accepting:
            self._is_accepting = True
            for sock in self._listener.sockets:
                self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept_off(self) -> None:
        if self._listener is not None and self._is_accepting:
            self._is_accepting = False
            for sock in self._listener.sockets:
                self._loop.remove_reader(sock.fileno())

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):  # it went away again
            return
        except OSError:  # descriptors ran out: look again in a while
            self._accept_off()
            self._timer = self._loop.call_later(_ACCEPT_AGAIN, self._accept_on)
            return
        self._accept_off()
        self.serve(sock)

    # -- frames -----------------------------------------------------------------------------------------------------

    def receive(self, frames: Frames) -> bool:
        """To the other side."""
        return self._wire is None or self._wire.write(frames)

    def resume(self) -> None:
        """The guest has room."""
        if self._wire is not None:
            self._wire.go_on_reading()


async def open_stream(networks: Networks, options: Any, resolve_fd: ResolveFd) -> StreamNet:
    """As the options say.  GenericError."""
    seconds, milliseconds = options.reconnect, options.reconnect_ms
    if options.server:
        if seconds is not None or milliseconds is not None:
            raise GenericError(
                "'reconnect' and 'reconnect-ms' options are incompatible with socket in server mode"
            )
        backend = StreamNet(networks, options.id)
        await backend.listen(addresses.plain(options.addr), resolve_fd)
        return backend
    if seconds is not None and milliseconds is not None:
        raise GenericError("'reconnect' and 'reconnect-ms' are mutually exclusive")
    wait = milliseconds if milliseconds is not None else 1000 * (seconds or 0)
    if not 0 <= wait <= _MOST_MILLISECONDS:
        name = "reconnect-ms" if seconds is None else "reconnect"
        raise GenericError(f"Parameter '{name}' expects 0 to {_MOST_MILLISECONDS} milliseconds")
    backend = StreamNet(networks, options.id, reconnect_ms=wait)
    address = addresses.plain(options.addr)
    if isinstance(address, FdSocketAddress):
        # It is there already, and who named it is told at once if it is not.
        backend.serve(addresses.adopt(address, resolve_fd))
    else:
        backend.connect(address, resolve_fd)
    return backend


def usable_fd(fd: int, name: str) -> None:
    """GenericError unless the descriptor can be made non-blocking."""
    try:
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "Bad file descriptor"
        raise GenericError(f"{name}: Can't use file descriptor {fd}: {reason}") from None


def socket_of(fd: int) -> socket.socket:
    """The socket behind a descriptor.  GenericError; the descriptor is closed then."""
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise GenericError(f"can't get socket option SO_TYPE: {error.strerror}") from None
