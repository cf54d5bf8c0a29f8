"""A running machine as a stream of bytes: its format, for who writes and who reads it.

    opening | offer | section | section | …

- The *opening* is a header as that of a saved machine (`stream.py`), with a magic of its own: it has a checksum and the length of the offer.
- The *offer* is a `MigrationOffer` of the schema as JSON: who receives the stream sees at once whether it fits.
- A *section* has a header of `SECTION_SIZE` bytes with a checksum, and says what follows:
    - `PAGES`: pieces of one region of memory that follow each other, and their content
    - `ZEROS`: the same, of pieces that are all zeros; nothing follows
    - `STATE`: a `SavedMachine` of the schema as JSON, once, when the guest does not run any more
    - `END`: everything was sent
    - `GO`: it may run there.  Only where the opening says that an answer is expected, and was given.
- An *answer* has a header of `ANSWER_SIZE` bytes; a text follows when it is a refusal.

Regions are numbered in the order of the offer.  Pieces may come again, and those that never come are zeros.  Numbers are big-endian.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from qemud.migration.stream import (
    MAX_DESCRIPTION,
    PIECE,
    VERSION,
    encode_object,
    seal,
    unseal,
)
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"qemudmv\n"
PAGES, ZEROS, STATE, END, GO = range(1, 6)
WANTS_ANSWER = 1
MAX_PIECES = 64
"""Pieces in a section of pages, at most."""
MAX_REFUSAL = 4096
"""Bytes of text in an answer, at most."""

_OPENING = struct.Struct(">8sIIIII")
_SECTION = struct.Struct(">4sIIIQI")
_ANSWER = struct.Struct(">8sII")
_CHECK = struct.Struct(">I")
_MARK = b"qsec"
_ANSWER_MAGIC = b"qemudan\n"
SECTION_SIZE = _SECTION.size + _CHECK.size
ANSWER_SIZE = _ANSWER.size


class Opening(NamedTuple):
    """What a stream begins with: how long the offer is, its CRC-32, and whether an answer is expected."""

    length: int
    checksum: int
    wants_answer: bool

    @classmethod
    def parse(cls, raw: bytes) -> Opening:
        """From the first `HEADER_SIZE` bytes.  GenericError."""
        if raw[: len(MAGIC)] != MAGIC:
            raise GenericError("not a machine that qemud has sent")
        unseal(raw, MAGIC)
        _, _, _, length, checksum, flags = _OPENING.unpack_from(raw)
        if length > MAX_DESCRIPTION:
            raise GenericError(f"the offer has {length} bytes, expected at most {MAX_DESCRIPTION}")
        if flags & ~WANTS_ANSWER:
            raise GenericError(f"the machine is sent with flags {flags:#x}, {WANTS_ANSWER:#x} is known")
        return cls(length, checksum, bool(flags & WANTS_ANSWER))


def begin(offer: object, *, wants_answer: bool) -> bytes:
    """The opening and the offer.  GenericError: it would be too long."""
    told = encode_object(offer)
    flags = WANTS_ANSWER if wants_answer else 0
    return seal(_OPENING.pack(MAGIC, VERSION, PIECE, len(told), zlib.crc32(told), flags)) + told


class Section(NamedTuple):
    """The header of a section.

    `amount` is in pieces, or in bytes for a state; `region` and `first` are of memory; `checksum` is a state's.
    """

    kind: int
    region: int = 0
    amount: int = 0
    first: int = 0
    checksum: int = 0

    @classmethod
    def of_state(cls, state: bytes) -> Section:
        """The header of a state."""
        return cls(STATE, amount=len(state), checksum=zlib.crc32(state))

    def pack(self) -> bytes:
        """As it is in the stream."""
        packed = _SECTION.pack(_MARK, self.kind, self.region, self.amount, self.first, self.checksum)
        return packed + _CHECK.pack(zlib.crc32(packed))

    @classmethod
    def parse(cls, raw: bytes, sizes: Sequence[int]) -> Section:
        """From `SECTION_SIZE` bytes; `sizes` are those of the regions.  GenericError."""
        mark, kind, region, amount, first, checksum = _SECTION.unpack_from(raw)
        (check,) = _CHECK.unpack_from(raw, _SECTION.size)
        if mark != _MARK or check != zlib.crc32(raw[: _SECTION.size]):
            raise GenericError("the stream is damaged: there is no section where one should begin")
        section = cls(kind, region, amount, first, checksum)
        if kind in {PAGES, ZEROS}:
            section.check_memory(sizes)
        elif kind == STATE:
            if amount > MAX_DESCRIPTION:
                raise GenericError(f"the state has {amount} bytes, expected at most {MAX_DESCRIPTION}")
        elif kind not in {END, GO}:
            raise GenericError(f"the stream has a section of kind {kind}, expected {PAGES} to {GO}")
        return section

    def check_memory(self, sizes: Sequence[int]) -> None:
        """Raise GenericError unless the pieces are in the region."""
        if self.region >= len(sizes):
            raise GenericError(f"the stream has memory of region {self.region}, there are {len(sizes)}")
        end, pieces = self.first + self.amount, -(-sizes[self.region] // PIECE)
        if not self.amount or end > pieces:
            raise GenericError(
                f"the stream has pieces {self.first} to {end - 1} of region {self.region}, expected 0 to {pieces - 1}"
            )
        if self.kind == PAGES and self.amount > MAX_PIECES:
            raise GenericError(f"a section has {self.amount} pieces, expected at most {MAX_PIECES}")


def pack_answer(refusal: str) -> bytes:
    """An answer: it is all there, or why not."""
    text = refusal.encode()[:MAX_REFUSAL]
    return _ANSWER.pack(_ANSWER_MAGIC, 1 if refusal else 0, len(text)) + text


def parse_answer(raw: bytes) -> tuple[bool, int]:
    """Whether it is a refusal, and how many bytes of text follow.  GenericError."""
    magic, status, length = _ANSWER.unpack(raw)
    if magic != _ANSWER_MAGIC or status > 1 or length > MAX_REFUSAL or (length and not status):
        raise GenericError("the other side's answer is none")
    return bool(status), length
