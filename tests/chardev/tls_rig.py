"""What tests of TLS on sockets share: a house with character devices and objects, and peers by Python and by openssl(1).

The certificates are fixtures (conftest.py): `ca`, and `pki` with credentials of both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

from qemud.chardev.registry import Chardevs
from qemud.qapi.runtime.check import parse_type
from qemud.qom.tree import Tree
from qemud.qom.userobjects import add_object
from tests.pki import s_client
from tests.programs import LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qemud.chardev.stream import Chardev


class House:
    """Character devices, objects, and what is said to people."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.said: list[str] = []
        self.chardevs = Chardevs(report=self._say, objects=lambda: self.tree.objects.children)
        self._spoke = asyncio.Event()

    def _say(self, line: str) -> None:
        self.said.append(line)
        self._spoke.set()

    async def hears(self) -> str:
        """The next thing said."""
        while not self.said:
            self._spoke.clear()
            await self._spoke.wait()
        return self.said.pop(0)

    async def add(self, kind: str, name: str, **options: Any) -> None:
        wire = {key.replace("_", "-"): value for key, value in options.items()}
        await add_object(self.tree, parse_type("ObjectOptions", {"qom-type": kind, "id": name, **wire}))

    async def serve(self, directory: Path, more: str = "", **options: Any) -> Chardev:
        """A server with the credentials in a directory."""
        await self.add("tls-creds-x509", "t", dir=os.fspath(directory), endpoint="server", **options)
        return await self.chardevs.open_options(
            f"socket,id=c,host=127.0.0.1,port=0,server=on,wait=off,tls-creds=t{more}"
        )

    @property
    def port(self) -> int:
        chardev = self.chardevs.get("c")
        assert chardev is not None
        return int(chardev.filename.partition(" <-> ")[0].removesuffix(",server=on").rpartition(":")[2])


class TlsPeer:
    """The other side, by Python's own streams over TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, pki: Path) -> TlsPeer:
        context = ssl.create_default_context(cafile=pki / "ca-cert.pem")
        context.load_cert_chain(pki / "client-cert.pem", pki / "client-key.pem")
        return cls(
            *await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        )

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def refused(house: House, *arguments: object) -> str:
    """Knock, and be refused; what is said of it."""
    with s_client(house.port, *arguments) as connection:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while await loop.sock_recv(connection, 4096):
                pass
        said = await house.hears()
    assert said.startswith("warning: chardev c: client 127.0.0.1:")
    return said.partition(" refused: ")[2]


@contextlib.contextmanager
def s_server(pki: Path, *arguments: object) -> Iterator[tuple[int, socket.socket]]:
    """`openssl s_server` and its port; what it decrypts comes out of the socket."""
    here, there = socket.socketpair()
    with here, there:
        command = [
            *(
                "openssl",
                "s_server",
                "-naccept",
                "9",
                "-accept",
                "127.0.0.1:0",
                "-CAfile",
                pki / "ca-cert.pem",
            ),
            *("-cert", pki / "server-cert.pem", "-key", pki / "server-key.pem", *arguments),
        ]
        process = subprocess.Popen(
            list(map(str, command)), stdin=there.fileno(), stdout=there.fileno(), stderr=subprocess.PIPE
        )
        there.close()
        try:
            here.settimeout(LIMIT)
            heard = b""
            while not (heard.endswith(b"\n") and b"ACCEPT" in heard):
                heard += here.recv(4096)
            yield int(heard.split(b"ACCEPT")[1].split()[0].rpartition(b":")[2]), here
        finally:
            here.close()
            process.terminate()
            process.communicate(timeout=LIMIT)
