"""Frames in a stream of bytes, however it is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.net.client import MAX_FRAME
from qemud.net.framing import LENGTH, Decoder, FramingError, encode, encode_with_header


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(0, 10_000), max_size=20))
def test_frames_survive_any_cut(frames: list[bytes], cuts: list[int]) -> None:
    decoder = Decoder()
    data = b"".join(encode(frame) for frame in frames)
    assert [frame for part in cut(data, cuts) for _, frame in decoder.feed(part)] == frames


@given(
    st.lists(st.tuples(st.sampled_from([b"", b"\x01" * 10]), st.binary(max_size=300)), max_size=20),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_frames_with_headers_do_as_well(frames: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    decoder = Decoder(with_headers=True)
    data = b"".join(encode_with_header(frame) for frame in frames)
    assert [frame for part in cut(data, cuts) for frame in decoder.feed(part)] == frames


@given(st.binary(max_size=200))
def test_anything_else_is_an_error_or_frames(data: bytes) -> None:
    for with_headers in (False, True):
        try:
            frames = Decoder(with_headers=with_headers).feed(data)
        except FramingError:
            continue
        assert sum(len(frame) for _, frame in frames) <= len(data)


def test_lengths_have_a_limit() -> None:
    assert Decoder().feed(encode(bytes(MAX_FRAME))) == [(b"", bytes(MAX_FRAME))]
    with pytest.raises(FramingError):
        Decoder().feed(LENGTH.pack(MAX_FRAME + 1))
    with pytest.raises(FramingError):
        Decoder(with_headers=True).feed(LENGTH.pack(60) + LENGTH.pack(33))
