"""Where a server is, and a connection to it.

unix:PATH  or just PATH with a slash in it    a UNIX domain socket
tcp:HOST:PORT  or HOST:PORT                   TCP; an IPv6 address stands in brackets
"""

from __future__ import annotations

import asyncio
import socket

from qemud.client.errors import ConnectError


def parse(address: str) -> str | tuple[str, int]:
    """The path, or host and port.  ConnectError: it is no address."""
    if address.startswith("unix:"):
        # What follows a comma is the server's business: the text may be the one that -qmp was given.
        return address.removeprefix("unix:").partition(",")[0]
    if "/" in address:
        return address
    host, colon, port = address.removeprefix("tcp:").partition(",")[0].rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConnectError(f"'{address}' is no address, expected unix:PATH or tcp:HOST:PORT")
    return host.strip("[]") or "localhost", int(port)


async def connect(address: str) -> socket.socket:
    """A connected, non-blocking socket.  ConnectError: nobody is there."""
    place = parse(address)
    loop = asyncio.get_running_loop()
    trouble: OSError | None = None
    try:
        if isinstance(place, str):
            return await _connect(socket.AF_UNIX, place)
        found = await loop.getaddrinfo(*place, type=socket.SOCK_STREAM)
        for family, _, _, _, target in found:
            try:
                return await _connect(family, target)
            except OSError as error:
                trouble = error
    except OSError as error:
        trouble = error
    raise ConnectError(f"cannot connect to {address}: {trouble.strerror if trouble else 'no such host'}")


async def _connect(family: int, target: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, target)  # type: ignore[arg-type]  # as getaddrinfo gave it
    except BaseException:
        sock.close()
        raise
    return sock
