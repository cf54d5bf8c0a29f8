"""Time that is counted in instructions: limits, waiting, what does not change it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.machine.clock import VirtualClock
from qemud.machine.icount import FARTHEST, InstructionTime


class Hart:
    """Only counts."""

    def __init__(self) -> None:
        self.instructions = 0


def counted(shift: int = 3, *, sleep: bool = True) -> tuple[VirtualClock, Hart, InstructionTime]:
    clock, hart = VirtualClock(), Hart()
    return clock, hart, InstructionTime(clock, hart, shift, sleep=sleep)  # type: ignore[arg-type]


def never(_seconds: float | None) -> None:
    pytest.fail("it sleeps")


def test_time_is_the_count_only() -> None:
    clock, hart, _ = counted()
    assert clock.now() == 0
    clock.start()
    hart.instructions = 1000
    assert clock.now() == 8000
    clock.stop()
    clock.start()
    assert clock.now() == 8000
    hart.instructions += 1
    assert clock.now() == 8008


@given(st.integers(0, 10), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_the_limit_is_the_first_instruction_at_which_a_timer_is_due(
    shift: int, count: int, start: int, deadline: int
) -> None:
    clock, hart, counting = counted(shift)
    hart.instructions = count
    clock.load(start)
    clock.start()
    clock.timer(lambda: None).arm(deadline)
    limit = counting.limit()
    assert limit is not None
    hart.instructions = limit
    assert clock.now() >= deadline
    if limit:
        hart.instructions = limit - 1
        assert clock.now() < deadline


def test_no_limit_without_a_timer_that_can_ever_be_due() -> None:
    clock, _, counting = counted()
    clock.start()
    assert counting.limit() is None
    timer = clock.timer(lambda: None)
    timer.arm(FARTHEST + 1)
    assert counting.limit() is None
    timer.arm(5)
    assert counting.limit() == 1
    clock.stop()
    assert counting.limit() is None


def test_without_sleep_time_jumps_to_the_timer() -> None:
    clock, hart, counting = counted(sleep=False)
    clock.start()
    fired: list[int] = []
    clock.timer(lambda: fired.append(clock.now())).arm(10**15)
    counting.wait(never, None)
    clock.run_due()
    assert fired == [10**15]
    hart.instructions += 1
    assert clock.now() == 10**15 + 8


def test_a_late_awakening_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    host = [1_000]
    monkeypatch.setattr("qemud.machine.icount.time.monotonic_ns", lambda: host[0])
    clock, _, counting = counted()
    clock.start()
    clock.timer(lambda: None).arm(1_000_000)
    told: list[float | None] = []

    def sleep_for(duration: int) -> None:
        def sleep(seconds: float | None) -> None:
            told.append(seconds)
            host[0] += duration

        counting.wait(sleep, None)

    sleep_for(400_000)  # somebody calls
    assert clock.now() == 400_000
    sleep_for(50_000_000)
    assert clock.now() == 1_000_000
    assert told == [0.001, 0.0006]


def test_others_may_want_to_be_woken_before() -> None:
    clock, _, counting = counted()
    clock.start()
    clock.timer(lambda: None).arm(10**9)
    told: list[float | None] = []
    counting.wait(told.append, 0.25)
    assert told == [0.25]


@pytest.mark.parametrize("sleep", [False, True])
def test_with_no_timer_time_stands_still(capsys: pytest.CaptureFixture[str], sleep: bool) -> None:
    """QEMU's warning, once."""
    clock, _, counting = counted(sleep=sleep)
    clock.start()
    told: list[float | None] = []
    for _ in range(3):
        counting.wait(told.append, None)
    assert told == [None] * 3
    assert clock.now() == 0
    warnings = capsys.readouterr().err.count("warning: icount sleep disabled and no active timers\n")
    assert warnings == (0 if sleep else 1)
