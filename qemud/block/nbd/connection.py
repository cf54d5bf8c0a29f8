"""One client of the NBD server, after the handshake: its requests, several at a time, in any order.

    await Connection(wire, session).serve()        # until the client has gone or breaks the rules

No more than MAX_REQUESTS are under way, and no more data is read from the client meanwhile.  Requests that have begun are ended, as
far as the disk is concerned, also when the client goes away.

Source: the NBD protocol, "Transmission phase"; QEMU 10.0, nbd/server.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

from qemud.block.jobs.chain import status_above
from qemud.block.nbd.handshake import BadClient
from qemud.block.nbd.protocol import (
    CHUNK,
    CHUNK_DONE,
    EXTENT,
    HOLE,
    MAX_BUFFER,
    MAX_REQUESTS,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Cmd,
    CmdFlag,
    to_wire_error,
)

if TYPE_CHECKING:
    from qemud.block.nbd.contexts import Context
    from qemud.block.nbd.handshake import Session
    from qemud.block.nbd.wire import Wire

_MAX_EXTENTS = 1 << 17
"""How many extents one answer tells of each context, at most."""
_FLAGS = {
    Cmd.READ: CmdFlag.FUA | CmdFlag.DF,
    Cmd.WRITE: CmdFlag.FUA,
    Cmd.FLUSH: CmdFlag.FUA,
    Cmd.TRIM: CmdFlag.FUA,
    Cmd.CACHE: CmdFlag.FUA,
    Cmd.WRITE_ZEROES: CmdFlag.FUA | CmdFlag.NO_HOLE | CmdFlag.FAST_ZERO,
    Cmd.BLOCK_STATUS: CmdFlag.FUA | CmdFlag.REQ_ONE,
}
_CHANGES = frozenset((Cmd.WRITE, Cmd.TRIM, Cmd.WRITE_ZEROES))


class _Request:
    __slots__ = ("cookie", "data", "flags", "kind", "length", "offset")

    def __init__(self, flags: int, kind: int, cookie: int, offset: int, length: int) -> None:
        self.flags = flags
        self.kind = kind
        self.cookie = cookie
        self.offset = offset
        self.length = length
        self.data = memoryview(b"")


class Connection:
    """See the module."""

    def __init__(self, wire: Wire, session: Session) -> None:
        self._wire = wire
        self._export = session.export
        self._structured = session.structured
        self._contexts = session.contexts
        self._free = asyncio.Semaphore(MAX_REQUESTS)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """See the module.  BadClient."""
        try:
            while (request := await self._next()) is not None:
                task = asyncio.get_running_loop().create_task(self._answer(request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except (EOFError, OSError):
            pass  # the client has gone
        finally:
            while self._tasks:
                await asyncio.wait(self._tasks)

    async def _next(self) -> _Request | None:
        """The next request, with its data, once there is room for it; None: the client says goodbye."""
        await self._free.acquire()
        magic, flags, kind, cookie, offset, length = REQUEST.unpack(await self._wire.read(REQUEST.size))
        if magic != REQUEST_MAGIC:
            raise BadClient(f"invalid magic (got {magic:#x})")
        request = _Request(flags, kind, cookie, offset, length)
        if kind == Cmd.DISC:
            return None
        if kind == Cmd.WRITE:
            if length > MAX_BUFFER:
                raise BadClient(f"len ({length}) is larger than max len ({MAX_BUFFER})")
            data = memoryview(bytearray(length))
            await self._wire.read_into(data)
            request.data = data
        return request

    async def _answer(self, request: _Request) -> None:
        """Do what is asked and say how it went."""
        try:
            try:
                problem = self._problem(request)
                if problem:
                    await self._fail(request, *problem)
                else:
                    await self._do(request)
            except OSError as error:
                number = error.errno or errno.EIO
                await self._fail(request, number, os.strerror(number))
        except (OSError, EOFError):
            self._wire.shut()  # it cannot be answered: whoever reads finds out
        finally:
            request.data = memoryview(b"")
            self._free.release()

    def _problem(self, request: _Request) -> tuple[int, str] | None:
        """What is wrong with a request before anything is done."""
        kind, offset, length = request.kind, request.offset, request.length
        allowed = _FLAGS.get(Cmd(kind)) if kind in _KNOWN else None
        if allowed is None:
            return errno.EINVAL, f"invalid request type ({kind}) received"
        if request.flags & ~allowed:
            return errno.EINVAL, f"unsupported flags for command {Cmd(kind).name} (got {request.flags:#x})"
        if kind == Cmd.READ and request.flags & CmdFlag.DF and not self._structured:
            return errno.EINVAL, "the flag DF without structured replies"
        if kind == Cmd.BLOCK_STATUS and not self._contexts:
            return errno.EINVAL, "CMD_BLOCK_STATUS not negotiated"
        if kind == Cmd.BLOCK_STATUS and not length:
            return errno.EINVAL, "need non-zero length"
        if kind == Cmd.READ and length > MAX_BUFFER:
            return errno.EINVAL, f"len ({length}) is larger than max len ({MAX_BUFFER})"
        if kind in _CHANGES and self._export.read_only:
            return errno.EROFS, "Export is read-only"
        if kind != Cmd.FLUSH and offset + length > self._export.size:
            # A protocol's rule: writing beyond the end is no room, anything else is invalid.
            number = errno.ENOSPC if kind in {Cmd.WRITE, Cmd.WRITE_ZEROES} else errno.EINVAL
            return number, (f"operation past EOF; From: {offset}, Len: {length}, Size: {self._export.size}")
        if kind != Cmd.READ and self._export.node.inactive:
            return errno.EPERM, "export is inactive"
        return None

    async def _do(self, request: _Request) -> None:
        backend = self._export.backend
        offset, length = request.offset, request.length
        fua = bool(request.flags & CmdFlag.FUA)
        match request.kind:
            case Cmd.READ:
                if fua:
                    await backend.flush()
                await self._read(request)
                return
            case Cmd.WRITE:
                await backend.writev(offset, [request.data], fua=fua)
            case Cmd.FLUSH:
                await backend.flush()
            case Cmd.TRIM:
                await backend.discard(offset, length)
                if fua:
                    await backend.flush()
            case Cmd.WRITE_ZEROES:
                await backend.write_zeroes(
                    offset,
                    length,
                    unmap=not request.flags & CmdFlag.NO_HOLE,
                    fua=fua,
                    fallback=not request.flags & CmdFlag.FAST_ZERO,
                )
            case Cmd.BLOCK_STATUS:
                await self._block_status(request)
                return
            case Cmd.CACHE:
                await self._cache(offset, length)
        await self._done(request)

    # Answers.

    def _chunk(self, request: _Request, kind: int, length: int, *, done: bool) -> bytes:
        flags = CHUNK_DONE if done else 0
        return CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, kind, request.cookie, length)

    async def _done(self, request: _Request) -> None:
        if self._structured:
            await self._wire.send(self._chunk(request, Chunk.NONE, 0, done=True))
        else:
            await self._wire.send(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie))

    async def _fail(self, request: _Request, number: int, text: str) -> None:
        wire = to_wire_error(number)
        if self._structured:
            message = text.encode()[:4096]
            payload = wire.to_bytes(4, "big") + len(message).to_bytes(2, "big") + message
            await self._wire.send(self._chunk(request, Chunk.ERROR, len(payload), done=True) + payload)
        else:
            await self._wire.send(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, wire, request.cookie))

    # Reading.

    async def _read(self, request: _Request) -> None:
        if not self._structured:
            data = await self._load(request.offset, request.length)
            await self._wire.send(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie), data)
        elif not request.length:
            await self._done(request)
        elif request.flags & CmdFlag.DF:
            await self._send_data(request, request.offset, request.length, done=True)
        else:
            await self._read_sparse(request)

    async def _read_sparse(self, request: _Request) -> None:
        """Holes are told, not sent."""
        offset, end = request.offset, request.offset + request.length
        while offset < end:
            extent = await status_above(self._export.node, None, offset, end - offset)
            length = extent.length or end - offset
            done = offset + length == end
            if extent.zero:
                payload = HOLE.pack(offset, length)
                await self._wire.send(
                    self._chunk(request, Chunk.OFFSET_HOLE, len(payload), done=done) + payload
                )
            else:
                await self._send_data(request, offset, length, done=done)
            offset += length

    async def _send_data(self, request: _Request, offset: int, length: int, *, done: bool) -> None:
        data = await self._load(offset, length)
        header = self._chunk(request, Chunk.OFFSET_DATA, 8 + length, done=done) + offset.to_bytes(8, "big")
        await self._wire.send(header, data)

    async def _load(self, offset: int, length: int) -> memoryview:
        data = memoryview(bytearray(length))
        if length:
            await self._export.backend.readv(offset, [data])
        return data

    async def _cache(self, offset: int, length: int) -> None:
        """Bring the range into the host's memory, by reading it."""
        while length:
            part = min(length, MAX_BUFFER)
            await self._load(offset, part)
            offset, length = offset + part, length - part

    # Status.

    async def _block_status(self, request: _Request) -> None:
        limit = 1 if request.flags & CmdFlag.REQ_ONE else _MAX_EXTENTS
        last = list(self._contexts)[-1]
        for number, context in self._contexts.items():
            extents = await self._extents(context, request.offset, request.length, limit)
            payload = number.to_bytes(4, "big") + extents
            header = self._chunk(request, Chunk.BLOCK_STATUS, len(payload), done=number == last)
            await self._wire.send(header + payload)

    async def _extents(self, context: Context, offset: int, length: int, limit: int) -> bytes:
        """Extents from an offset on, neighbours of the same flags as one."""
        node, end = self._export.node, offset + length
        found: list[tuple[int, int]] = []
        while offset < end:
            size, flags = await context.extent(node, offset, end - offset)
            if found and found[-1][1] == flags:
                found[-1] = (found[-1][0] + size, flags)
            elif len(found) == limit:
                break
            else:
                found.append((size, flags))
            offset += size
        return b"".join(EXTENT.pack(size, flags) for size, flags in found)


_KNOWN = frozenset(Cmd)
