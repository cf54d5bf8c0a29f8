"""One connection of the double: the scenario's steps, played over real QMP.

What is understood (framing, negotiation, ids, out-of-band commands) is understood by the daemon's own `Session`; what is said is
written here, since it need not be what a session would say.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from qemud._generated.client.references import EVENT_DATA
from qemud._generated.types.double import (
    DoubleStepDisconnect,
    DoubleStepError,
    DoubleStepEvent,
    DoubleStepExit,
    DoubleStepExpect,
    DoubleStepGreet,
    DoubleStepKind,
    DoubleStepRaw,
    DoubleStepReply,
    DoubleStepSleep,
)
from qemud.double.plausible import plausible
from qemud.double.scenario import filled_in
from qemud.monitor.qmp import envelope
from qemud.monitor.qmp.framing import Framer
from qemud.monitor.qmp.session import Session
from qemud.monitor.qmp.values import NEED_DATA
from qemud.qapi.runtime.errors import QmpError
from qemud.qapi.runtime.wire import to_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qemud._generated.types.double import DoubleStep
    from qemud.double.server import Server
    from qemud.monitor.qmp.envelope import Request


class Player(asyncio.Protocol):
    """A client's counterpart."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._number = server.count_connection()
        version = envelope.encode(to_wire(server.scenario.version))
        self._session = Session(version, offers_oob=server.scenario.oob)
        self._session.opened()
        self._greeting = b"".join(self._session.take_output())
        self._greeted = False
        self._silent = False
        self._received = 0
        self._watch = Framer()  # sees commands before it is their turn
        self._came: list[str] = []
        self._turns: dict[str, deque[int]] = {}  # places in `_came` of commands whose turn has not come
        self._answered: set[int] = set()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.players.add(self)
        steps = self._server.scenario.at_connection(self._number)
        self._spawn(self._play([DoubleStepGreet()] if steps is None else steps, Turn(None, -1)))

    def connection_lost(self, error: Exception | None) -> None:
        """It has gone."""
        del error
        self._server.players.discard(self)
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        """It has said something."""
        self._received += len(data)
        self._watch.feed(data)
        while (message := self._watch.next()) is not NEED_DATA:
            if isinstance(message, dict):
                name = message.get("execute", message.get("exec-oob"))
                if isinstance(name, str):
                    self._turns.setdefault(name, deque()).append(len(self._came))
                    self._came.append(name)
        self._session.receive(data)
        self._news()
        self._pump()

    # Commands

    def _pump(self) -> None:
        """Begin the commands whose turn it is."""
        while self._greeted and not self._silent:
            request = self._session.next_request()
            for line in self._session.take_output():
                self._write(line)
            if request is not None:
                self._begin(request)
            elif not self._session.busy:
                return

    def _begin(self, request: Request) -> None:
        turns = self._turns.get(request.name)
        turn = Turn(request, turns.popleft() if turns else len(self._came))
        nth = self._server.count_call(request.name)
        steps = self._server.scenario.at_command(request.name, nth, self._number)
        if steps is None:
            self._reply(turn, DoubleStepReply())
        else:
            self._spawn(self._play(steps, turn))

    async def _play(self, steps: Iterable[DoubleStep], turn: Turn) -> None:
        for step in steps:
            match step:
                case DoubleStepGreet():
                    self._write(self._greeting, step)
                    self._greeted = True
                    self._pump()
                case DoubleStepReply():
                    self._reply(turn, step)
                case DoubleStepError():
                    assert turn.request is not None
                    line = envelope.failure(step.class_.value, step.desc, _identity(turn.request, step))
                    self._answer(turn, line, step)
                case DoubleStepEvent():
                    self._event(turn, step)
                case DoubleStepRaw():
                    self._write(step.text.encode())
                case DoubleStepExpect():
                    await self._expect(turn, step)
                case DoubleStepSleep():
                    await asyncio.sleep(step.seconds)
                case DoubleStepDisconnect():
                    self.hang_up(reset=step.reset)
                    return
                case DoubleStepExit():
                    self._server.end(step.status)
                    return
                case _:
                    assert step.step is DoubleStepKind.SILENCE
                    self._silent = True
                    return
        if turn.request is not None and not turn.settled:
            self._settle(turn)  # it is never answered, but the next ones are

    def _reply(self, turn: Turn, step: DoubleStepReply) -> None:
        request = turn.request
        assert request is not None
        try:
            result = self._server.result(self._session, request, first=not turn.settled)
        except QmpError as error:
            if step.return_ is UNSET:
                line = envelope.failure(error.error_class, str(error), _identity(request, step))
                self._answer(turn, line, step)
                return
            result = {}
        if step.return_ is not UNSET:
            result = filled_in(step.return_, request.arguments)
        data = result if isinstance(result, bytes) else envelope.encode(result)
        self._answer(turn, envelope.success(data, _identity(request, step)), step)

    def _answer(self, turn: Turn, line: bytes, step: DoubleStepReply | DoubleStepError) -> None:
        self._write(line, step)
        if not turn.settled:
            self._answered.add(turn.place)
            self._settle(turn)

    def _settle(self, turn: Turn) -> None:
        """Let the next command have its turn."""
        assert turn.request is not None
        turn.settled = True
        self._session.succeed(turn.request, None)
        self._news()
        # Not from here, where a long row of commands would nest as deep.
        asyncio.get_running_loop().call_soon(self._pump)

    def _event(self, turn: Turn, step: DoubleStepEvent) -> None:
        arguments = turn.request.arguments if turn.request is not None else {}
        data = filled_in(step.data, arguments) if step.data is not UNSET else None
        if data is None and step.event in EVENT_DATA:
            data = plausible(EVENT_DATA[step.event][0])
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        self._write(envelope.event(step.event, data, seconds, nanoseconds // 1000), step)

    async def _expect(self, turn: Turn, step: DoubleStepExpect) -> None:
        if step.bytes is not None:
            wanted = step.bytes
            await self._until(lambda: self._received >= wanted)
        if step.command is not None:
            name = step.command
            await self._until(lambda: name in self._came[turn.seen + 1 :])
            turn.seen = self._came.index(name, turn.seen + 1)
            if step.answered:
                await self._until(lambda: turn.seen in self._answered)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _news(self) -> None:
        self._changed.set()

    # Output

    def _write(self, line: bytes, frame: Any = None) -> None:
        if self._silent or self._transport.is_closing():
            return
        if frame is not None and frame.pad is not None and frame.pad > len(line):
            # Behind the first brace, where JSON allows blanks.
            line = line[:1] + b" " * (frame.pad - len(line)) + line[1:]
        if frame is not None and frame.cut is not None:
            line = line[: frame.cut]
        self._transport.write(line)

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection, in order or not."""
        self._silent = True
        if reset:
            sock = self._transport.get_extra_info("socket")
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Turn:
    """A command's turn, or a connection's beginning: how far its steps are."""

    def __init__(self, request: Request | None, place: int) -> None:
        self.request = request
        self.place = place
        """Which of the commands that came it is."""
        self.seen = place
        """The last of them that a step has waited for."""
        self.settled = False


def _identity(request: Request, step: DoubleStepReply | DoubleStepError) -> bytes:
    if step.without_id:
        return b""
    return request.id_text if step.id is UNSET else envelope.encode(step.id)
