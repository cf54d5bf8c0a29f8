"""The driver `nbd`: a disk of an NBD server.

When the connection breaks, the next request connects again; with `reconnect-delay` requests wait that long for it, and those that
were under way are sent again.

Source of rules and texts: QEMU 10.0, block/nbd.c.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from qemud._generated.types.block_options import BlockdevDriver
from qemud._generated.types.sockets import SocketAddressInet, SocketAddressUnix
from qemud.block.nbd.client import Link, LinkLost, connect
from qemud.block.nbd.contexts import BASE_ALLOCATION
from qemud.block.nbd.protocol import (
    DEFAULT_PORT,
    MAX_STRING,
    STATE_HOLE,
    STATE_ZERO,
    Cmd,
    CmdFlag,
    TransmissionFlag,
)
from qemud.block.nbd.wire import Wire
from qemud.block.node import BlockNode, Extent, unsupported
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qemud.block.node import Flags
    from qemud.chardev.tls import Protection

_MAX_LENGTH = 1 << 31
"""The longest request without data, bytes."""
_HANDSHAKE_LIMIT = 30.0
"""Seconds after which a server that does not answer is given up."""
_PAUSE = 1.0
"""Seconds between two tries to connect."""


class NbdNode(BlockNode, driver=BlockdevDriver.NBD):
    """The driver `nbd`."""

    is_protocol = True
    protocols = ("nbd", "nbd+tcp", "nbd+unix")
    _link: Link | None = None
    _protection: Protection | None = None

    # Names.

    @classmethod
    def parse_filename(cls, name: str, *, from_options: bool = False) -> dict[str, Any]:
        """An URI, or QEMU's older form `nbd:HOST:PORT:exportname=NAME`, `nbd:unix:PATH:exportname=NAME`."""
        del from_options
        if "://" in name:
            return _parse_uri(name)
        rest = name.removeprefix("nbd:")
        rest, _, export = rest.partition(":exportname=")
        options: dict[str, Any] = {"export": export} if export else {}
        if rest.startswith("unix:"):
            return {**options, "server": {"type": "unix", "path": rest.removeprefix("unix:")}}
        host, colon, port = rest.rpartition(":")
        if not colon or not port:
            raise GenericError(f"error parsing address '{rest}'")
        return {**options, "server": {"type": "inet", "host": host.strip("[]"), "port": port}}

    def exact_filename(self) -> str | None:
        """An URI; None where there is none for the address."""
        server, export = self.options.server, self.options.export
        if isinstance(server, SocketAddressUnix):
            path = f"/{quote(export, safe='')}" if export else ""
            return f"nbd+unix://{path}?socket={quote(server.path)}"
        if isinstance(server, SocketAddressInet):
            host = f"[{server.host}]" if ":" in server.host else server.host
            return f"nbd://{host}:{server.port}" + (f"/{quote(export, safe='')}" if export else "")
        return None

    def open_options(self) -> dict[str, Any]:
        """As in the base."""
        from qemud.qapi.runtime.check import to_wire

        options: dict[str, Any] = {"driver": "nbd", "server": to_wire(self.options.server)}
        for name in ("export", "tls_creds", "tls_hostname"):
            value = getattr(self.options, name)
            if value is not None:
                options[name.replace("_", "-")] = value
        return options

    # Opening.

    async def do_open(self) -> None:
        """Connect, and take over what the server says of the export."""
        options = self.options
        export = options.export or ""
        if len(export.encode()) > MAX_STRING:
            raise GenericError("export name too long to send to server")
        if options.x_dirty_bitmap is not None and len(options.x_dirty_bitmap.encode()) > MAX_STRING:
            raise GenericError("x-dirty-bitmap query too long to send to server")
        self._turn = asyncio.Lock()
        if options.tls_creds is not None:
            from qemud.chardev.tls import Protection

            self._protection = Protection(self.graph.objects, options.tls_creds, None, server=False)
        elif options.tls_hostname is not None:
            raise GenericError("TLS hostname given without TLS credentials")
        try:
            link = await self._first_link(options.open_timeout)
        except BaseException:
            self._release()
            raise
        if link.flags & TransmissionFlag.READ_ONLY and not self.read_only:
            if not self.flags.auto_read_only:
                await link.close()
                self._release()
                raise GenericError("request on write denied without write permission")
            self.read_only = True
        self._link = link
        self.size = link.size
        self.request_alignment = link.least
        self.max_transfer = link.most
        self.supports_fua = bool(link.flags & TransmissionFlag.SEND_FUA)

    async def _first_link(self, patience: int) -> Link:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while True:
            try:
                return await self._connect()
            except (OSError, GenericError):
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(min(_PAUSE, max(0.0, deadline - loop.time())))

    def _release(self) -> None:
        if self._protection is not None:
            self._protection.release()
            self._protection = None

    async def do_close(self) -> None:
        """Say goodbye to the server."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        self._release()

    async def prepare_reopen(self, options: Any, flags: Flags) -> Callable[[], None] | None:
        """The flags may change, the export must stay the same."""
        for name in ("server", "export", "tls_creds", "tls_hostname", "x_dirty_bitmap"):
            if getattr(options, name) != getattr(self.options, name):
                raise GenericError(f"Cannot change the option '{name.replace('_', '-')}'")
        link = self._link
        if not flags.read_only and link is not None and link.flags & TransmissionFlag.READ_ONLY:
            raise GenericError("Can't reopen read-only mount as read-write")
        return None

    async def _connect(self) -> Link:
        """One try.  GenericError."""
        from qemud.chardev import address as addresses

        server, options = self.options.server, self.options
        sock = await addresses.connect(addresses.plain(server), addresses.inherited_fd)
        wire = Wire(sock)
        hostname = options.tls_hostname
        if hostname is None and isinstance(server, SocketAddressInet):
            hostname = server.host
        try:
            # QEMU waits for ever, and with it whoever asked for the node.
            async with asyncio.timeout(_HANDSHAKE_LIMIT):
                link = await connect(
                    wire,
                    options.export or "",
                    protection=self._protection,
                    hostname=hostname or "",
                    context=options.x_dirty_bitmap or BASE_ALLOCATION,
                )
        except TimeoutError:
            wire.close()
            raise GenericError("Failed to read data: Connection timed out") from None
        except OSError as error:
            wire.close()
            raise GenericError(f"Failed to read data: {error.strerror or error}") from None
        except BaseException:
            wire.close()
            raise
        link.start()
        return link

    # Requests.

    async def _linked(self, deadline: float) -> Link:
        """The connection; a new one when the last has been lost.  OSError: there is none before the deadline."""
        async with self._turn:
            while True:
                link = self._link
                if link is None:
                    raise LinkLost
                if not link.lost:
                    return link
                try:
                    fresh = await self._connect()
                except GenericError:
                    fresh = None
                if fresh is not None:
                    if fresh.size == self.size and not (
                        fresh.flags & TransmissionFlag.READ_ONLY and not self.read_only
                    ):
                        self._link = fresh
                        await link.close()
                        return fresh
                    await fresh.close()
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    raise LinkLost
                await asyncio.sleep(min(_PAUSE, left))

    async def _with_link(self, work: Callable[[Link], Awaitable[Any]]) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.options.reconnect_delay
        while True:
            link = await self._linked(deadline)
            try:
                return await work(link)
            except LinkLost:
                # Without a delay what was under way is lost with the connection.
                if not self.options.reconnect_delay or loop.time() >= deadline:
                    raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """As in the base."""
        length = sum(map(len, buffers))
        await self._with_link(lambda link: link.request(Cmd.READ, offset, length, into=buffers))

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """As in the base."""
        length = sum(map(len, buffers))
        flags = CmdFlag.FUA if fua and self.supports_fua else 0
        await self._with_link(
            lambda link: link.request(Cmd.WRITE, offset, length, flags=flags, payload=buffers)
        )

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """As in the base."""
        if not self._can(TransmissionFlag.SEND_WRITE_ZEROES):
            raise unsupported()
        flags = 0 if unmap else CmdFlag.NO_HOLE
        await self._in_parts(Cmd.WRITE_ZEROES, offset, length, flags)

    async def do_discard(self, offset: int, length: int) -> None:
        """As in the base."""
        if self._can(TransmissionFlag.SEND_TRIM):
            await self._in_parts(Cmd.TRIM, offset, length, 0)

    async def do_flush_to_disk(self) -> None:
        """As in the base."""
        if self._can(TransmissionFlag.SEND_FLUSH):
            await self._with_link(lambda link: link.request(Cmd.FLUSH, 0, 0))

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """What the server says; data where it says nothing."""
        link = self._link
        if link is None or link.context is None:
            return Extent(length, data=True, zero=False, allocated=True, map_offset=offset, file=self)
        size = min(length, _MAX_LENGTH)
        extents = await self._with_link(
            lambda link: link.request(Cmd.BLOCK_STATUS, offset, size, flags=CmdFlag.REQ_ONE)
        )
        found, flags = extents[0]
        return Extent(
            min(found, length),
            data=not flags & STATE_HOLE,
            zero=bool(flags & STATE_ZERO),
            allocated=True,
            map_offset=offset,
            file=self,
        )

    def _can(self, flag: TransmissionFlag) -> bool:
        return self._link is not None and bool(self._link.flags & flag)

    async def _in_parts(self, kind: Cmd, offset: int, length: int, flags: int) -> None:
        while length:
            part = min(length, _MAX_LENGTH)
            await self._with_link(functools.partial(_send, kind, offset, part, flags))
            offset, length = offset + part, length - part


async def _send(kind: Cmd, offset: int, length: int, flags: int, link: Link) -> None:
    await link.request(kind, offset, length, flags=flags)


def _parse_uri(name: str) -> dict[str, Any]:
    """`nbd://HOST:PORT/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`.  GenericError."""
    try:
        uri = urlsplit(name)
        port = uri.port
    except ValueError:
        raise GenericError("Invalid URI") from None
    options: dict[str, Any] = {}
    export = unquote(uri.path.removeprefix("/"))
    if export:
        options["export"] = export
    query = parse_qs(uri.query)
    if uri.scheme == "nbd+unix":
        if uri.netloc or list(query) != ["socket"] or len(query["socket"]) != 1:
            raise GenericError("Invalid URI")
        options["server"] = {"type": "unix", "path": query["socket"][0]}
    else:
        if not uri.hostname or query:
            raise GenericError("Invalid URI")
        options["server"] = {
            "type": "inet",
            "host": uri.hostname,
            "port": DEFAULT_PORT if port is None else str(port),
        }
    return options
