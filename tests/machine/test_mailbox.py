"""The mailboxes: order, results, no lost wake-up, and who may touch what."""

import asyncio
import threading

import pytest

from qemud.machine import mailbox
from qemud.machine.mailbox import Closed, Mailboxes


class Machine:
    """A machine thread that does nothing but mail; it sleeps in `wait` or, with `busy`, polls as running guest code does."""

    def __init__(self, *, busy=False, debug=True):
        self.kicked = threading.Event()
        self.kicks = 0
        self.mailboxes = Mailboxes(self._kick, debug=debug)
        self.ending = False
        self.busy = busy
        self.thread = threading.Thread(target=self._main, name="machine")
        self.thread.start()

    def _kick(self):
        self.kicks += 1
        self.kicked.set()

    def _main(self):
        self.mailboxes.claim()
        while not self.ending:
            self.mailboxes.drain()
            self._rest()
        self.mailboxes.close()

    def _rest(self):
        if self.ending:
            return
        if self.busy:
            # Only a kick ends guest code: one that was lost hangs the test.
            self.kicked.wait()
            self.kicked.clear()
        else:
            self.mailboxes.wait()

    def end(self):
        self.mailboxes.post(setattr, self, "ending", True)
        self.thread.join()


def run(test, **how):
    """Run `await test(machine)` in a loop, beside a machine."""

    async def main():
        machine = Machine(**how)
        try:
            await asyncio.wait_for(test(machine), 60)
        finally:
            await asyncio.to_thread(machine.end)

    asyncio.run(main())


def test_a_call_returns_its_result_from_the_machine_thread():
    async def test(machine):
        def work(a, b):
            assert machine.mailboxes.on_machine_thread()
            return a + b, threading.current_thread().name

        assert await machine.mailboxes.call(work, 2, 3) == (5, "machine")
        assert not machine.mailboxes.on_machine_thread()

    run(test)


def test_exceptions_travel_back():
    async def test(machine):
        def work():
            raise KeyError("x")

        with pytest.raises(KeyError, match="x"):
            await machine.mailboxes.call(work)
        assert await machine.mailboxes.call(len, "abc") == 3

    run(test)


@pytest.mark.parametrize("busy", [False, True])
def test_no_post_and_no_wake_up_is_lost(busy):
    """Thousands of posts of several threads: each arrives, in its thread's order, without another to push it."""

    async def test(machine):
        count, threads = 5000, 4
        got: list[list[int]] = [[] for _ in range(threads)]
        done = [threading.Event() for _ in range(threads)]

        def receive(thread, number):
            got[thread].append(number)
            done[thread].set()

        def post(thread):
            for number in range(count):
                machine.mailboxes.post(receive, thread, number)
                if number % 50 == 0:
                    # Wait for the answer now and then, so that the machine falls asleep in between.
                    assert done[thread].wait(30), "a wake-up was lost"
                    done[thread].clear()

        await asyncio.gather(*(asyncio.to_thread(post, thread) for thread in range(threads)))
        await machine.mailboxes.call(lambda: None)
        assert got == [list(range(count))] * threads

    run(test, busy=busy)


def test_calls_from_the_loop_to_a_sleeping_machine_are_never_stuck():
    async def test(machine):
        for number in range(3000):
            assert await machine.mailboxes.call(abs, -number) == number

    run(test)


def test_posts_coalesce_into_one_kick():
    mailboxes = Mailboxes(lambda: kicks.append(1))
    kicks: list[int] = []
    got: list[int] = []
    for number in range(100):
        mailboxes.post(got.append, number)
    assert kicks == [1]
    assert mailboxes.drain() == 100
    assert got == list(range(100))
    mailboxes.post(got.append, 100)
    assert kicks == [1, 1]


def test_what_is_posted_while_draining_waits_for_the_next_turn():
    kicks: list[int] = []
    got: list[str] = []
    mailboxes = Mailboxes(lambda: kicks.append(1))

    def first():
        got.append("first")
        mailboxes.post(got.append, "second")

    mailboxes.post(first)
    assert mailboxes.drain() == 1
    assert got == ["first"]
    assert kicks == [1, 1], "the second has kicked again"
    mailboxes.drain()
    assert got == ["first", "second"]


def test_the_outbox_is_one_queue_for_everything():
    """What the machine sent before a call returned is there before the caller goes on."""

    async def test(machine):
        events: list[int] = []

        def work():
            for number in range(100):
                machine.mailboxes.send(events.append, number)
            return "result"

        for _ in range(20):
            events.clear()
            assert await machine.mailboxes.call(work) == "result"
            assert events == list(range(100))

    run(test)


def test_a_burst_of_sends_wakes_the_loop_once(monkeypatch):
    async def test(machine):
        wakes = []
        original = asyncio.BaseEventLoop.call_soon_threadsafe

        def counting(loop, callback, *args, **how):
            wakes.append(callback)
            return original(loop, callback, *args, **how)

        monkeypatch.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", counting)
        got: list[int] = []
        held = threading.Event()
        machine.mailboxes.send(held.wait, 10)  # keep the loop busy meanwhile

        def burst():
            for number in range(1000):
                machine.mailboxes.send(got.append, number)
            held.set()

        machine.mailboxes.post(burst)
        await machine.mailboxes.call(lambda: None)
        assert got == list(range(1000))
        assert len(wakes) <= 3

    run(test)


