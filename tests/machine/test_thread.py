"""The machine thread with a real hart: stop and go, timers, waits, failures, the end."""

import asyncio
import hashlib
import resource
import time

import pytest

from qemud.accel import create_vcpu
from qemud.machine import thread as thread_module
from qemud.machine.clock import RealtimeClock, VirtualClock
from qemud.machine.mailbox import Closed
from qemud.machine.memory import AddressSpace, RamBlock
from qemud.machine.thread import MachineThread
from tests.accel import asm
from tests.accel.asm import A0, A1, A2, S0, T0, T1

RAM = 0x8000_0000
TIMER = 0x0200_0000
NS_PER_TICK = 100

COUNT = asm.program(asm.label("spin"), asm.addi(A0, A0, 1), asm.j("spin"))


class TimerRegisters:
    """A timer: a write of a number of ticks arms it that far ahead; it raises MTIP, and a write of 0 lowers it."""

    def __init__(self, clock, vcpu):
        self.vcpu = vcpu
        self.clock = clock
        self.timer = clock.timer(self.fire)
        self.lateness = []

    def fire(self):
        self.lateness.append(self.clock.now() - self.due)
        self.vcpu.set_interrupt(7, 1)

    def read(self, _offset, _size):
        return 0

    def write(self, _offset, value, _size):
        self.vcpu.set_interrupt(7, 0)
        if value:
            self.due = self.clock.now() + value * NS_PER_TICK
            self.timer.arm(self.due)


class Machine:
    """A machine thread with a clock, RAM, the timer and a hart."""

    async def begin(self, code=COUNT):
        self.thread = MachineThread()
        self.mailboxes = self.thread.mailboxes
        self.failures: list[str] = []
        self.thread.on_failure = self.failures.append
        self.thread.start()
        await self.call(self._build, code)
        return self

    def _build(self, code):
        self.space = AddressSpace()
        self.clock = VirtualClock()
        self.ram = RamBlock("ram", 1 << 20)
        self.space.add_ram("ram", RAM, self.ram)
        self.vcpu = create_vcpu(self.space)
        self.timer = TimerRegisters(self.clock, self.vcpu)
        self.space.add_mmio("timer", TIMER, 0x100, self.timer)
        self.thread.attach_clock(self.clock)
        self.thread.attach(self.vcpu)
        self.space.write_physical(RAM, code)
        self.vcpu.reset(pc=RAM)

    async def call(self, fn, *args):
        return await asyncio.wait_for(self.mailboxes.call(fn, *args), 60)

    async def go(self):
        def go():
            self.clock.start()
            self.thread.resume()

        await self.call(go)

    async def stop(self):
        def stop():
            self.thread.pause()
            self.clock.stop()

        await self.call(stop)

    def digest(self):
        """Everything that the guest can see of itself."""
        state = repr(self.vcpu.save()).encode()
        return hashlib.sha256(state + self.ram.view + self.clock.now().to_bytes(8, "little")).hexdigest()

    async def end(self):
        await asyncio.wait_for(self.thread.end(), 60)
        self.vcpu.close()
        self.ram.close()


def run(test, code=COUNT):
    async def main():
        machine = await Machine().begin(code)
        try:
            await test(machine)
        finally:
            await machine.end()

    asyncio.run(main())


@pytest.fixture(params=["fast", "twin"], autouse=True)
def native(request, monkeypatch):
    if request.param == "twin":
        monkeypatch.setenv("QEMUD_TWIN", "1")
    else:
        monkeypatch.delenv("QEMUD_TWIN", raising=False)


# Every 100 us an interrupt: count it, note the time, arm the next; count in the main program meanwhile.
TICKING = asm.program(
    asm.la(T1, "trap"), asm.csrw(asm.MTVEC, T1), asm.li(T0, 0x80), asm.csrw(asm.MIE, T0), asm.li(S0, TIMER),
    asm.li(A2, 1000), asm.store(4, A2, S0), asm.li(T0, 8), asm.csrs(asm.MSTATUS, T0),
    asm.label("spin"), asm.addi(A0, A0, 1), asm.j("spin"),
    asm.Align(4), asm.label("trap"), asm.addi(A1, A1, 1), asm.store(4, A2, S0), asm.MRET,
)  # fmt: skip

