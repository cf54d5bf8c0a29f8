"""The format of saved machines: what is written is read, and whatever else is read is refused in a sentence."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.migration.stream import ALIGNMENT, HEADER_SIZE, PIECE, Header, Run, begin, run_bytes
from qemud.qapi.runtime.errors import GenericError

SIZES = st.lists(st.integers(1, 40 * PIECE), max_size=4)


def parse(raw: bytes, sizes: list[int], size: int | None = None) -> tuple[Any, list[Run], Header]:
    """As who loads a machine reads it."""
    header = Header.parse(raw[:HEADER_SIZE], len(raw) if size is None else size)
    header.check_runs(sizes)
    body = raw[HEADER_SIZE : HEADER_SIZE + header.body_size]
    return header.parse_description(body), header.parse_runs(body, sizes), header


def refusal(raw: bytes, sizes: list[int], size: int | None = None) -> str:
    with pytest.raises(GenericError) as refused:
        parse(raw, sizes, size)
    text = str(refused.value)
    assert "\n" not in text
    return text


@st.composite
def memories(draw: st.DrawFn) -> tuple[list[int], list[Run]]:
    sizes = draw(SIZES)
    runs = []
    for region, size in enumerate(sizes):
        pieces = sorted(draw(st.sets(st.integers(0, -(-size // PIECE) - 1))))
        start = 0
        for i in range(1, len(pieces) + 1):
            if i == len(pieces) or pieces[i] != pieces[i - 1] + 1:
                runs.append(Run(region, i - start, pieces[start]))
                start = i
    return sizes, runs


def length(sizes: list[int], runs: list[Run]) -> int:
    return sum(run_bytes(run, sizes[run.region]) for run in runs)


@given(
    memory=memories(), description=st.dictionaries(st.text(max_size=5), st.integers(0, 1 << 63), max_size=5)
)
def test_what_is_written_is_read(memory: tuple[list[int], list[Run]], description: dict[str, int]) -> None:
    sizes, runs = memory
    beginning = begin(description, runs, sizes)
    assert not len(beginning) % ALIGNMENT
    total = len(beginning) + length(sizes, runs)
    told, found, header = parse(beginning, sizes, total)
    assert (told, found) == (description, runs)
    assert (header.data, header.total) == (len(beginning), total)
    if total > len(beginning):
        assert "cut short" in refusal(beginning, sizes, total - 1)


@settings(max_examples=300)
@given(data=st.data(), memory=memories())
def test_any_change_of_a_byte_is_seen(data: st.DataObject, memory: tuple[list[int], list[Run]]) -> None:
    sizes, runs = memory
    raw = bytearray(begin({"clock": 1, "machine": "virt"}, runs, sizes))
    total = len(raw) + length(sizes, runs)
    used = HEADER_SIZE + Header.parse(bytes(raw[:HEADER_SIZE]), total).body_size
    at = data.draw(st.integers(0, used - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    refusal(bytes(raw), sizes, total)


def sealed(header: tuple[Any, ...], body: bytes) -> bytes:
    """A stream whose checksums are right."""
    packed = struct.pack(">8sIIQQQQI", *header, zlib.crc32(body)).ljust(HEADER_SIZE - 4, b"\0")
    return packed + struct.pack(">I", zlib.crc32(packed)) + body


NUMBER = st.one_of(
    st.integers(0, 300), st.integers(0, (1 << 64) - 1), st.sampled_from([PIECE, ALIGNMENT, 1 << 32, 1 << 63])
)


@settings(max_examples=500)
@given(
    numbers=st.tuples(NUMBER, NUMBER, NUMBER, NUMBER),
    body=st.one_of(st.binary(max_size=400), st.just(b"{}" + bytes(64)), st.just(b"[" * 400)),
    sizes=SIZES,
    size=NUMBER,
)
def test_whatever_is_sealed_is_refused_or_fits(
    numbers: tuple[int, ...], body: bytes, sizes: list[int], size: int
) -> None:
    """Somebody who can compute checksums writes what he likes."""
    raw = sealed((b"qemudvm\n", 1, PIECE, *numbers), body)
    try:
        _, runs, header = parse(raw, sizes, size)
    except GenericError:
        return
    assert header.data + length(sizes, runs) == header.total <= size
    for run in runs:
        assert 0 < run_bytes(run, sizes[run.region]) <= sizes[run.region]


RUN = struct.Struct(">IIQ")


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ([(0, 1, 0), (0, 1, 0)], "the saved state's memory is not in order"),
        ([(0, 2, 0), (0, 1, 1)], "the saved state's memory is not in order"),
        ([(1, 1, 0), (0, 1, 0)], "the saved state's memory is not in order"),
        ([(0, 0, 0)], "the saved state's memory is not in order"),
        ([(2, 1, 0)], "the saved state has memory of region 2, there are 2"),
        ([(0, 5, 0)], "the saved state has 5 pieces of region 0, whose size is 0x40000"),
        ([(1, 1, 1 << 40)], "the saved state has 1099511627777 pieces of region 1, whose size is 0x18000"),
        ([(0, 1, 0)] * 7, "the saved state has 7 runs of memory, expected at most 6"),
        ([], "the saved state has 65536 bytes of memory, its runs have 0"),
    ],
)
def test_runs_that_do_not_fit(runs: list[tuple[int, int, int]], reason: str) -> None:
    body = b"{}" + b"".join(RUN.pack(*run) for run in runs)
    header = (b"qemudvm\n", 1, PIECE, 2, len(runs), ALIGNMENT, ALIGNMENT + PIECE)
    assert refusal(sealed(header, body), [4 * PIECE, PIECE + PIECE // 2], 1 << 30) == reason


@pytest.mark.parametrize(
    ("header", "body", "reason"),
    [
        ((b"QEVM\0\0\0\3", 1, PIECE, 2, 0, 4096, 4096), b"{}", "the state was not saved by qemud"),
        (
            (b"qemudvm\n", 2, PIECE, 2, 0, 4096, 4096),
            b"{}",
            "the saved state has version 2, version 1 is expected",
        ),
        (
            (b"qemudvm\n", 1, 4096, 2, 0, 4096, 4096),
            b"{}",
            "the saved state has pieces of 4096 bytes, 65536 are expected",
        ),
        (
            (b"qemudvm\n", 1, PIECE, 1 << 40, 0, 4096, 4096),
            b"{}",
            "the saved state's description has 1099511627776 bytes, expected at most 67108864",
        ),
        (
            (b"qemudvm\n", 1, PIECE, 2, 0, 8192, 8192),
            b"{}",
            "the saved state's memory begins at 0x2000, where it cannot be",
        ),
        ((b"qemudvm\n", 1, PIECE, 2, 0, 4096, 4096), b"{!", "the saved state's description is not JSON"),
        ((b"qemudvm\n", 1, PIECE, 2, 0, 4096, 4096), b"[]", "the saved state's description is not an object"),
        (
            (b"qemudvm\n", 1, PIECE, 2, 0, 4096, 1 << 20),
            b"{}",
            "the saved state is cut short: it has 4096 of 1048576 bytes",
        ),
    ],
)
def test_headers_that_are_wrong(header: tuple[Any, ...], body: bytes, reason: str) -> None:
    assert refusal(sealed(header, body), [], 4096 if "cut" in reason else 8192) == reason


def test_nothing_is_a_stream() -> None:
    assert refusal(b"", [], 0) == "the state was not saved by qemud"
    assert refusal(bytes(4096), [], 4096) == "the state was not saved by qemud"
