"""Checksums, and segments that become one frame and could become segments again."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from qemud.net.offload import (
    DATA_VALID,
    GSO_TCPV4,
    HEADER,
    NEEDS_CSUM,
    VALID,
    checksum,
    coalesce,
    complete,
)

ETHERNET = bytes.fromhex("525400123456 525500000202 0800")


def plain_sum(data: bytes) -> int:
    """The checksum by the book."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=200))
def test_the_checksum_is_that_of_the_book(data: bytes) -> None:
    assert checksum(data) == plain_sum(data)


def segment(
    seq: int, data: bytes, *, port: int = 80, flags: int = 0x10, ack: int = 7, ident: int = 1
) -> bytes:
    """A frame of TCP over IPv4 whose checksums are right."""
    tcp = struct.pack("!HHIIBBHHH", port, 1234, seq, ack, 0x50, flags, 1000, 0, 0) + data
    addresses = bytes((10, 0, 2, 2, 10, 0, 2, 15))
    pseudo = addresses + struct.pack("!HH", 6, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", ~plain_sum(pseudo + tcp) & 0xFFFF) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), ident, 0, 64, 6, 0) + addresses
    ip = ip[:10] + struct.pack("!H", ~plain_sum(ip) & 0xFFFF) + ip[12:]
    return ETHERNET + ip + tcp


def data_of(frame: bytes) -> bytes:
    return frame[54:]


@given(
    st.lists(st.integers(1, 1460), min_size=1, max_size=60),
    st.integers(0, (1 << 32) - 1),
    st.integers(1, 1460),
)
def test_a_stream_survives(sizes: list[int], seq: int, size: int) -> None:
    frames, content = [], b""
    for number, length in enumerate([size] * 20 + sizes):
        data = bytes((number + each) & 0xFF for each in range(length))
        frames.append(segment((seq + len(content)) & 0xFFFF_FFFF, data))
        content += data
    merged = coalesce(frames)
    assert b"".join(data_of(frame) for _, frame in merged) == content
    assert len(merged) < len(frames)
    at = seq
    for header, frame in merged:
        flags, gso, length, gso_size, start, offset = HEADER.unpack(header)
        (first,) = struct.unpack_from("!I", frame, 38)
        assert first == at & 0xFFFF_FFFF
        at += len(data_of(frame))
        assert len(frame) - 14 == struct.unpack_from("!H", frame, 16)[0] <= 0xFFFF
        assert plain_sum(frame[14:34]) == 0xFFFF
        if gso == GSO_TCPV4:
            assert (flags, length, start, offset) == (NEEDS_CSUM, 54, 34, 16)
            assert gso_size < len(data_of(frame))
            frame = complete(header, frame)  # noqa: PLW2901 - as the receiver does
        else:
            assert flags == DATA_VALID
        pseudo = frame[26:34] + struct.pack("!HH", 6, len(frame) - 34)
        assert plain_sum(pseudo + frame[34:]) == 0xFFFF


def test_what_does_not_belong_together_stays_apart() -> None:
    a = segment(100, b"x" * 100)
    after = segment(200, b"y" * 100)
    for other in (
        segment(201, b"y" * 100),  # not the next
        segment(200, b"y" * 101),  # larger than the first
        segment(200, b"y" * 100, port=81),  # another stream
        segment(200, b"y" * 100, ack=8),  # the other side has got more
        segment(200, b"y" * 100, flags=0x11),  # an end
        segment(200, b"")[:54],  # nothing but an acknowledgement
        after[:20] + b"\x20" + after[21:],  # a fragment
        after[:14] + b"\x46" + after[15:],  # options
        after[:46] + b"\x60" + after[47:],
        after + b"\0",  # padding
        b"\xff" * 60,
    ):
        assert coalesce([a, other]) == [(VALID, a), (VALID, other)]
    assert len(coalesce([a, after])) == 1
    # PSH ends what the sender wants to arrive at once, and is kept.
    pushed = segment(200, b"y" * 100, flags=0x18)
    [(_, frame), (_, last)] = coalesce([a, pushed, segment(300, b"z" * 100)])
    assert frame[47] == 0x18
    assert data_of(last) == b"z" * 100


@given(st.binary(min_size=10, max_size=10), st.binary(max_size=100))
def test_no_header_hurts(header: bytes, frame: bytes) -> None:
    done = complete(header, frame)
    assert len(done) in {0, len(frame)}


def test_a_checksum_of_zero_is_written_as_ones_for_udp() -> None:
    header = HEADER.pack(NEEDS_CSUM, 0, 0, 0, 0, 6)
    frame = b"\xff\xff" + bytes(8)
    assert complete(header, frame)[6:8] == b"\xff\xff"
    header = HEADER.pack(NEEDS_CSUM, 0, 0, 0, 0, 4)
    assert complete(header, frame)[4:6] == b"\0\0"


@given(st.lists(st.binary(max_size=120), max_size=10))
def test_anything_at_all_may_come(frames: list[bytes]) -> None:
    assert [frame for _, frame in coalesce(frames)] == frames
