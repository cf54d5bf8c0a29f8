"""Distinguished names as text, in the form in which QEMU hands them to authorization.

    dn_text(subject)        -> "C=GB,O=Example,CN=alice"

That is the form of GnuTLS's `gnutls_x509_crt_get_dn`: RFC 4514, but in the order of the certificate, with names of attributes of its own
(EMAIL, surName), and with a value in hexadecimal where the type of string is not what the attribute should have.

Source: RFC 4514, sections 2.3 and 2.4; GnuTLS 3.7.9, by observation.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from qemud.crypto import der
from qemud.crypto.der import DerError

if TYPE_CHECKING:
    from qemud.crypto.der import Element

_DIRECTORY = {
    "2.5.4.3": "CN",
    "2.5.4.4": "surName",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "street",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.15": "businessCategory",
    "2.5.4.17": "postalCode",
    "2.5.4.41": "name",
    "2.5.4.42": "givenName",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.65": "pseudonym",
    "0.9.2342.19200300.100.1.1": "UID",
}
"""Attributes whose values are directory strings."""

_PRINTABLE = {
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.20": "telephoneNumber",
    "2.5.4.46": "dnQualifier",
}
"""Attributes whose values are printable strings."""

_IA5 = {"0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "EMAIL"}
"""Attributes whose values are IA5 strings."""

_SPECIAL = frozenset(',+"\\<>;')


def dn_text(name: Element) -> str:
    """The text of a Name.

    DerError: it is malformed, has no attributes, or one that is empty or not UTF-8; GnuTLS fails too, or gives what is no text.
    """
    parts: list[str] = []
    for rdn in name.expect(der.SEQUENCE).children():
        attributes = [_attribute_text(attribute) for attribute in rdn.expect(der.SET).children()]
        if not attributes:
            raise DerError("a part of the name is empty")
        parts.append("+".join(attributes))
    if not parts:
        raise DerError("the name is empty")
    return ",".join(parts)


def _attribute_text(attribute: Element) -> str:
    """`TYPE=VALUE`."""
    kind, value = _pair(attribute)
    oid = der.oid_text(kind.expect(der.OID).content)
    name = _DIRECTORY.get(oid) or _PRINTABLE.get(oid) or _IA5.get(oid) or oid
    if not value.content:
        raise DerError(f"attribute {name} is empty")
    return f"{name}={_value_text(oid, value)}"


def _pair(attribute: Element) -> tuple[Element, Element]:
    """Type and value of an attribute."""
    parts = list(attribute.expect(der.SEQUENCE).children())
    if len(parts) != 2:
        raise DerError("an attribute that is no pair")
    return parts[0], parts[1]


def _value_text(oid: str, value: Element) -> str:
    """A value, escaped; in hexadecimal with its tag where its type is not the attribute's."""
    content = value.content
    tag = value.tag
    if oid in _DIRECTORY and tag in {der.BMP_STRING, der.TELETEX_STRING, der.UNIVERSAL_STRING}:
        return _escape(_old_string(tag, content))
    is_text = (
        (oid in _DIRECTORY and tag in {der.UTF8_STRING, der.PRINTABLE_STRING})
        or (oid in _PRINTABLE and tag == der.PRINTABLE_STRING)
        or (oid in _IA5 and tag == der.IA5_STRING)
    )
    if not is_text or 0 in content:
        return f"#{value.encoded.hex()}"
    try:
        return _escape(content.decode())
    except UnicodeDecodeError:
        raise DerError("an attribute is not UTF-8") from None


def _old_string(tag: int, content: bytes) -> str:
    """A string of a type from before UTF-8, or its bytes in hexadecimal."""
    if tag == der.BMP_STRING:
        if len(content) % 2:
            raise DerError("an attribute is not UCS-2")
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode("utf-16-be")
    if tag == der.TELETEX_STRING and content.isascii():
        text = content.decode("ascii")
        if text.isprintable():
            return text
    return f"#{content.hex()}"


def _escape(text: str) -> str:
    """Put a backslash before what means something."""
    last = len(text) - 1
    return "".join(
        f"\\{each}"
        if each in _SPECIAL or (index == 0 and each in "# ") or (index == last and each == " ")
        else each
        for index, each in enumerate(text)
    )
