"""I/O threads: event loops in threads of their own, that a client makes with object-add for the work of backends.

    thread = tree.objects.children["iothread0"]
    thread.post(function, argument)                 # any thread; requests run in their order, in batches
    result = await thread.run(coroutine)            # from the process's event loop

The loop is asyncio's.  Before it sleeps it may look for a while whether something has come meanwhile, which is quicker than to be
woken: for at most `poll-max-ns`, and as long as that pays off.  Blocking calls go to the loop's own pool of threads, whose size
the properties say.

Source: QEMU 10.0, util/aio-posix.c (how long to poll), iothread.c and event-loop-base.c (texts).
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from qemud._generated.commands.iothread import IothreadCommands
from qemud._generated.types.backends import EventLoopBaseProperties, IothreadProperties
from qemud._generated.types.iothread import IOThreadInfo
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.userobjects import UserCreatable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qemud.machine.services import Services

T = TypeVar("T")

_INT_MAX = (1 << 31) - 1
_MOST_STARTED = 256
"""Threads of a pool that are there from the start: starting them holds up the event loop, and everybody else."""

_INT64_MAX = (1 << 63) - 1
_FIRST_POLL_NS = 4000
_DEFAULT_GROWTH = 2


class PollingSelector(selectors.DefaultSelector):
    """A selector that looks for a while before it sleeps.

    `max_ns` is the longest it looks, 0 for not at all; it looks `grow` times longer (0: twice) when it went to sleep just
    before something came, and `shrink` times shorter (0: not at all) when it has looked in vain.
    """

    def __init__(self, max_ns: int = 0, grow: int = 0, shrink: int = 0) -> None:
        super().__init__()
        self.max_ns, self.grow, self.shrink = max_ns, grow, shrink
        self.poll_ns = 0
        """How long it looks now."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As in the base."""
        if not self.max_ns or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        begun = time.monotonic_ns()
        ready = self._look(begun, timeout)
        if not ready:
            if timeout is not None:
                timeout = max(timeout - (time.monotonic_ns() - begun) / 1e9, 0)
            ready = super().select(timeout)
        self.adjust(time.monotonic_ns() - begun)
        return ready

    def _look(self, begun: int, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        length = self.poll_ns if timeout is None else min(self.poll_ns, int(timeout * 1e9))
        while time.monotonic_ns() - begun < length:
            if ready := super().select(0):
                return ready
        return []

    def adjust(self, waited_ns: int) -> None:
        """Learn from how long it took until something came."""
        if waited_ns <= self.poll_ns:
            return
        if waited_ns > self.max_ns:
            self.poll_ns = self.poll_ns // self.shrink if self.shrink else 0
        elif self.poll_ns < self.max_ns:
            longer = self.poll_ns * (self.grow or _DEFAULT_GROWTH) or _FIRST_POLL_NS
            self.poll_ns = min(longer, self.max_ns)


class EventLoopBase(
    UserCreatable, type_name="event-loop-base", abstract=True, interfaces=("user-creatable",)
):
    """What all event loops that a client makes have in common."""

    options: EventLoopBaseProperties


class IoThread(EventLoopBase, type_name="iothread", options=IothreadProperties):
    """See the module.  `thread_id` is the host's number of the thread."""

    options: IothreadProperties
    thread_id = 0

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._requests: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._lock = threading.Lock()
        self._scheduled = False

    async def complete(self) -> None:
        """Start the thread."""
        self._check()
        options = self.options
        self._selector = PollingSelector(options.poll_max_ns, options.poll_grow, options.poll_shrink)
        self.loop = asyncio.SelectorEventLoop(self._selector)
        try:
            self._pool = self._make_pool()
            self.loop.set_default_executor(self._pool)
            thread = threading.Thread(target=self._main, name=f"IO {self.id}", daemon=True)
            thread.start()
        except RuntimeError as error:
            self.loop.close()
            raise GenericError(f"iothread '{self.id}': {error}") from None
        except BaseException:
            self.loop.close()
            raise
        self.thread_id = thread.native_id or 0

    def close(self) -> None:
        """End the thread, once what it does now is done; requests that it has not begun are dropped."""
        if self.thread_id:
            self.loop.call_soon_threadsafe(self.loop.stop)

    def property_changed(self, name: str) -> None:
        """Let the new value take effect."""
        self._check()
        if not self.thread_id:
            return
        if name.startswith("thread-pool"):
            pool = self._make_pool()
            self.loop.call_soon_threadsafe(self._change_pool, pool)
        else:
            self.loop.call_soon_threadsafe(self._change_polling)

    # What others use.

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have a function called in the thread; any thread.  Many posts wake it once."""
        with self._lock:
            self._requests.append((function, arguments))
            if self._scheduled:
                return
            self._scheduled = True
        self.loop.call_soon_threadsafe(self._serve)

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs in the thread; from another event loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    # In the thread.

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self.loop.close()

    def _serve(self) -> None:
        """Run a batch of requests, and more in the loop's next turn."""
        with self._lock:
            count = len(self._requests)
            if self.options.aio_max_batch:
                count = min(count, self.options.aio_max_batch)
            batch = [self._requests.popleft() for _ in range(count)]
        for function, arguments in batch:
            # A callback of its own each: one that fails is reported by the loop and does not keep others from running.
            self.loop.call_soon(function, *arguments)
        with self._lock:
            self._scheduled = bool(self._requests)
        if self._scheduled:
            self.loop.call_soon(self._serve)

    def _change_pool(self, pool: ThreadPoolExecutor) -> None:
        before, self._pool = self._pool, pool
        self.loop.set_default_executor(pool)
        before.shutdown(wait=False)

    def _change_polling(self) -> None:
        options, selector = self.options, self._selector
        selector.max_ns, selector.grow, selector.shrink = (
            options.poll_max_ns,
            options.poll_grow,
            options.poll_shrink,
        )
        selector.poll_ns = min(selector.poll_ns, selector.max_ns)

    # Properties.

    def _check(self) -> None:
        options = self.options
        for name in (
            "aio-max-batch",
            "thread-pool-min",
            "thread-pool-max",
            "poll-max-ns",
            "poll-grow",
            "poll-shrink",
        ):
            if getattr(options, name.replace("-", "_")) < 0:
                raise GenericError(f"{name} value must be in range [0, {_INT64_MAX}]")
        if not (options.thread_pool_min <= options.thread_pool_max <= _INT_MAX and options.thread_pool_max):
            raise GenericError("bad thread-pool-min/thread-pool-max values")
        if options.thread_pool_min > _MOST_STARTED:
            raise GenericError(f"thread-pool-min value must be in range [0, {_MOST_STARTED}]")

    def _make_pool(self) -> ThreadPoolExecutor:
        """A pool that has its least number of threads from the start."""
        pool = ThreadPoolExecutor(self.options.thread_pool_max, thread_name_prefix=f"IO {self.id}")
        least = self.options.thread_pool_min
        if least:
            gate = threading.Event()  # a pool makes a thread only while all others are busy
            try:
                for _ in range(least):
                    pool.submit(gate.wait)
            except RuntimeError as error:  # the host gives no more threads
                pool.shutdown(wait=False)
                raise GenericError(f"iothread '{self.id}': {error}") from None
            finally:
                gate.set()
        return pool


class IothreadHandlers(IothreadCommands):
    """Handlers of `iothread.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def query_iothreads(self) -> list[IOThreadInfo]:
        """`query-iothreads`."""
        return [
            IOThreadInfo(
                id=name,
                thread_id=found.thread_id,
                poll_max_ns=found.options.poll_max_ns,
                poll_grow=found.options.poll_grow,
                poll_shrink=found.options.poll_shrink,
                aio_max_batch=found.options.aio_max_batch,
            )
            for name, found in self._services.tree.objects.children.items()
            if isinstance(found, IoThread)
        ]
