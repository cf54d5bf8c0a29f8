"""Credentials are looked at when they are made: what is wrong with the files is told in QEMU's words, and nothing is left behind."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.crypto import QCryptoTLSCredsEndpoint
from qemud.crypto.credentials import find_credentials
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.userobjects import remove_object
from tests.pki import CA_EXTENSIONS, Authority

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qemud.qom.tree import Tree

    Add = Callable[..., Any]

pytestmark = pytest.mark.needs("openssl")

SERVER, CLIENT = QCryptoTLSCredsEndpoint.SERVER, QCryptoTLSCredsEndpoint.CLIENT


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture
def fails(tree: Tree, add: Add) -> Callable[..., str]:
    """What is said about credentials that cannot be made."""

    def attempt(
        directory: Path, endpoint: str = "server", kind: str = "tls-creds-x509", **options: Any
    ) -> str:
        with pytest.raises(GenericError) as caught:
            add(kind, dir=os.fspath(directory), endpoint=endpoint, **options)
        assert "o" not in tree.objects.children
        return str(caught.value).replace(f"{directory}/", "")

    return attempt


def test_credentials_for_each_side(tree: Tree, add: Add, ca: Authority, tmp_path: Path) -> None:
    ca.issue(tmp_path, "server")
    ca.issue(tmp_path, "client")
    made = add("tls-creds-x509", dir=os.fspath(tmp_path), endpoint="server")
    add("tls-creds-x509", "c", dir=os.fspath(tmp_path))
    objects = tree.objects.children
    assert find_credentials(objects, "o", SERVER) is made
    assert find_credentials(objects, "c", CLIENT).get_property("endpoint") == "client"
    with pytest.raises(GenericError, match=r"^Expected TLS credentials for a client endpoint$"):
        find_credentials(objects, "o", CLIENT)
    with pytest.raises(GenericError, match=r"^No TLS credentials with id 'x'$"):
        find_credentials(objects, "x", SERVER)
    made.hold()
    with pytest.raises(GenericError, match=r"^object 'o' is in use, can not be deleted$"):
        remove_object(tree, "o")
    made.release()
    remove_object(tree, "o")
    assert set(tree.objects.children) == {"c"}


def test_something_else_is_no_credentials(tree: Tree, add: Add) -> None:
    add("secret", data="x")
    with pytest.raises(GenericError, match=r"^Object with id 'o' is not TLS credentials$"):
        find_credentials(tree.objects.children, "o", SERVER)


def test_without_a_directory(add: Add) -> None:
    with pytest.raises(GenericError, match=r"^Missing 'dir' property value$"):
        add("tls-creds-x509")


@pytest.mark.parametrize("name", ["ca-cert.pem", "server-cert.pem", "server-key.pem"])
def test_each_file_of_a_server_is_needed(
    fails: Callable[..., str], ca: Authority, tmp_path: Path, name: str
) -> None:
    (ca.issue(tmp_path, "server") / name).unlink()
    assert fails(tmp_path) == f"Unable to access credentials {name}: No such file or directory"
    os.mkfifo(tmp_path / name)
    assert fails(tmp_path) == f"Unable to access credentials {name}: not a regular file"


def test_a_client_needs_no_certificate(add: Add, ca: Authority, tmp_path: Path) -> None:
    ca.issue(tmp_path, "client")
    (tmp_path / "client-cert.pem").unlink()
    (tmp_path / "client-key.pem").unlink()
    add("tls-creds-x509", dir=os.fspath(tmp_path))


NOT_SIGNED = "Our own certificate {0}-cert.pem failed validation against ca-cert.pem: The certificate hasn't got a known issuer"
PURPOSE = "Certificate {0}-cert.pem purpose does not allow use with a TLS {0}"


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"days": -1}, "The {0} certificate {0}-cert.pem has expired"),
        (
            {"extensions": CA_EXTENSIONS},
            "The certificate {0}-cert.pem basic constraints show a CA, but we need one for a {0}",
        ),
        (
            {"extensions": "keyUsage=critical,keyEncipherment"},
            "Certificate {0}-cert.pem usage does not permit digital signature",
        ),
        ({"extensions": "extendedKeyUsage=critical,codeSigning"}, PURPOSE),
    ],
)
def test_a_certificate_that_is_not_right(
    fails: Callable[..., str], ca: Authority, tmp_path: Path, *, side: str, wrong: dict[str, Any], text: str
) -> None:
    ca.issue(tmp_path, side, **wrong)
    assert fails(tmp_path, side) == text.format(side)


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_certificate_that_another_has_signed(
    fails: Callable[..., str], ca: Authority, tmp_path: Path, side: str
) -> None:
    other = Authority(tmp_path / "other")
    directory = ca.issue(tmp_path / "d", side)
    (directory / "ca-cert.pem").write_bytes(other.certificate.read_bytes())
    assert fails(directory, side) == NOT_SIGNED.format(side)


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("purpose", ["codeSigning", "critical,anyExtendedKeyUsage"])
def test_a_purpose_that_need_not_be_heeded(
    add: Add, ca: Authority, tmp_path: Path, side: str, purpose: str
) -> None:
    ca.issue(tmp_path, side, extensions=f"extendedKeyUsage={purpose}")
    add("tls-creds-x509", dir=os.fspath(tmp_path), endpoint=side)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"days": -1}, "The CA certificate ca-cert.pem has expired"),
        (
            {"extensions": "basicConstraints=critical,CA:FALSE"},
            "The certificate ca-cert.pem basic constraints do not show a CA",
        ),
        (
            {"extensions": "keyUsage=keyCertSign"},
            "The certificate ca-cert.pem is missing basic constraints for a CA",
        ),
        (
            {"extensions": "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,cRLSign"},
            "Certificate ca-cert.pem usage does not permit certificate signing",
        ),
    ],
)
def test_an_authority_that_is_none(
    fails: Callable[..., str], tmp_path: Path, wrong: dict[str, Any], text: str
) -> None:
    directory = Authority(tmp_path / "ca", **wrong).issue(tmp_path / "d", "server")
    assert fails(directory) == text


def test_an_authority_below_another_is_enough(add: Add, ca: Authority, tmp_path: Path) -> None:
    below = Authority(tmp_path / "below", parent=ca)
    add("tls-creds-x509", dir=os.fspath(below.issue(tmp_path / "d", "server")), endpoint="server")


GARBAGE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "server-cert.pem",
            "",
            "Unable to import server certificate server-cert.pem: Base64 unexpected header error.",
        ),
        (
            "server-cert.pem",
            GARBAGE,
            "Unable to import server certificate server-cert.pem: tag 0x00 where 0x30 is expected",
        ),
        ("ca-cert.pem", "", "Unable to import CA certificate list ca-cert.pem"),
        ("ca-cert.pem", GARBAGE, "Unable to import CA certificate list ca-cert.pem"),
        ("ca-crl.pem", "x", "Cannot load CRL 'ca-crl.pem': no certificate or crl found"),
        ("dh-params.pem", "x", "Unable to load DH parameters from dh-params.pem: no start line"),
    ],
)
def test_files_that_hold_something_else(
    fails: Callable[..., str], ca: Authority, tmp_path: Path, *, name: str, content: str, text: str
) -> None:
    (ca.issue(tmp_path, "server") / name).write_text(content)
    assert fails(tmp_path) == text


def test_without_looking(fails: Callable[..., str], add: Add, ca: Authority, tmp_path: Path) -> None:
    ca.issue(tmp_path, "server", days=-1)
    add("tls-creds-x509", "unseen", dir=os.fspath(tmp_path), endpoint="server", sanity_check=False)
    (tmp_path / "server-cert.pem").write_text("")
    (tmp_path / "ca-cert.pem").write_text("")
    assert fails(tmp_path, sanity_check=False).startswith("Cannot load CA certificate 'ca-cert.pem': ")


def test_a_key_with_a_password(
    tree: Tree, fails: Callable[..., str], add: Add, ca: Authority, tmp_path: Path
) -> None:
    ca.issue(tmp_path, "server", password="open sesame")
    add("secret", "right", data="open sesame")
    add("secret", "wrong", data="open barley")
    add("secret", "bytes", data="/w==", format="base64")
    trouble = "Cannot load certificate 'server-cert.pem' & key 'server-key.pem': "
    assert fails(tmp_path).startswith(trouble)
    assert fails(tmp_path, passwordid="wrong").startswith(trouble)
    assert fails(tmp_path, passwordid="bytes") == "Data from secret bytes is not valid UTF-8"
    assert fails(tmp_path, passwordid="nope") == "No secret with id 'nope'"
    add("tls-creds-x509", dir=os.fspath(tmp_path), endpoint="server", passwordid="right")
    remove_object(tree, "right")


def test_a_key_of_another_certificate(fails: Callable[..., str], ca: Authority, tmp_path: Path) -> None:
    ca.issue(tmp_path, "server")
    key = (ca.issue(tmp_path / "other", "server") / "server-key.pem").read_bytes()
    (tmp_path / "server-key.pem").write_bytes(key)
    assert fails(tmp_path) == (
        "Cannot load certificate 'server-cert.pem' & key 'server-key.pem': key values mismatch"
    )


def test_a_priority_that_cannot_be_had(fails: Callable[..., str], ca: Authority, tmp_path: Path) -> None:
    ca.issue(tmp_path, "server")
    assert "is not supported at 'SECURE256'" in fails(tmp_path, priority="SECURE256")


# -- keys that both sides know ----------------------------------------------------------------------------------------

NEEDS_NEWER = "TLS with pre-shared keys requires Python 3.13 or later"
HAS_PSK = getattr(ssl, "HAS_PSK", False)


def test_shared_keys_where_python_has_them(
    tree: Tree, fails: Callable[..., str], add: Add, tmp_path: Path
) -> None:
    (tmp_path / "keys.psk").write_text("# ours\nqemu:00ff\nalice:1234\n")
    if not HAS_PSK:
        assert fails(tmp_path, kind="tls-creds-psk") == NEEDS_NEWER
        return
    add("tls-creds-psk", "s", dir=os.fspath(tmp_path), endpoint="server")
    add("tls-creds-psk", "c", dir=os.fspath(tmp_path))
    objects = tree.objects.children
    here = find_credentials(objects, "s", SERVER).session()
    there = find_credentials(objects, "c", CLIENT).session("localhost")
    done = [False, False]
    while not all(done):
        done = [here.handshake(), there.handshake()]
        for source, target in ((there, here), (here, there)):
            if flight := source.take_output():
                target.feed(flight)
    there.write(b"hello")
    here.feed(there.take_output())
    assert here.read() == b"hello"
    text = "Username bob not found in PSK file keys.psk"
    assert fails(tmp_path, "client", kind="tls-creds-psk", username="bob") == text
    (tmp_path / "keys.psk").write_text("qemu:xyz\n")
    text = "Cannot read PSK file keys.psk: line 1 is not USER:HEXADECIMAL"
    assert fails(tmp_path, kind="tls-creds-psk") == text


def test_shared_keys_that_are_not_there(fails: Callable[..., str], tmp_path: Path) -> None:
    for side in ("server", "client"):
        text = "Unable to access credentials keys.psk: No such file or directory"
        assert fails(tmp_path, side, kind="tls-creds-psk") == text
    text = "username should not be set when endpoint=server"
    assert fails(tmp_path, kind="tls-creds-psk", username="x") == text
