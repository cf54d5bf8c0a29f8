"""What QEMU looks at in a certificate: dates, what it may be used for, whose it is.

    for certificate in certificates(text):              # a file in PEM
        certificate.not_after, certificate.is_authority, …

Signatures are for OpenSSL to check.

Source: RFC 5280, section 4.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime

from qemud.crypto import der
from qemud.crypto.der import DerError, Element
from qemud.crypto.names import dn_text

SERVER_AUTH, CLIENT_AUTH, ANY_PURPOSE = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "2.5.29.37.0"
DIGITAL_SIGNATURE, KEY_CERT_SIGN = 0, 5
"""Numbers of bits in the extension for key usage."""

_KEY_USAGE, _BASIC_CONSTRAINTS, _EXTENDED_KEY_USAGE = "2.5.29.15", "2.5.29.19", "2.5.29.37"
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_CENTURY = 50


class Certificate:
    """A certificate of X.509.

    `is_authority` is None where the certificate does not say; `usage` are numbers of bits and `purposes` object identifiers, None
    where there is no such extension, and `usage_critical` and `purposes_critical` whether it must be heeded.
    """

    def __init__(self, encoded: bytes) -> None:
        """DerError: it is malformed."""
        whole, rest = der.read(encoded)
        fields = list(whole.expect(der.SEQUENCE).children())
        if rest or not fields:
            raise DerError("not a certificate")
        fields = list(fields[0].expect(der.SEQUENCE).children())
        if fields and fields[0].tag == _VERSION:
            del fields[0]
        if len(fields) < 6:
            raise DerError("fields are missing")
        self.encoded = encoded
        self._subject = fields[4].expect(der.SEQUENCE)
        times = [_time(each) for each in fields[3].expect(der.SEQUENCE).children()]
        if len(times) != 2:
            raise DerError("a validity without two dates")
        self.not_before, self.not_after = times
        self.is_authority: bool | None = None
        self.usage: frozenset[int] | None = None
        self.usage_critical = False
        self.purposes: frozenset[str] | None = None
        self.purposes_critical = False
        for field in fields[6:]:
            if field.tag == _EXTENSIONS:
                for extension in der.read(field.content)[0].expect(der.SEQUENCE).children():
                    self._take_extension(extension)

    def subject(self) -> str:
        """The distinguished name, see `qemud.crypto.names`.  DerError: there is none."""
        return dn_text(self._subject)

    def _take_extension(self, extension: Element) -> None:
        parts = list(extension.expect(der.SEQUENCE).children())
        if len(parts) not in {2, 3}:
            raise DerError("an extension that is none")
        oid = der.oid_text(parts[0].expect(der.OID).content)
        if oid not in {_KEY_USAGE, _BASIC_CONSTRAINTS, _EXTENDED_KEY_USAGE}:
            return
        critical = len(parts) == 3 and parts[1].expect(der.BOOLEAN).content != b"\0"
        value = der.read(parts[-1].expect(der.OCTET_STRING).content)[0]
        if oid == _BASIC_CONSTRAINTS:
            flags = [each for each in value.expect(der.SEQUENCE).children() if each.tag == der.BOOLEAN]
            self.is_authority = bool(flags) and flags[0].content != b"\0"
        elif oid == _KEY_USAGE:
            bits = value.expect(der.BIT_STRING).content[1:]
            self.usage_critical = critical
            self.usage = frozenset(
                number for number in range(8 * len(bits)) if bits[number // 8] & 0x80 >> number % 8
            )
        else:
            self.purposes_critical = critical
            self.purposes = frozenset(
                der.oid_text(each.expect(der.OID).content) for each in value.expect(der.SEQUENCE).children()
            )


def certificates(text: bytes) -> list[Certificate]:
    """The certificates in a file in PEM (RFC 7468), in their order.  DerError: there is none, or one is malformed."""
    found: list[Certificate] = []
    for match in re.finditer(
        rb"-----BEGIN (?:X509 )?CERTIFICATE-----([^-]*)-----END (?:X509 )?CERTIFICATE-----", text
    ):
        try:
            encoded = base64.b64decode(b"".join(match[1].split()), validate=True)
        except binascii.Error:
            raise DerError("Base64 decoding error.") from None
        found.append(Certificate(encoded))
    if not found:
        raise DerError("Base64 unexpected header error.")
    return found


def _time(element: Element) -> datetime:
    """A UTCTime or GeneralizedTime; DerError."""
    text = element.expect(der.UTC_TIME, der.GENERALIZED_TIME).content.decode("ascii", "replace")
    if element.tag == der.UTC_TIME:
        text = ("19" if text[:2] >= str(_CENTURY) else "20") + text
    if not re.fullmatch(r"[0-9]{14}Z", text, re.ASCII):
        raise DerError("a date that is none")
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise DerError("a date that is none") from None
