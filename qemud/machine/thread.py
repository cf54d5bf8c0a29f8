"""The machine thread: it runs the processor, and between blocks of guest code the mailbox and the timers.

    thread = MachineThread()                # in the event loop
    thread.start()
    await thread.mailboxes.call(thread.attach_clock, clock)
    await thread.mailboxes.call(thread.attach, vcpu)
    await thread.mailboxes.call(thread.resume)
    ...
    await thread.end()

While the guest is stopped or waits for an interrupt the thread sleeps on its mailbox, until the next timer is due; while guest
code runs, the vCPU is kicked by posts and by its own watchdog when a timer is due.

The thread lowers the interpreter's switch interval to 100 us when it starts: a thread that computes in Python
would otherwise keep a device's callback waiting for 5 ms each time.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from qemud.logs import Logger
from qemud.machine.mailbox import Mailboxes
from qemud.machine.vcpu import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.clock import Clock, VirtualClock
    from qemud.machine.icount import InstructionTime
    from qemud.machine.vcpu import Vcpu

SWITCH_INTERVAL = 100e-6
"""Seconds; measured best for disk I/O beside a busy loop, of 5 ms, 1 ms, 100 us, 50 us and 20 us."""

END_TIMEOUT = 3.0
"""Seconds that the thread has to end."""

LONGEST_SLEEP = 3600.0
"""Seconds; a guest may set a timer for centuries ahead, more than what sleeps can be told."""

log = Logger("machine")


class MachineThread:
    """One machine's thread; see the module.

    `on_failure(reason)` is called in the machine thread, with the processor paused, when the engine cannot go on or a callback of
    a device fails: the machine has to stop in the state `internal-error`.
    """

    def __init__(self, name: str = "machine", *, debug: bool = False) -> None:
        self.mailboxes = Mailboxes(self._kick, debug=debug)
        self.on_failure: Callable[[str], None] = lambda _reason: None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._vcpu: Vcpu | None = None
        self._virtual: VirtualClock | None = None
        self.instruction_time: InstructionTime | None = None
        """What drives the virtual clock, if instructions are counted."""
        self._clocks: list[Clock] = []
        self._running = False
        self._holds = 0
        self._ending = False

    # From the loop.

    def start(self) -> None:
        """Start the thread."""
        sys.setswitchinterval(min(SWITCH_INTERVAL, sys.getswitchinterval()))
        self._thread.start()

    @property
    def thread_id(self) -> int:
        """The kernel's number of the thread, for `query-cpus-fast`; 0 before it runs."""
        return self._thread.native_id or 0

    async def end(self) -> None:
        """Stop the guest, end the thread and wait for it. What is not answered fails with `Closed`.

        A thread that is caught in a system call, such as reading a kernel from a pipe that nobody writes into, is left behind.
        """
        import asyncio

        if self._thread.is_alive():
            self.mailboxes.post(self._end)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, END_TIMEOUT)

    # In the machine thread.

    def attach(self, vcpu: Vcpu) -> None:
        """Run this processor from now on, once resumed."""
        self.mailboxes.check_machine_thread()
        self._vcpu = vcpu
        vcpu.on_attention = self._attend
        vcpu.on_failure = self._callback_failed
        if self._virtual is not None:
            self._clock_changed()

    def detach(self) -> Vcpu | None:
        """Give the processor back, paused; who takes it closes it."""
        self.pause()
        vcpu, self._vcpu = self._vcpu, None
        return vcpu

    def attach_clock(self, clock: Clock) -> None:
        """Fire the timers of this clock; a `VirtualClock` is the guest's time as well."""
        from qemud.machine.clock import VirtualClock

        self._clocks.append(clock)
        clock.on_earlier = self._set_deadline
        if isinstance(clock, VirtualClock):
            self._virtual = clock
            clock.on_change = self._clock_changed
            self._clock_changed()

    def count_instructions(self, time: InstructionTime) -> None:
        """Let them drive the virtual clock; the processor that is attached counts them."""
        self.mailboxes.check_machine_thread()
        self.instruction_time = time

    def resume(self) -> None:
        """Let the processor run."""
        self.mailboxes.check_machine_thread()
        self._running = True

    def pause(self) -> None:
        """Run no further instruction of the guest; may be called from a device's callback."""
        self.mailboxes.check_machine_thread()
        self._running = False
        if self._vcpu is not None:
            self._vcpu.leave()

    def hold(self) -> None:
        """Let the processor wait, as if the instruction that it executes took that long, until `let_go`; holds are counted.

        For a device whose register answers when the outside has: mail, timers and `pause` go on meanwhile.
        """
        self.mailboxes.check_machine_thread()
        self._holds += 1
        if self._vcpu is not None:
            self._vcpu.leave()

    def let_go(self) -> None:
        """End one `hold`."""
        self.mailboxes.check_machine_thread()
        self._holds -= 1

    @property
    def running(self) -> bool:
        """Whether the processor runs, or would if it did not wait for an interrupt."""
        return self._running

    def _end(self) -> None:
        self._ending = True
        self.pause()
        self.mailboxes.ring()

    def _kick(self) -> None:
        """Any thread: there is mail and the machine thread does not wait in its mailbox."""
        vcpu = self._vcpu
        if vcpu is not None:
            vcpu.kick()

    def _main(self) -> None:
        self.mailboxes.claim()
        try:
            while not self._ending:
                self._look()
                vcpu = self._vcpu
                if vcpu is not None and self._running and not self._holds and not vcpu.halted:
                    self._run(vcpu)
                else:
                    self._wait()
        finally:
            self.mailboxes.close()

    def _wait(self) -> None:
        """Sleep until there is something to do."""
        counted, left = self.instruction_time, self._time_left()
        if counted is None or not self._running or self._holds:
            self.mailboxes.wait(left)
        else:
            counted.wait(self.mailboxes.wait, left)

    def _run(self, vcpu: Vcpu) -> None:
        self._set_deadline()
        try:
            failure = vcpu.failure if vcpu.run() is Exit.FAILED else ""
        except Exception as error:
            log.exception("the processor does not run")
            failure = str(error)
        if failure:
            self._fail(failure)

    def _look(self) -> None:
        """Empty the mailbox and fire what is due."""
        self.mailboxes.drain()
        virtual = self._virtual
        for clock in self._clocks:
            if clock is not virtual or virtual.running:
                clock.run_due()

    def _attend(self) -> None:
        """The same inside `Vcpu.run`, at a block boundary."""
        self._look()
        self._set_deadline()

    def _time_left(self) -> float | None:
        """Seconds until a timer is due, of those clocks whose time passes as the host's does; None for no such timer."""
        virtual = self._virtual
        least: int | None = None
        for clock in self._clocks:
            if clock is virtual and (self.instruction_time is not None or not virtual.running):
                continue
            deadline = clock.next_deadline()
            if deadline is not None:
                left = deadline - clock.now()
                if least is None or left < least:
                    least = left
        return None if least is None else min(max(least, 0) / 1e9, LONGEST_SLEEP)

    def _set_deadline(self) -> None:
        """Tell the vCPU when it has to kick itself."""
        if self._vcpu is not None:
            left = self._time_left()
            self._vcpu.set_deadline(None if left is None else time.monotonic_ns() + int(left * 1e9))
            if self.instruction_time is not None:
                self._vcpu.set_limit(self.instruction_time.limit())

    def _clock_changed(self) -> None:
        clock = self._virtual
        if self._vcpu is not None and clock is not None:
            delta = clock.counter_delta
            self._vcpu.set_clock(clock.offset + delta, None if clock.running else clock.now() + delta)
            self._set_deadline()

    def _callback_failed(self, error: BaseException) -> None:
        log.error("a callback of the machine failed", exc_info=error)
        self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        self.pause()
        log.error("the machine cannot go on", reason=reason)
        self.on_failure(reason)
