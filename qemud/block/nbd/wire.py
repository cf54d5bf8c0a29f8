"""A connection that speaks NBD: bytes exactly as many as wanted, in and out, with or without TLS.

    wire = Wire(sock)                       # a non-blocking socket, which is closed with it
    header = await wire.read(28)            # EOFError: the other side has gone
    await wire.read_into(view)              # large data straight to where it belongs
    await wire.send(header, *views)         # all of it, one sender at a time

Small reads are served from a buffer, so that a burst of requests costs one system call.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.chardev.tls import Protection
    from qemud.crypto.session import TlsSession

_BUFFER = 64 << 10
_MAX_PIECES = 64
"""How many buffers go into one system call."""


class Wire:
    """See the module."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._tls: TlsSession | None = None
        self._buffer = bytearray(_BUFFER)
        self._begin = 0
        self._end = 0
        self._sending = asyncio.Lock()

    async def start_tls(self, protection: Protection, hostname: str | None = None) -> None:
        """Speak TLS from now on.  GenericError, and with it the connection has ended."""
        if self._begin != self._end:
            raise GenericError("TLS handshake failed: data came before it")
        self._tls = await protection.open_session(self._sock, hostname)
        self._take_plaintext()

    async def read(self, size: int) -> bytes:
        """Exactly so many bytes, which are few.  EOFError, OSError."""
        if self._end - self._begin < size:
            if size > len(self._buffer):
                data = bytearray(size)
                await self.read_into(memoryview(data))
                return bytes(data)
            await self._fill(size)
        begin = self._begin
        self._begin = begin + size
        return bytes(self._buffer[begin : begin + size])

    async def read_into(self, view: memoryview) -> None:
        """Fill a view.  EOFError, OSError."""
        done = min(len(view), self._end - self._begin)
        view[:done] = self._buffer[self._begin : self._begin + done]
        self._begin += done
        while done < len(view):
            if self._tls is None:
                count = await self._loop.sock_recv_into(self._sock, view[done:])
                if not count:
                    raise EOFError
                done += count
            else:
                await self._fill(1)
                count = min(len(view) - done, self._end - self._begin)
                view[done : done + count] = self._buffer[self._begin : self._begin + count]
                self._begin += count
                done += count

    async def skip(self, size: int) -> None:
        """Read so many bytes and forget them.  EOFError, OSError."""
        while size:
            if self._begin == self._end:
                await self._fill(1)
            count = min(size, self._end - self._begin)
            self._begin += count
            size -= count

    async def send(self, *pieces: bytes | memoryview) -> None:
        """Send all pieces, with nothing of others between.  OSError."""
        async with self._sending:
            tls = self._tls
            if tls is not None:
                for piece in pieces:
                    tls.write(piece)
                    await self._loop.sock_sendall(self._sock, tls.take_output())
                return
            rest = [memoryview(piece) for piece in pieces if len(piece)]
            while rest:
                try:
                    sent = self._sock.sendmsg(rest[:_MAX_PIECES])
                except (BlockingIOError, InterruptedError):
                    # The loop waits until there is room, and sends the first piece.
                    await self._loop.sock_sendall(self._sock, rest.pop(0))
                    continue
                while rest and sent >= len(rest[0]):
                    sent -= len(rest.pop(0))
                if sent:
                    rest[0] = rest[0][sent:]

    def shut(self) -> None:
        """Let whoever reads or sends find that the connection has ended; any task."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Nobody uses the connection any more."""
        if self._tls is not None:
            self._tls.close()
            with contextlib.suppress(OSError):
                self._sock.send(self._tls.take_output())
        self._sock.close()

    async def _fill(self, size: int) -> None:
        """Have at least so many bytes in the buffer."""
        if self._begin:
            rest = self._buffer[self._begin : self._end]
            self._buffer[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        while self._end < size:
            if self._tls is None:
                count = await self._loop.sock_recv_into(self._sock, memoryview(self._buffer)[self._end :])
                if not count:
                    raise EOFError
                self._end += count
            else:
                data = await self._loop.sock_recv(self._sock, _BUFFER)
                self._tls.feed(data)
                self._take_plaintext()
                if (not data or self._tls.has_ended) and self._end < size:
                    raise EOFError

    def _take_plaintext(self) -> None:
        """Put what the session has decrypted behind what is in the buffer."""
        assert self._tls is not None
        plain = self._tls.read()
        end = self._end + len(plain)
        if end > len(self._buffer):
            self._buffer.extend(bytes(end - len(self._buffer)))
        self._buffer[self._end : end] = plain
        self._end = end
