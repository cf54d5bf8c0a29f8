"""Rate limits of events, with a clock that the test turns."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from qemud.monitor.qmp.events import RATE_LIMITED, Events

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """Time and timers, moved on by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[..., object], tuple[Any, ...]]] = []

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> None:
        self.timers.append((self.now + delay, callback, args))

    def to(self, when: float) -> None:
        while self.timers and min(timer[0] for timer in self.timers) <= when:
            timer = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1](*timer[2])
        self.now = when


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.events = Events(self.clock.call_later, now_ns=lambda: round(self.clock.now * 1e9))
        self.seen: list[Any] = []
        self.events.subscribe(lambda name, line, number: self.seen.append((self.clock.now, json.loads(line))))

    def data(self) -> list[Any]:
        return [(when, message["data"]["n"]) for when, message in self.seen]


def test_the_first_is_sent_at_once_and_then_one_a_second_the_last() -> None:
    scene = Scene()
    for n in range(25):
        scene.clock.to(n / 10)
        scene.events.emit("RTC_CHANGE", {"n": n})
    scene.clock.to(10)
    assert scene.data() == [(0, 0), (1.0, 9), (2.0, 19), (3.0, 24)]
    # what is delayed keeps the time at which it happened
    assert scene.seen[-1][1]["timestamp"] == {"seconds": 2, "microseconds": 400000}
    assert scene.clock.timers == []
    scene.events.emit("RTC_CHANGE", {"n": 99})
    assert scene.data()[-1] == (10, 99)


@pytest.mark.parametrize("name", [name for name, member in RATE_LIMITED.items() if member])
def test_devices_are_limited_each_by_itself(name: str) -> None:
    scene = Scene()
    member = RATE_LIMITED[name]
    for n, device in enumerate("abab"):
        scene.events.emit(name, {member or "": device, "n": n})
    scene.clock.to(5)
    assert scene.data() == [(0, 0), (0, 1), (1.0, 2), (1.0, 3)]


def test_io_errors_that_stop_the_machine_are_not_limited() -> None:
    scene = Scene()
    for n in range(3):
        scene.events.emit("BLOCK_IO_ERROR", {"qom-path": "/d", "action": "stop", "n": n})
        scene.events.emit("BLOCK_IO_ERROR", {"qom-path": "/d", "action": "report", "n": 10 + n})
    assert [n for _, n in scene.data()] == [0, 10, 1, 2]


def test_others_are_not_limited() -> None:
    scene = Scene()
    for _ in range(3):
        scene.events.emit("RESET", {"guest": False})
        scene.events.emit("STOP", None)
    assert len(scene.seen) == 6
    assert "data" not in scene.seen[1][1]
