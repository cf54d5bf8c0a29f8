"""Looks at memory that changes: who has received all of them has the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.machine.memory import RamBlock
from qemud.migration.live import PAGES, SECTION_SIZE, ZEROS, Section
from qemud.migration.passes import Tracker
from qemud.migration.statistics import Statistics
from qemud.migration.stream import PIECE
from tests.migration.test_memory import content, section

if TYPE_CHECKING:
    from qemud.migration.passes import Batch

PIECES = 80
SIZE = PIECES * PIECE - 4096
"""The last piece is a short one."""


class Copy:
    """What the other side has."""

    def __init__(self, *sizes: int) -> None:
        self.memory = [bytearray(size) for size in sizes]
        self.sizes = sizes
        self.received = 0

    def take(self, batch: Batch) -> None:
        stream = b"".join(batch.parts)
        while stream:
            head = Section.parse(stream[:SECTION_SIZE], self.sizes)
            stream = stream[SECTION_SIZE:]
            start = head.first * PIECE
            room = memoryview(self.memory[head.region])[start : start + head.amount * PIECE]
            if head.kind == PAGES:
                room[:] = stream[: len(room)]
                stream = stream[len(room) :]
                self.received += len(room)
            else:
                assert head.kind == ZEROS
                room[:] = bytes(len(room))


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, SIZE - 8), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("clear"), st.integers(0, PIECES - 2), st.just(b"")),
        st.tuples(st.just("give back"), st.integers(0, PIECES - 2), st.just(b"")),
    ),
    max_size=6,
)


def change(block: RamBlock, kind: str, at: int, data: bytes) -> None:
    if kind == "write":
        block.view[at : at + len(data)] = data
    elif kind == "clear":
        block.view[at * PIECE : (at + 1) * PIECE] = bytes(PIECE)
    else:
        block.discard(at * PIECE, PIECE)


@settings(max_examples=40)
@given(looks=st.lists(CHANGES, min_size=1, max_size=4), holes=st.booleans())
def test_the_other_side_has_what_there_is(looks: list[list[tuple[str, int, bytes]]], holes: bool) -> None:
    """The guest writes between looks, clears memory, and gives it back."""
    block = RamBlock("ram", SIZE)
    block.plain = holes
    place = section(block)
    tracker, copy = Tracker([place]), Copy(SIZE)
    for changes in looks:
        for each in changes:
            change(block, *each)
        for batch in tracker.look():
            copy.take(batch)
        assert copy.memory[0] == content(place)
    # Nothing has changed since, and nothing is sent.
    assert not any(batch.parts for batch in tracker.look())
    block.close()


def test_what_changes_during_a_look_is_found_by_the_next() -> None:
    """Whatever the guest does between a piece being looked at and its being received."""
    block = RamBlock("ram", SIZE)
    place = section(block)
    for piece in range(PIECES):
        block.view[piece * PIECE] = 1
    tracker, copy = Tracker([place]), Copy(SIZE)
    for number, batch in enumerate(tracker.look()):
        for piece in range(PIECES):
            block.view[piece * PIECE] = 2 + number
        copy.take(batch)
    assert copy.memory[0] != content(place)
    for batch in tracker.look():
        copy.take(batch)
    assert copy.memory[0] == content(place)
    # Back to what was sent before is a change as well.
    block.view[0] ^= 1
    for batch in tracker.look():
        copy.take(batch)
    block.view[0] ^= 1
    for batch in tracker.look():
        copy.take(batch)
    assert copy.memory[0] == content(place)
    block.close()


def test_what_was_never_touched_is_not_looked_at() -> None:
    """Nor filled by it; and one region does not stand for another."""
    blocks = [RamBlock("a", 1 << 30), RamBlock("b", 1 << 30)]
    regions = [section(block) for block in blocks]
    blocks[1].view[5 * PIECE] = 1
    tracker = Tracker(regions)
    assert tracker.size() <= PIECE
    batches = list(tracker.look())
    assert sum(batch.looked for batch in batches) <= PIECE
    assert sum(batch.changed for batch in batches) == PIECE
    heads = [Section.parse(part, [1 << 30] * 2) for batch in batches for part in batch.parts[:1]]
    assert [(head.kind, head.region, head.first) for head in heads] == [(PAGES, 1, 5)]
    for block in blocks:
        block.close()


@pytest.mark.parametrize(("bandwidth", "milliseconds"), [(1 << 20, 64 * 1000 // 1024), (1 << 30, 0)])
def test_what_is_expected(bandwidth: int, milliseconds: int) -> None:
    """Of a guest that has changed one piece, at a speed that is given."""
    block = RamBlock("ram", SIZE)
    block.view[0] = 1
    tracker, numbers = Tracker([section(block)]), Statistics()
    numbers.passes = 1
    numbers.begin_pass()
    for batch in tracker.look():
        numbers.looked(batch)
        numbers.sent(sum(map(len, batch.parts)))
    numbers.end_pass()
    assert int(numbers.expect_downtime(bandwidth, running=True) * 1000) == milliseconds
    assert numbers.remaining == PIECE
    assert numbers.expect_downtime(bandwidth, running=False) == 0
    assert numbers.remaining == 0
    assert numbers.ahead(0) == 0
    assert numbers.ahead(1) > 60000
    block.close()
