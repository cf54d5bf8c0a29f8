"""Ranges that one request at a time holds."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from qemud.block.ranges import RangeLocks

requests = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8), st.integers(0, 3)), max_size=12)


@given(requests)
def test_nobody_holds_what_another_does_and_everybody_gets_a_turn(wanted: list[tuple[int, int, int]]) -> None:
    async def main() -> None:
        locks = RangeLocks()
        held: list[range] = []
        order: list[int] = []

        async def request(number: int, start: int, length: int, turns: int) -> None:
            mine = range(start, start + length)
            async with locks.hold(start, start + length):
                assert not any(set(mine) & set(other) for other in held)
                held.append(mine)
                order.append(number)
                for _ in range(turns):
                    await asyncio.sleep(0)
                held.remove(mine)

        await asyncio.wait_for(
            asyncio.gather(*(request(number, *each) for number, each in enumerate(wanted))), 10
        )
        assert not locks.busy
        for later, (start, length, _) in enumerate(wanted):
            for earlier, (other, size, _) in enumerate(wanted[:later]):
                if start < other + size and other < start + length:
                    assert order.index(earlier) < order.index(later)

    asyncio.run(main())
