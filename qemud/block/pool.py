"""The thread pool for file I/O: system calls that may wait for a disk.

    count = await pool.run(os.preadv, fd, buffers, offset)      # in the event loop
    pool.submit(done, os.preadv, fd, buffers, offset)           # any thread; done(result, error) is called in the worker

Results travel back by one `call_soon_threadsafe` for a burst of them, without the futures of `concurrent`, which cost more than
the system call.

A call that is under way cannot be taken back: when the task that waits in `run` is cancelled, it first waits for the call, so that
nothing writes into its buffers afterwards.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MAX_THREADS = 32
"""How many calls at a time; more wait for their turn."""

_IDLE_SECONDS = 10.0


class _Call:
    """A call that a task waits for."""

    __slots__ = ("cancelled", "ended", "error", "future", "result")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.ended = self.cancelled = False
        self.result: Any = None
        self.error: BaseException | None = None


class _WayBack:
    """What is on its way back to one event loop."""

    __slots__ = ("calls", "loop", "scheduled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.calls: deque[_Call] = deque()
        self.scheduled = False

    def send(self, call: _Call) -> None:
        """Worker: a call has ended."""
        self.calls.append(call)
        if not self.scheduled:
            self.scheduled = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self.calls.clear()  # the loop is closed: nobody waits any more

    def _deliver(self) -> None:
        self.scheduled = False
        calls = self.calls
        while calls:
            call = calls.popleft()
            call.ended = True
            if call.future.done():
                continue
            if call.error is None or call.cancelled:
                call.future.set_result(call.result)
            else:
                call.future.set_exception(call.error)


class Pool:
    """See the module.  Threads are started as they are needed, and end when there has been nothing to do for a while."""

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self._limit = limit
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._back: _WayBack | None = None

    async def run(self, fn: Callable[..., T], *args: Any) -> T:
        """`fn(*args)` in a worker thread: its result, or its exception."""
        loop = asyncio.get_running_loop()
        back = self._back
        if back is None or back.loop is not loop:
            back = self._back = _WayBack(loop)
        call = _Call(loop.create_future())

        def work() -> None:
            try:
                call.result = fn(*args)
            except BaseException as error:  # noqa: BLE001 - it belongs to who waits
                call.error = error
            back.send(call)

        self._put(work)
        try:
            result: T = await call.future
        except asyncio.CancelledError:
            call.cancelled = True
            while not call.ended:
                call.future = loop.create_future()
                try:
                    await call.future
                except asyncio.CancelledError:
                    continue
            raise
        return result

    def submit(
        self, done: Callable[[Any, BaseException | None], None], fn: Callable[..., Any], *args: Any
    ) -> None:
        """Run `fn(*args)` in a worker thread, then `done(result, error)` in the same; `done` must not raise."""

        def work() -> None:
            try:
                result = fn(*args)
            except BaseException as error:  # noqa: BLE001 - it belongs to who waits
                done(None, error)
            else:
                done(result, None)

        self._put(work)

    def _put(self, work: Callable[[], None]) -> None:
        self._queue.put(work)
        with self._lock:
            if self._idle >= self._queue.qsize() or self._threads >= self._limit:
                return
            self._threads += 1
        threading.Thread(target=self._serve, name="qemud-io", daemon=True).start()

    def _serve(self) -> None:
        queue, lock = self._queue, self._lock
        while True:
            with lock:
                self._idle += 1
            try:
                work = queue.get(timeout=_IDLE_SECONDS)
            except Empty:
                with lock:
                    self._idle -= 1
                    if queue.empty():
                        self._threads -= 1
                        return
                continue
            with lock:
                self._idle -= 1
            work()
            del work  # or its buffers would live until the next call


pool = Pool()
"""The pool of this process."""