@pytest.fixture
def records(monkeypatch):
    """What is logged, as (level, text, fields)."""
    seen = []

    class Log:
        def __getattr__(self, level):
            return lambda text, **fields: seen.append((level, text, fields))

    monkeypatch.setattr(mailbox, "log", Log())
    return seen


def test_a_failing_post_is_logged_and_the_next_runs(records):
    async def test(machine):
        machine.mailboxes.post(lambda: 1 / 0)
        assert await machine.mailboxes.call(lambda: 7) == 7

    run(test)
    assert [(level, text) for level, text, _ in records] == [("exception", "a posted call failed")]


def test_a_failing_send_is_reported_to_the_loop_and_the_next_runs():
    async def test(machine):
        reports = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: reports.append(context["exception"])
        )
        machine.mailboxes.post(machine.mailboxes.send, lambda: 1 / 0)
        assert await machine.mailboxes.call(lambda: 7) == 7
        assert [type(error) for error in reports] == [ZeroDivisionError]

    run(test)


def test_a_cancelled_call_runs_all_the_same():
    async def test(machine):
        hold = threading.Event()
        ran: list[int] = []
        machine.mailboxes.post(hold.wait, 10)
        task = asyncio.ensure_future(machine.mailboxes.call(ran.append, 1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        hold.set()
        await machine.mailboxes.call(lambda: None)
        assert ran == [1]

    run(test)


def test_the_end_fails_what_is_not_answered_and_what_comes_later():
    async def main():
        machine = Machine()
        hold = threading.Event()
        machine.mailboxes.post(hold.wait, 10)
        machine.mailboxes.post(setattr, machine, "ending", True)
        # Behind the end in the box: taken in the same turn, or never.
        calls = [asyncio.ensure_future(machine.mailboxes.call(lambda: 1)) for _ in range(3)]
        await asyncio.sleep(0)
        hold.set()
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
        assert all(result == 1 or isinstance(result, Closed) for result in results)
        await asyncio.to_thread(machine.thread.join)
        with pytest.raises(Closed, match="the machine thread has ended"):
            await machine.mailboxes.call(lambda: 1)
        machine.mailboxes.post(lambda: 1 / 0)  # harmless

    asyncio.run(main())


def test_sends_to_a_loop_that_is_gone_are_dropped():
    async def main():
        return Machine()

    machine = asyncio.run(main())
    machine.mailboxes.post(machine.mailboxes.send, print)
    machine.end()


def test_mailboxes_made_before_the_loop_keep_what_is_sent():
    machine = Machine()
    got: list[int] = []

    async def main():
        machine.mailboxes.bind(asyncio.get_running_loop())
        assert await machine.mailboxes.call(lambda: 5) == 5
        assert got == [1]

    try:
        machine.mailboxes.send(got.append, 1)
        asyncio.run(main())
    finally:
        machine.end()


def test_each_side_is_guarded_against_the_other():
    async def test(machine):
        with pytest.raises(RuntimeError, match="only the machine thread may touch the machine"):
            machine.mailboxes.check_machine_thread()
        machine.mailboxes.check_loop()
        await machine.mailboxes.call(machine.mailboxes.check_machine_thread)
        with pytest.raises(RuntimeError, match="only the event loop may touch the outside"):
            await machine.mailboxes.call(machine.mailboxes.check_loop)

    run(test)


def test_the_debug_mode_tells_of_calls_that_hold_up_the_machine(records, monkeypatch):
    monkeypatch.setattr(mailbox, "SLICE_NS", -1)

    async def test(machine):
        await machine.mailboxes.call(len, "x")

    run(test)
    assert ("warning", "a call held up the machine") in [(level, text) for level, text, _ in records]
    records.clear()
    run(test, debug=False)
    assert records == []


def test_a_wait_ends_by_its_timeout_and_by_a_ring():
    mailboxes = Mailboxes(lambda: None)
    mailboxes.wait(0.001)
    mailboxes.wait(0)
    mailboxes.wait(-1)
    mailboxes.ring()
    mailboxes.ring()
    mailboxes.wait()


@pytest.mark.parametrize("busy", [False, True])
def test_a_frozen_machine_answers_calls_only(busy):
    """Posts wait, in their order, and none is lost."""

    async def test(machine):
        seen: list[int] = []
        mailboxes = machine.mailboxes
        mailboxes.post(seen.append, 0)
        frozen = asyncio.ensure_future(mailboxes.call(mailboxes.freeze))
        await asyncio.sleep(0)
        for i in range(1, 5):
            mailboxes.post(seen.append, i)
        await frozen
        for i in range(5, 10):
            mailboxes.post(seen.append, i)
            assert await mailboxes.call(list, seen) == [0]
        await mailboxes.call(mailboxes.thaw)
        mailboxes.post(seen.append, 10)
        while len(await mailboxes.call(list, seen)) < 11:
            pass
        assert seen == list(range(11))

    run(test, busy=busy)
