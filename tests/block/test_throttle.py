"""Limits: what they let through at once, who waits, and that nothing waits for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud.block import throttle
from qemud.block.backend import BlockBackend
from qemud.block.throttle import BUCKETS, NANOSECONDS, Group, Limiter, Limits, limit
from tests.block.support import Event, opened, read, with_graph, write

if TYPE_CHECKING:
    from qemud.block.graph import Graph

NULL = {"driver": "null-co", "read-zeroes": True, "size": 1 << 20}


class Clock:
    """Time that the test makes pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        monkeypatch.setattr("qemud.block.throttle.time.monotonic_ns", lambda: self.now)


@given(
    sizes=st.lists(st.integers(1, 1 << 16), min_size=1, max_size=40),
    rate=st.integers(1, 1 << 20),
    burst=st.none() | st.tuples(st.integers(1, 8), st.integers(1, 5)),
)
def test_no_more_than_the_limit_goes_through(sizes: list[int], rate: int, burst: tuple[int, int] | None):
    values = {"bps-total": rate}
    if burst is not None:
        values |= {"bps-total-max": rate * burst[0], "bps-total-max-length": burst[1]}
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        group = Group("g")
        group.configure(Limits(values))
        passed = 0
        for size in sizes:
            for _ in range(4):  # one bucket after the other, and what rounding leaves
                if not (delay := group._delay(write=False)):
                    break
                clock.now += delay + 1
            assert not group._delay(write=False)
            group.count(size, write=False)
            passed += size
            room = rate * burst[0] * burst[1] if burst is not None else rate / 10
            # A request that begins while there is room may be larger than what is left of it.
            assert passed - size <= clock.now * rate / NANOSECONDS + room + 1


def test_who_waits_is_served_in_order_and_let_go_on_a_drain():
    async def test(graph: Graph, _events: list[Event]) -> None:
        node = await opened(graph, **NULL)
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        backend.configure(read_only=False)
        limit(backend, Limits({"iops-write": 1}), None, "hd0")
        now = backend.node_now
        assert now is None
        done: list[int] = []

        async def put(number: int) -> None:
            await write(backend, number, b"x")
            done.append(number)

        tasks = [asyncio.create_task(put(number)) for number in range(4)]
        await read(backend, 0, 1)
        await backend.flush()  # neither is limited
        for _ in range(10):
            await asyncio.sleep(0)
        assert done == [0]
        tasks[2].cancel()
        async with node.drained():  # would never begin if those that wait were waited for
            assert done == [0, 1, 3]
        limit(backend, Limits({}), None, "hd0")
        assert backend.node_now is node
        assert throttle.find_group("hd0") is None
        await asyncio.wait(tasks)

    with_graph(test)


def test_a_group_is_shared_until_its_last_member_leaves():
    async def run() -> None:
        first, second = Limiter(throttle.group_of("g")), Limiter(throttle.group_of("g"))
        assert first.group is second.group
        first.group.configure(Limits({"iops-total": 1}))
        await first.wait(0, write=False)
        waits = asyncio.create_task(second.wait(0, write=True))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waits.done()
        first.group.configure(Limits({}))
        await waits
        first.close()
        assert throttle.find_group("g") is second.group
        second.close()
        assert throttle.find_group("g") is None

    asyncio.run(run())


def test_a_large_request_counts_as_many():
    group = Group("g")
    group.configure(Limits({"iops-total": 100, "iops-size": 4096}))
    group.count(4096 * 5, write=True)
    group.count(100, write=True)
    assert group._buckets["iops-total"].level == 6
    assert {name for name in BUCKETS if group._buckets[name].level} == {
        "iops-total",
        "iops-write",
        "bps-total",
        "bps-write",
    }
