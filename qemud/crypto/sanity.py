"""Looks at credentials before they are used, so that a mistake in a certificate is told when it is made, not by the first client.

    check(server=True, authority="…/ca-cert.pem", own="…/server-cert.pem", key="…/server-key.pem", password=None)

Reads files and computes signatures: for a worker thread.  Source of order and texts: QEMU 10.0, crypto/tlscredsx509.c.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from qemud.crypto.certificate import (
    ANY_PURPOSE,
    CLIENT_AUTH,
    DIGITAL_SIGNATURE,
    KEY_CERT_SIGN,
    SERVER_AUTH,
    certificates,
)
from qemud.crypto.der import DerError
from qemud.crypto.files import read_file
from qemud.crypto.reasons import UNSUPPORTED_PURPOSE, verification_failure
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.crypto.certificate import Certificate

_MOST_AUTHORITIES = 16


def check_files(*, server: bool, authority: str, own: str | None) -> None:
    """Dates and permitted uses of the certificates in the files.  GenericError."""
    side = "server" if server else "client"
    now = datetime.now(UTC)
    if own is not None:
        try:
            found = certificates(read_file(own, "Cannot load CA cert list {}: {}"))
        except DerError as error:
            raise GenericError(f"Unable to import {side} certificate {own}: {error}") from None
        _check_dates(found[0], f"The {side} certificate {own}", now)
        if found[0].is_authority:
            raise GenericError(
                f"The certificate {own} basic constraints show a CA, but we need one for a {side}"
            )
        _check_usage(found[0], own, DIGITAL_SIGNATURE, "digital signature")
        _check_purpose(found[0], own, server=server)
    try:
        authorities = certificates(read_file(authority, "Cannot load CA cert list {}: {}"))
    except DerError:
        authorities = []
    if not 0 < len(authorities) <= _MOST_AUTHORITIES:
        raise GenericError(f"Unable to import CA certificate list {authority}")
    for each in authorities:
        _check_dates(each, f"The CA certificate {authority}", now)
        if each.is_authority is None:
            raise GenericError(f"The certificate {authority} is missing basic constraints for a CA")
        if not each.is_authority:
            raise GenericError(f"The certificate {authority} basic constraints do not show a CA")
        _check_usage(each, authority, KEY_CERT_SIGN, "certificate signing")


def check_signature(*, server: bool, authority: str, own: str, key: str, password: str) -> None:
    """See whether one of the authorities has signed the certificate, by shaking hands with ourselves.  GenericError."""
    left, right = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    right.check_hostname = False
    right.verify_mode = ssl.CERT_NONE
    left.load_cert_chain(own, key, lambda: password)
    judge = right
    if not server:
        right.load_cert_chain(own, key, lambda: password)
        judge = left
    judge.load_verify_locations(authority)
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    judge.verify_mode = ssl.CERT_REQUIRED
    to_left, to_right = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        left.wrap_bio(to_left, to_right, server_side=True),
        right.wrap_bio(to_right, to_left),
    ]
    try:
        for _ in range(4):  # more flights than a handshake has
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as error:
        if error.verify_code != UNSUPPORTED_PURPOSE:  # that has been looked at, as strictly as QEMU does
            raise GenericError(
                f"Our own certificate {own} failed validation against {authority}: {verification_failure(error)}"
            ) from None
    except ssl.SSLError:
        return  # something else, which is told when the credentials are used


def _check_dates(certificate: Certificate, what: str, now: datetime) -> None:
    if certificate.not_after < now:
        raise GenericError(f"{what} has expired")
    if certificate.not_before > now:
        raise GenericError(f"{what} is not yet active")


def _check_usage(certificate: Certificate, path: str, needed: int, what: str) -> None:
    """What the key may be used for, if that must be heeded."""
    if certificate.usage is not None and certificate.usage_critical and needed not in certificate.usage:
        raise GenericError(f"Certificate {path} usage does not permit {what}")


def _check_purpose(certificate: Certificate, path: str, *, server: bool) -> None:
    """Which side the certificate may be for, if that must be heeded."""
    if certificate.purposes is None or not certificate.purposes_critical:
        return
    if not certificate.purposes & {SERVER_AUTH if server else CLIENT_AUTH, ANY_PURPOSE}:
        use = "a TLS server" if server else "a TLS client"
        raise GenericError(f"Certificate {path} purpose does not allow use with {use}")
