"""The options of a user-mode network, checked and completed.

Source of defaults, order and texts: QEMU 10.0, net/slirp.c.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.net_backends import NetdevUserOptions

_LONGEST = 255
_DEFAULT_PREFIX6 = "fec0::"
_ALL = 0xFFFF_FFFF
# Classes of addresses, for networks that are given without a mask: the network and its mask.
_CLASSES = (
    (0x0000_0000, 0x8000_0000, 0xFF00_0000),
    (0xAC10_0000, 0xFFF0_0000, 0xFFF0_0000),
    (0x8000_0000, 0xC000_0000, 0xFFFF_0000),
    (0xC0A8_0000, 0xFFFF_0000, 0xFFFF_0000),
    (0xC612_0000, 0xFFFF_0000, 0xFFFE_0000),
    (0xE000_0000, 0xE000_0000, 0xFFFF_FF00),
)


class UserNetwork(NamedTuple):
    """What libslirp is to be told; addresses are packed."""

    ipv4: bool
    network: bytes
    mask: bytes
    host: bytes
    dhcp: bytes
    dns: bytes
    ipv6: bool
    prefix6: bytes
    prefix6_length: int
    host6: bytes
    dns6: bytes


def aton(text: str) -> bytes:
    """An IPv4 address in any of the notations that the C library takes, packed.  ValueError."""
    try:
        return socket.inet_aton(text)
    except (OSError, ValueError):  # the second for a zero byte
        raise ValueError(text) from None


def check(options: NetdevUserOptions) -> UserNetwork:
    """The addresses.  GenericError with QEMU's text."""
    ipv4 = not ((options.ipv6 and options.ipv4 is None) or options.ipv4 is False)
    ipv6 = not ((options.ipv4 and options.ipv6 is None) or options.ipv6 is False)
    given = options.net if options.net is not None else f"{options.ip}/24" if options.ip is not None else None
    if not ipv4 and (given is not None or options.host is not None or options.dns is not None):
        raise GenericError("IPv4 disabled but netmask/host/dns provided")
    if not ipv6 and (options.ipv6_prefix or options.ipv6_host or options.ipv6_dns):
        raise GenericError("IPv6 disabled but prefix/host6/dns6 provided")
    if not ipv4 and not ipv6:
        raise GenericError("IPv4 and IPv6 disabled")
    network, mask = _network("10.0.2.0/24" if given is None else given)

    def inside(offset: int) -> int:
        return network | (offset & ~mask & _ALL)

    restricted = bool(options.restrict)
    host = _address(options.host, inside(0x0202), "Failed to parse host")
    if host & mask != network:
        raise GenericError("Host doesn't belong to network")
    dns = _address(options.dns, inside(0x0203), "Failed to parse DNS")
    if restricted and dns & mask != network:
        raise GenericError("DNS doesn't belong to network")
    if dns == host:
        raise GenericError("DNS must be different from host")
    dhcp = _address(options.dhcpstart, inside(0x020F), "Failed to parse DHCP start address")
    if dhcp & mask != network:
        raise GenericError("DHCP doesn't belong to network")
    if dhcp in {host, dns}:
        raise GenericError("DHCP must be different from host and DNS")
    prefix6, length6, host6, dns6 = _ipv6(options, restricted=restricted)
    _check_texts(options)
    return UserNetwork(
        ipv4=ipv4,
        network=_packed(network),
        mask=_packed(mask),
        host=_packed(host),
        dhcp=_packed(dhcp),
        dns=_packed(dns),
        ipv6=ipv6,
        prefix6=prefix6,
        prefix6_length=length6,
        host6=host6,
        dns6=dns6,
    )


def _packed(address: int) -> bytes:
    return address.to_bytes(4, "big")


def _address(text: str | None, default: int, trouble: str) -> int:
    if text is None:
        return default
    try:
        return int.from_bytes(aton(text), "big")
    except ValueError:
        raise GenericError(trouble) from None


def _network(text: str) -> tuple[int, int]:
    """Address and mask of `ADDRESS/BITS`, `ADDRESS/MASK` or `ADDRESS`."""
    first, slash, rest = text.partition("/")
    network = _address(first, 0, "Failed to parse netmask")
    if not slash:
        mask = next((mask for value, which, mask in _CLASSES if network & which == value), 0xFFFF_FFF0)
    elif rest.isascii() and rest.isdecimal() and len(rest) < 10:
        bits = int(rest)
        if not 4 <= bits <= 32:
            raise GenericError("Invalid netmask provided (must be in range 4-32)")
        mask = _ALL << (32 - bits) & _ALL
    else:
        mask = _address(rest, 0, "Failed to parse netmask (trailing chars)")
    return network & mask, mask


def _ipv6(options: NetdevUserOptions, *, restricted: bool) -> tuple[bytes, int, bytes, bytes]:
    prefix = _address6(options.ipv6_prefix or _DEFAULT_PREFIX6, "Failed to parse IPv6 prefix")
    length = options.ipv6_prefixlen or 64
    if not 0 <= length <= 126:
        raise GenericError("Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)")
    host, dns = prefix | 2, prefix | 3
    shift = 128 - length
    if options.ipv6_host is not None:
        host = _address6(options.ipv6_host, "Failed to parse IPv6 host")
        if host >> shift != prefix >> shift:
            raise GenericError("IPv6 Host doesn't belong to network")
    if options.ipv6_dns is not None:
        dns = _address6(options.ipv6_dns, "Failed to parse IPv6 DNS")
        if restricted and dns >> shift != prefix >> shift:
            raise GenericError("IPv6 DNS doesn't belong to network")
    return prefix.to_bytes(16, "big"), length, host.to_bytes(16, "big"), dns.to_bytes(16, "big")


def _address6(text: str, trouble: str) -> int:
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
    except (OSError, ValueError):
        raise GenericError(trouble) from None


def _check_texts(options: NetdevUserOptions) -> None:
    if options.domainname == "":
        raise GenericError("'domainname' parameter cannot be empty")
    for name, shown in (
        ("domainname", "domainname"),
        ("hostname", "vhostname"),
        ("tftp_server_name", "tftp-server-name"),
    ):
        if len((getattr(options, name) or "").encode()) > _LONGEST:
            raise GenericError(f"'{shown}' parameter cannot exceed {_LONGEST} bytes")
    for name in ("hostname", "tftp", "bootfile", "domainname", "tftp_server_name"):
        if "\0" in (getattr(options, name) or ""):
            raise GenericError(f"'{name.replace('_', '-')}' parameter contains a zero byte")
