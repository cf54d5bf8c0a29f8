"""Clocks and their timers.

Three clocks, all in nanoseconds:

- `VirtualClock`: the guest's time.  It runs while the machine runs and stands still while it is stopped; it is the one
  source of mtime, `rdtime`, SBI timers and everything else a guest can measure.  Its value is part of the saved state.
- `RealtimeClock`: monotonic time of the host, which never stands still: for what people see.
- `HostClock`: the wall clock of the host (UTC since 1970): for real-time clocks.

A timer belongs to a clock and is armed with an absolute time of that clock:

    timer = clock.timer(callback)
    timer.arm(clock.now() + 1_000_000)
    timer.cancel()

Timers and callbacks belong to the machine thread.  Whoever drives a clock asks `next_deadline` how long it may sleep, calls
`run_due` then, and sets `on_earlier` to be told when a timer is armed before everything that was armed so far.  `now` may be
read from any thread.
"""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NS_PER_SECOND = 1_000_000_000


class Timer:
    """A callback at a point in time, armed at most once at a time; arming again moves it."""

    __slots__ = ("_callback", "_clock", "deadline", "ticket")

    def __init__(self, clock: Clock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self.ticket = 0
        """Which of its clock's arms was the last: entries of the heap with another one are stale."""
        self.deadline: int | None = None
        """When it is due (ns of its clock), or None while it is not armed."""

    def arm(self, expire: int) -> None:
        """Call back once the clock shows `expire` (ns) or later; a past time means as soon as possible."""
        self._clock.schedule(self, expire)

    def cancel(self) -> None:
        """Do not call back; harmless when not armed."""
        if self.deadline is not None:
            self._clock.unschedule(self)

    def fire_if(self, ticket: int) -> None:
        """Run the callback, unless the timer was moved or cancelled since `ticket` was issued."""
        if self.deadline is not None and self.ticket == ticket:
            self.deadline = None
            self._callback()


class Clock:
    """A source of time with a heap of timers; subclasses say what time it is."""

    def __init__(self, source: Callable[[], int]) -> None:
        self._source = source
        self._heap: list[tuple[int, int, Timer]] = []
        self.tickets = 0
        self._stale = 0
        self.on_earlier: Callable[[], None] | None = None
        """Called when the next deadline has moved forward (by `Timer.arm`)."""

    def now(self) -> int:
        """The clock's time, ns."""
        return self._source()

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A new timer, not armed."""
        return Timer(self, callback)

    def next_deadline(self) -> int | None:
        """When the earliest timer is due (ns; may be past), or None when none is armed."""
        heap = self._heap
        while heap:
            deadline, ticket, timer = heap[0]
            if timer.deadline is not None and timer.ticket == ticket:
                return deadline
            heapq.heappop(heap)
            self._stale -= 1
        return None

    def run_due(self) -> int:
        """Call back every timer that is due; return how many heap entries were looked at.

        The set is fixed on entry: a callback that arms its timer in the past again is served by the next call, so that
        no guest can hold the machine thread here.
        """
        now = self.now()
        due: list[tuple[int, int, Timer]] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            due.append(heapq.heappop(self._heap))
        for _, ticket, timer in due:
            timer.fire_if(ticket)
        return len(due)

    def schedule(self, timer: Timer, expire: int) -> None:
        """What `Timer.arm` does."""
        earliest = self.next_deadline()
        if timer.deadline is not None:
            self._stale += 1
        self.tickets += 1
        timer.ticket = self.tickets
        timer.deadline = expire
        heapq.heappush(self._heap, (expire, self.tickets, timer))
        if self._stale > 64 and self._stale * 2 > len(self._heap):
            self._compact()
        if self.on_earlier is not None and (earliest is None or expire < earliest):
            self.on_earlier()

    def unschedule(self, timer: Timer) -> None:
        """What `Timer.cancel` does: the heap's entry goes stale and is dropped later."""
        timer.deadline = None
        self._stale += 1

    def _compact(self) -> None:
        """Drop the entries of moved and cancelled timers, so that re-arming for ever needs no memory."""
        self._heap = [
            entry for entry in self._heap if entry[2].deadline is not None and entry[2].ticket == entry[1]
        ]
        heapq.heapify(self._heap)
        self._stale = 0


class VirtualClock(Clock):
    """The guest's time: from 0 at creation, running between `start` and `stop` only."""

    def __init__(self, source: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(source)
        self._offset = 0
        self._frozen: int | None = 0
        self.on_change: Callable[[], None] | None = None
        """Called when time starts, stops or is set: an engine tells the guest the time without asking here."""

        self.counter_delta = 0
        """What the guest's own counter (mtime, `rdtime`) is ahead of this clock, ns; the guest may set its counter."""

    @property
    def running(self) -> bool:
        """Whether time passes."""
        return self._frozen is None

    @property
    def offset(self) -> int:
        """While time passes: the guest's time less the source's (ns)."""
        return self._offset

    def now(self) -> int:
        """The guest's time, ns; the same value for as long as the clock is stopped."""
        frozen = self._frozen
        return self._source() + self._offset if frozen is None else frozen

    def run_due(self) -> int:
        """Call back what is due; nothing is while time stands still, so that nothing changes in a stopped machine."""
        return super().run_due() if self._frozen is None else 0

    def start(self) -> None:
        """Let time pass, on from where it stood."""
        if self._frozen is not None:
            self._offset = self._frozen - self._source()
            self._frozen = None
            self._changed()

    def stop(self) -> None:
        """Let time stand still."""
        if self._frozen is None:
            self._frozen = self.now()
            self._changed()

    def use(self, source: Callable[[], int]) -> None:
        """Take time from another source; the guest's time does not change by that."""
        now, running = self.now(), self.running
        self._source = source
        if running:
            self._offset = now - source()
        self._changed()

    def advance(self, duration: int) -> None:
        """As if that much time had passed, ns."""
        self.load(self.now() + duration)

    def save(self) -> int:
        """The guest's time, to be given to `load` in another process."""
        return self.now()

    def load(self, now: int) -> None:
        """Set the guest's time; devices arm their timers from their own state afterwards."""
        if self._frozen is None:
            self._offset = now - self._source()
        else:
            self._frozen = now
        self._changed()

    def set_counter_delta(self, delta: int) -> None:
        """Move the guest's counter against this clock, without touching the clock itself."""
        if delta != self.counter_delta:
            self.counter_delta = delta
            self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()


class RealtimeClock(Clock):
    """The host's monotonic time."""

    def __init__(self, source: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(source)


class HostClock(Clock):
    """The host's wall clock, ns since 1970-01-01 UTC; it may jump."""

    def __init__(self, source: Callable[[], int] = time.time_ns) -> None:
        super().__init__(source)
