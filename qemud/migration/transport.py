"""Channels to and from where an address says.

    channel = await connect(await prepare(address, take_descriptor))    # who sends
    gate = await wait_at(address, find_descriptor)                      # who receives
    channel = await gate.channel()

What can be wrong with a descriptor, a file or a program is found at once, in `prepare` and `wait_at`; a connection takes its time.

Source of the order and of texts: QEMU 10.0, migration/fd.c, file.c, exec.c and socket.c, and io/channel-file.c.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from typing import TYPE_CHECKING

from qemud._generated.types.migration import MigrationAddressExec, MigrationAddressFile
from qemud._generated.types.sockets import FdSocketAddress
from qemud.block.pool import pool
from qemud.chardev.address import Listener, listen
from qemud.chardev.address import connect as connect_socket
from qemud.machine.descriptors import FdsetError, close_file, open_file
from qemud.migration.address import socket_address
from qemud.migration.channel import Channel, FileChannel, ProgramChannel, WatchedChannel, channel_of
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.migration import MigrationAddress
    from qemud.chardev.address import Address

_SIGNED_END = 1 << 63
_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
"""What the interpreter ignores, and programs do not expect to be ignored."""


async def prepare(address: MigrationAddress, take_descriptor: Callable[[str], int]) -> Channel | Address:
    """The channel for a machine that leaves, or the address of a socket that `connect` connects to.  GenericError."""
    if isinstance(address, MigrationAddressFile):
        return await _open_file(address, os.O_WRONLY | os.O_CREAT)
    if isinstance(address, MigrationAddressExec):
        return await _start(address.args, writes=True)
    where = socket_address(address)
    if isinstance(where, FdSocketAddress):
        return _from_descriptor(take_descriptor(where.str))
    assert where is not None
    return where


async def connect(prepared: Channel | Address) -> Channel:
    """The channel.  GenericError."""
    if isinstance(prepared, Channel):
        return prepared
    sock = await connect_socket(prepared, lambda _name: -1)
    _set_up(sock)
    return WatchedChannel(sock.detach())


class Gate:
    """Where a machine is waited for."""

    def __init__(self, channel: Channel | None = None, listener: Listener | None = None) -> None:
        self._channel = channel
        self._listener = listener

    @property
    def addresses(self) -> list[Address]:
        """Where somebody can connect to."""
        local = self._listener.local() if self._listener is not None else None
        return [local] if local is not None else []

    async def channel(self) -> Channel:
        """The first that comes; others are turned away.  OSError."""
        if self._channel is not None:
            return self._channel
        assert self._listener is not None
        accepts = [asyncio.ensure_future(_accept(sock)) for sock in self._listener.sockets]
        try:
            done, _ = await asyncio.wait(accepts, return_when=asyncio.FIRST_COMPLETED)
            first, *others = done
            for each in others:
                each.result().close()
            sock = first.result()
        finally:
            for each in accepts:
                each.cancel()
            await asyncio.wait(accepts)
            self.close_listener()
        _set_up(sock)
        self._channel = WatchedChannel(sock.detach())
        return self._channel

    def close_listener(self) -> None:
        """Nobody is waited for any more."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """End all of it."""
        self.close_listener()
        if self._channel is not None:
            self._channel.close()


async def _accept(sock: socket.socket) -> socket.socket:
    connection, _ = await asyncio.get_running_loop().sock_accept(sock)
    return connection


async def wait_at(address: MigrationAddress, find_descriptor: Callable[[str], int]) -> Gate:
    """Where a machine comes from.  GenericError."""
    if isinstance(address, MigrationAddressFile):
        return Gate(await _open_file(address, os.O_RDONLY))
    if isinstance(address, MigrationAddressExec):
        return Gate(await _start(address.args, writes=False))
    where = socket_address(address)
    if isinstance(where, FdSocketAddress):
        return Gate(_from_descriptor(find_descriptor(where.str)))
    assert where is not None
    return Gate(listener=await listen(where, find_descriptor))


def _set_up(sock: socket.socket) -> None:
    """What is sent last is small, and is waited for."""
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _from_descriptor(fd: int) -> Channel:
    try:
        os.set_inheritable(fd, False)
        return channel_of(fd)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "Bad file descriptor"
        raise GenericError(f"File descriptor '{fd}' cannot be used: {reason}") from None


async def _open_file(address: MigrationAddressFile, flags: int) -> Channel:
    name, offset = address.filename, address.offset
    if offset >= _SIGNED_END:
        raise GenericError(f"Unable to seek to offset {offset} of '{name}': Invalid argument")
    try:
        # Not blocking, or a FIFO that has no other end would be waited for.
        fd = await pool.run(open_file, name, flags | os.O_NONBLOCK, 0o600)
    except FdsetError as error:
        raise GenericError(f"Could not open '{name}': {error.strerror}: {error.reason}") from None
    except OSError as error:
        verb = "create" if flags & os.O_CREAT else "open"
        raise GenericError(f"Could not {verb} '{name}': {error.strerror}") from None
    try:
        return await _prepare_file(fd, offset, writes=bool(flags & os.O_CREAT))
    except OSError as error:
        close_file(fd)
        raise GenericError(f"Unable to use '{name}' from offset {offset:#x} on: {error.strerror}") from None


async def _prepare_file(fd: int, offset: int, *, writes: bool) -> Channel:
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        return WatchedChannel(fd)
    os.set_blocking(fd, True)
    if writes and stat.S_ISREG(mode):
        await pool.run(os.ftruncate, fd, offset)
    if offset:
        os.lseek(fd, offset, os.SEEK_SET)
    return FileChannel(fd, release=close_file)


async def _start(words: list[str], *, writes: bool) -> Channel:
    """Start a program, which reads what is sent, or writes what is received."""
    if not words:
        raise GenericError("Parameter 'args' expects at least the name of a program")
    reader, writer = os.pipe()
    ours, its = (writer, reader) if writes else (reader, writer)
    other = 1 if writes else 0
    actions = [
        (os.POSIX_SPAWN_DUP2, its, 1 - other),
        (os.POSIX_SPAWN_OPEN, other, os.devnull, os.O_RDWR, 0),
    ]
    try:
        pid = await pool.run(
            lambda: os.posix_spawnp(
                words[0], words, os.environ, file_actions=actions, setsigmask=(), setsigdef=_SIGNALS
            )
        )
    except (OSError, ValueError) as error:
        os.close(ours)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise GenericError(f"Failed to execute child process \u201c{words[0]}\u201d ({reason})") from None
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(its)
    return ProgramChannel(ours, pid)
