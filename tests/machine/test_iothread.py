"""I/O threads: what they run, in what order, and how their properties tell."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemud._generated.types.backends import IothreadProperties
from qemud.machine.iothread import IoThread, PollingSelector
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from tests.conftest import Starter


def with_thread(test: Any, **properties: int) -> None:
    """Run a coroutine with an I/O thread that is up."""

    async def main() -> None:
        thread = IoThread(IothreadProperties(**properties))
        thread.id = "io"
        await thread.complete()
        try:
            await test(thread)
        finally:
            thread.close()

    asyncio.run(main())


def test_it_is_a_thread_of_the_host_with_a_name() -> None:
    async def test(thread: IoThread) -> None:
        assert thread.thread_id != threading.get_native_id()
        assert os.path.isdir(f"/proc/self/task/{thread.thread_id}")
        names = {each.native_id: each.name for each in threading.enumerate()}
        assert names[thread.thread_id] == "IO io"

    with_thread(test)


def test_coroutines_run_there_and_their_results_and_errors_come_back() -> None:
    async def test(thread: IoThread) -> None:
        async def where() -> int:
            await asyncio.sleep(0)
            return threading.get_native_id()

        async def wrong() -> None:
            raise GenericError("no")

        assert await thread.run(where()) == thread.thread_id
        with pytest.raises(GenericError, match="no"):
            await thread.run(wrong())

    with_thread(test)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_requests_run_in_order_and_in_batches(batch: int) -> None:
    async def test(thread: IoThread) -> None:
        turns: list[list[int]] = []
        gate, done = threading.Event(), threading.Event()

        def count() -> None:
            turns.append([])
            if not done.is_set():
                thread.loop.call_soon(count)

        def note(number: int) -> None:
            turns[-1].append(number)
            if number == 9:
                done.set()

        async def begin() -> None:
            gate.wait()  # requests gather meanwhile
            count()

        begun = asyncio.ensure_future(thread.run(begin()))
        await asyncio.sleep(0)
        for number in range(10):
            thread.post(note, number)
        gate.set()
        await begun
        await asyncio.to_thread(done.wait)
        together = [turn for turn in turns if turn]
        assert [number for turn in together for number in turn] == list(range(10))
        assert max(map(len, together)) == (batch or 10)

    with_thread(test, aio_max_batch=batch)


def test_a_request_that_fails_does_not_keep_others_from_running() -> None:
    async def test(thread: IoThread) -> None:
        told: list[Any] = []
        done = threading.Event()
        thread.loop.set_exception_handler(lambda _loop, context: told.append(context["exception"]))
        thread.post({}.__getitem__, 1)
        thread.post(done.set)
        await asyncio.to_thread(done.wait)
        assert [type(error) for error in told] == [KeyError]

    with_thread(test)


def test_the_pool_has_no_more_threads_than_allowed_and_no_fewer_than_wanted() -> None:
    async def test(thread: IoThread) -> None:
        def pooled() -> int:
            return sum(each.name.startswith("IO io_") for each in threading.enumerate())

        assert pooled() == 2
        gate, busy, most = threading.Event(), threading.Semaphore(0), 3

        async def work() -> None:
            loop = asyncio.get_running_loop()

            def block() -> None:
                busy.release()
                gate.wait()

            await asyncio.gather(*(loop.run_in_executor(None, block) for _ in range(5)))

        working = asyncio.ensure_future(thread.run(work()))
        for _ in range(most):
            await asyncio.to_thread(busy.acquire)
        assert pooled() == most
        gate.set()
        await working

    with_thread(test, thread_pool_min=2, thread_pool_max=3)


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({"poll_max_ns": -1}, "poll-max-ns value must be in range [0, 9223372036854775807]"),
        ({"aio_max_batch": -5}, "aio-max-batch value must be in range [0, 9223372036854775807]"),
        ({"thread_pool_min": 65}, "bad thread-pool-min/thread-pool-max values"),
        ({"thread_pool_max": 0}, "bad thread-pool-min/thread-pool-max values"),
        ({"thread_pool_max": 1 << 31}, "bad thread-pool-min/thread-pool-max values"),
        (
            {"thread_pool_min": 257, "thread_pool_max": 1000},
            "thread-pool-min value must be in range [0, 256]",
        ),
    ],
)
def test_properties_that_mean_nothing(properties: dict[str, int], text: str) -> None:
    thread = IoThread(IothreadProperties(**properties))
    thread.id = "io"
    with pytest.raises(GenericError) as error:
        asyncio.run(thread.complete())
    assert str(error.value) == text


def test_a_property_takes_effect_while_it_runs_and_a_wrong_one_does_not() -> None:
    async def test(thread: IoThread) -> None:
        async def polling() -> tuple[int, int, int]:
            selector = thread._selector
            return selector.max_ns, selector.grow, selector.shrink

        thread.in_use = True
        thread.set_property("poll-max-ns", 500)
        thread.set_property("poll-shrink", 3)
        with pytest.raises(GenericError):
            thread.set_property("poll-grow", -1)
        assert await thread.run(polling()) == (500, 0, 3)

    with_thread(test)


@given(
    st.integers(0, 100_000),
    st.integers(0, 5),
    st.integers(0, 5),
    st.lists(st.integers(0, 200_000), max_size=30),
)
def test_polling_stays_below_its_limit_and_follows_what_comes(
    limit: int, grow: int, shrink: int, waits: list[int]
) -> None:
    with PollingSelector(limit, grow, shrink) as selector:
        for waited in waits:
            before = selector.poll_ns
            selector.adjust(waited)
            assert 0 <= selector.poll_ns <= limit
            if waited <= before:
                assert selector.poll_ns == before
            elif waited > limit:
                assert selector.poll_ns <= before
            elif before < limit:
                assert selector.poll_ns >= before


def test_a_selector_that_polls_sees_what_comes_and_when_time_is_over() -> None:
    reader, writer = os.pipe()
    with PollingSelector(10**7) as selector:
        selector.poll_ns = 10**7
        selector.register(reader, 1)
        assert selector.select(0.001) == []
        assert selector.select(0) == []
        os.write(writer, b"x")
        assert [key.fd for key, _ in selector.select(None)] == [reader]
    os.close(reader)
    os.close(writer)


def test_threads_and_pools_do_not_keep_the_process(daemon: Starter) -> None:
    program = daemon(
        *("-machine", "none", "-nodefaults", "-S", "-display", "none", "-monitor", "none"),
        *("-object", "iothread,id=a,thread-pool-min=4", "-object", '{"qom-type":"iothread","id":"b"}'),
    )
    found = {each["id"]: each["thread-id"] for each in program.qmp.command("query-iothreads")}
    assert set(found) == {"a", "b"}
    for thread in found.values():
        assert os.path.isdir(f"/proc/{program.process.pid}/task/{thread}")
    program.qmp.command("object-del", id="b")
    program.qmp.command("quit")
    assert program.wait() == 0
