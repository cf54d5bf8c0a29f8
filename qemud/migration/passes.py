"""The memory of a machine that may run, looked at again and again for what has changed.

    tracker = Tracker(sections)
    for batch in tracker.look():            # in worker threads, one at a time
        …                                   # what has to be sent

The engine keeps no list of the pages that the guest writes to.  So each piece that is sent is remembered by a digest of 16 bytes, and
the next look finds those that have another one.  What is sent is a copy, and the digest is the copy's: whatever the guest does
meanwhile, the next look compares the memory with what the other side has.

Pieces that the guest has never touched are holes in the host's memory, and are not looked at.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from qemud.migration.live import MAX_PIECES, PAGES, ZEROS, Section
from qemud.migration.memory import has_holes, pieces_with_data, view_of
from qemud.migration.stream import PIECE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qemud.machine.memory import Section as Region

_ZEROS = bytes(PIECE)
_LOOKED = 64
"""Pieces that are looked at for one batch, at most: somebody may want to cancel."""


class Batch(NamedTuple):
    """Some of what has changed: sections as they are sent, how many bytes of memory were looked at, and how many have changed."""

    parts: list[bytes]
    looked: int
    changed: int
    zeros: int
    """Bytes that were looked at and are zeros."""


class Tracker:
    """See the module."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self._regions = regions
        self._sent: list[dict[int, bytes]] = [{} for _ in regions]

    def size(self) -> int:
        """Bytes of memory in which there may be something.  Worker thread."""
        return sum(
            min(PIECE, region.size - piece * PIECE)
            for region in self._regions
            for piece in pieces_with_data(region)
        )

    def look(self) -> Iterator[Batch]:
        """All that has changed since the last look, the first time all that is not zero.  Worker threads, one at a time."""
        for number, region in enumerate(self._regions):
            yield from self._look(number, region)

    def _look(self, number: int, region: Region) -> Iterator[Batch]:
        sent = self._sent[number]
        gone = set(sent) if has_holes(region) else set()
        batch = _Building(number)
        for piece in pieces_with_data(region):
            gone.discard(piece)
            view = view_of(region, piece)
            batch.looked += len(view)
            before = sent.get(piece)
            if before is None or blake2b(view, digest_size=16).digest() != before:
                self._look_anew(batch, piece, view, sent)
            if batch.full:
                yield batch.take()
        for piece in sorted(gone):
            # The guest has given it back.
            del sent[piece]
            batch.zero(piece)
        yield batch.take()

    @staticmethod
    def _look_anew(batch: _Building, piece: int, view: memoryview, sent: dict[int, bytes]) -> None:
        data = view.tobytes()
        if data == _ZEROS[: len(data)]:
            batch.zeros += len(data)
            if sent.pop(piece, None) is not None:
                batch.zero(piece)
        else:
            sent[piece] = blake2b(data, digest_size=16).digest()
            batch.page(piece, data)


class _Building:
    """A batch of one region in the making."""

    def __init__(self, region: int) -> None:
        self._region = region
        self._parts: list[bytes] = []
        self._pages: list[bytes] = []
        self._first = 0
        self.looked = self.zeros = self._changed = 0

    @property
    def full(self) -> bool:
        """Whether enough was looked at."""
        return self.looked >= _LOOKED * PIECE

    def page(self, piece: int, data: bytes) -> None:
        """A piece has changed."""
        if self._pages and (piece != self._first + len(self._pages) or len(self._pages) == MAX_PIECES):
            self._flush()
        if not self._pages:
            self._first = piece
        self._pages.append(data)
        self._changed += len(data)

    def zero(self, piece: int) -> None:
        """A piece that was sent is all zeros now."""
        self._parts.append(Section(ZEROS, self._region, 1, piece).pack())

    def _flush(self) -> None:
        if self._pages:
            self._parts.append(Section(PAGES, self._region, len(self._pages), self._first).pack())
            self._parts += self._pages
            self._pages = []

    def take(self) -> Batch:
        """What there is so far; another one begins."""
        self._flush()
        batch = Batch(self._parts, self.looked, self._changed, self.zeros)
        self._parts = []
        self.looked = self.zeros = self._changed = 0
        return batch
