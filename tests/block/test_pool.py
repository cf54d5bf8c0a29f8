"""The thread pool: results, errors, many at a time, and calls whose caller goes away."""

from __future__ import annotations

import asyncio
import threading

import pytest

from qemud.block.pool import Pool


def test_results_and_errors_come_back():
    async def run() -> None:
        pool = Pool()
        assert await pool.run(pow, 2, 10) == 1024
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)

    asyncio.run(run())


def test_no_more_threads_than_allowed_and_every_call_is_made():
    async def run() -> None:
        pool, lock = Pool(limit=3), threading.Lock()
        now = most = 0
        gate = threading.Barrier(3)

        def work(number: int) -> int:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            if number < 3:
                gate.wait()
            with lock:
                now -= 1
            return number

        assert await asyncio.gather(*(pool.run(work, number) for number in range(40))) == list(range(40))
        assert most == 3

    asyncio.run(run())


def test_who_is_cancelled_waits_for_the_call():
    async def run() -> None:
        pool, begun, go_on = Pool(), threading.Event(), threading.Event()
        touched: list[str] = []

        def work() -> None:
            begun.set()
            go_on.wait()
            touched.append("late")

        task = asyncio.create_task(pool.run(work))
        await pool.run(begun.wait)
        for _ in range(3):  # and stays cancelled, however often it is told
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert touched == ["late"]

    asyncio.run(run())


def test_calls_with_a_callback_are_answered_in_the_worker():
    answers: list[tuple[object, BaseException | None, bool]] = []
    answered = threading.Event()
    main = threading.current_thread()
    pool = Pool()

    def done(result: object, error: BaseException | None) -> None:
        answers.append((result, error, threading.current_thread() is main))
        answered.set()

    pool.submit(done, sum, (1, 2))
    answered.wait()
    assert answers == [(3, None, False)]
