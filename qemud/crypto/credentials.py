"""Credentials for TLS: `tls-creds-x509` and `tls-creds-psk`.

    creds = find_credentials(objects, "tls0", QCryptoTLSCredsEndpoint.SERVER)
    creds.hold()                            # it cannot be removed until `release`
    session = creds.session()

The files are read once, when the object is made.

Source of order and texts: QEMU 10.0, crypto/tlscreds*.c.  TLS itself is Python's ssl, so OpenSSL: see the page on TLS in docs/decisions.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qemud._generated.types.crypto import (
    QCryptoTLSCredsEndpoint,
    TlsCredsProperties,
    TlsCredsPskProperties,
    TlsCredsX509Properties,
)
from qemud.crypto.files import credential_path, read_file
from qemud.crypto.priority import parse_priority
from qemud.machine.backends import secret_in
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.userobjects import UserCreatable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from qemud.crypto.session import TlsSession
    from qemud.qom.object import Object

_DEFAULT_USER = "qemu"
_PSK_CIPHERS = "kECDHEPSK:kDHEPSK:kPSK:!eNULL"


class TlsCredentials(UserCreatable, type_name="tls-creds", abstract=True):
    """What all credentials have in common."""

    options: TlsCredsProperties
    _context: ssl.SSLContext

    async def complete(self) -> None:
        """Read the files."""
        self._context = await asyncio.to_thread(self._make_context)

    def session(self, hostname: str | None = None) -> TlsSession:
        """A new connection, to the host of that name.  TlsError: no certificate can have that name."""
        from qemud.crypto.session import TlsSession

        return TlsSession(self._context, hostname)

    @property
    def identifies_peer(self) -> bool:
        """Whether the other side has a name that was looked at, and authorization makes sense."""
        return False

    @property
    def is_server(self) -> bool:
        """Whether these are for the side that is connected to."""
        return self.options.endpoint is QCryptoTLSCredsEndpoint.SERVER

    def _make_context(self) -> ssl.SSLContext:
        """Read the files; in a worker thread."""
        raise GenericError(f"object type '{self.type_name}' is abstract")

    def _new_context(self) -> ssl.SSLContext:
        """What does not depend on the kind."""
        import ssl

        versions = parse_priority(self.options.priority or "NORMAL")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if self.is_server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion[min(versions)]
        context.maximum_version = ssl.TLSVersion[max(versions)]
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        if self.is_server:
            context.num_tickets = 0
        return context

    def _load_dh_parameters(self, context: ssl.SSLContext) -> None:
        """Parameters of its own for key exchange, if there are any."""
        path = credential_path(self.options.dir, "dh-params.pem", required=False)
        if path is not None:
            try:
                context.load_dh_params(path)
            except OSError as error:
                raise GenericError(f"Unable to load DH parameters from {path}: {_reason(error)}") from None


class TlsCredentialsX509(
    TlsCredentials, type_name="tls-creds-x509", options=TlsCredsX509Properties, interfaces=("user-creatable",)
):
    """Certificates."""

    options: TlsCredsX509Properties

    @property
    def identifies_peer(self) -> bool:
        """As in the base."""
        return self.options.verify_peer

    async def complete(self) -> None:
        """As in the base, with the password that the private key may need."""
        self._password: str | None = None
        name = self.options.passwordid
        if name is not None:
            assert self.parent is not None
            try:
                self._password = secret_in(self.parent.children, name).decode()
            except UnicodeDecodeError:
                raise GenericError(f"Data from secret {name} is not valid UTF-8") from None
        await super().complete()

    def _make_context(self) -> ssl.SSLContext:
        """As in the base."""
        import ssl

        directory = self.options.dir
        authority = credential_path(directory, "ca-cert.pem")
        assert authority is not None
        side = "server" if self.is_server else "client"
        revoked = credential_path(directory, "ca-crl.pem", required=False) if self.is_server else None
        own = credential_path(directory, f"{side}-cert.pem", required=self.is_server)
        key = credential_path(directory, f"{side}-key.pem", required=self.is_server)
        context = self._new_context()
        if self.options.sanity_check:
            from qemud.crypto.sanity import check_files

            check_files(server=self.is_server, authority=authority, own=own)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = not self.is_server and self.options.verify_peer
        context.verify_mode = ssl.CERT_REQUIRED if self.options.verify_peer else ssl.CERT_NONE
        _load_authorities(context, authority, "Cannot load CA certificate '{}': {}")
        if own is not None and key is not None:
            self._load_own(context, authority, own, key)
        if revoked is not None:
            _load_authorities(context, revoked, "Cannot load CRL '{}': {}")
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
        if self.is_server:
            self._load_dh_parameters(context)
        return context

    def _load_own(self, context: ssl.SSLContext, authority: str, own: str, key: str) -> None:
        """Our certificate and its key."""
        password = self._password or ""  # never asked for on the terminal
        try:
            context.load_cert_chain(own, key, lambda: password)
        except (OSError, ValueError) as error:
            raise GenericError(f"Cannot load certificate '{own}' & key '{key}': {_reason(error)}") from None
        if self.options.sanity_check:
            from qemud.crypto.sanity import check_signature

            check_signature(server=self.is_server, authority=authority, own=own, key=key, password=password)


class TlsCredentialsPsk(
    TlsCredentials, type_name="tls-creds-psk", options=TlsCredsPskProperties, interfaces=("user-creatable",)
):
    """A key that both sides know."""

    options: TlsCredsPskProperties

    def _make_context(self) -> ssl.SSLContext:
        """As in the base."""
        import ssl

        options = self.options
        if self.is_server and options.username is not None:
            raise GenericError("username should not be set when endpoint=server")
        path = credential_path(options.dir, "keys.psk")
        assert path is not None
        if not getattr(ssl, "HAS_PSK", False):
            raise GenericError("TLS with pre-shared keys requires Python 3.13 or later")
        keys = _read_keys(path)
        # Written so that the type checker need not know of Python 3.13.
        context: Any = self._new_context()
        context.check_hostname = False
        # A server that shows a certificate instead of knowing the key is refused: nothing is trusted.
        context.verify_mode = ssl.CERT_NONE if self.is_server else ssl.CERT_REQUIRED
        context.set_ciphers(_PSK_CIPHERS)
        if self.is_server:
            context.set_psk_server_callback(lambda user: keys.get(user or "", b""))
            self._load_dh_parameters(context)
        else:
            user = _DEFAULT_USER if options.username is None else options.username
            if user not in keys:
                raise GenericError(f"Username {user} not found in PSK file {path}")
            context.set_psk_client_callback(lambda _hint: (user, keys[user]))
        found: ssl.SSLContext = context
        return found


def find_credentials(
    objects: Mapping[str, Object], name: str, endpoint: QCryptoTLSCredsEndpoint
) -> TlsCredentials:
    """The credentials of that id.  GenericError: there are none, or they are for the other side."""
    found = objects.get(name)
    if found is None or not found.in_use:
        raise GenericError(f"No TLS credentials with id '{name}'")
    if not isinstance(found, TlsCredentials):
        raise GenericError(f"Object with id '{name}' is not TLS credentials")
    if found.options.endpoint is not endpoint:
        raise GenericError(f"Expected TLS credentials for a {endpoint.value} endpoint")
    return found


def _load_authorities(context: ssl.SSLContext, path: str, trouble: str) -> None:
    """Certificates to trust, or lists of those that were revoked."""
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise GenericError(trouble.format(path, _reason(error))) from None


def _read_keys(path: str) -> dict[str, bytes]:
    """The keys in a file, by user.  GenericError."""
    keys: dict[str, bytes] = {}
    lines = read_file(path, "Cannot read PSK file {}: {}").decode("utf-8", "surrogateescape").splitlines()
    for number, line in enumerate(lines, 1):
        user, colon, key = line.partition(":")
        if not line or line.startswith("#"):
            continue
        try:
            decoded = bytes.fromhex(key)
        except ValueError:
            decoded = b""
        if not colon or not decoded:
            raise GenericError(f"Cannot read PSK file {path}: line {number} is not USER:HEXADECIMAL")
        keys.setdefault(user, decoded)
    return keys


def _reason(error: Exception) -> str:
    """What OpenSSL or the system says, without its source files and lines."""
    reason = getattr(error, "reason", None)
    if reason:
        return str(reason).replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)
