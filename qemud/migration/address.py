"""Where a machine goes or comes from, as clients write it: `tcp:HOST:PORT`, `unix:PATH`, `fd:NAME`, `exec:COMMAND`, `file:PATH`.

    address = parse_uri("tcp:192.0.2.7:4446")
    address = choose(uri, channels)                 # of a command, which names it in one of two ways

Source of the syntax and of texts: QEMU 10.0, migration/migration.c (migrate_uri_parse), util/qemu-sockets.c (socket_parse, inet_parse)
and migration/file.c.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qemud._generated.types.migration import (
    MigrationAddressExec,
    MigrationAddressFile,
    MigrationAddressSocketFd,
    MigrationAddressSocketInet,
    MigrationAddressSocketUnix,
)
from qemud._generated.types.sockets import FdSocketAddress, InetSocketAddress, UnixSocketAddress
from qemud.qapi.runtime import qemuopts
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud._generated.types.migration import MigrationAddress, MigrationChannel
    from qemud.chardev.address import Address

_OFFSET = ",offset="


def parse_uri(uri: str) -> MigrationAddress:
    """What a URI names.  GenericError."""
    scheme, _, rest = uri.partition(":")
    if rest or ":" in uri:
        match scheme:
            case "exec":
                return MigrationAddressExec(args=["/bin/sh", "-c", rest])
            case "tcp":
                return _inet(rest)
            case "unix":
                if not rest:
                    raise GenericError("invalid Unix socket address")
                return MigrationAddressSocketUnix(path=rest)
            case "fd":
                if not rest:
                    raise GenericError("invalid file descriptor address")
                return MigrationAddressSocketFd(str=rest)
            case "file":
                return _file(rest)
            case _:
                pass
    raise GenericError(f"unknown migration protocol: {uri}")


def choose(
    uri: str | None, channels: Sequence[MigrationChannel] | None, *, incoming: bool
) -> MigrationAddress:
    """The address in a command.  GenericError: it has none, or more than one."""
    if (uri is None) == (not channels):
        raise GenericError("need either 'uri' or 'channels' argument")
    if uri is not None:
        return parse_uri(uri)
    assert channels
    if len(channels) > 1:
        raise GenericError(
            "Channel list must have only one entry, for type 'main'"
            if incoming
            else "Channel list has more than one main entry"
        )
    return channels[0].addr


def socket_address(address: MigrationAddress) -> Address | None:
    """The address of a socket or descriptor, in the form that sockets have elsewhere; None for another transport."""
    given: Any = address
    if isinstance(address, MigrationAddressSocketInet):
        return InetSocketAddress(
            **{name: getattr(given, name) for name in InetSocketAddress.__struct_fields__}
        )
    if isinstance(address, MigrationAddressSocketUnix):
        return UnixSocketAddress(path=address.path, abstract=address.abstract, tight=address.tight)
    if isinstance(address, MigrationAddressSocketFd):
        return FdSocketAddress(str=address.str)
    return None


def _inet(text: str) -> MigrationAddressSocketInet:
    if text.startswith(":"):
        found, what = re.match(r"():([^,]{1,32})", text), "port in address"
    elif text.startswith("["):
        found, what = re.match(r"\[([^]]{1,64})\]:([^,]{1,32})", text), "IPv6 address"
    else:
        found, what = re.match(r"([^:]{1,64}):([^,]{1,32})", text), "address"
    if found is None:
        raise GenericError(f"error parsing {what} '{text}'")
    address = MigrationAddressSocketInet(host=found[1], port=found[2])
    options = text[found.end() :]
    if (given := _option(options, "to")) is not None:
        if re.fullmatch(r"=[+-]?[0-9]+", given) is None or not 0 <= int(given[1:]) <= 0xFFFF:
            raise GenericError("error parsing to= argument")
        address.to = int(given[1:])
    for name in ("ipv4", "ipv6"):
        if (given := _option(options, name)) is not None:
            setattr(address, name, _flag(name, given))
    if (given := _option(options, "keep-alive")) is not None:
        address.keep_alive = _flag("keep-alive", given)
    return address


def _option(options: str, name: str) -> str | None:
    """What follows the name of an option up to the next comma; None when it is not there."""
    _, found, rest = options.partition(f",{name}")
    return rest.partition(",")[0] if found else None


def _flag(name: str, text: str) -> bool:
    if text in {"", "=on"}:
        return True
    if text == "=off":
        return False
    raise GenericError(f"error parsing '{name}' flag '{text}'")


def _file(text: str) -> MigrationAddressFile:
    name, found, rest = text.partition(_OFFSET)
    offset = 0
    if found:
        try:
            offset = qemuopts.size("offset", rest)
        except GenericError:
            raise GenericError(f"file URI has bad offset {rest}: Invalid argument") from None
    return MigrationAddressFile(filename=name, offset=offset)
