"""The two mailboxes between the event loop and the machine thread, and the rule of who may touch what.

The machine thread alone touches engines, device state and interrupt lines; the event loop alone touches the outside.  They
meet here:

    mailboxes.post(uart.receive, b"x")            # any thread: runs soon in the machine thread
    value = await mailboxes.call(space.read_physical, 0x8000_0000, 16)    # loop: the same, with its result
    mailboxes.send(chardev.write, b"hello")       # machine thread: runs soon in the loop

Order.  Each mailbox is first-in-first-out, and results of `call` travel in the outbox with everything else: what the machine
sent before a call returned is delivered before the caller goes on.

Cost.  A post wakes or kicks the machine thread only when no earlier post has done so already; a burst of sends wakes the loop
once.  A call takes at most 2 ms of the machine's time, or is cut into slices by who makes it (`SLICE_NS`); the debug mode
logs the ones that take longer.

Calls that are cancelled run all the same; only their result is dropped.

Freezing.  While a machine is saved or loaded, the outside must not change it: after `freeze` posts wait, in their order, until
`thaw`, and only calls are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from qemud.logs import Logger
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SLICE_NS = 2_000_000
"""How long one call may hold up the machine."""

log = Logger("machine")


class Closed(GenericError):
    """The machine thread has ended: nothing can be asked of it any more."""


class Mailboxes:
    """Both mailboxes of one machine thread.

    Made in the event loop (or bound to one later with `bind`); the machine thread calls `claim` first of all, `drain` and
    `wait` as it goes, and `close` last.  `kick` is called, in the poster's thread, when the machine thread has new mail while it
    is not waiting here.
    """

    def __init__(self, kick: Callable[[], None], *, debug: bool = False) -> None:
        self.debug = debug
        self._kick = kick
        self._thread: int | None = None
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._outbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._notified = False
        self._waiting = False
        self._closed = False
        self._held: deque[tuple[Callable[..., object], tuple[Any, ...]]] | None = None
        """What was posted since `freeze`."""
        # A binary semaphore: locked means that nobody has called. A stale call costs the waiter one look into the inbox.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._scheduled = False
        self._calls: set[asyncio.Future[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()

    # Who is who.

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to `loop`, for mailboxes that were made outside of one; what was sent meanwhile is kept."""
        self._loop = loop
        if self._outbox:
            self._schedule()

    def claim(self) -> None:
        """The calling thread is the machine thread."""
        self._thread = threading.get_ident()

    def on_machine_thread(self) -> bool:
        """Whether the caller is the machine thread."""
        return threading.get_ident() == self._thread

    def check_machine_thread(self) -> None:
        """Raise RuntimeError unless called in the machine thread: the guard of what belongs to it."""
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"{threading.current_thread().name}: only the machine thread may touch the machine"
            )

    def check_loop(self) -> None:
        """Raise RuntimeError when called in the machine thread: the guard of what belongs to the loop."""
        if threading.get_ident() == self._thread:
            raise RuntimeError("machine thread: only the event loop may touch the outside")

    # Into the machine.

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run `fn(*args)` in the machine thread soon: between blocks of guest code, or at once when it is idle.

        Any thread. An exception of `fn` is logged. Nothing happens once the machine thread has ended.
        """
        # The order of these lines is the proof that no wake-up is lost: mail is in the box before the flag is looked at,
        # and the machine thread lowers the flag before it looks into the box.
        self._inbox.append((fn, args))
        if not self._notified:
            self._notified = True
            if self._waiting:
                self.ring()
            else:
                self._kick()

    def ring(self) -> None:
        """Wake the machine thread from `wait`; any thread."""
        with contextlib.suppress(RuntimeError):  # somebody else has rung already
            self._bell.release()

    async def call(self, fn: Callable[..., T], *args: Any) -> T:
        """Run `fn(*args)` in the machine thread and return its result, or raise its exception.

        From the loop only. Works in every run state. Raises Closed when the machine thread has ended.
        """
        self.check_loop()
        if self._loop is None:
            self.bind(asyncio.get_running_loop())
        if self._closed:
            raise Closed("the machine thread has ended")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.add(future)
        try:
            self.post(self._answer, future, fn, args)
            return await future
        finally:
            self._calls.discard(future)

    def _answer(self, future: asyncio.Future[T], fn: Callable[..., T], args: tuple[Any, ...]) -> None:
        """Machine thread: make the call, send what came of it."""
        started = time.monotonic_ns() if self.debug else 0
        try:
            result = fn(*args)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to the caller
            self.send(self._fail, future, error)
        else:
            self.send(self._resolve, future, result)
        if self.debug and (taken := time.monotonic_ns() - started) > SLICE_NS:
            log.warning("a call held up the machine", call=repr(fn), milliseconds=taken / 1e6)

    @staticmethod
    def _resolve(future: asyncio.Future[T], result: T) -> None:
        if not future.done():
            future.set_result(result)

    @staticmethod
    def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    # In the machine thread.

    def drain(self) -> int:
        """Run what was in the box on entry; return how much that was. What comes meanwhile kicks again."""
        inbox = self._inbox
        self._notified = False
        count = len(inbox)
        for _ in range(count):
            fn, args = inbox.popleft()
            if self._held is not None and fn != self._answer:
                self._held.append((fn, args))
                continue
            try:
                fn(*args)
            except Exception:
                log.exception("a posted call failed", call=repr(fn))
        return count

    def freeze(self) -> None:
        """Answer calls only, until `thaw`.  Machine thread."""
        if self._held is None:
            self._held = deque()

    def thaw(self) -> None:
        """Run what was posted since `freeze`, soon, and go on.  Machine thread."""
        held, self._held = self._held, None
        if held:
            self._inbox.extendleft(reversed(held))
            self._kick()

    @property
    def pending(self) -> bool:
        """Whether there is mail for the machine thread."""
        return bool(self._inbox)

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until there is mail, somebody rings, or `timeout` seconds have passed; may return early."""
        self._waiting = True
        # Mail that came while `drain` counted has been read, but its kick has not been: without this, the next one would
        # not ring.
        self._notified = False
        try:
            if not self._inbox:
                if timeout is None:
                    self._bell.acquire()
                elif timeout > 0:
                    self._bell.acquire(timeout=timeout)
        finally:
            self._waiting = False

    def close(self) -> None:
        """The machine thread ends: calls that are not answered fail, posts are dropped."""
        self._closed = True
        self._inbox.clear()
        self.send(self._abandon)

    def _abandon(self) -> None:
        for future in list(self._calls):
            self._fail(future, Closed("the machine thread has ended"))

    # Out of the machine.

    def send(self, fn: Callable[..., object], *args: Any) -> None:
        """Run `fn(*args)` in the loop soon, after everything sent before. Any thread; meant for the machine's.

        An exception of `fn` goes to the loop's exception handler. Dropped when the loop is closed.
        """
        self._outbox.append((fn, args))
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        if self._loop is None:
            return
        self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            self._outbox.clear()  # the loop is closed: nobody is left to hear of it

    def _deliver(self) -> None:
        """Loop: run what was sent, up to now; more that comes meanwhile has its own turn."""
        self._scheduled = False
        outbox = self._outbox
        for _ in range(len(outbox)):
            fn, args = outbox.popleft()
            try:
                fn(*args)
            except Exception as error:  # noqa: BLE001 - reported to the loop
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"a call sent by the machine failed: {fn!r}", "exception": error}
                )
        if outbox and not self._scheduled:
            self._schedule()
