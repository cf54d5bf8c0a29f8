"""Dirty bitmaps, held to a set of numbers."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.block.bitmaps import ALLOW_READ_ONLY, CHUNK_BITS, DEFAULT_CHECKS, DirtyBitmap
from qemud.qapi.runtime.errors import GenericError

GRAIN = 512
SIZE = GRAIN * (2 * CHUNK_BITS + 77) - 100

offsets = st.one_of(
    st.integers(0, SIZE - 1),
    st.integers(GRAIN * (CHUNK_BITS - 3), GRAIN * (CHUNK_BITS + 3)),
)
lengths = st.one_of(st.integers(0, 5 * GRAIN), st.integers(0, SIZE))
steps = st.lists(st.tuples(st.sampled_from(["set", "reset"]), offsets, lengths), max_size=8)


def model(changes: list[tuple[str, int, int]]) -> tuple[DirtyBitmap, set[int]]:
    bitmap, dirty = DirtyBitmap(SIZE, GRAIN), set[int]()
    for name, offset, length in changes:
        getattr(bitmap, name)(offset, length)
        units = range(offset // GRAIN, min(-(-(offset + length) // GRAIN), bitmap.bits)) if length else ()
        if name == "set":
            dirty.update(units)
        else:
            dirty.difference_update(units)
    return bitmap, dirty


@given(steps, offsets, st.integers(0, 20 * GRAIN))
def test_it_is_a_set_of_units(changes: list[tuple[str, int, int]], offset: int, limit: int) -> None:
    bitmap, dirty = model(changes)
    assert bitmap.count == len(dirty) * GRAIN
    found = set[int]()
    before = -1
    for start, length in bitmap.extents():
        assert start > before
        before = start + length
        assert length > 0
        assert before <= SIZE
        found.update(range(start // GRAIN, -(-before // GRAIN)))
    assert found == dirty
    assert bitmap.get(offset) == (offset // GRAIN in dirty)
    extent = bitmap.next_extent(offset, limit=limit)
    later = [each for each in dirty if each >= offset // GRAIN]
    if not later:
        assert extent is None
    else:
        assert extent is not None
        assert extent[0] == max(offset, min(later) * GRAIN)
        assert not limit or extent[1] <= limit
        assert all(each in dirty for each in range(extent[0] // GRAIN, -(-sum(extent) // GRAIN)))


@given(steps, steps)
def test_merging_is_union(ours: list[tuple[str, int, int]], theirs: list[tuple[str, int, int]]) -> None:
    bitmap, dirty = model(ours)
    other, more = model(theirs)
    coarse = DirtyBitmap(SIZE, 8 * GRAIN)
    coarse.merge(bitmap)
    coarse.merge(other)
    bitmap.merge(other)
    assert bitmap.count == len(dirty | more) * GRAIN
    assert coarse.count == len({each // 8 for each in dirty | more}) * 8 * GRAIN


@given(steps)
def test_bytes_bring_it_back(changes: list[tuple[str, int, int]]) -> None:
    bitmap, _ = model(changes)
    whole = -(-bitmap.bits // 64) * 64
    data = bitmap.to_bytes(0, whole)
    again = DirtyBitmap(SIZE, GRAIN)
    for start in range(0, len(data), 100):
        again.from_bytes(start * 8, data[start : start + 100])
    assert again.snapshot() == bitmap.snapshot()
    assert bitmap.sha256() == hashlib.sha256(data).hexdigest()


@given(steps, st.integers(1, SIZE + 10 * GRAIN))
def test_what_is_cut_off_does_not_come_back(changes: list[tuple[str, int, int]], size: int) -> None:
    bitmap, dirty = model(changes)
    bitmap.truncate(size)
    kept = {each for each in dirty if each < -(-size // GRAIN)}
    assert bitmap.count == len(kept) * GRAIN
    bitmap.truncate(SIZE)
    assert bitmap.count == len(kept) * GRAIN


def test_a_successor_records_while_a_backup_works() -> None:
    bitmap = DirtyBitmap(SIZE, GRAIN, "b0")
    bitmap.track(0, 1)
    bitmap.begin_successor()
    bitmap.track(GRAIN, 1)
    assert bitmap.count == GRAIN
    with pytest.raises(
        GenericError, match="Bitmap 'b0' is currently in use by another operation and cannot be used"
    ):
        bitmap.begin_successor()
    before = bitmap.snapshot()
    bitmap.reclaim()
    assert bitmap.count == 2 * GRAIN
    bitmap.restore(before)
    bitmap.begin_successor()
    bitmap.track(5 * GRAIN, 1)
    bitmap.abdicate()
    assert list(bitmap.extents()) == [(5 * GRAIN, GRAIN)]


def test_what_cannot_be_used_says_why() -> None:
    bitmap = DirtyBitmap(SIZE, GRAIN, "b0")
    bitmap.read_only = True
    bitmap.check(ALLOW_READ_ONLY)
    with pytest.raises(GenericError, match="Bitmap 'b0' is readonly and cannot be modified"):
        bitmap.check(DEFAULT_CHECKS)
    bitmap.inconsistent = True
    with pytest.raises(GenericError, match="Bitmap 'b0' is inconsistent and cannot be used"):
        bitmap.check(ALLOW_READ_ONLY)
