from __future__ import annotations

import functools
import time

from hypothesis import given
from hypothesis import strategies as st

from qemud.machine.clock import Clock, HostClock, RealtimeClock, VirtualClock


class Source:
    def __init__(self) -> None:
        self.ns = 1000

    def __call__(self) -> int:
        return self.ns


def test_virtual_time_stands_still_until_started_and_while_stopped():
    source = Source()
    clock = VirtualClock(source)
    source.ns += 50
    assert clock.now() == 0
    clock.start()
    source.ns += 50
    assert clock.now() == 50
    clock.stop()
    source.ns += 2_000_000_000
    assert clock.now() == 50
    clock.start()
    source.ns += 1
    assert clock.now() == 51


def test_no_timer_fires_while_time_stands_still():
    source = Source()
    clock = VirtualClock(source)
    fired: list[int] = []
    clock.timer(lambda: fired.append(clock.now())).arm(0)
    assert clock.run_due() == 0
    clock.start()
    source.ns += 1
    assert clock.run_due() == 1
    assert fired == [1]


def test_virtual_time_can_be_saved_and_loaded_stopped_or_running():
    source = Source()
    clock = VirtualClock(source)
    clock.load(700)
    assert clock.save() == 700
    clock.start()
    source.ns += 1
    assert clock.save() == 701
    clock.load(100)
    source.ns += 1
    assert clock.now() == 101


def test_who_shows_the_time_is_told_when_it_changes_its_course():
    clock = VirtualClock(Source())
    told: list[tuple[int, int]] = []
    clock.on_change = lambda: told.append((clock.now(), clock.counter_delta))
    clock.start()
    clock.start()
    clock.set_counter_delta(-5)
    clock.set_counter_delta(-5)
    clock.stop()
    clock.load(9)
    assert told == [(0, 0), (0, -5), (0, -5), (9, -5)]


def test_the_hosts_clocks():
    assert abs(HostClock().now() - time.time_ns()) < 10**9
    assert abs(RealtimeClock().now() - time.monotonic_ns()) < 10**9


def make() -> tuple[Source, Clock, list[str]]:
    source = Source()
    return source, Clock(source), []


def test_a_timer_fires_once_when_due_and_not_before():
    source, clock, fired = make()
    timer = clock.timer(lambda: fired.append("a"))
    timer.arm(1010)
    assert clock.next_deadline() == 1010
    source.ns = 1009
    clock.run_due()
    assert fired == []
    assert timer.deadline == 1010
    source.ns = 1010
    clock.run_due()
    clock.run_due()
    assert fired == ["a"]
    assert clock.next_deadline() is None
    timer.arm(2000)
    assert clock.next_deadline() == 2000


def test_arming_again_moves_a_timer_and_cancelling_stops_it():
    source, clock, fired = make()
    timer = clock.timer(lambda: fired.append("a"))
    timer.arm(1010)
    timer.arm(1030)
    timer.cancel()
    timer.cancel()
    timer.arm(1020)
    source.ns = 1015
    clock.run_due()
    assert fired == []
    source.ns = 1040
    clock.run_due()
    assert fired == ["a"]


def test_a_callback_may_cancel_another_timer_that_is_due_too():
    source, clock, fired = make()
    second = clock.timer(lambda: fired.append("second"))

    def first() -> None:
        fired.append("first")
        second.cancel()

    clock.timer(first).arm(1001)
    second.arm(1002)
    source.ns = 1100
    clock.run_due()
    assert fired == ["first"]


def test_a_callback_that_arms_in_the_past_is_served_by_the_next_call():
    _, clock, fired = make()

    def again() -> None:
        fired.append("again")
        timer.arm(0)

    timer = clock.timer(again)
    timer.arm(0)
    clock.run_due()
    assert fired == ["again"]
    clock.run_due()
    assert fired == ["again", "again"]


def test_who_sleeps_is_told_of_earlier_deadlines_only():
    _, clock, _ = make()
    told: list[int | None] = []
    clock.on_earlier = lambda: told.append(clock.next_deadline())
    first, second = clock.timer(lambda: None), clock.timer(lambda: None)
    first.arm(2000)
    second.arm(3000)
    second.arm(1500)
    first.arm(1800)
    second.cancel()
    first.arm(1700)
    assert told == [2000, 1500, 1700]


def test_arming_for_ever_needs_no_memory():
    _, clock, _ = make()
    timer, other = clock.timer(lambda: None), clock.timer(lambda: None)
    other.arm(1)
    for deadline in range(10_000):
        timer.arm(5000 + deadline)
    assert len(clock._heap) < 200
    assert clock.next_deadline() == 1


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("arm"), st.integers(0, 4), st.integers(0, 60)),
            st.tuples(st.just("cancel"), st.integers(0, 4), st.just(0)),
            st.tuples(st.just("pass"), st.just(0), st.integers(0, 30)),
        ),
        max_size=60,
    )
)
def test_timers_do_what_a_list_of_deadlines_does(steps: list[tuple[str, int, int]]):
    source = Source()
    source.ns = 0
    clock = Clock(source)
    fired: list[int] = []
    timers = [clock.timer(functools.partial(fired.append, n)) for n in range(5)]
    model: dict[int, int] = {}
    for what, n, value in steps:
        if what == "arm":
            timers[n].arm(value)
            model[n] = value
        elif what == "cancel":
            timers[n].cancel()
            model.pop(n, None)
        else:
            source.ns += value
            fired.clear()
            clock.run_due()
            due = {n for n, deadline in model.items() if deadline <= source.ns}
            assert set(fired) == due
            assert len(fired) == len(due)
            assert [model[n] for n in fired] == sorted(model[n] for n in fired)
            for gone in due:
                del model[gone]
        assert clock.next_deadline() == min(model.values(), default=None)
