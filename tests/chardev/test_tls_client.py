"""TLS on sockets as a client, with `openssl s_server` at the other end."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from qemud.chardev.stream import ChardevEvent
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.userobjects import remove_object
from tests.chardev.support import User, run_on
from tests.chardev.tls_rig import House, s_server
from tests.pki import Authority

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("openssl")

OPENED, CLOSED = ChardevEvent.OPENED, ChardevEvent.CLOSED


def heard(connection: socket.socket, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        piece = connection.recv(4096)
        assert piece, data
        data += piece
    return data


def test_a_client_knows_its_server(run, pki: Path) -> None:
    async def main() -> None:
        house = House()
        await house.add("tls-creds-x509", "t", dir=os.fspath(pki))
        with s_server(pki, "-Verify", "1", "-verify_return_error") as (port, connection):
            user = User(
                await house.chardevs.open_options(f"socket,id=c,host=localhost,port={port},tls-creds=t")
            )
            await user.sees(OPENED)
            user.port.write(b"hello\n")
            await asyncio.to_thread(heard, connection, b"hello\n")
            connection.sendall(b"to you\n")
            await user.gets(b"to you\n")
            with pytest.raises(GenericError, match=r"^object 't' is in use, can not be deleted$"):
                remove_object(house.tree, "t")
        await user.sees(CLOSED)
        await house.chardevs.close_all()
        remove_object(house.tree, "t")

    run(main())


def test_a_server_that_is_somebody_else(ca: Authority, pki: Path, tmp_path: Path) -> None:
    forged = Authority(tmp_path / "forger").issue(tmp_path / "forged", "server")
    elsewhere = ca.issue(tmp_path / "elsewhere", "server", names="DNS:elsewhere")
    expired = ca.issue(tmp_path / "expired", "server", days=-1)

    async def main() -> None:
        house = House()
        await house.add("tls-creds-x509", "t", dir=os.fspath(pki))
        for stranger, reason in (
            (forged, "The certificate hasn't got a known issuer"),
            (elsewhere, "Certificate does not match the hostname localhost"),
            (expired, "The certificate has expired"),
        ):
            with s_server(stranger) as (port, _), pytest.raises(GenericError) as caught:
                await house.chardevs.open_options(f"socket,id=c,host=localhost,port={port},tls-creds=t")
            assert str(caught.value) == reason
            assert house.chardevs.get("c") is None
        with s_server(elsewhere) as (port, _):
            await house.add("tls-creds-x509", "trusting", dir=os.fspath(pki), verify_peer=False)
            user = User(
                await house.chardevs.open_options(
                    f"socket,id=c,host=localhost,port={port},tls-creds=trusting"
                )
            )
            await user.sees(OPENED)
            await house.chardevs.close_all()
        remove_object(house.tree, "t")

    run_on("asyncio", main())


def test_a_server_that_speaks_no_tls(run, pki: Path) -> None:
    async def main() -> None:
        house = House()
        await house.add("tls-creds-x509", "t", dir=os.fspath(pki))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            opening = asyncio.ensure_future(
                house.chardevs.open_options(f"socket,id=c,host=127.0.0.1,port={port},tls-creds=t")
            )
            listener.setblocking(False)
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            with connection:
                connection.sendall(b"220 mail.example.com\r\n")
                with pytest.raises(GenericError, match=r"^TLS handshake failed: wrong version number$"):
                    await opening
        remove_object(house.tree, "t")

    run(main())


def test_a_client_connects_again(run, pki: Path) -> None:
    async def main() -> None:
        house = House()
        await house.add("tls-creds-x509", "t", dir=os.fspath(pki))
        with s_server(pki) as (port, connection):
            user = User(
                await house.chardevs.open_options(
                    f"socket,id=c,host=localhost,port={port},tls-creds=t,reconnect-ms=1"
                )
            )
            await user.sees(OPENED)
            connection.sendall(b"q\n")  # it ends the connection, and takes the next
            await user.sees(CLOSED, OPENED)
        await house.chardevs.close_all()

    run(main())
