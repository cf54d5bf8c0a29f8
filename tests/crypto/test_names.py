"""Distinguished names as GnuTLS writes them: the expected texts are what its 3.7.9 answers for the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.crypto import der
from qemud.crypto.certificate import Certificate
from qemud.crypto.der import DerError
from qemud.crypto.names import dn_text

UTF8, PRINTABLE, TELETEX, IA5, BMP, UNIVERSAL, NUMERIC = 12, 19, 20, 22, 30, 28, 18
CN, C, DC, EMAIL, SURNAME, OWN = (
    "550403", "550406", "0992268993f22c640119", "2a864886f70d010901", "550404", "2a0304",
)  # fmt: skip


def element(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82, size >> 8, size & 255])
    return bytes([tag]) + length + content


def attribute(oid: str, tag: int, value: bytes) -> bytes:
    return element(0x30, element(6, bytes.fromhex(oid)) + element(tag, value))


def name(*rdns: list[bytes]) -> str:
    encoded = element(0x30, b"".join(element(0x31, b"".join(rdn)) for rdn in rdns))
    found, rest = der.read(encoded)
    assert not rest
    return dn_text(found)


@pytest.mark.parametrize(
    ("oid", "tag", "value", "text"),
    [
        (CN, UTF8, b'a,b+c"d\\e<f>g;h=i', 'CN=a\\,b\\+c\\"d\\\\e\\<f\\>g\\;h=i'),
        (CN, UTF8, b"#x", "CN=\\#x"),
        (CN, UTF8, b" x ", "CN=\\ x\\ "),
        (CN, UTF8, b"a #b", "CN=a #b"),
        (CN, UTF8, "é".encode(), "CN=é"),
        (CN, UTF8, b"a\0b", "CN=#0c03610062"),
        (CN, UTF8, b"a\nb", "CN=a\nb"),
        (CN, UTF8, b"x" * 300, f"CN={'x' * 300}"),
        (CN, PRINTABLE, b"plain", "CN=plain"),
        (CN, TELETEX, b"tele", "CN=tele"),
        (CN, TELETEX, b"tele\xe9", "CN=\\#74656c65e9"),
        (CN, IA5, b"ia5", "CN=#1603696135"),
        (CN, BMP, "bmpé".encode("utf-16-be"), "CN=bmpé"),
        (CN, BMP, b"\xd8\0", "CN=\\#d800"),
        (CN, UNIVERSAL, "x".encode("utf-32-be"), "CN=\\#00000078"),
        (CN, NUMERIC, b"123", "CN=#1203313233"),
        (C, PRINTABLE, b"GB", "C=GB"),
        (C, UTF8, b"GB", "C=#0c024742"),
        (DC, IA5, b"ex", "DC=ex"),
        (EMAIL, IA5, b"a@b.c", "EMAIL=a@b.c"),
        (SURNAME, UTF8, b"x", "surName=x"),
        (OWN, UTF8, b"x", "1.2.3.4=#0c0178"),
    ],
)
def test_values(oid: str, tag: int, value: bytes, text: str) -> None:
    assert name([attribute(oid, tag, value)]) == text


def test_the_order_is_that_of_the_certificate() -> None:
    parts = [attribute(CN, UTF8, b"a"), attribute(SURNAME, UTF8, b"b")]
    assert name([attribute(C, PRINTABLE, b"GB")], parts) == "C=GB,CN=a+surName=b"


@pytest.mark.parametrize(
    "rdns",
    [
        [],
        [[]],
        [[attribute(CN, UTF8, b"")]],
        [[attribute(CN, UTF8, b"\xff")]],
        [[attribute(CN, BMP, b"a")]],
        [[element(0x30, element(6, b"\x55"))]],
    ],
)
def test_what_is_no_name_is_no_identity(rdns: list[list[bytes]]) -> None:
    with pytest.raises(DerError):
        name(*rdns)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_certificate_or_an_error(data: bytes) -> None:
    for make in (Certificate, lambda found: dn_text(der.read(found)[0])):
        try:
            make(data)
        except DerError:
            continue
