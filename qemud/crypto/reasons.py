"""OpenSSL's reasons for a refusal, in the words that QEMU has for them.

Source: QEMU 10.0, crypto/tlssession.c; OpenSSL 3.0, include/openssl/x509_vfy.h.in, for the numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

UNSUPPORTED_PURPOSE = 26

_REASONS = {
    9: "The certificate is not yet activated",
    10: "The certificate has expired",
    18: "The certificate hasn't got a known issuer",
    19: "The certificate hasn't got a known issuer",
    20: "The certificate hasn't got a known issuer",
    21: "The certificate hasn't got a known issuer",
    23: "The certificate has been revoked",
    66: "The certificate uses an insecure algorithm",
    67: "The certificate uses an insecure algorithm",
    68: "The certificate uses an insecure algorithm",
}
_MISMATCHES = {62, 64}


def verification_failure(error: ssl.SSLCertVerificationError, host: str | None = None) -> str:
    """Why a certificate was refused; `host` is the name that it should have."""
    if error.verify_code in _MISMATCHES:
        return f"Certificate does not match the hostname {host}"
    known = _REASONS.get(error.verify_code)
    return known or f"The certificate is not trusted: {error.verify_message}"


def handshake_failure(error: ssl.SSLError, host: str | None = None) -> str:
    """Why a handshake failed."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return verification_failure(error, host)
    reason = error.reason or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "Verify failed: No certificate was found."
    if isinstance(error, ssl.SSLEOFError):
        return "TLS handshake failed: the connection ended"
    return f"TLS handshake failed: {reason.replace('_', ' ').lower() or error}"
