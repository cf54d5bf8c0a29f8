"""Frames without checksums and frames larger than the network's: virtio-net's header, and what becomes of such frames.

    bare = complete(header, frame)             # the checksum that a guest has left out
    frames = coalesce(bare_frames)             # segments of one stream become one large frame

A guest that may leave checksums and the cutting to others sends some 64 KiB in one frame; what it receives may as well be put
together.  Either saves most of what networking costs an emulated processor.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.1.6; RFC 1071 for the checksum.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from qemud.net.client import Frames

HEADER = Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
NEEDS_CSUM = 1
DATA_VALID = 2

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_UDP = 3
GSO_TCPV6 = 4
GSO_ECN = 0x80

VALID = HEADER.pack(DATA_VALID, GSO_NONE, 0, 0, 0, 0)
"""The header of a whole frame whose checksums need not be looked at."""

_ETH = 14
_TCP = 34  # where it begins behind an IPv4 header without options
_DATA = 54
_UDP_CHECKSUM = 6
_LARGEST = 0xFFFF  # of an IPv4 packet
_ACK, _PSH = 0x10, 0x08
_SEQUENCE = Struct("!I")
_LENGTH = Struct("!H")


class Offload(NamedTuple):
    """What a driver takes of others' work upon itself: frames with no checksum, and large ones of these kinds."""

    csum: bool = False
    tso4: bool = False
    tso6: bool = False
    ecn: bool = False
    ufo: bool = False


def checksum(data: bytes) -> int:
    """The sum of 16-bit words in ones' complement, not inverted."""
    # All of it is one number, whose remainder is that of the sum of its digits.
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    return number % 0xFFFF or (0xFFFF if number else 0)


def complete(header: bytes, frame: bytes) -> bytes:
    """The frame with the checksum that its header asks for; empty if the header makes no sense."""
    if not header or not header[0] & NEEDS_CSUM:
        return frame
    _, _, _, _, start, offset = HEADER.unpack(header)
    at = start + offset
    if at + 2 > len(frame):
        return b""
    value = ~checksum(frame[start:]) & 0xFFFF
    if not value and offset == _UDP_CHECKSUM:
        value = 0xFFFF
    return b"".join((frame[:at], _LENGTH.pack(value), frame[at + 2 :]))


def coalesce(frames: list[bytes]) -> Frames:
    """Frames with headers; neighbours that are segments of one TCP stream over IPv4 become one frame.

    The frames come from somebody whose checksums are right.
    """
    made: Frames = []
    parts: list[bytes] = []
    first = b""
    flow = ack = b""
    following = size = total = flags = 0
    for frame in frames:
        length = len(frame) - _DATA
        # IPv4 without options, TCP without options, no fragment, data, and nothing but ACK and PSH among the flags.
        if (
            length > 0
            and frame[12:15] == b"\x08\x00\x45"
            and frame[23] == 6
            and frame[46] == 0x50
            and frame[47] & ~_PSH == _ACK
            and not (frame[20] & 0x3F or frame[21])
            and _LENGTH.unpack_from(frame, 16)[0] == len(frame) - _ETH
        ):
            sequence = _SEQUENCE.unpack_from(frame, 38)[0]
            if (
                parts
                and sequence == following
                and frame[26:38] == flow
                and frame[42:46] == ack
                and length <= size
                and total + length <= _LARGEST - (_DATA - _ETH)
            ):
                parts.append(frame[_DATA:])
            else:
                if parts:
                    made.append(_merged(first, parts, size, total, flags))
                first, parts, total, flags = frame, [frame[_DATA:]], 0, 0
                flow, ack, size = frame[26:38], frame[42:46], length
            following = (sequence + length) & 0xFFFF_FFFF
            total += length
            flags |= frame[47]
            if (
                length < size or flags & _PSH
            ):  # only the last may be shorter, and PSH ends what belongs together
                made.append(_merged(first, parts, size, total, flags))
                parts = []
            continue
        if parts:
            made.append(_merged(first, parts, size, total, flags))
            parts = []
        made.append((VALID, frame))
    if parts:
        made.append(_merged(first, parts, size, total, flags))
    return made


def _merged(first: bytes, parts: list[bytes], size: int, total: int, flags: int) -> tuple[bytes, bytes]:
    """One frame of several segments."""
    if len(parts) == 1:
        return VALID, first
    ip = bytearray(first[_ETH:_TCP])
    _LENGTH.pack_into(ip, 2, total + _DATA - _ETH)
    _LENGTH.pack_into(ip, 10, 0)
    _LENGTH.pack_into(ip, 10, ~checksum(bytes(ip)) & 0xFFFF)
    tcp = bytearray(first[_TCP:_DATA])
    tcp[13] = flags
    # The sum over addresses, protocol and length, which the receiver goes on with.
    pseudo = bytes(ip[12:20]) + _LENGTH.pack(6) + _LENGTH.pack(total + _DATA - _TCP)
    _LENGTH.pack_into(tcp, 16, checksum(pseudo))
    header = HEADER.pack(NEEDS_CSUM, GSO_TCPV4, _DATA, size, _TCP, 16)
    return header, b"".join((first[:_ETH], ip, tcp, *parts))
