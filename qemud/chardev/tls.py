"""TLS under a socket chardev: credentials and authorization by their ids, and the stream of one connection.

    protection = Protection(options, objects)           # GenericError, with QEMU's text
    stream = await protection.establish(sock, host)     # GenericError: not with this one
    stream.recv(65536), stream.encrypt(b"hello")
    protection.release()

Source of order and texts: QEMU 10.0, chardev/char-socket.c.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from qemud._generated.types.crypto import QCryptoTLSCredsEndpoint
from qemud.crypto.authz import authorize
from qemud.crypto.credentials import find_credentials
from qemud.crypto.handshake import shake_hands
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from qemud.crypto.session import TlsSession
    from qemud.qom.object import Object

_MOST_SILENT = 16
"""How many pieces without plaintext are read in one go."""

_MOST_ANSWERS = 64 * 1024
"""Bytes of answers that the protocol itself asks for, to one who does not take them."""


class TlsStream:
    """One connection after its handshake.  `answer` sends what the protocol itself has to say."""

    def __init__(self, sock: socket.socket, session: TlsSession) -> None:
        self._sock = sock
        self._session = session
        self._answered = 0
        self.answer: Callable[[bytes], int] = lambda _: 0
        """Sends bytes; the result is how many bytes are waiting then."""

    @property
    def has_input(self) -> bool:
        """Whether there is something to read that the socket does not show."""
        return self._session.has_input

    @property
    def has_ended(self) -> bool:
        """Whether the other side has said that no more will come."""
        return self._session.has_ended

    def recv(self, size: int) -> bytes:
        """As a socket's recv; there may be a little more than `size`.  OSError: BlockingIOError, or what came is not right."""
        session = self._session
        if session.has_input:
            data = session.read()
            if data or session.has_ended:
                return data
        for _ in range(_MOST_SILENT):
            encrypted = self._sock.recv(size)
            session.feed(encrypted)
            data = session.read()
            self._send_answers()
            if data or not encrypted or session.has_ended:
                return data
        raise BlockingIOError

    def encrypt(self, data: bytes) -> bytes:
        """The bytes to send for `data`."""
        self._session.write(data)
        return self._session.take_output()

    def say_goodbye(self) -> None:
        """Tell the other side that this is the end, if there is room for it; only when nothing is waiting."""
        self._session.close()
        with suppress(OSError):
            self._sock.send(self._session.take_output())

    def _send_answers(self) -> None:
        output = self._session.take_output()
        if output:
            waiting = self.answer(output)
            self._answered = self._answered + len(output) if waiting else 0
            if self._answered > _MOST_ANSWERS:
                raise ConnectionAbortedError


class Protection:
    """What the options of a socket say of TLS."""

    def __init__(
        self,
        objects: Callable[[], Mapping[str, Object]],
        credentials: str,
        authz: str | None,
        *,
        server: bool,
    ) -> None:
        """`objects` are those that there are now; the credentials cannot be removed until `release`.  GenericError: there are none of that id, or not such."""
        endpoint = QCryptoTLSCredsEndpoint.SERVER if server else QCryptoTLSCredsEndpoint.CLIENT
        self._objects = objects
        self._credentials = find_credentials(objects(), credentials, endpoint)
        self._authz = authz
        if authz is not None and not self._credentials.identifies_peer:
            raise GenericError("'tls-authz' option requires TLS credentials that verify the peer")
        self._credentials.hold()

    def release(self) -> None:
        """No more connections will be made."""
        self._credentials.release()

    async def establish(self, sock: socket.socket, hostname: str | None) -> TlsStream:
        """Shake hands on a non-blocking socket, which stays the caller's, and see who it is.  GenericError."""
        return TlsStream(sock, await self.open_session(sock, hostname))

    async def open_session(self, sock: socket.socket, hostname: str | None) -> TlsSession:
        """The same, for who does the rest without a `TlsStream`."""
        session = self._credentials.session(hostname)
        await shake_hands(sock, session)
        if self._authz is not None and hostname is None:
            try:
                await authorize(self._objects(), self._authz, session.peer_name())
            except GenericError:
                session.close()
                with suppress(OSError):
                    sock.send(session.take_output())
                raise
        return session


def describe_trouble(error: OSError) -> str | None:
    """What was wrong with what came; None where a connection has merely ended."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    return None
