"""The server's half of the fixed newstyle handshake: options until the client has chosen an export.

    session = await negotiate(wire, server)         # None: the client has gone, or wants no export

What breaks the rules ends the connection (`BadClient`); what is merely unknown is answered so.

Source: the NBD protocol, "Handshake phase"; order and texts: QEMU 10.0, nbd/server.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud.block.nbd.contexts import select
from qemud.block.nbd.protocol import (
    BLOCK_SIZES,
    EXPORT_INFO,
    FLAG_FIXED_NEWSTYLE,
    FLAG_NO_ZEROES,
    INIT_MAGIC,
    MAX_BUFFER,
    MAX_OPTION,
    MAX_STRING,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    Info,
    Opt,
    Rep,
    TransmissionFlag,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemud.block.nbd.contexts import Context
    from qemud.block.nbd.exports import NbdExport
    from qemud.block.nbd.wire import Wire

BASE_CONTEXT = 0
_PREFERRED_SIZE = 4096
_MAX_QUERIES = 1024


class Server(Protocol):
    """What the handshake needs of the server."""

    @property
    def encrypts(self) -> bool:
        """Whether clients must use TLS."""

    def exports(self) -> Iterable[NbdExport]:
        """What there is."""

    def find(self, name: str) -> NbdExport | None:
        """The export of that name."""

    async def secure(self, wire: Wire) -> None:
        """Shake hands over TLS and see who it is.  GenericError: it failed."""


class BadClient(Exception):
    """The client does not follow the protocol."""


class Session:
    """What client and server have agreed on."""

    def __init__(self) -> None:
        self.export: NbdExport
        self.structured = False
        self.contexts: dict[int, Context] = {}


class _Refused(Exception):
    """An option is answered so."""

    def __init__(self, reply: Rep, text: str) -> None:
        super().__init__(text)
        self.reply = reply


async def negotiate(wire: Wire, server: Server) -> Session | None:
    """See the module.  EOFError, OSError, BadClient."""
    await wire.send(INIT_MAGIC + OPTION_MAGIC + (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_bytes(2, "big"))
    flags = int.from_bytes(await wire.read(4), "big")
    if flags & ~(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES):
        raise BadClient(f"unknown client flags {flags:#x}")
    if not flags & FLAG_FIXED_NEWSTYLE:
        raise BadClient("the client does not know the fixed newstyle handshake")
    return await _Haggling(wire, server, no_zeroes=bool(flags & FLAG_NO_ZEROES)).run()


class _Haggling:
    def __init__(self, wire: Wire, server: Server, *, no_zeroes: bool) -> None:
        self._wire = wire
        self._server = server
        self._no_zeroes = no_zeroes
        self._secured = False
        self._session = Session()
        self._context_export: NbdExport | None = None

    async def run(self) -> Session | None:
        while True:
            magic, option, length = OPTION.unpack(await self._wire.read(OPTION.size))
            if magic != OPTION_MAGIC:
                raise BadClient("Bad magic received")
            if option == Opt.EXPORT_NAME:
                return await self._export_name(length)
            if length > MAX_OPTION:
                await self._wire.skip(length)
                await self._reply(option, Rep.ERR_TOO_BIG, b"option data is too long")
                continue
            data = await self._wire.read(length)
            if option == Opt.ABORT:
                await self._reply(option, Rep.ACK)
                return None
            try:
                if await self._option(option, data):
                    return self._session
            except _Refused as refusal:
                await self._reply(option, refusal.reply, str(refusal).encode())

    async def _option(self, option: int, data: bytes) -> bool:
        """Answer an option; whether it ends the haggling."""
        if self._server.encrypts and not self._secured:
            if option != Opt.STARTTLS:
                raise _Refused(Rep.ERR_TLS_REQD, f"Option 0x{option:x} not permitted before TLS")
            await self._start_tls(data)
            return False
        match option:
            case Opt.LIST:
                await self._list(data)
            case Opt.INFO | Opt.GO:
                return await self._info(option, data)
            case Opt.STARTTLS:
                text = "TLS already enabled" if self._secured else "TLS not configured"
                raise _Refused(Rep.ERR_INVALID if self._secured else Rep.ERR_POLICY, text)
            case Opt.STRUCTURED_REPLY:
                if data:
                    raise _Refused(Rep.ERR_INVALID, "option 'structured reply' has unexpected data")
                if self._session.structured:
                    raise _Refused(Rep.ERR_INVALID, "structured reply already negotiated")
                self._session.structured = True
                await self._reply(option, Rep.ACK)
            case Opt.LIST_META_CONTEXT | Opt.SET_META_CONTEXT:
                await self._meta_context(option, data)
            case _:
                raise _Refused(Rep.ERR_UNSUP, f"Unsupported option {option}")
        return False

    async def _reply(self, option: int, kind: int, *data: bytes) -> None:
        payload = b"".join(data)
        await self._wire.send(OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(payload)) + payload)

    async def _start_tls(self, data: bytes) -> None:
        if data:
            raise _Refused(Rep.ERR_INVALID, "option 'starttls' has unexpected data")
        await self._reply(Opt.STARTTLS, Rep.ACK)
        await self._server.secure(self._wire)
        self._secured = True

    async def _export_name(self, length: int) -> Session:
        """The oldest way to choose: there is no way to refuse but to hang up."""
        if self._server.encrypts and not self._secured:
            raise BadClient("TLS is required")
        if length > MAX_STRING:
            raise BadClient("Bad length received")
        export = self._server.find(_text(await self._wire.read(length)))
        if export is None:
            raise BadClient("export not found")
        self._choose(export)
        answer = export.size.to_bytes(8, "big") + self._flags(export).to_bytes(2, "big")
        await self._wire.send(answer + (b"" if self._no_zeroes else bytes(124)))
        return self._session

    async def _list(self, data: bytes) -> None:
        if data:
            raise _Refused(Rep.ERR_INVALID, "option 'list' has unexpected data")
        for export in list(self._server.exports()):
            name = export.name.encode()
            description = (export.description or "").encode()
            await self._reply(Opt.LIST, Rep.SERVER, len(name).to_bytes(4, "big"), name, description)
        await self._reply(Opt.LIST, Rep.ACK)

    async def _info(self, option: int, data: bytes) -> bool:
        reader = _Reader(data)
        name = reader.string()
        wanted = {reader.number(2) for _ in range(reader.number(2))}
        reader.end()
        export = self._server.find(name)
        if export is None:
            raise _Refused(Rep.ERR_UNKNOWN, f"export '{name}' not present")
        if Info.NAME in wanted:
            await self._tell(option, Info.NAME, name.encode())
        if export.description:
            await self._tell(option, Info.DESCRIPTION, export.description.encode())
        # A client that did not ask for the sizes may not know of them: it can send requests of any alignment.
        least = export.alignment if Info.BLOCK_SIZE in wanted else 1
        sizes = BLOCK_SIZES.pack(Info.BLOCK_SIZE, least, max(_PREFERRED_SIZE, export.alignment), MAX_BUFFER)
        await self._reply(option, Rep.INFO, sizes)
        await self._reply(option, Rep.INFO, EXPORT_INFO.pack(Info.EXPORT, export.size, self._flags(export)))
        if option == Opt.GO:
            self._choose(export)
        await self._reply(option, Rep.ACK)
        return option == Opt.GO

    async def _tell(self, option: int, info: Info, data: bytes) -> None:
        await self._reply(option, Rep.INFO, info.to_bytes(2, "big"), data)

    async def _meta_context(self, option: int, data: bytes) -> None:
        if not self._session.structured:
            raise _Refused(
                Rep.ERR_INVALID,
                f"request option '{_META[option]}' when structured reply is not negotiated",
            )
        reader = _Reader(data)
        name = reader.string()
        export = self._server.find(name)
        if export is None:
            raise _Refused(Rep.ERR_UNKNOWN, f"export '{name}' not present")
        count = reader.number(4)
        if count > _MAX_QUERIES:
            raise _Refused(Rep.ERR_TOO_BIG, "too many queries")
        queries = [reader.string() for _ in range(count)]
        reader.end()
        listing = option == Opt.LIST_META_CONTEXT
        numbers = {context.name: number for number, context in enumerate(export.contexts, BASE_CONTEXT)}
        chosen = select(export.contexts, queries, listing=listing)
        if not listing:
            self._context_export = export
            self._session.contexts = {numbers[context.name]: context for context in chosen}
        for context in chosen:
            number = 0 if listing else numbers[context.name]
            await self._reply(option, Rep.META_CONTEXT, number.to_bytes(4, "big"), context.name.encode())
        await self._reply(option, Rep.ACK)

    def _choose(self, export: NbdExport) -> None:
        self._session.export = export
        if self._context_export is not export:
            self._session.contexts = {}

    def _flags(self, export: NbdExport) -> int:
        return export.flags | (TransmissionFlag.SEND_DF if self._session.structured else 0)


_META: dict[int, str] = {Opt.LIST_META_CONTEXT: "list meta context", Opt.SET_META_CONTEXT: "set meta context"}


class _Reader:
    """The data of an option, piece by piece."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise _Refused(Rep.ERR_INVALID, "Inconsistent lengths in option")
        self._at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def string(self) -> str:
        length = self.number(4)
        if length > MAX_STRING:
            raise _Refused(Rep.ERR_INVALID, f"string of {length} bytes, expected at most {MAX_STRING}")
        return _text(self._take(length))

    def end(self) -> None:
        if self._at != len(self._data):
            raise _Refused(Rep.ERR_INVALID, "option has unexpected data at its end")


def _text(data: bytes) -> str:
    """Names are UTF-8; what is not names nothing here."""
    return data.decode("utf-8", "replace")
