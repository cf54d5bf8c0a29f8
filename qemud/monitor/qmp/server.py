"""QMP on a character device: the only page of the protocol that does I/O.

    turn = Turn()
    monitor = Monitor(chardev.attach(), dispatcher.execute, version, turn, offers_oob=True)
    events.subscribe(monitor.send_event)
    ...
    monitor.close()

Everything happens in callbacks: bytes come by a callback of the chardev, the commands in them run one after the other in
that same callback, and all their replies leave in one write.  Only a command that has to wait becomes a task.  After
`BURST` commands the loop gets its turn.

Any number of monitors share the handlers, so in-band commands run one at a time over all of them, as in QEMU, and a
handler need not expect another to run between two of its awaits.  Commands out of band do not wait for their turn.

Flow, in both directions, is bounded: while a session wants no input the chardev is told to pause, which in the end stops
the client; while the chardev's queue is full, output waits in the session, which then gives out no more commands (see
`qemud.monitor.qmp.session` for what becomes of events).
"""

from __future__ import annotations

import asyncio
import types
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final

from qemud.chardev.stream import LOW_WATER, ChardevEvent
from qemud.monitor import passed
from qemud.monitor.qmp.session import Mode, Session
from qemud.qapi.runtime.errors import GenericError, QmpError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from typing import Protocol

    from qemud.monitor.dispatch import Execute
    from qemud.monitor.qmp.envelope import Request

    class MonitorPort(Protocol):
        """What a monitor needs of a chardev's port (`qemud.chardev.stream.Port`)."""

        @property
        def pending(self) -> int:
            """Bytes written and not taken yet."""

        def start(
            self,
            receive: Callable[[bytes], object],
            event: Callable[[ChardevEvent], object] | None = None,
            drained: Callable[[], object] | None = None,
            *,
            answers: bool = False,
        ) -> None:
            """Begin to call back."""

        def write(self, data: bytes) -> None:
            """Send; never blocks."""

        def set_paused(self, *, paused: bool) -> None:
            """Bring no input, or bring it again."""

        def take_fds(self) -> list[int]:
            """The descriptors that came with the bytes just received."""

        def detach(self) -> None:
            """Call back no more."""


BURST: Final = 128
"""How many commands one client may run before others get their turn."""

current_session: ContextVar[Session] = ContextVar("current_session")
"""The session that the running command came by; unset where no monitor runs it."""


class Turn:
    """Whose in-band command runs: at most one of all monitors' waits for something at a time."""

    __slots__ = ("_closed", "_waiting", "taken")

    def __init__(self) -> None:
        self.taken = False
        self._closed = False
        self._waiting: dict[Callable[[], None], None] = {}  # an ordered set

    def call_when_free(self, callback: Callable[[], None]) -> None:
        """Call back, once, when the running command has ended; first come, first served."""
        self._waiting[callback] = None

    def release(self, own: Callable[[], None]) -> None:
        """The running command has ended; `own`, the callback of who ran it, comes last."""
        if self._closed:
            return
        self.taken = False
        waiting, self._waiting = self._waiting, {}
        waiting.pop(own, None)
        loop = asyncio.get_running_loop()
        for callback in (*waiting, own):
            loop.call_soon(callback)

    def close(self) -> None:
        """No other in-band command runs: the process ends, and what a client sent behind its `quit` is not done."""
        self._closed = self.taken = True


