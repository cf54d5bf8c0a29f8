"""What a migration has sent, how fast, and what is to be expected."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from qemud._generated.types.migration import MigrationStats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud._generated.types.migration import MigrationInfo
    from qemud.migration.passes import Batch

PAGE = 4096
"""Bytes of a page, in which clients count."""

_LEAST_SECONDS = 1e-6
_TELLING = 1 << 20
"""Bytes; fewer only fill the host's buffers."""


class Statistics:
    """See the module.  Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.total = self.remaining = self.passes = 0
        self._begun = time.monotonic()
        self._active = self._stopped = self._ended = 0.0
        self._transferred = self._zeros = self._changed = self._downtime_bytes = 0
        self._expected = 0.0
        self._speed = 0.0
        """Bytes a second, of the last pass in which enough was sent to tell."""
        self._dirty_rate = 0.0
        # Of the pass that is under way, or was last.
        self._pass_begun = self._pass_seconds = self._sending = self._looking = 0.0
        self._pass_changed = self._pass_mark = 0

    # What happens.

    def active(self, size: int) -> None:
        """So many bytes of memory are about to be sent."""
        self._active = time.monotonic()
        self.remaining = size

    def stopped(self) -> None:
        """The guest was stopped."""
        self._stopped = time.monotonic()

    def end(self) -> None:
        """It has ended."""
        self._ended = time.monotonic()
        self.remaining = 0

    def sent(self, count: int) -> None:
        """Bytes were sent."""
        self._transferred += count
        if self._stopped:
            self._downtime_bytes += count

    def begin_pass(self) -> None:
        """Memory is looked at once more."""
        self._pass_begun = time.monotonic()
        self._sending = self._looking = 0.0
        self._pass_changed = 0
        self._pass_mark = self._transferred

    def looked(self, batch: Batch) -> None:
        """Some of it was looked at, and is sent."""
        self._pass_changed += batch.changed
        self._changed += batch.changed
        if self.passes == 1:
            self._zeros += batch.zeros
            self.remaining = max(0, self.remaining - batch.looked)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Time inside of this is that of sending."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._sending += time.monotonic() - begun

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Time inside of this is that of looking."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._looking += time.monotonic() - begun

    def end_pass(self) -> None:
        """All of it was looked at."""
        before = self._pass_seconds
        self._pass_seconds = time.monotonic() - self._pass_begun
        sent = self._transferred - self._pass_mark
        if sent >= _TELLING or not self._speed:
            self._speed = sent / max(self._sending, _LEAST_SECONDS)
        if self.passes > 1:
            self._dirty_rate = self._pass_changed / max(before, _LEAST_SECONDS)

    # What follows from it.

    def ahead(self, limit: int) -> float:
        """Seconds that the pass is ahead of a limit in bytes a second; 0 is none."""
        if not limit:
            return 0.0
        return (self._transferred - self._pass_mark) / limit - (time.monotonic() - self._pass_begun)

    def expect_downtime(self, bandwidth: int, *, running: bool) -> float:
        """Seconds that the guest would be stopped for, if it were now; `bandwidth` in bytes a second, 0 for what was measured."""
        if not running:
            left = 0.0
        elif self.passes > 1:
            # What the guest changes in the time that a pass takes; but not more than was ever sent.
            left = min(self._dirty_rate * self._pass_seconds, float(self._changed))
        else:
            left = float(self._pass_changed)
        self.remaining = int(left)
        self._expected = self._looking + left / max(bandwidth or self._speed, 1.0)
        return self._expected

    def describe(self, info: MigrationInfo, *, complete: bool) -> None:
        """Put all of it into `info`."""
        now = self._ended if complete else time.monotonic()
        info.total_time = _milliseconds(now - self._begun)
        info.setup_time = _milliseconds(self._active - self._begun)
        if complete:
            info.downtime = _milliseconds(now - self._stopped)
        else:
            info.expected_downtime = _milliseconds(self._expected)
        seconds = max(now - self._active, _LEAST_SECONDS)
        info.ram = MigrationStats(
            transferred=self._transferred,
            remaining=self.remaining,
            total=self.total,
            duplicate=self._zeros // PAGE,
            normal=self._changed // PAGE,
            normal_bytes=self._changed,
            dirty_pages_rate=0 if complete else int(self._dirty_rate) // PAGE,
            mbps=self._transferred * 8 / seconds / 1e6,
            dirty_sync_count=self.passes,
            postcopy_requests=0,
            page_size=PAGE,
            multifd_bytes=0,
            pages_per_second=int(self._changed / PAGE / seconds),
            precopy_bytes=self._transferred - self._downtime_bytes,
            downtime_bytes=self._downtime_bytes,
            postcopy_bytes=0,
            dirty_sync_missed_zero_copy=0,
        )


def _milliseconds(seconds: float) -> int:
    return max(0, int(seconds * 1000))
