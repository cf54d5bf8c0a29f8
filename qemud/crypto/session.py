"""One TLS connection without I/O: bytes from the wire in, plaintext out, and the reverse.

    session = credentials.session(hostname)
    session.handshake()                     # True when done; send `take_output()`, then feed what comes
    session.feed(data)
    session.read()                          # all plaintext there is
    session.write(b"hello")
    sock.send(session.take_output())

Neither renegotiation nor resumption is spoken: who was let in stays who it was.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from qemud.crypto.certificate import Certificate
from qemud.crypto.der import DerError
from qemud.crypto.reasons import handshake_failure
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from ssl import SSLContext

_READ_SIZE = 64 * 1024


class TlsError(GenericError):
    """The handshake failed, or the other side is not who it should be."""


class TlsSession:
    """See the module."""

    def __init__(self, context: SSLContext, hostname: str | None = None) -> None:
        """`hostname` is whom a client wants to reach; a server has none."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._hostname = hostname
        server = context.protocol is ssl.PROTOCOL_TLS_SERVER
        name = hostname if context.check_hostname else hostname or None
        try:
            self._ssl = context.wrap_bio(
                self._incoming, self._outgoing, server_side=server, server_hostname=name
            )
        except ValueError:  # no name that a certificate could have
            raise TlsError(f"Certificate does not match the hostname {hostname}") from None
        self.is_established = False
        self.has_ended = False
        """Whether the other side has said that no more will come."""

    def handshake(self) -> bool:
        """Go on as far as possible; whether the handshake is done.  TlsError: it failed; what is to be sent tells the other side."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TlsError(handshake_failure(error, self._hostname)) from None
        except ssl.CertificateError:
            raise TlsError(f"Certificate does not match the hostname {self._hostname}") from None
        self.is_established = True
        return True

    def peer_name(self) -> str:
        """The distinguished name in the other side's certificate.  TlsError: it has none."""
        encoded = self._ssl.getpeercert(binary_form=True)
        if not encoded:
            raise TlsError("No certificate peers")
        try:
            return Certificate(encoded).subject()
        except DerError as error:
            raise TlsError(f"Cannot get client distinguished name: {error}") from None

    def feed(self, data: bytes) -> None:
        """Bytes from the wire; b"" at their end."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    @property
    def has_input(self) -> bool:
        """Whether there are bytes from the wire that nobody has read."""
        return bool(self._incoming.pending or self._ssl.pending())

    def read(self) -> bytes:
        """All plaintext; `has_ended` is set with the last.  OSError: what came is no TLS, or was cut off."""
        parts: list[bytes] = []
        while not self.has_ended:
            try:
                part = self._ssl.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                part = b""
            except OSError:
                if not parts:
                    raise
                part = b""  # what came before was right; nothing that comes now will be
            if part:
                parts.append(part)
            else:
                self.has_ended = True
        return b"".join(parts)

    def write(self, data: bytes | memoryview) -> None:
        """Plaintext to send."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._ssl.write(rest) :]

    def close(self) -> None:
        """Say that no more will come."""
        if self.is_established:
            try:
                self._ssl.unwrap()
            except OSError:  # the other side has not said so, and is not waited for
                return

    def take_output(self) -> bytes:
        """What is to be sent."""
        return self._outgoing.read()
