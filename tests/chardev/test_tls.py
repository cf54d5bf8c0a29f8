"""TLS on sockets: who comes in and who does not, with openssl(1) at the other end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import TYPE_CHECKING

import pytest

from qemud.chardev.stream import ChardevEvent
from qemud.crypto import handshake
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.userobjects import remove_object
from tests.chardev.room import backend
from tests.chardev.support import User, run_on
from tests.chardev.tls_rig import House, TlsPeer, refused
from tests.pki import ALICE, Authority, as_client, s_client
from tests.programs import LIMIT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("openssl")

OPENED, CLOSED = ChardevEvent.OPENED, ChardevEvent.CLOSED
BIG = bytes(range(256)) * 4096


def test_bytes_go_both_ways_and_the_next_client_is_served(run, pki: Path) -> None:
    async def main() -> None:
        house = House()
        user = User(await house.serve(pki))
        for _ in range(2):
            peer = await TlsPeer.connect(house.port, pki)
            await user.sees(OPENED)
            peer.writer.write(b"hello")
            await user.gets(b"hello")
            user.port.write(b"to you")
            assert await peer.reader.readexactly(6) == b"to you"
            await peer.close()
            await user.sees(CLOSED)
        await house.chardevs.close_all()

    run(main())


def test_a_megabyte_each_way_with_credit(run, pki: Path) -> None:
    async def main() -> None:
        house = House()
        user = User(await house.serve(pki), credit=1)
        peer = await TlsPeer.connect(house.port, pki)
        await user.sees(OPENED)
        peer.writer.write(BIG)
        user.port.write(BIG)
        reading = asyncio.ensure_future(peer.reader.readexactly(len(BIG)))
        await user.until_received(1)
        user.port.grant(1000)
        await user.until_received(1001)
        user.port.grant(len(BIG))
        await user.gets(BIG)
        assert await reading == BIG
        await user.port.drain()
        await peer.close()
        await user.sees(CLOSED)
        await house.chardevs.close_all()

    run(main())


def test_what_comes_with_the_end_of_the_handshake_waits_for_a_user(run, pki: Path) -> None:
    async def main() -> None:
        house = House()
        chardev = await house.serve(pki)
        peer = await TlsPeer.connect(house.port, pki)
        peer.writer.write(b"early")
        await peer.writer.drain()
        while not chardev.is_open:
            await asyncio.sleep(0)
        user = User(chardev, credit=0)
        user.port.grant(6)
        await user.gets(b"early")
        await peer.close()
        await house.chardevs.close_all()

    run(main())


def test_the_end_is_said_on_both_sides(run, pki: Path) -> None:
    async def main() -> None:
        house = House()
        user = User(await house.serve(pki))
        peer = await TlsPeer.connect(house.port, pki)
        await user.sees(OPENED)
        user.port.write(b"last words")
        await house.chardevs.close_all()
        assert await peer.reader.read() == b"last words"  # a stream that was cut off raises
        await peer.close()

    run(main())


@pytest.mark.parametrize("version", ["TLS1.2", "TLS1.3"])
def test_a_priority_is_heeded(pki: Path, version: str) -> None:
    async def main() -> None:
        house = House()
        user = User(await house.serve(pki, priority=f"NORMAL:-VERS-ALL:+VERS-{version}"))
        peer = await TlsPeer.connect(house.port, pki)
        await user.sees(OPENED)
        assert peer.writer.get_extra_info("ssl_object").version() == version.replace("TLS", "TLSv")
        await peer.close()
        await house.chardevs.close_all()

    run_on("asyncio", main())


# -- who is refused ----------------------------------------------------------------------------------------------------


def test_strangers_stay_out_and_the_right_one_comes_in(ca: Authority, pki: Path, tmp_path: Path) -> None:
    forger = Authority(tmp_path / "forger")
    forged = forger.issue(tmp_path / "forged", "client")
    expired = ca.issue(tmp_path / "expired", "client", days=-1)
    wrong_use = ca.issue(tmp_path / "use", "client", extensions="extendedKeyUsage=serverAuth")

    async def main() -> None:
        house = House()
        user = User(await house.serve(pki))
        trusting = ("-CAfile", pki / "ca-cert.pem")
        assert await refused(house, *trusting) == "Verify failed: No certificate was found."
        for stranger, reason in (
            (forged, "The certificate hasn't got a known issuer"),
            (expired, "The certificate has expired"),
            (wrong_use, "The certificate is not trusted: unsuitable certificate purpose"),
        ):
            own = ("-cert", stranger / "client-cert.pem", "-key", stranger / "client-key.pem")
            assert await refused(house, *trusting, *own) == reason
        assert not user.events
        peer = await TlsPeer.connect(house.port, pki)
        await user.sees(OPENED)
        await peer.close()
        await house.chardevs.close_all()

    run_on("asyncio", main())


def test_a_certificate_that_was_revoked(ca: Authority, pki: Path, tmp_path: Path) -> None:
    stolen = ca.issue(ca.issue(tmp_path / "stolen", "server"), "client", subject="/CN=stolen")
    (stolen / "ca-crl.pem").write_text(ca.revoke(stolen / "client-cert.pem"))

    async def main() -> None:
        house = House()
        user = User(await house.serve(stolen))
        assert await refused(house, *as_client(stolen)) == "The certificate has been revoked"
        peer = await TlsPeer.connect(house.port, pki)
        await user.sees(OPENED)
        await peer.close()
        await house.chardevs.close_all()

    run_on("asyncio", main())


def test_without_verification_anybody_comes_in(pki: Path) -> None:
    async def main() -> None:
        house = House()
        user = User(await house.serve(pki, verify_peer=False))
        with s_client(house.port, "-CAfile", pki / "ca-cert.pem") as connection:
            await user.sees(OPENED)
            connection.sendall(b"hello")
            await user.gets(b"hello")
        await user.sees(CLOSED)
        await house.chardevs.close_all()

    run_on("asyncio", main())


def test_authorization_by_name(pki: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"rules": []}))

    async def main() -> None:
        house = House()
        user = User(await house.serve(pki, ",tls-authz=a"))
        assert await refused(house, *as_client(pki)) == "Cannot find QAuthZ object ID a"
        await house.add("authz-list-file", "a", filename=os.fspath(file))
        assert await refused(house, *as_client(pki)) == f"TLS x509 authz check for {ALICE} is denied"
        file.write_text(json.dumps({"rules": [{"match": "*,CN=alice", "policy": "allow", "format": "glob"}]}))
        peer = await TlsPeer.connect(house.port, pki)
        await user.sees(OPENED)
        await peer.close()
        await user.sees(CLOSED)
        remove_object(house.tree, "a")
        await house.add("authz-simple", "a", identity=f"{ALICE}x")
        assert await refused(house, *as_client(pki)) == f"TLS x509 authz check for {ALICE} is denied"
        await house.chardevs.close_all()

    run_on("asyncio", main())


def test_a_name_does_not_break_the_log(ca: Authority, pki: Path, tmp_path: Path) -> None:
    odd = ca.issue(tmp_path / "odd", "client", subject="/CN=a\nb\x1b[2J")

    async def main() -> None:
        house = House()
        await house.serve(pki, ",tls-authz=a")
        await house.add("authz-list", "a")
        said = await refused(house, *as_client(odd))
        assert said == r"TLS x509 authz check for CN=a\nb\x1b[2J is denied"
        await house.chardevs.close_all()

    run_on("asyncio", main())


def test_what_is_not_tls_at_all(run, pki: Path) -> None:
    async def main() -> None:
        house = House()
        user = User(await house.serve(pki))
        for junk in (b'{"execute":"quit"}\n', b"\x16\x03\x01\xff\xff", b""):
            with socket.create_connection(("127.0.0.1", house.port)) as connection:
                connection.sendall(junk)
                connection.shutdown(socket.SHUT_WR)
                assert " refused: TLS handshake failed: " in await house.hears()
        assert not user.events
        peer = await TlsPeer.connect(house.port, pki)
        await user.sees(OPENED)
        os.write(peer.writer.get_extra_info("socket").fileno(), b"no TLS any more, by whoever sits between")
        assert (await house.hears()).startswith("warning: chardev c: TLS: ")
        await user.sees(CLOSED)
        await peer.close()
        await house.chardevs.close_all()

    run(main())


def test_who_says_nothing_is_given_up(run, pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shake = handshake.shake_hands
    limits = [0.2]  # for the first; the next has all the time that a busy machine may need

    async def main() -> None:
        house = House()
        monkeypatch.setattr(
            "qemud.chardev.tls.shake_hands",
            lambda sock, session: shake(sock, session, limits.pop() if limits else LIMIT),
        )
        user = User(await house.serve(pki))
        with socket.create_connection(("127.0.0.1", house.port)) as silent:
            peer = await TlsPeer.connect(house.port, pki)  # waits in the backlog meanwhile
            assert (await house.hears()).endswith(
                " refused: TLS handshake failed: not done after 0.2 seconds"
            )
            assert silent.recv(1) == b""
        await user.sees(OPENED)
        await peer.close()
        await house.chardevs.close_all()

    run(main())


def test_closing_in_the_middle_of_a_handshake(run, pki: Path) -> None:
    async def main() -> None:
        house = House()
        chardev = await house.serve(pki)
        with socket.create_connection(("127.0.0.1", house.port)) as silent:
            silent.sendall(b"\x16")
            while chardev._task is None:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            assert not chardev.add_client(silent.fileno())
            await house.chardevs.remove("c")
            silent.settimeout(LIMIT)
            assert await asyncio.to_thread(silent.recv, 1) == b""
        remove_object(house.tree, "t")
        assert not house.said

    run(main())


def test_yank_ends_a_handshake(run, pki: Path) -> None:
    async def main() -> None:
        house = House()
        chardev = await house.serve(pki)
        with socket.create_connection(("127.0.0.1", house.port)):
            while chardev._task is None:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            chardev.yank()
            assert " refused: TLS handshake failed: " in await house.hears()
        await house.chardevs.close_all()

    run(main())


# -- options that do not go together -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("host=h,port=1,tls-creds=x", "No TLS credentials with id 'x'"),
        ("host=h,port=1,tls-creds=s", "Object with id 's' is not TLS credentials"),
        ("host=h,port=1,tls-creds=t", "Expected TLS credentials for a client endpoint"),
        (
            "path=/nonexistent/s,server=on,wait=off,tls-creds=t",
            "'tls_creds' option is incompatible with 'unix' address type",
        ),
        ("fd=0,tls-creds=u", "'tls_creds' option is incompatible with 'fd' address type as client"),
        ("host=h,port=1,server=on,wait=off,tls-authz=a", "'tls_authz' option requires 'tls_creds' option"),
        (
            "host=h,port=1,server=on,wait=off,tls-creds=v,tls-authz=a",
            "'tls-authz' option requires TLS credentials that verify the peer",
        ),
    ],
)
def test_options_that_do_not_go_together(pki: Path, options: str, text: str) -> None:
    async def main() -> None:
        house = House()
        await house.add("secret", "s", data="x")
        await house.add("tls-creds-x509", "t", dir=os.fspath(pki), endpoint="server")
        await house.add("tls-creds-x509", "u", dir=os.fspath(pki))
        await house.add("tls-creds-x509", "v", dir=os.fspath(pki), endpoint="server", verify_peer=False)
        with pytest.raises(GenericError) as caught:
            await house.chardevs.open_options(f"socket,id=c,{options}")
        assert str(caught.value) == text
        assert list(house.chardevs) == []
        for name in "stuv":
            remove_object(house.tree, name)

    run_on("asyncio", main())


def test_a_change_of_credentials(pki: Path) -> None:
    async def main() -> None:
        house = House()
        await house.serve(pki)
        await house.add("tls-creds-x509", "next", dir=os.fspath(pki), endpoint="server")
        inet = {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}
        await house.chardevs.change("c", backend("socket", addr=inet, **{"tls-creds": "next"}))
        remove_object(house.tree, "t")
        with pytest.raises(GenericError, match="in use"):
            remove_object(house.tree, "next")
        await house.chardevs.close_all()

    run_on("asyncio", main())
