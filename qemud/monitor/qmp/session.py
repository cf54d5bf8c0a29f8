"""The protocol of one client, without I/O: bytes and results in, requests and bytes out.

    session = Session(version=b'{"qemu": …}')
    session.opened()                          # a client is there: the greeting is in the output
    session.receive(b'{"execute": …}')
    while request := session.next_request():  # what may run now
        session.succeed(request, b"{}")       # or .fail(request, error), now or later
    sock.sendmsg(session.take_output())
    session.closed()                          # the client is gone

A session is in one of three modes:

    mode          what happens                   next mode     output
    ------------  -----------------------------  ------------  -------------------------------
    CLOSED        opened()                       NEGOTIATION   the greeting
    NEGOTIATION   negotiate() with good ones     COMMAND
    NEGOTIATION   any other command              NEGOTIATION   error: CommandNotFound
    NEGOTIATION   event()                        NEGOTIATION   nothing: the event is not for it
    COMMAND       a command                      COMMAND       its reply
    COMMAND       event()                        COMMAND       the event
    any but CLOSED  closed()                     CLOSED        all output is dropped

**Order.**  In-band commands run one at a time; replies come in the order of the commands, and so do the errors that
answer garbage.  Input behind a running command is not even parsed.  With the capability `oob` it is parsed, to find the
commands to run out of band, which `next_request` gives out at once; up to eight in-band ones are queued meanwhile, and
when the queue is full nothing more is read, so a ninth can keep an out-of-band command waiting.

**A client that does not read** costs bounded memory.  While `MAX_REPLY_BACKLOG` bytes of output wait, no further command
is given out and `wants_input` is false.  Events cannot wait for the client: while `MAX_EVENT_BACKLOG` bytes wait, only
the latest event of each name is kept, to be sent when the client reads again.  Nothing else is lost.

**A client that leaves** does not stop its command: it runs to its end and the result is discarded.  Commands not yet
begun are dropped, and descriptors that no command took are closed.

Source: QEMU 10.0, docs/interop/qmp-spec.rst; monitor/qmp.c (behaviour).
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final

from qemud.monitor.passed import PassedDescriptors
from qemud.monitor.qmp import envelope
from qemud.monitor.qmp.envelope import Request
from qemud.monitor.qmp.values import LATER, NEED_DATA, JsonError, JsonValue
from qemud.qapi.runtime.errors import CommandNotFound, GenericError, QmpError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemud.monitor.qmp.framing import Framer

MAX_QUEUE: Final = 8
MAX_REPLY_BACKLOG: Final = 64 << 10
MAX_EVENT_BACKLOG: Final = 1 << 20


class Mode(Enum):
    """What a session understands."""

    CLOSED = "closed"
    NEGOTIATION = "negotiation"
    COMMAND = "command"


class Session:
    """The protocol state of one monitor; it serves one client after the other.

    `version` is what query-version returns, as JSON text; `offers_oob` and `offers_replay` whether the capabilities `oob` and
    `event-replay` are offered; `pretty` whether output is indented.
    """

    def __init__(
        self, version: bytes, *, offers_oob: bool = True, offers_replay: bool = False, pretty: bool = False
    ) -> None:
        self._version = version
        self._offered = [*(["oob"] if offers_oob else []), *(["event-replay"] if offers_replay else [])]
        self.pretty = pretty
        self.mode = Mode.CLOSED
        self.epoch = 0
        """Counts connections."""
        self._framer: Framer | None = (
            None  # made when something comes: a greeting waits for no parser's import
        )
        self._oob = self._numbered = False
        self._starved = True  # all input has been looked at
        self._running = False  # an in-band request has been given out and not been answered
        self._queue: deque[JsonValue | JsonError] = deque()  # in-band messages behind the running one
        self._output: list[bytes] = []
        self._held_events: dict[str, bytes] = {}
        self.backlog = 0
        """Bytes of output that wait to be taken."""
        self.busy = False
        """Whether `next_request` gave None only because it had worked long enough: ask again in the next turn."""
        self.passed = PassedDescriptors(expected=lambda: bool(self._queue))
        """Descriptors that clients have sent."""

    # --- the connection

    def opened(self) -> None:
        """A client has connected."""
        assert self.mode is Mode.CLOSED
        self.epoch += 1
        self.mode = Mode.NEGOTIATION
        self._write(envelope.greeting(self._version, self._offered))

    def closed(self) -> None:
        """The client has gone."""
        self.mode = Mode.CLOSED
        self._framer = None
        self._oob = self._numbered = False
        self._starved = True
        self._running = False
        self._queue.clear()
        self._output = []
        self._held_events.clear()
        self.backlog = 0
        self.passed.close_waiting()

    def negotiate(self, enable: Iterable[str]) -> None:
        """Do what `qmp_capabilities` asks; raise QmpError when it is too late or a capability was not offered."""
        if self.mode is not Mode.NEGOTIATION:
            raise CommandNotFound("Capabilities negotiation is already complete, command ignored")
        wanted = list(enable)
        unavailable = [name for name in wanted if name not in self._offered]
        if unavailable:
            raise GenericError(f"Capability {', '.join(unavailable)} not available")
        self._oob = "oob" in wanted
        self._numbered = "event-replay" in wanted
        self.mode = Mode.COMMAND

    # --- input

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._framer is None:
            from qemud.monitor.qmp.framing import Framer

            self._framer = Framer()
        self._framer.feed(data)
        self._starved = False

    @property
    def wants_input(self) -> bool:
        """Whether to bring more bytes from the client; else leave them where they are."""
        return self._starved and self.backlog < MAX_REPLY_BACKLOG

    def next_request(self, *, in_band: bool = True) -> Request | None:
        """The next command to run, or None: nothing to do now.

        With `in_band=False` only commands out of band are given out; in-band ones wait.  Garbage and requests that are
        wrong in themselves are answered on the way, in their order.
        """
        queue, framer = self._queue, self._framer
        self.busy = False
        if framer is None:
            return None
        while self.backlog < MAX_REPLY_BACKLOG:
            if in_band and not self._running:
                message = queue.popleft() if queue else framer.next()
                if message is NEED_DATA or message is LATER:
                    self._starved = message is NEED_DATA
                    self.busy = message is LATER
                    return None
                request = self._accept(message)
                if request is not None:
                    self._running = not request.oob
                    return request
            else:
                if not self._oob or len(queue) >= MAX_QUEUE:
                    return None
                message = framer.next()
                if message is NEED_DATA or message is LATER:
                    self._starved = message is NEED_DATA
                    self.busy = message is LATER
                    return None
                if isinstance(message, dict) and "exec-oob" in message and "execute" not in message:
                    request = self._accept(message)
                    if request is not None:
                        return request
                else:
                    queue.append(message)
        return None

    def _accept(self, message: JsonValue | JsonError) -> Request | None:
        """The request that a message is, or None after answering an error."""
        identity = b""
        try:
            if isinstance(message, dict):
                if "id" in message:
                    identity = envelope.encode(message["id"])
                # The shape of nearly every request, told by the number of members known to be there.
                name = message.get("execute")
                arguments = message.get("arguments")
                if (
                    isinstance(name, str)
                    and (arguments is None or isinstance(arguments, dict))
                    and len(message) == 1 + (arguments is not None) + (identity != b"")
                ):
                    oob = False
                else:
                    name, oob = envelope.check_request(message, self._oob)
                if self.mode is Mode.NEGOTIATION and name != "qmp_capabilities":
                    raise CommandNotFound("Expecting capabilities negotiation with 'qmp_capabilities'")
                return Request(name, arguments or {}, identity, oob, self.epoch)
            if isinstance(message, JsonError):
                raise GenericError(str(message))
            raise GenericError("QMP input must be a JSON object")
        except QmpError as error:
            self._write(envelope.failure(error.error_class, str(error), identity))
            return None

    # --- output

    def succeed(self, request: Request, result: bytes | None) -> None:
        """Answer a request; `result` is ASCII JSON text, or None for a command whose success is not answered."""
        if self._settle(request) and result is not None:
            self._write(envelope.success(result, request.id_text))

    def fail(self, request: Request, error: QmpError) -> None:
        """Answer a request with an error."""
        if self._settle(request):
            self._write(envelope.failure(error.error_class, str(error), request.id_text))

    def _settle(self, request: Request) -> bool:
        """Note that a request has ended; False when its client has gone."""
        if request.epoch != self.epoch or self.mode is Mode.CLOSED:
            return False
        if not request.oob:
            self._running = False
        return True

    def event(self, name: str, line: bytes, number: int = 0) -> None:
        """Tell the client of an event; `line` is the whole message, without the event's number."""
        if self.mode is not Mode.COMMAND:
            return
        if self._numbered:
            line = envelope.numbered(line, number)
        if self.backlog < MAX_EVENT_BACKLOG:
            self._write(line)
        else:
            self._held_events.pop(name, None)  # the latest goes last
            self._held_events[name] = line

    def _write(self, line: bytes) -> None:
        if self.pretty:
            line = envelope.pretty(line)
        self._output.append(line)
        self.backlog += len(line)

    def take_output(self) -> list[bytes]:
        """All output that waits, to be sent in this order."""
        output, self._output = self._output, []
        self.backlog = 0
        if self._held_events:
            held, self._held_events = self._held_events, {}
            for line in held.values():
                self._write(line)
            output += self._output
            self._output = []
            self.backlog = 0
        return output