# The same, but the main program waits.
WAITING = asm.program(
    asm.la(T1, "trap"), asm.csrw(asm.MTVEC, T1), asm.li(T0, 0x80), asm.csrw(asm.MIE, T0), asm.li(S0, TIMER),
    asm.li(A2, 100_000), asm.store(4, A2, S0), asm.li(T0, 8), asm.csrs(asm.MSTATUS, T0),
    asm.label("wait"), asm.WFI, asm.addi(A0, A0, 1), asm.j("wait"),
    asm.Align(4), asm.label("trap"), asm.addi(A1, A1, 1), asm.store(4, A2, S0), asm.MRET,
)  # fmt: skip


def test_nothing_changes_while_it_is_stopped():
    async def test(machine):
        for _ in range(20):
            await machine.go()
            await machine.call(machine.vcpu.gpr, A0)
            await machine.stop()
            before = await machine.call(machine.digest)
            await asyncio.sleep(0.002)
            assert await machine.call(machine.digest) == before
        await machine.go()
        while not await machine.call(machine.vcpu.gpr, A1):
            pass  # interrupts come: the guest was one that much happens in

    run(test, TICKING)


def test_the_guest_makes_no_step_before_resume_and_many_after():
    async def test(machine):
        assert await machine.call(machine.vcpu.gpr, A0) == 0
        await machine.go()
        first = await machine.call(machine.vcpu.gpr, A0)
        while await machine.call(machine.vcpu.gpr, A0) <= first:
            pass

    run(test)


def test_a_device_lets_the_guest_wait_until_it_has_its_answer():
    async def test(machine):
        await machine.go()
        while not await machine.call(machine.vcpu.gpr, A0):
            pass
        await machine.call(machine.thread.hold)
        await machine.call(machine.thread.hold)
        await machine.call(machine.thread.let_go)
        before = await machine.call(machine.vcpu.gpr, A0)
        for _ in range(50):
            assert await machine.call(machine.vcpu.gpr, A0) == before
        # It can be stopped and continued meanwhile, and waits on.
        await machine.stop()
        await machine.go()
        assert await machine.call(machine.vcpu.gpr, A0) == before
        await machine.call(machine.thread.let_go)
        while await machine.call(machine.vcpu.gpr, A0) == before:
            pass

    run(test)


def test_timers_interrupt_a_spinning_guest():
    async def test(machine):
        await machine.go()
        while await machine.call(machine.vcpu.gpr, A1) < 50:
            await asyncio.sleep(0.001)
        await machine.stop()
        assert machine.timer.lateness
        assert min(machine.timer.lateness) >= 0, "never before its time"

    run(test, TICKING)


def test_timers_wake_a_waiting_guest_which_sleeps_otherwise():
    async def test(machine):
        await machine.go()
        while await machine.call(machine.vcpu.gpr, A1) < 3:
            await asyncio.sleep(0.01)
        used = resource.getrusage(resource.RUSAGE_SELF)
        began, ticks = time.monotonic(), await machine.call(machine.vcpu.gpr, A1)
        await asyncio.sleep(0.3)
        now = resource.getrusage(resource.RUSAGE_SELF)
        assert await machine.call(machine.vcpu.gpr, A1) > ticks
        share = (now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime) / (time.monotonic() - began)
        assert share < 0.5, "a guest that waits must not spin"

    run(test, WAITING)


def test_time_stands_still_while_it_is_stopped():
    code = asm.program(asm.label("again"), asm.rdtime(A0), asm.j("again"))

    async def test(machine):
        await machine.go()
        while not await machine.call(machine.vcpu.gpr, A0):
            pass
        await machine.stop()
        frozen = await machine.call(machine.clock.now)
        seen = await machine.call(machine.vcpu.gpr, A0)
        assert seen <= frozen // NS_PER_TICK
        await asyncio.sleep(0.05)
        assert await machine.call(machine.clock.now) == frozen
        await machine.go()
        while (later := await machine.call(machine.vcpu.gpr, A0)) == seen:
            pass
        assert seen < later <= await machine.call(machine.clock.now) // NS_PER_TICK
        await machine.stop()

    run(test, code)


