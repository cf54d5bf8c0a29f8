"""Counters of a drive: how many requests, how much data, how long they took.

`Accounting` is written to by whoever ends requests, which is the machine thread for a device's; it may be read from the event loop.

Source of what counts as what: QEMU 10.0, block/accounting.c and util/timed-average.c.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

READ, WRITE, FLUSH, UNMAP = range(4)
"""Kinds of requests; zeroes written count as writes, discards as unmaps."""

KINDS = ("rd", "wr", "flush", "unmap")


class Histogram:
    """How many requests took how long; `boundaries` in ns, rising."""

    __slots__ = ("bins", "boundaries")

    def __init__(self, boundaries: Sequence[int]) -> None:
        self.boundaries = list(boundaries)
        self.bins = [0] * (len(self.boundaries) + 1)

    def count(self, latency: int) -> None:
        """A request took so many ns."""
        self.bins[bisect_right(self.boundaries, latency)] += 1


class _Window:
    """Smallest, largest and sum of latencies since some time."""

    __slots__ = ("count", "expires", "largest", "smallest", "total")

    def __init__(self, expires: int) -> None:
        self.expires = expires
        self.count = self.total = self.largest = 0
        self.smallest = 0


class Interval:
    """Latencies of the last `seconds`.

    Two windows that overlap by half, of which the older is asked: what it tells is about the last half to whole interval.
    """

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self._length = seconds * 1_000_000_000
        now = time.monotonic_ns()
        self._windows = [
            [_Window(now + self._length // 2), _Window(now + self._length)] for _ in range(len(KINDS))
        ]

    def _current(self, kind: int, now: int) -> _Window:
        windows = self._windows[kind]
        for number, window in enumerate(windows):
            if window.expires <= now:
                # Where nothing has happened for long, keep half an interval between the two.
                late = (now - window.expires) // self._length + 1
                windows[number] = _Window(window.expires + late * self._length)
        return min(windows, key=lambda window: window.expires)

    def count(self, kind: int, latency: int, now: int) -> None:
        """A request took so many ns."""
        self._current(kind, now)
        for window in self._windows[kind]:
            window.count += 1
            window.total += latency
            window.largest = max(window.largest, latency)
            window.smallest = latency if window.count == 1 else min(window.smallest, latency)

    def latencies(self, kind: int) -> tuple[int, int, int]:
        """Smallest, largest and average, ns; zeroes when there were none."""
        window = self._current(kind, time.monotonic_ns())
        return window.smallest, window.largest, window.total // window.count if window.count else 0

    def queue_depth(self, kind: int) -> float:
        """How many requests there were at a time, on average."""
        now = time.monotonic_ns()
        window = self._current(kind, now)
        elapsed = self._length - (window.expires - now)
        return window.total / elapsed if elapsed > 0 else 0.0


class Accounting:
    """The counters of one drive."""

    def __init__(self) -> None:
        self.bytes = [0] * len(KINDS)
        self.operations = [0] * len(KINDS)
        self.failed = [0] * len(KINDS)
        self.invalid = [0] * len(KINDS)
        self.total_ns = [0] * len(KINDS)
        self.merged = [0] * len(KINDS)
        self.last_access = 0
        """Monotonic time of the last access, ns; 0 when there was none."""
        self.account_invalid = True
        self.account_failed = True
        self.intervals: list[Interval] = []
        self.histograms: list[Histogram | None] = [None] * len(KINDS)

    def done(self, kind: int, length: int, started: int) -> None:
        """A request that began at `started` (monotonic ns) has ended well."""
        self.operations[kind] += 1
        self.bytes[kind] += length
        self._took(kind, started)

    def fail(self, kind: int, started: int) -> None:
        """A request has failed."""
        self.failed[kind] += 1
        if self.account_failed:
            self._took(kind, started)
        elif (histogram := self.histograms[kind]) is not None:
            histogram.count(time.monotonic_ns() - started)

    def refuse(self, kind: int) -> None:
        """A request made no sense: it was not begun."""
        self.invalid[kind] += 1
        if self.account_invalid:
            self.last_access = time.monotonic_ns()

    def merge(self, kind: int, count: int) -> None:
        """So many requests have become part of others."""
        self.merged[kind] += count

    def _took(self, kind: int, started: int) -> None:
        now = time.monotonic_ns()
        latency = now - started
        self.total_ns[kind] += latency
        self.last_access = now
        histogram = self.histograms[kind]
        if histogram is not None:
            histogram.count(latency)
        for interval in self.intervals:
            interval.count(kind, latency, now)
