r"""Rules for ports between the host and the guest: how `hostfwd` and `guestfwd` are written.

    host_rule("tcp::8080-:80")          -> HostRule(udp=False, host=b"\0\0\0\0", host_port=8080, guest=…, guest_port=80)
    guest_rule("tcp:10.0.2.100:9-cmd:cat")

Source of order and texts: QEMU 10.0, net/slirp.c.
"""

from __future__ import annotations

from typing import NamedTuple

from qemud.net.user.config import aton
from qemud.qapi.runtime.errors import GenericError

ANY = bytes(4)
_PORTS = 0xFFFF
_LONGEST_NUMBER = 20


class HostRule(NamedTuple):
    """A port of the host that leads to one of the guest."""

    udp: bool
    host: bytes
    host_port: int
    guest: bytes
    guest_port: int


class GuestRule(NamedTuple):
    """An address that leads the guest to a command (`cmd:…`) or to a character device in the short form."""

    server: bytes
    port: int
    target: str

    @property
    def label(self) -> str:
        """The name of the character device, if it is one."""
        return f"guestfwd.tcp.{self.port}"


def host_rule(text: str) -> HostRule:
    """What a rule says.  GenericError."""

    def wrong(reason: str) -> GenericError:
        return GenericError(f"Invalid host forwarding rule '{text}' ({reason})")

    protocol, colon, rest = text.partition(":")
    if not colon:
        raise wrong("No : separators")
    if protocol not in {"tcp", "udp", ""}:
        raise wrong("Bad protocol name")
    address, colon, rest = rest.partition(":")
    if not colon:
        raise wrong("Missing : separator")
    try:
        host = aton(address) if address else ANY
    except ValueError:
        raise wrong("Bad host address") from None
    number, dash, rest = rest.partition("-")
    if not dash:
        raise wrong("Bad host port separator")
    host_port = _port(number, 0)
    if host_port is None:
        raise wrong("Bad host port")
    address, colon, rest = rest.partition(":")
    if not colon:
        raise wrong("Missing guest address")
    try:
        guest = aton(address) if address else ANY
    except ValueError:
        raise wrong("Bad guest address") from None
    guest_port = _port(rest, 1)
    if guest_port is None:
        raise wrong("Bad guest port")
    return HostRule(protocol == "udp", host, host_port, guest, guest_port)


def host_end(text: str) -> tuple[bool, bytes, int]:
    """Protocol, address and port of the host, as `hostfwd_remove` takes them.  GenericError."""
    protocol, _, rest = text.partition(":")
    address, colon, number = rest.partition(":")
    port = _port(number, 0)
    try:
        host = aton(address) if address else ANY
    except ValueError:
        host = None
    if protocol not in {"tcp", "udp", ""} or not colon or port is None or host is None:
        raise GenericError("invalid format")
    return protocol == "udp", host, port


def guest_rule(text: str) -> GuestRule:
    """What a rule says.  GenericError."""
    protocol, _, rest = text.partition(":")
    address, colon, rest = rest.partition(":")
    number, dash, target = rest.partition("-")
    port = _port(number, 1) if number.isdecimal() else None
    try:
        server = aton(address) if address else ANY
    except ValueError:
        server = None
    if (
        protocol not in {"tcp", ""}
        or not colon
        or not dash
        or port is None
        or server is None
        or "\0" in target
    ):
        raise GenericError(f"Invalid guest forwarding rule '{text}'")
    return GuestRule(server, port, target)


def _port(text: str, least: int) -> int | None:
    """A number, decimal, `0x` or octal, that a port can have; None otherwise."""
    if len(text) > _LONGEST_NUMBER or not text.isascii():
        return None
    try:
        octal = text.isdecimal() and text.startswith("0")
        port = int(text, 8) if octal else int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        return None
    return port if least <= port <= _PORTS else None
