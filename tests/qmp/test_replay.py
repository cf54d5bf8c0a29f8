"""Numbered events: the history and its bounds, and what sessions make of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qemud.monitor.qmp.events import MAX_HISTORY_BYTES, MAX_HISTORY_EVENTS, RATE_LIMITED, Events, History
from qemud.monitor.qmp.session import MAX_EVENT_BACKLOG, Session


@given(st.lists(st.integers(1, 200_000), max_size=60), st.integers(0, 70))
def test_the_history_keeps_the_last_ones_within_its_bounds(sizes: list[int], since: int) -> None:
    history = History()
    lines = [bytes([65 + number % 26]) * size for number, size in enumerate(sizes)]
    assert [history.add(line) for line in lines] == list(range(1, len(lines) + 1))
    everything = history.since(0)
    kept = [line for _, line in everything]
    assert kept == lines[len(lines) - len(kept) :]
    assert sum(map(len, kept)) <= MAX_HISTORY_BYTES
    if len(kept) < len(lines):
        assert sum(map(len, kept)) + len(lines[-len(kept) - 1]) > MAX_HISTORY_BYTES
    since = min(since, history.last)
    assert history.since(since) == [(number, line) for number, line in everything if number > since]


def test_the_history_keeps_so_many_and_no_more() -> None:
    history = History()
    for number in range(MAX_HISTORY_EVENTS + 5):
        history.add(b"%d" % number)
    kept = history.since(0)
    assert (len(kept), kept[0], history.last) == (MAX_HISTORY_EVENTS, (6, b"5"), MAX_HISTORY_EVENTS + 5)


def test_two_histories_are_told_apart() -> None:
    assert History().instance != History().instance


def test_what_rate_limits_hold_back_has_no_number() -> None:
    later: list[Any] = []
    events = Events(lambda delay, callback, *arguments: later.append((callback, arguments)), now_ns=lambda: 0)
    seen: list[tuple[str, int]] = []
    events.subscribe(lambda name, line, number: seen.append((name, number)))
    limited = next(iter(RATE_LIMITED))
    for _ in range(3):
        events.emit(limited, {})
    events.emit("STOP", None)
    callback, arguments = later.pop()
    callback(*arguments)
    assert seen == [(limited, 1), ("STOP", 2), (limited, 3)]


def negotiated(*enable: str) -> Session:
    session = Session(b"{}", offers_replay=True)
    session.opened()
    session.negotiate(enable)
    session.take_output()
    return session


def messages(session: Session) -> list[Any]:
    return [json.loads(line) for line in session.take_output()]


def test_only_those_who_ask_see_numbers_and_each_connection_asks_anew() -> None:
    session = negotiated("event-replay")
    session.event("STOP", b'{"event": "STOP"}\r\n', 7)
    assert messages(session) == [{"event": "STOP", "sequence": 7}]
    session.closed()
    session.opened()
    session.negotiate(["oob"])
    session.take_output()
    session.event("STOP", b'{"event": "STOP"}\r\n', 8)
    assert messages(session) == [{"event": "STOP"}]


def test_a_slow_client_can_tell_that_events_are_missing() -> None:
    session = negotiated("event-replay")
    line = b'{"event": "BIG", "data": "%b"}\r\n' % (b"x" * 100_000)
    for number in range(1, 31):
        session.event("BIG", line, number)
    assert session.backlog < MAX_EVENT_BACKLOG + 2 * len(line)
    numbers = [message["sequence"] for message in messages(session)]
    assert numbers[-1] == 30
    assert numbers[:-1] == list(range(1, len(numbers)))
    assert len(numbers) < 30
