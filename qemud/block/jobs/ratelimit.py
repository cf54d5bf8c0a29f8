"""How fast a job may go: so many bytes in each tenth of a second, and debts are waited for.

limit = RateLimit()
limit.set_speed(1 << 20)
limit.spend(65536)
await asyncio.sleep(limit.delay())
"""

from __future__ import annotations

import time

SLICE = 0.1
"""Seconds."""


class RateLimit:
    """See the module."""

    def __init__(self) -> None:
        self.speed = 0
        self._spent = 0
        self._slice_end = 0.0

    def set_speed(self, speed: int) -> None:
        """Bytes in a second; 0: as fast as can be."""
        self.speed = speed
        self._spent = 0
        self._slice_end = 0.0

    def spend(self, count: int) -> None:
        """So many bytes have been worked on, or are about to be."""
        if self.speed:
            self._renew()
            self._spent += count

    def delay(self) -> float:
        """How long to wait until there is something to spend, seconds."""
        if not self.speed:
            return 0.0
        now = self._renew()
        quota = max(self.speed * SLICE, 1.0)
        if self._spent < quota:
            return 0.0
        # Who has spent for several slices waits for all of them; what is over a whole number is forgiven.
        self._slice_end = max(self._slice_end, self._slice_start + self._spent / quota * SLICE)
        return max(0.0, self._slice_end - now)

    _slice_start = 0.0

    def _renew(self) -> float:
        now = time.monotonic()
        if now >= self._slice_end:
            self._slice_start, self._slice_end = now, now + SLICE
            self._spent = 0
        return now
