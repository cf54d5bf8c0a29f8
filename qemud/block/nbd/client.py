"""The client's half of NBD: a connection to an export, and its requests.

    link = await connect(wire, "disk0", protection=None, hostname=None, context=BASE_ALLOCATION)    # GenericError, OSError
    await link.request(Cmd.WRITE, offset, length, payload=buffers)                                   # OSError
    await link.request(Cmd.READ, offset, length, into=buffers)
    extents = await link.request(Cmd.BLOCK_STATUS, offset, length)
    await link.close()

Answers come in any order; one task reads them.  When the connection breaks, every request that waits raises `LinkLost`.  A server is
not trusted: what it sends is checked against what was asked.

Source: the NBD protocol, doc/proto.md; texts: QEMU 10.0, nbd/client.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from typing import TYPE_CHECKING

from qemud.block.buffers import clear, cut
from qemud.block.nbd.protocol import (
    BLOCK_SIZES,
    CHUNK,
    CHUNK_DONE,
    EXPORT_INFO,
    EXTENT,
    FLAG_FIXED_NEWSTYLE,
    FLAG_NO_ZEROES,
    HOLE,
    INIT_MAGIC,
    MAX_BUFFER,
    MAX_REQUESTS,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Cmd,
    Info,
    Opt,
    Rep,
    TransmissionFlag,
    from_wire_error,
)
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud.block.nbd.wire import Wire
    from qemud.chardev.tls import Protection

_MAX_ANSWER = 1 << 20
"""The longest answer to an option, and the longest description of an error or of extents, bytes."""


class LinkLost(OSError):
    """The connection has ended while a request was under way, or before it began."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, os.strerror(errno.EIO))


class _Protocol(Exception):
    """The server does not follow the protocol."""


class _Waiting:
    """A request that was sent."""

    __slots__ = ("done", "error", "extents", "into", "kind", "length", "offset", "seen")

    def __init__(
        self, kind: Cmd, offset: int, length: int, into: Sequence[memoryview], done: asyncio.Future[None]
    ) -> None:
        self.kind = kind
        self.offset = offset
        self.length = length
        self.into = into
        self.done = done
        self.error = 0
        self.seen = 0
        self.extents: list[tuple[int, int]] = []


