"""A stopped machine as a stream of bytes: its format, written and read.

    header | description | runs | padding | pieces of memory

- The *header* says how long everything is, and has a checksum of itself and one of description and runs.  Numbers are big-endian.
- The *description* is a `SavedMachine` of the schema as JSON: the type of the board, the clock, the regions of memory, and each
  object's path, type and state struct with its version.
- *Runs* say which pieces of memory follow: of which region, from which piece on, and how many.  They are in order and do not overlap; a piece that
  is in none is all zeros.  A piece has `PIECE` bytes, the last of a region maybe less.
- The pieces follow in that order, from the next multiple of `ALIGNMENT` on.

Who reads checks everything before anything of the machine is changed:

    header = Header.parse(first, size)                  # GenericError with a sentence
    header.check_runs(sizes)                            # `sizes` of the regions of memory are the machine's own
    description = header.parse_description(body)
    runs = header.parse_runs(body, sizes)

What is read is as long as the machine's own memory allows, whatever the stream says.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"qemudvm\n"
VERSION = 1
PIECE = 1 << 16
"""Bytes of memory that are there or not."""
ALIGNMENT = 4096
HEADER_SIZE = 64
MAX_DESCRIPTION = 64 << 20
"""Bytes; a machine with a hundred devices has less than one MiB."""

_HEADER = struct.Struct(">8sIIQQQQI")
_CHECK = struct.Struct(">I")
_RUN = struct.Struct(">IIQ")
_FIRST = struct.Struct(">II")
"""What follows the magic: version, and bytes of a piece."""


class Run(NamedTuple):
    """Pieces of memory that follow each other: the number of the region, how many, and which is the first."""

    region: int
    pieces: int
    first: int


class Header(NamedTuple):
    """What a stream begins with; all in bytes but for `runs`."""

    description: int
    runs: int
    data: int
    """Where the pieces of memory begin."""
    total: int
    checksum: int
    """CRC-32 of description and runs."""

    def pack(self) -> bytes:
        """As it is in the stream: `HEADER_SIZE` bytes."""
        return seal(
            _HEADER.pack(
                MAGIC, VERSION, PIECE, self.description, self.runs, self.data, self.total, self.checksum
            )
        )

    @classmethod
    def parse(cls, raw: bytes, size: int) -> Header:
        """From the first `HEADER_SIZE` bytes of a stream that has `size` bytes.  GenericError."""
        unseal(raw, MAGIC)
        _, _, _, description, runs, data, total, checksum = _HEADER.unpack_from(raw)
        if description > MAX_DESCRIPTION:
            raise GenericError(
                f"the saved state's description has {description} bytes, expected at most {MAX_DESCRIPTION}"
            )
        if total > size:
            raise GenericError(f"the saved state is cut short: it has {size} of {total} bytes")
        header = cls(description, runs, data, total, checksum)
        if data != -(-(HEADER_SIZE + header.body_size) // ALIGNMENT) * ALIGNMENT or data > total:
            raise GenericError(f"the saved state's memory begins at {data:#x}, where it cannot be")
        return header

    @property
    def body_size(self) -> int:
        """How many bytes of description and runs follow the header."""
        return self.description + self.runs * _RUN.size

    def check_runs(self, sizes: Sequence[int]) -> None:
        """Raise GenericError when there are more runs than memory of these regions could have: before they are read."""
        most = sum(-(-size // PIECE) for size in sizes)
        if self.runs > most:
            raise GenericError(f"the saved state has {self.runs} runs of memory, expected at most {most}")

    def parse_description(self, body: bytes) -> dict[str, Any]:
        """What the bytes behind the header describe.  GenericError."""
        if len(body) != self.body_size or zlib.crc32(body) != self.checksum:
            raise GenericError("the saved state is damaged: the checksum of its description is wrong")
        return parse_object(body[: self.description])

    def parse_runs(self, body: bytes, sizes: Sequence[int]) -> list[Run]:
        """Which pieces follow, of regions of these sizes.  GenericError."""
        runs = [Run(*each) for each in _RUN.iter_unpack(body[self.description :])]
        length = _check(runs, sizes)
        if self.data + length != self.total:
            raise GenericError(
                f"the saved state has {self.total - self.data} bytes of memory, its runs have {length}"
            )
        return runs


def _check(runs: Sequence[Run], sizes: Sequence[int]) -> int:
    """How many bytes runs have.  GenericError unless they are in order, and inside of regions of these sizes."""
    region = end = length = 0
    for run in runs:
        if run.region >= len(sizes):
            raise GenericError(f"the saved state has memory of region {run.region}, there are {len(sizes)}")
        if run.region != region:
            end = 0 if run.region > region else -1
        if end < 0 or run.first < end or not run.pieces:
            raise GenericError("the saved state's memory is not in order")
        region, end = run.region, run.first + run.pieces
        if end > -(-sizes[region] // PIECE):
            raise GenericError(
                f"the saved state has {end} pieces of region {region}, whose size is {sizes[region]:#x}"
            )
        length += run_bytes(run, sizes[region])
    return length


def run_bytes(run: Run, size: int) -> int:
    """How many bytes a run of a region of that size has."""
    return min((run.first + run.pieces) * PIECE, size) - run.first * PIECE


def begin(description: object, runs: Sequence[Run], sizes: Sequence[int]) -> bytes:
    """All of a stream that comes before the pieces of memory.  GenericError: it would be too long."""
    told = encode_object(description)
    body = told + b"".join(_RUN.pack(*run) for run in runs)
    data = -(-(HEADER_SIZE + len(body)) // ALIGNMENT) * ALIGNMENT
    total = data + sum(run_bytes(run, sizes[run.region]) for run in runs)
    header = Header(len(told), len(runs), data, total, zlib.crc32(body))
    return (header.pack() + body).ljust(data, b"\0")


# Shared with machines that are sent (`live.py`).


def seal(packed: bytes) -> bytes:
    """The header of a stream from its fields: `HEADER_SIZE` bytes with a checksum."""
    packed = packed.ljust(HEADER_SIZE - _CHECK.size, b"\0")
    return packed + _CHECK.pack(zlib.crc32(packed))


def unseal(raw: bytes, magic: bytes) -> None:
    """Raise GenericError unless this is a header of that kind, with this version and pieces of `PIECE` bytes."""
    if len(raw) < HEADER_SIZE or raw[: len(magic)] != magic:
        raise GenericError("the state was not saved by qemud")
    version, piece = _FIRST.unpack_from(raw, len(magic))
    if version != VERSION:
        raise GenericError(f"the saved state has version {version}, version {VERSION} is expected")
    (check,) = _CHECK.unpack_from(raw, HEADER_SIZE - _CHECK.size)
    if check != zlib.crc32(raw[: HEADER_SIZE - _CHECK.size]):
        raise GenericError("the header of the saved state is damaged: its checksum is wrong")
    if piece != PIECE:
        raise GenericError(f"the saved state has pieces of {piece} bytes, {PIECE} are expected")


def encode_object(value: object) -> bytes:
    """A description as it is in a stream.  GenericError: it would be too long."""
    told = msgspec.json.encode(value)
    if len(told) > MAX_DESCRIPTION:
        raise GenericError(
            f"the machine's description has {len(told)} bytes, at most {MAX_DESCRIPTION} can be saved"
        )
    return told


def parse_object(raw: bytes) -> dict[str, Any]:
    """A description from a stream.  GenericError."""
    try:
        description = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise GenericError("the saved state's description is not JSON") from None
    if not isinstance(description, dict):
        raise GenericError("the saved state's description is not an object")
    return description