def test_a_pending_timer_keeps_its_distance_over_a_stop():
    async def test(machine):
        await machine.go()
        while not machine.timer.timer.deadline:
            await asyncio.sleep(0.001)
        await machine.stop()
        deadline = machine.timer.timer.deadline
        left = deadline - await machine.call(machine.clock.now)
        await asyncio.sleep(0.03)
        assert machine.timer.timer.deadline == deadline
        assert deadline - await machine.call(machine.clock.now) == left

    run(test, WAITING)


def test_a_post_reaches_a_spinning_and_a_waiting_guest():
    async def spinning(machine):
        await machine.go()
        for number in range(200):
            assert await machine.call(abs, -number) == number

    run(spinning)
    run(spinning, asm.program(asm.label("w"), asm.WFI, asm.j("w")))


def test_a_real_time_timer_fires_while_the_guest_is_stopped():
    async def test(machine):
        clock, fired = RealtimeClock(), asyncio.Event()

        def arm():
            machine.thread.attach_clock(clock)
            clock.timer(lambda: machine.mailboxes.send(fired.set)).arm(clock.now() + 1_000_000)

        await machine.call(arm)
        await asyncio.wait_for(fired.wait(), 30)
        fired.clear()
        await machine.go()
        await machine.call(arm)
        await asyncio.wait_for(fired.wait(), 30)

    run(test)


def test_a_failing_device_stops_the_machine_and_nothing_else(monkeypatch):
    records = []

    class Log:
        def __getattr__(self, level):
            return lambda text, **fields: records.append((level, text))

    monkeypatch.setattr(thread_module, "log", Log())
    code = asm.program(
        asm.li(S0, TIMER), asm.store(4, S0, S0), asm.label("spin"), asm.addi(A0, A0, 1), asm.j("spin")
    )

    async def test(machine):
        def broken(_offset, _value, _size):
            raise ZeroDivisionError("a defect")

        machine.timer.write = broken

        def again():
            machine.space.remove("timer")
            machine.space.add_mmio("timer", TIMER, 0x100, machine.timer)

        await machine.call(again)
        await machine.go()
        while not machine.failures:
            await asyncio.sleep(0.001)
        assert machine.failures == ["ZeroDivisionError: a defect"]
        assert not await machine.call(lambda: machine.thread.running)
        before = await machine.call(machine.vcpu.save)
        assert await machine.call(machine.vcpu.save) == before

    run(test, code)
    assert ("error", "a callback of the machine failed") in records


def test_the_thread_has_a_number_of_the_kernels():
    async def test(machine):
        import threading

        assert machine.thread.thread_id == await machine.call(threading.get_native_id)

    run(test)


def test_only_the_machine_thread_may_run_and_stop_it():
    async def test(machine):
        for method in (machine.thread.resume, machine.thread.pause):
            with pytest.raises(RuntimeError, match="only the machine thread may touch the machine"):
                method()

    run(test)


def test_the_end_comes_while_guest_code_runs_and_while_it_waits():
    for code in (COUNT, WAITING):

        async def main(code=code):
            machine = await Machine().begin(code)
            await machine.go()
            await machine.end()
            with pytest.raises(Closed):
                await machine.call(lambda: 1)

        asyncio.run(main())


def test_a_processor_can_be_taken_away_and_given_back():
    async def test(machine):
        await machine.go()
        vcpu = await machine.call(machine.thread.detach)
        assert vcpu is machine.vcpu
        assert await machine.call(lambda: machine.thread.running) is False
        await machine.call(machine.thread.attach, vcpu)
        await machine.go()
        first = await machine.call(vcpu.gpr, A0)
        while await machine.call(vcpu.gpr, A0) <= first:
            pass

    run(test)