class Link:
    """See the module."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.size = 0
        self.flags = TransmissionFlag.HAS_FLAGS
        self.least = 1
        """What offsets and lengths are multiples of."""
        self.most = MAX_BUFFER
        """The most data of a request."""
        self.structured = False
        self.context: int | None = None
        """The number of the metadata context that was agreed on."""
        self.lost = False
        self._waiting: dict[int, _Waiting] = {}
        self._cookie = 0
        self._free = asyncio.Semaphore(MAX_REQUESTS)
        self._reader: asyncio.Task[None] | None = None

    def start(self) -> None:
        """The handshake is over: read answers from now on."""
        self._reader = asyncio.get_running_loop().create_task(self._read_answers())

    async def request(
        self,
        kind: Cmd,
        offset: int,
        length: int,
        *,
        flags: int = 0,
        payload: Sequence[memoryview] = (),
        into: Sequence[memoryview] = (),
    ) -> list[tuple[int, int]]:
        """Send a request and wait for its end; extents as (length, flags), if it is about them.  OSError."""
        async with self._free:
            if self.lost:
                raise LinkLost
            self._cookie = cookie = (self._cookie + 1) & 0xFFFF_FFFF_FFFF_FFFF
            waiting = _Waiting(kind, offset, length, into, asyncio.get_running_loop().create_future())
            self._waiting[cookie] = waiting
            header = REQUEST.pack(REQUEST_MAGIC, flags, kind, cookie, offset, length)
            try:
                await self._wire.send(header, *payload)
            except OSError:
                self._lose()
            # Not to be left before the answer is there, which is read into the caller's buffers.
            await asyncio.shield(waiting.done) if not into else await _wait_through(waiting.done)
        if waiting.error:
            raise OSError(waiting.error, os.strerror(waiting.error))
        return waiting.extents

    async def close(self) -> None:
        """Say goodbye."""
        if not self.lost:
            with contextlib.suppress(OSError):  # it has gone already
                await self._wire.send(REQUEST.pack(REQUEST_MAGIC, 0, Cmd.DISC, 0, 0, 0))
            self._wire.shut()
        if self._reader is not None:
            await asyncio.wait((self._reader,))
        self._wire.close()

    # Answers.

    def _lose(self) -> None:
        self.lost = True
        self._wire.shut()
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            if not request.done.done():
                request.done.set_exception(LinkLost())

    async def _read_answers(self) -> None:
        try:
            while True:
                await self._answer()
        except (EOFError, OSError):
            pass
        except _Protocol as error:
            from qemud.logs import Logger

            Logger("nbd").error("the NBD server does not follow the protocol", reason=str(error))
        finally:
            self._lose()

    async def _answer(self) -> None:
        magic = int.from_bytes(await self._wire.read(4), "big")
        if magic == SIMPLE_REPLY_MAGIC:
            await self._simple()
        elif magic == STRUCTURED_REPLY_MAGIC and self.structured:
            await self._chunk()
        else:
            raise _Protocol(f"invalid magic (got {magic:#x})")

    def _find(self, cookie: int) -> _Waiting:
        found = self._waiting.get(cookie)
        if found is None:
            raise _Protocol("Unexpected reply")
        return found

    def _finish(self, cookie: int) -> None:
        request = self._waiting.pop(cookie)
        if not request.done.done():
            request.done.set_result(None)

    async def _simple(self) -> None:
        data = await self._wire.read(12)
        error, cookie = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:], "big")
        request = self._find(cookie)
        if self.structured and request.kind in {Cmd.READ, Cmd.BLOCK_STATUS}:
            raise _Protocol("simple reply to a request that needs a structured one")
        if error:
            request.error = from_wire_error(error)
        else:
            for view in request.into:
                await self._wire.read_into(view)
        self._finish(cookie)

    async def _chunk(self) -> None:
        head = await self._wire.read(CHUNK.size - 4)
        _, flags, kind, cookie, length = CHUNK.unpack(b"\0\0\0\0" + head)
        request = self._find(cookie)
        match kind:
            case Chunk.NONE:
                if length or not flags & CHUNK_DONE:
                    raise _Protocol("chunk NONE with data, or in the middle")
            case Chunk.OFFSET_DATA:
                await self._data(request, length)
            case Chunk.OFFSET_HOLE:
                await self._hole(request, length)
            case Chunk.BLOCK_STATUS:
                await self._status(request, length)
            case Chunk.ERROR | Chunk.ERROR_OFFSET:
                await self._error(request, kind, length)
            case _ if kind & 0x8000:
                await self._skip(length)
                request.error = request.error or errno.EINVAL
            case _:
                raise _Protocol(f"unexpected chunk of type {kind}")
        if flags & CHUNK_DONE:
            if not request.error:
                if request.kind == Cmd.READ and request.seen != request.length:
                    raise _Protocol("a read was answered in part")
                if request.kind == Cmd.BLOCK_STATUS and not request.extents:
                    request.error = errno.EIO
            self._finish(cookie)

    async def _skip(self, length: int) -> None:
        if length > _MAX_ANSWER:
            raise _Protocol(f"chunk of {length} bytes, expected at most {_MAX_ANSWER}")
        await self._wire.skip(length)

    def _range(self, request: _Waiting, offset: int, length: int) -> list[memoryview]:
        """The part of the request's buffers for this part of the disk."""
        start = offset - request.offset
        if request.kind != Cmd.READ or start < 0 or not length or start + length > request.length:
            raise _Protocol("server sent chunk exceeding requested region")
        request.seen += length
        return cut(request.into, start, start + length)

    async def _data(self, request: _Waiting, length: int) -> None:
        if length <= 8:
            raise _Protocol("chunk of data is too short")
        offset = int.from_bytes(await self._wire.read(8), "big")
        for view in self._range(request, offset, length - 8):
            await self._wire.read_into(view)

    async def _hole(self, request: _Waiting, length: int) -> None:
        if length != HOLE.size:
            raise _Protocol("invalid payload for a hole")
        offset, size = HOLE.unpack(await self._wire.read(HOLE.size))
        for view in self._range(request, offset, size):
            clear(view)

    async def _status(self, request: _Waiting, length: int) -> None:
        if request.kind != Cmd.BLOCK_STATUS or length < 4 + EXTENT.size or (length - 4) % EXTENT.size:
            raise _Protocol("invalid payload for block status")
        if length > _MAX_ANSWER:
            raise _Protocol("block status is too long")
        data = await self._wire.read(length)
        if int.from_bytes(data[:4], "big") != self.context:
            raise _Protocol("unexpected metadata context")
        if not request.extents:
            extents = list(EXTENT.iter_unpack(data[4:]))
            if not extents[0][0]:
                raise _Protocol("server sent an extent of no length")
            request.extents = extents

    async def _error(self, request: _Waiting, kind: int, length: int) -> None:
        if length > _MAX_ANSWER or length < (6 if kind == Chunk.ERROR else 14):
            raise _Protocol("invalid payload for an error")
        data = await self._wire.read(length)
        if not request.error:
            request.error = from_wire_error(int.from_bytes(data[:4], "big"))


