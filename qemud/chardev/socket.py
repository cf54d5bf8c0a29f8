"""A chardev over a stream socket: UNIX (also abstract), TCP, or one that is open already; server or client.

A server serves one client at a time and accepts the next when that one has gone.  A client connects once, or again and again
with `reconnect-ms`.  UNIX sockets carry descriptors (SCM_RIGHTS), which uvloop's transports would lose: the socket is
read by recvmsg(2) under the loop's `add_reader`, and each message's descriptors wait for `take_fds`.

With `tls-creds` there is a connection when TLS has been agreed on and the client may come in (`tls.py`); until then, or until it took
too long, others wait in the backlog.

Source: QEMU 10.0, chardev/char-socket.c, for options, states and texts.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING

from qemud._generated.types.sockets import FdSocketAddress, InetSocketAddress, UnixSocketAddress
from qemud.chardev import address as addresses
from qemud.chardev.descriptor import DescriptorChardev, Output
from qemud.chardev.stream import ChardevEvent
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from qemud._generated.types.char_backends import ChardevSocket
    from qemud.chardev.address import Identity, Listener, ResolveFd
    from qemud.chardev.log import Log
    from qemud.chardev.telnet import Decoder
    from qemud.chardev.tls import Protection, TlsStream
    from qemud.qom.object import Object

_MAX_FDS = 16
"""The most descriptors that one message may carry, as in QEMU; the kernel closes the others."""

_MAX_MESSAGES = 16
"""How many messages' descriptors wait for a user; more close the oldest."""

_ACCEPT_AGAIN = 1.0
"""Seconds until a client is accepted that there were no descriptors for."""

_ANCILLARY = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
_RECEIVE_FLAGS = socket.MSG_CMSG_CLOEXEC


