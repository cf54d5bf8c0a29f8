"""The beginning of a TLS connection on a socket, on the event loop.

    await shake_hands(sock, session)        # TlsError

Who connects and says nothing, or a byte now and then, is given up after a while.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from qemud.crypto.session import TlsError

if TYPE_CHECKING:
    import socket

    from qemud.crypto.session import TlsSession

TIME_LIMIT = 10.0
"""Seconds for a whole handshake, as QEMU's NBD server has it (handshake-max-seconds)."""

_READ_SIZE = 16 * 1024


async def shake_hands(sock: socket.socket, session: TlsSession, limit: float = TIME_LIMIT) -> None:
    """Do the handshake on a non-blocking socket, which stays the caller's.  TlsError: it failed, and the other side was told."""
    # Not asyncio.timeout, which needs a task: a QMP handler has none before it first waits.
    work = asyncio.ensure_future(_shake(sock, session))
    try:
        await asyncio.wait((work,), timeout=limit)
        if not work.done():
            raise TlsError(f"TLS handshake failed: not done after {limit:g} seconds")
        work.result()
    finally:
        if not work.done():
            work.cancel()
            await asyncio.wait((work,))


async def _shake(sock: socket.socket, session: TlsSession) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            try:
                done = session.handshake()
            except TlsError:
                with suppress(OSError):
                    sock.send(session.take_output())  # why, if there is room for it
                raise
            output = session.take_output()
            if output:
                await loop.sock_sendall(sock, output)
            if done:
                return
            data = await loop.sock_recv(sock, _READ_SIZE)
            if not data:
                raise TlsError("TLS handshake failed: the connection ended")
            session.feed(data)
    except OSError as error:
        raise TlsError(f"TLS handshake failed: {error.strerror or error}") from None