async def _wait_through(future: asyncio.Future[None]) -> None:
    """Wait, and if cancelled meanwhile, be so only at the end."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    future.result()


# -- the handshake -------------------------------------------------------------------------------------------------------


async def connect(
    wire: Wire, export: str, *, protection: Protection | None, hostname: str | None, context: str
) -> Link:
    """Choose an export of the server at the other end.  GenericError, OSError."""
    try:
        return await _Handshake(wire, export, context).run(protection, hostname)
    except EOFError:
        raise GenericError("Failed to read data: Unexpected end-of-file before all data were read") from None
    except _Protocol as error:
        raise GenericError(str(error)) from None


class _Unsupported(Exception):
    """The server does not know the option."""


class _Handshake:
    def __init__(self, wire: Wire, export: str, context: str) -> None:
        self._wire = wire
        self._export = export.encode()
        self._context = context
        self._link = Link(wire)

    async def run(self, protection: Protection | None, hostname: str | None) -> Link:
        greeting = await self._wire.read(18)
        if not greeting.startswith(INIT_MAGIC):
            raise _Protocol("Bad initial magic received")
        if greeting[8:16] != OPTION_MAGIC:
            raise _Protocol("Server does not support the newstyle handshake")
        server = int.from_bytes(greeting[16:], "big")
        flags = server & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)
        await self._wire.send(flags.to_bytes(4, "big"))
        if not server & FLAG_FIXED_NEWSTYLE:
            if protection is not None:
                raise _Protocol("Server does not support STARTTLS")
            await self._choose_by_name(no_zeroes=bool(server & FLAG_NO_ZEROES))
            return self._link
        if protection is not None:
            await self._start_tls(protection, hostname)
        await self._agree_on_context()
        try:
            await self._choose()
        except _Unsupported:
            await self._choose_by_name(no_zeroes=bool(server & FLAG_NO_ZEROES))
        return self._link

    async def _send(self, option: Opt, data: bytes = b"") -> None:
        await self._wire.send(OPTION.pack(OPTION_MAGIC, option, len(data)) + data)

    async def _answer(self, option: Opt) -> tuple[int, bytes]:
        """One answer.  GenericError: the server refuses."""
        magic, about, kind, length = OPTION_REPLY.unpack(await self._wire.read(OPTION_REPLY.size))
        if magic != OPTION_REPLY_MAGIC or about != option:
            raise _Protocol("Unexpected option reply")
        if length > _MAX_ANSWER:
            raise _Protocol(f"option reply of {length} bytes is too long")
        data = await self._wire.read(length)
        if not kind & 0x8000_0000:
            return kind, data
        match kind:
            case Rep.ERR_UNSUP:
                raise _Unsupported
            case Rep.ERR_POLICY:
                raise GenericError(f"Denied by server for option {option.value} ({_NAMES[option]})")
            case Rep.ERR_TLS_REQD:
                raise GenericError(f"Server requires TLS for option {option.value} ({_NAMES[option]})")
            case Rep.ERR_UNKNOWN:
                raise GenericError("Requested export not available")
            case Rep.ERR_SHUTDOWN:
                raise GenericError("Server is shutting down")
            case Rep.ERR_BLOCK_SIZE_REQD:
                raise GenericError("Server requires INFO_BLOCK_SIZE for option 7 (go)")
        raise GenericError(
            f"Unknown error code {kind - 0x8000_0000} when asking for option {option.value} ({_NAMES[option]})"
        )

    async def _start_tls(self, protection: Protection, hostname: str | None) -> None:
        await self._send(Opt.STARTTLS)
        try:
            kind, data = await self._answer(Opt.STARTTLS)
        except _Unsupported:
            raise GenericError("Server does not support STARTTLS") from None
        if kind != Rep.ACK or data:
            raise _Protocol("Unexpected reply to STARTTLS")
        await self._wire.start_tls(protection, hostname)

    async def _agree_on_context(self) -> None:
        link = self._link
        await self._send(Opt.STRUCTURED_REPLY)
        try:
            kind, _ = await self._answer(Opt.STRUCTURED_REPLY)
        except _Unsupported:
            return
        if kind != Rep.ACK:
            raise _Protocol("Unexpected reply to STRUCTURED_REPLY")
        link.structured = True
        name = self._context.encode()
        data = _string(self._export) + (1).to_bytes(4, "big") + _string(name)
        await self._send(Opt.SET_META_CONTEXT, data)
        try:
            while (answer := await self._answer(Opt.SET_META_CONTEXT))[0] != Rep.ACK:
                kind, data = answer
                if kind != Rep.META_CONTEXT or data[4:] != name or link.context is not None:
                    raise _Protocol("Failed to negotiate the metadata context")
                link.context = int.from_bytes(data[:4], "big")
        except _Unsupported:
            return

    async def _choose(self) -> None:
        link = self._link
        wanted = (1).to_bytes(2, "big") + Info.BLOCK_SIZE.to_bytes(2, "big")
        await self._send(Opt.GO, _string(self._export) + wanted)
        known = False
        while (answer := await self._answer(Opt.GO))[0] != Rep.ACK:
            kind, data = answer
            if kind != Rep.INFO or len(data) < 2:
                raise _Protocol("Unexpected reply to GO")
            what = int.from_bytes(data[:2], "big")
            if what == Info.EXPORT and len(data) == EXPORT_INFO.size:
                _, link.size, flags = EXPORT_INFO.unpack(data)
                link.flags = TransmissionFlag(flags & _KNOWN_FLAGS)
                known = True
            elif what == Info.BLOCK_SIZE and len(data) == BLOCK_SIZES.size:
                _, least, _, most = BLOCK_SIZES.unpack(data)
                if not least or least & (least - 1) or least > 65536 or most < least:
                    raise _Protocol(f"server advertised impossible block sizes {least} to {most}")
                link.least, link.most = least, min(most // least * least, MAX_BUFFER)
        if not known:
            raise _Protocol("broken server omitted INFO_EXPORT")
        self._check()

    async def _choose_by_name(self, *, no_zeroes: bool) -> None:
        link = self._link
        link.context = None
        await self._send(Opt.EXPORT_NAME, self._export)
        data = await self._wire.read(10)
        link.size = int.from_bytes(data[:8], "big")
        link.flags = TransmissionFlag(int.from_bytes(data[8:], "big") & _KNOWN_FLAGS)
        if not no_zeroes:
            await self._wire.skip(124)
        self._check()

    def _check(self) -> None:
        if self._link.size >= 1 << 63:
            raise _Protocol("export length is too large")


_NAMES: dict[Opt, str] = {
    Opt.EXPORT_NAME: "export name",
    Opt.STARTTLS: "starttls",
    Opt.GO: "go",
    Opt.STRUCTURED_REPLY: "structured reply",
    Opt.SET_META_CONTEXT: "set meta context",
}
_KNOWN_FLAGS = int(~TransmissionFlag(0))


def _string(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text
