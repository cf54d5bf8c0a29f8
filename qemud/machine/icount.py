"""Virtual time that is counted in instructions: `-icount`.

    vm.clock, one processor made with a `shift`:
    executor.count_instructions(InstructionTime(vm.clock, vcpu, shift, sleep=True))

Each instruction takes `1 << shift` ns, however long the host needs for it: a guest that nobody disturbs does the same every time, instruction by
instruction, and its timers fire at the same ones.  A processor that waits for an interrupt runs none, so time has to be moved on to the next
timer: with `sleep` while the host's time passes, but never beyond the timer, otherwise at once.

Source: QEMU 10.0, accel/tcg/icount-common.c.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qemud.logs import report

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.clock import VirtualClock
    from qemud.machine.vcpu import Vcpu

FARTHEST = 1 << 62
"""Timers that are due later (146 years) are never waited for: clocks and counts have 64 bits."""


class InstructionTime:
    """What drives a virtual clock instead of the host's time.  Machine thread."""

    def __init__(self, clock: VirtualClock, vcpu: Vcpu, shift: int, *, sleep: bool = True) -> None:
        self.clock = clock
        self.sleep = sleep
        self._vcpu = vcpu
        self._shift = shift
        self._warned = False
        clock.use(lambda: vcpu.instructions << shift)

    @property
    def instructions(self) -> int:
        """How many have run."""
        return self._vcpu.instructions

    @instructions.setter
    def instructions(self, count: int) -> None:
        self._vcpu.instructions = count

    def limit(self) -> int | None:
        """Before which instruction a timer is due, if one is."""
        deadline = self.clock.next_deadline() if self.clock.running else None
        if deadline is None or deadline > FARTHEST:
            return None
        return max(-((self.clock.offset - deadline) >> self._shift), 0)

    def wait(self, sleep: Callable[[float | None], None], longest: float | None) -> None:
        """The processor waits for an interrupt: move time on to the next timer.

        `sleep` takes how many seconds to sleep at most, and may return early; it has to after `longest`, if that is not None.
        """
        deadline = self.clock.next_deadline()
        if deadline is None or deadline > FARTHEST:
            if not self.sleep and not self._warned:
                self._warned = True
                report("warning: icount sleep disabled and no active timers")
            sleep(longest)
            return
        left = deadline - self.clock.now()
        if left > 0 and self.sleep:
            begin = time.monotonic_ns()
            seconds = left / 1e9
            sleep(seconds if longest is None else min(seconds, longest))
            left = min(left, time.monotonic_ns() - begin)
        if left > 0:
            self.clock.advance(left)