class Monitor:
    """One QMP monitor.

    `port` is its end of a chardev; `execute` runs commands; `version` is what query-version returns, as JSON text;
    `turn` is shared by all monitors.  `pretty` and `offers_…` are as for `Session`.
    """

    def __init__(
        self,
        port: MonitorPort,
        execute: Execute,
        version: bytes,
        turn: Turn,
        *,
        pretty: bool = False,
        offers_oob: bool = True,
        offers_replay: bool = False,
    ) -> None:
        self._port = port
        self._execute = execute
        self._turn = turn
        self.session = Session(version, pretty=pretty, offers_oob=offers_oob, offers_replay=offers_replay)
        self._context = copy_context()
        self._context.run(current_session.set, self.session)
        self._context.run(passed.current.set, self.session.passed)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[bytes | None]] = set()
        self._pumping = False
        self._retired = False
        self._pump_soon = False
        self._flush_soon = False
        port.start(self._receive, self._on_event, self._pump, answers=True)

    def close(self) -> None:
        """Leave the chardev.  Commands that still wait are cancelled; output that the chardev has will leave."""
        for task in self._tasks:
            task.cancel()
        if self.session.mode is not Mode.CLOSED:
            self._flush(last=True)
            self.session.closed()
        self.session.passed.drop()
        self._port.detach()

    def close_when_answered(self) -> None:
        """Close after the command that runs now, which is one of this monitor's own, has been answered."""
        assert self._pumping
        self._retired = True

    def send_event(self, name: str, line: bytes, number: int = 0) -> None:
        """Tell the client of an event (`qemud.monitor.qmp.events`); all of one turn of the loop leave together."""
        self.session.event(name, line, number)
        if not self._pumping and not self._flush_soon:
            self._flush_soon = True
            self._loop.call_soon(self._flush)

    # --- what the chardev calls

    def _on_event(self, event: ChardevEvent) -> None:
        session = self.session
        if event is ChardevEvent.OPENED:
            if session.mode is not Mode.CLOSED:
                session.closed()
            session.opened()
            self._flush()
        elif event is ChardevEvent.CLOSED and session.mode is not Mode.CLOSED:
            session.closed()
            self._port.set_paused(paused=False)

    def _receive(self, data: bytes) -> None:
        descriptors = self._port.take_fds()
        if descriptors:
            self.session.passed.keep(descriptors)
        self.session.receive(data)
        self._pump()

    # --- running commands

    def _pump_now(self) -> None:
        self._pump_soon = False
        self._pump()

    def _pump(self) -> None:
        """Run what can be run now, send what can be sent, and say whether to bring more."""
        if self._pumping:
            return
        session, turn = self.session, self._turn
        self._pumping = True
        try:
            sent = False
            for _ in range(BURST):
                if self._retired:
                    break
                request = session.next_request(in_band=not turn.taken)
                if request is not None:
                    self._run(request)
                elif not sent and self._flush():
                    sent = True  # output that waited may be what held back the next command
                else:
                    break
            else:
                self._schedule_pump()
            sent = self._flush() > 0
            if session.busy or (sent and not session.wants_input):
                self._schedule_pump()
        finally:
            self._pumping = False
        if self._retired:
            self.close()
            return
        if turn.taken:
            turn.call_when_free(self._pump)
        self._port.set_paused(paused=not session.wants_input and session.mode is not Mode.CLOSED)

    def _schedule_pump(self) -> None:
        if not self._pump_soon:
            self._pump_soon = True
            self._loop.call_soon(self._pump_now)

    def _run(self, request: Request) -> None:
        """Step a command once; answer it if that was all, else make it a task."""
        command = self._execute(request.name, request.arguments, oob=request.oob)
        context = self._context.copy()
        try:
            waits_for = context.run(command.send, None)
        except StopIteration as stop:
            self.session.succeed(request, stop.value)
        except QmpError as error:
            self.session.fail(request, error)
        except asyncio.CancelledError:  # what it waited for had been cancelled already
            self.session.fail(request, _cancelled(request))
        else:
            if not request.oob:
                self._turn.taken = True  # released by _finish
            task = self._loop.create_task(
                _carry_on(command, waits_for), name=f"QMP {request.name}", context=context
            )
            self._tasks.add(task)
            task.add_done_callback(lambda task: self._finish(request, task))

    def _finish(self, request: Request, task: asyncio.Task[bytes | None]) -> None:
        """Answer a command that had to wait."""
        self._tasks.discard(task)
        if not request.oob:
            self._turn.release(self._pump)
        if task.cancelled():
            self.session.fail(request, _cancelled(request))
        elif (error := task.exception()) is None:
            self.session.succeed(request, task.result())
        elif isinstance(error, QmpError):
            self.session.fail(request, error)
        else:
            raise error
        self._flush()

    # --- output

    def _flush(self, *, last: bool = False) -> int:
        """Send the output, if the chardev takes it, or nothing comes after it; how many bytes that was."""
        self._flush_soon = False
        session = self.session
        size = session.backlog
        if size and (last or self._port.pending <= LOW_WATER):
            output = session.take_output()
            self._port.write(output[0] if len(output) == 1 else b"".join(output))
            return size
        return 0


def _cancelled(request: Request) -> GenericError:
    return GenericError(f"The command '{request.name}' was cancelled")


@types.coroutine
def _steps(
    command: Coroutine[Any, Any, bytes | None], waits_for: object
) -> Generator[object, Any, bytes | None]:
    """Go on with a coroutine that has been stepped once already and waits for what that step yielded."""
    try:
        while True:
            try:
                value = yield waits_for
            except GeneratorExit:
                command.close()
                raise
            except BaseException as error:  # noqa: BLE001 - passed on, as `await` does
                waits_for = command.throw(error)
            else:
                waits_for = command.send(value)
    except StopIteration as stop:
        result: bytes | None = stop.value
        return result


async def _carry_on(command: Coroutine[Any, Any, bytes | None], waits_for: object) -> bytes | None:
    return await _steps(command, waits_for)