class SocketChardev(DescriptorChardev):
    """A stream socket; open while a connection exists."""

    kind = "socket"
    can_yank = True
    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        label: str,
        options: ChardevSocket,
        log: Log | None = None,
        *,
        resolve_fd: ResolveFd = addresses.inherited_fd,
        report: Callable[[str], object] = lambda _: None,
        replaces: Collection[Identity] = (),
        objects: Callable[[], Mapping[str, Object]] = dict,
    ) -> None:
        """`report` takes a line for people: "info: …" while waiting, "Unable to connect …" while reconnecting.

        `objects` are those below `/objects`.  GenericError: the options do not go together.
        """
        protection = None
        if options.tls_creds is not None:
            from qemud.chardev.tls import Protection

            protection = Protection(objects, options.tls_creds, options.tls_authz, server=options.server)
        try:
            _validate(options)
        except GenericError:
            if protection is not None:
                protection.release()
            raise
        super().__init__(label, log)
        self._options = options
        self._address: addresses.Address | None = addresses.flatten(options.addr)
        self._resolve_fd = resolve_fd
        self._report = report
        self._replaces = replaces
        self._scheme = "telnet" if options.telnet else "tcp"
        self._reconnect_ms = max(
            0, options.reconnect_ms or 0 if options.reconnect is None else options.reconnect * 1000
        )
        self._listener: Listener | None = None
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connected: asyncio.Future[None] | None = None
        self._trouble_reported = False
        self._fds: deque[list[int]] = deque()
        self._decoder: Decoder | None = None
        self._encode: Callable[[bytes], bytes] = bytes
        self._protection: Protection | None = protection
        self._tls: TlsStream | None = None
        self._greeted: socket.socket | None = None
        self._recv: Callable[[int], bytes] = _nothing
        self._name_disconnected()

    @property
    def identities(self) -> tuple[Identity, ...]:
        """As in the base."""
        found = None if self._listener is None else self._listener.identity
        return () if found is None else (found,)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._socket is not None

    # -- opening and closing -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Listen, or connect; with `wait`, until somebody is there."""
        self._loop = asyncio.get_running_loop()
        address = self._address
        assert address is not None
        if not self._options.server:
            if self._reconnect_ms > 0:
                self._task = self._loop.create_task(self._reconnect())
            else:
                self._serve(*await self._connect())
            return
        self._listener = await addresses.listen(address, self._resolve_fd, self._replaces)
        self._address = self._listener.local()
        self._name_disconnected()
        self._accept_on()
        if self._options.wait:
            self._report(f"info: QEMU waiting for connection on: {self.filename}")
            self._connected = self._loop.create_future()
            try:
                await self._connected
            except asyncio.CancelledError:
                self.close()
                raise
            finally:
                self._connected = None

    def close(self) -> None:
        """As in the base; a path that was made here is removed."""
        self._reconnect_ms = 0
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop_connection()
        if self._listener is not None:
            self._accept_off()
            self._listener.close()
            self._listener = None
        protection, self._protection = self._protection, None
        if protection is not None:
            protection.release()
        super().close()

    # -- connections -------------------------------------------------------------------------------------------------

    def _accept_on(self) -> None:
        """Look for a client."""
        if self._listener is not None:
            for sock in self._listener.sockets:
                self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept_off(self) -> None:
        """Leave clients in the backlog."""
        if self._listener is not None:
            for sock in self._listener.sockets:
                self._loop.remove_reader(sock.fileno())

    def _accept(self, listening: socket.socket) -> None:
        """A client knocks."""
        if self._socket is not None or self._task is not None:
            return
        try:
            sock, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):  # it went away again
            return
        except OSError:  # descriptors or memory ran out, and the client keeps knocking: look again in a while
            self._accept_off()
            self._timer = self._loop.call_later(_ACCEPT_AGAIN, self._accept_on)
            return
        self._serve_client(sock)

    def add_client(self, fd: int) -> bool:
        """As in the base: not while there is a connection, or one is being made."""
        if self._socket is not None or self._task is not None:
            return False
        sock = socket.socket(fileno=fd)
        if sock.type != socket.SOCK_STREAM:
            sock.detach()
            return False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        os.set_inheritable(fd, False)
        self._serve_client(sock)
        return True

    def _serve_client(self, sock: socket.socket) -> None:
        """A client is there; others wait."""
        sock.setblocking(False)
        self._accept_off()
        if self._protection is None:
            self._serve(sock)
            self._announce_client()
        else:
            self._greeted = sock
            self._task = self._loop.create_task(self._greet(sock, self._protection))

    def _announce_client(self) -> None:
        """Whoever waits for a client need not any longer."""
        if self._connected is not None and not self._connected.done():
            self._connected.set_result(None)

    async def _greet(self, sock: socket.socket, protection: Protection) -> None:
        """Agree on TLS with a client; if that fails, look for another."""
        try:
            peer = addresses.print_peer(sock)
            tls = await protection.establish(sock, None)
        except GenericError as error:
            sock.close()
            self._warn(f"client {peer} refused: {error}")
            self._task = None
            self._accept_on()
        except BaseException:
            sock.close()
            raise
        else:
            self._task = None
            self._serve(sock, tls)
            self._announce_client()
        finally:
            self._greeted = None

    def _warn(self, text: str) -> None:
        """Tell people, in one line whatever the other side has sent."""
        shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
        self._report(f"warning: chardev {self.label}: {shown}")

    def yank(self) -> None:
        """As in the base: both directions end, and what follows is what follows a disconnection."""
        sock = self._socket or self._greeted
        if sock is not None:
            with contextlib.suppress(OSError):  # it is gone already
                sock.shutdown(socket.SHUT_RDWR)

    async def _connect(self) -> tuple[socket.socket, TlsStream | None]:
        """A connection, as a client.  GenericError."""
        address = self._address
        assert address is not None
        sock = await addresses.connect(address, self._resolve_fd)
        if self._protection is None:
            return sock, None
        self._greeted = sock
        try:
            host = address.host if isinstance(address, InetSocketAddress) else ""
            return sock, await self._protection.establish(sock, host)
        except BaseException:
            sock.close()
            raise
        finally:
            self._greeted = None

    async def _reconnect(self) -> None:
        """Try once to connect; a timer tries again."""
        try:
            sock, tls = await self._connect()
        except GenericError as error:
            if not self._trouble_reported:
                self._trouble_reported = True
                self._report(f"Unable to connect character device {self.label}: {error}")
            self._reconnect_later()
        else:
            self._trouble_reported = False
            self._serve(sock, tls)
        finally:
            self._task = None

    def _reconnect_later(self) -> None:
        """Set the timer."""
        if self._reconnect_ms > 0:
            self._timer = self._loop.call_later(self._reconnect_ms / 1000, self._reconnect_now)

    def _reconnect_now(self) -> None:
        """The timer has run out."""
        self._timer = None
        self._task = self._loop.create_task(self._reconnect())

    def _serve(self, sock: socket.socket, tls: TlsStream | None = None) -> None:
        """A connection exists."""
        self._socket = sock
        self._tls = tls
        if sock.family == socket.AF_UNIX:
            self._recv = self._recv_with_fds
            self.hangup_events = 0
        else:
            self._recv = sock.recv
            # TCP does not tell one who has merely finished from one who has gone.  Where nobody answers, it is taken for the latter:
            # the next client shall not have to wait for a guest to read.
            self.hangup_events = select.EPOLLRDHUP
            if self._options.nodelay and sock.family in {socket.AF_INET, socket.AF_INET6}:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._recv = self._recv_tls
        self.filename = addresses.print_connection(
            sock, self._address, self._scheme, server=self._options.server
        )
        output = Output(
            sock.fileno(),
            send=sock.send,
            gather=sock.sendmsg,
            failed=self.output_failed,
            drained=self.output_drained,
        )
        if tls is not None:

            def answer(data: bytes) -> int:
                output.write(data)
                return output.pending

            tls.answer = answer
        if self._options.telnet:
            from qemud.chardev import telnet

            self._decoder = telnet.Decoder()
            self._encode = telnet.encode
            output.write(telnet.NEGOTIATION if tls is None else tls.encrypt(telnet.NEGOTIATION))
            if not self.is_connected:  # the terminal was gone before it was asked
                return
        self.connect(sock.fileno(), output)
        self.set_open(True)

    def _drop_connection(self) -> None:
        """Forget the connection, if there is one."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        tls, self._tls = self._tls, None
        unsent = self.pending
        self.disconnect()
        if tls is not None and not unsent:
            tls.say_goodbye()
        sock.close()
        self._decoder = None
        while self._fds:
            self._close_fds(self._fds.popleft())
        self._name_disconnected()

    def input_ended(self) -> None:
        """The other side is gone."""
        if self._socket is None:
            return
        self._drop_connection()
        self._accept_on()
        if self.is_open:
            self.set_open(False)
        if not self._options.server:
            self._reconnect_later()

    def _name_disconnected(self) -> None:
        """What query-chardev shows while there is no connection."""
        shown = addresses.print_address(self._address, self._scheme, server=self._options.server)
        self.filename = f"disconnected:{shown}"

    # -- bytes and descriptors ---------------------------------------------------------------------------------------

    def transmit(self, data: bytes) -> None:
        """As in the base."""
        if self._output is not None:
            if self._decoder is not None:
                data = self._encode(data)
            self._output.write(data if self._tls is None else self._tls.encrypt(data))

    def receive(self, size: int) -> bytes:
        """As in the base, with descriptors."""
        return self._recv(size)

    def decode(self, data: bytes) -> None:
        """As in the base, without telnet's commands."""
        tls = self._tls
        if self._decoder is None:
            self.received(data)
        else:
            for part in self._decoder.feed(data):
                if part is None:
                    self.happened(ChardevEvent.BREAK)
                else:
                    self.received(part)
        if tls is not None and tls is self._tls and tls.has_ended:
            self.end_when_sent()  # which the socket may never say

    def _recv_tls(self, size: int) -> bytes:
        """Read what was encrypted."""
        assert self._tls is not None
        try:
            return self._tls.recv(size)
        except OSError as error:
            from qemud.chardev.tls import describe_trouble

            trouble = describe_trouble(error)
            if trouble is not None:
                self._warn(trouble)
            raise

    def _update_input(self) -> None:
        """As in the base; what came with the end of the handshake is not waiting in the socket."""
        super()._update_input()
        if self._tls is not None and self._tls.has_input and self.allowance > 0:
            self._loop.call_soon(self._read_early, self._tls)

    def _read_early(self, tls: TlsStream) -> None:
        if tls is self._tls and tls.has_input and self._input is not None and self._input.is_on:
            self._readable()

    def take_fds(self) -> list[int]:
        """As in the base."""
        return self._fds.popleft() if self._fds else []

    def _recv_with_fds(self, size: int) -> bytes:
        """Read bytes and the descriptors that came with them."""
        assert self._socket is not None
        data, ancillary, _, _ = self._socket.recvmsg(size, _ANCILLARY, _RECEIVE_FLAGS)
        if ancillary:
            self._keep_fds(ancillary)
        return data

    def _keep_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        """Keep a message's descriptors for `take_fds`."""
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if not fds:
            return
        for fd in fds:
            os.set_blocking(fd, True)  # the mode comes with the descriptor; what QEMU hands on is blocking
        self._fds.append(fds.tolist())
        if len(self._fds) > _MAX_MESSAGES:
            self._close_fds(self._fds.popleft())

    @staticmethod
    def _close_fds(fds: list[int]) -> None:
        """Close descriptors that nobody took."""
        for fd in fds:
            os.close(fd)


def _nothing(_: int) -> bytes:
    """Read from no connection."""
    return b""


def _validate(options: ChardevSocket) -> None:
    """Refuse options that do not go together, with QEMU's texts and in its order."""
    reconnects = options.reconnect is not None or bool(options.reconnect_ms)
    address = addresses.flatten(options.addr)
    if isinstance(address, FdSocketAddress):
        if reconnects:
            raise GenericError("'reconnect' option is incompatible with 'fd' address type")
        if options.tls_creds is not None and not options.server:
            raise GenericError("'tls_creds' option is incompatible with 'fd' address type as client")
    if isinstance(address, UnixSocketAddress) and options.tls_creds is not None:
        raise GenericError("'tls_creds' option is incompatible with 'unix' address type")
    if options.tls_authz is not None and options.tls_creds is None:
        raise GenericError("'tls_authz' option requires 'tls_creds' option")
    if options.server:
        if options.reconnect is not None:
            raise GenericError("'reconnect' option is incompatible with socket in server listen mode")
    elif options.wait is not None:
        raise GenericError("'wait' option is incompatible with socket in client connect mode")
    if options.reconnect is not None and options.reconnect_ms is not None:
        raise GenericError("'reconnect' and 'reconnect-ms' are mutually exclusive")
