"""The distinguished encoding rules of ASN.1, as far as certificates need them.

    outer, rest = read(data)                # the first element and what follows it
    for element in outer.children(): …

Every length is checked: certificates come from whoever connects.

Source: ITU-T X.690 (2021), sections 8 and 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID = 0x01, 0x02, 0x03, 0x04, 0x06
UTF8_STRING, PRINTABLE_STRING, TELETEX_STRING, IA5_STRING = 0x0C, 0x13, 0x14, 0x16
UTC_TIME, GENERALIZED_TIME, UNIVERSAL_STRING, BMP_STRING = 0x17, 0x18, 0x1C, 0x1E
SEQUENCE, SET = 0x30, 0x31

_LONG = 0x80
_MOST_LENGTH_BYTES = 4
_HIGH_TAG = 0x1F


class DerError(ValueError):
    """It is not DER, or not what was expected."""


class Element(NamedTuple):
    """One element: its tag, its content, and all of its bytes."""

    tag: int
    content: bytes
    encoded: bytes

    def children(self) -> Iterator[Element]:
        """The elements in the content.  DerError."""
        rest = self.content
        while rest:
            child, rest = read(rest)
            yield child

    def expect(self, *tags: int) -> Element:
        """The element, if its tag is one of these.  DerError."""
        if self.tag not in tags:
            raise DerError(f"tag 0x{self.tag:02x} where 0x{tags[0]:02x} is expected")
        return self


def read(data: bytes) -> tuple[Element, bytes]:
    """The first element, and what follows.  DerError."""
    if len(data) < 2 or data[0] & _HIGH_TAG == _HIGH_TAG:
        raise DerError("truncated, or a tag of several bytes")
    start, length = 2, data[1]
    if length >= _LONG:
        count = length - _LONG
        if not 0 < count <= _MOST_LENGTH_BYTES or len(data) < 2 + count:
            raise DerError("a length that is none")
        start, length = 2 + count, int.from_bytes(data[2 : 2 + count], "big")
    if len(data) < start + length:
        raise DerError("truncated")
    return Element(data[0], data[start : start + length], data[: start + length]), data[start + length :]


def oid_text(content: bytes) -> str:
    """An object identifier in dots.  DerError."""
    numbers: list[int] = []
    value = 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    if not numbers or content[-1] & 0x80:
        raise DerError("an object identifier that is none")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))
