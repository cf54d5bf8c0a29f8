"""Emulators as their users see them: a process, its QMP socket, its serial port, what it says on standard error.

`Program` starts qemud, or Debian's QEMU with the same options; both are handed sockets that exist before they start, so nothing
ever waits by sleeping or races for a connection::

    with Program(QEMUD, "-machine", "virt", "-S", serial=True) as program:
        program.qmp.command("cont")
        program.serial.expect("demo> ")

Everything here is synchronous, and every wait has a limit that only a hang reaches.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QEMUD = str(Path(sys.executable).with_name("qemud-system-riscv64"))
QEMU = "qemu-system-riscv64"
LIMIT = 120.0
"""Seconds after which a wait is called a hang. Generous: the machine may be busy."""

_TROUBLE = re.compile(
    r"Traceback \(most recent|BLOCKING CALL|Exception ignored|Fatal Python error|\w+Warning: "
)

_WATCHED = {"PYTHONWARNINGS": "error", "PYTHONPATH": str(Path(__file__).with_name("blocking"))}
"""Environment that makes our own program tell of warnings and of calls that block its loop."""


class Hang(AssertionError):
    """Something that was waited for did not come."""


class QmpError(Exception):
    """An error reply."""

    def __init__(self, error: dict[str, str]) -> None:
        super().__init__(error["desc"])
        self.error_class = error["class"]


class Stream:
    """A connected socket read with a limit on every wait; keeps all that was ever received in `log`."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(LIMIT)
        self.log = b""
        self.closed = False

    def fill(self, deadline: float) -> bytes:
        """Receive something before `deadline` (of the monotonic clock), or nothing at the end of the stream."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise Hang(f"nothing came in time; so far: {self.log[-2000:]!r}")
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            raise Hang(f"nothing came in time; so far: {self.log[-2000:]!r}") from None
        except ConnectionResetError:
            data = b""
        self.log += data
        self.closed = not data
        return data

    def send(self, data: bytes) -> None:
        self.socket.settimeout(LIMIT)
        self.socket.sendall(data)

    def close(self) -> None:
        self.socket.close()


class Console(Stream):
    """A guest's serial port."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._seen = 0

    def follow(self, other: Console) -> None:
        """Be the same line as `other`, which has ended: what came from there and was not expected yet came from here."""
        self.log = other.log[other._seen :] + self.log

    def expect(self, text: str | re.Pattern[str], limit: float = LIMIT) -> str:
        """Wait for `text` beyond what was expected before; everything up to and with it."""
        deadline = time.monotonic() + limit
        wanted = re.compile(re.escape(text) if isinstance(text, str) else text.pattern)
        while True:
            fresh = self.log[self._seen :].decode("utf-8", "replace")
            found = wanted.search(fresh)
            if found:
                passed = fresh[: found.end()]
                self._seen += len(passed.encode())
                return passed
            try:
                ended = not self.fill(deadline)
            except Hang as hang:
                raise Hang(f"{wanted.pattern!r} never came; {hang}") from None
            if ended:
                raise AssertionError(f"{wanted.pattern!r} never came, the line ended; got {fresh[-2000:]!r}")

    def command(self, line: str, prompt: str = "demo> ", limit: float = LIMIT) -> list[str]:
        """Type `line` at the prompt and wait for the next one; the lines between."""
        self.send(line.encode() + b"\r")
        lines = self.expect(prompt, limit).replace("\r", "").split("\n")
        return lines[1:-1]


class QmpClient(Stream):
    """A raw QMP client. Events that come on the way are kept in `events`."""

    def __init__(
        self, connection: socket.socket, *, negotiate: bool = True, greets_again: bool = False
    ) -> None:
        """`greets_again` is for QEMU, which now and then greets a client twice that was there before its monitor."""
        super().__init__(connection)
        self.greets_again = greets_again
        self._pending = b""
        self._id = 0
        self.events: list[dict[str, Any]] = []
        self.greeting: dict[str, Any] = {}
        if negotiate:
            self.negotiate()

    def negotiate(self) -> None:
        self.greeting = self.message()["QMP"]
        self.command("qmp_capabilities")

    def message(self, limit: float = LIMIT) -> dict[str, Any]:
        """The next message of any kind."""
        deadline = time.monotonic() + limit
        while b"\n" not in self._pending:
            data = self.fill(deadline)
            if not data:
                raise EOFError("the monitor closed the connection")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def reply(self, limit: float = LIMIT) -> dict[str, Any]:
        """The next message that is no event."""
        while True:
            message = self.message(limit)
            if "event" in message:
                self.events.append(message)
            elif not (self.greets_again and "QMP" in message):
                return message

    def command(self, name: str, arguments: dict[str, Any] | None = None, /, **named: Any) -> Any:
        """Execute a command; its return value. Raises QmpError."""
        self._id += 1
        request: dict[str, Any] = {"execute": name, "id": self._id}
        # Members with a dash cannot be keywords; underscores stand for them nowhere, to keep names as on the wire.
        if arguments or named:
            request["arguments"] = {**(arguments or {}), **named}
        self.send(json.dumps(request).encode())
        reply = self.reply()
        assert reply.get("id") == self._id, reply
        if "error" in reply:
            raise QmpError(reply["error"])
        return reply["return"]

    def event(self, name: str, limit: float = LIMIT) -> dict[str, Any]:
        """Wait for an event; those before it are dropped."""
        while self.events:
            event = self.events.pop(0)
            if event["event"] == name:
                return event
        while True:
            message = self.message(limit)
            assert "event" in message, f"a reply nobody asked for: {message}"
            if message["event"] == name:
                return message


class Program:
    """A running emulator. Leaving its context ends it and looks at what it left on standard error."""

    def __init__(
        self,
        program: str,
        *arguments: str,
        qmp: bool = True,
        serial: bool = False,
        negotiate: bool = True,
        environment: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        watched: bool = True,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._cleanup = contextlib.ExitStack()
        self.qemud = Path(program).name.startswith("qemud")
        self.killed = False
        command = [program]
        fds = list(pass_fds)
        with contextlib.ExitStack() as ours:
            if qmp:
                self.qmp_address, listener = self._listener()
                ours.enter_context(listener)
                fds.append(listener.fileno())
                command += ["-chardev", f"socket,id=test-qmp,fd={listener.fileno()},server=on,wait=off"]
                command += ["-mon", "chardev=test-qmp,mode=control"]
            if serial:
                here, there = socket.socketpair()
                ours.enter_context(there)
                self.serial = Console(self._cleanup.enter_context(here))
                fds.append(there.fileno())
                command += ["-chardev", f"socket,id=test-serial,fd={there.fileno()}"]
                command += ["-serial", "chardev:test-serial"]
            command += arguments
            self.command = command
            self._stderr = self._cleanup.enter_context(tempfile.TemporaryFile())
            self._stdout = self._cleanup.enter_context(tempfile.TemporaryFile())
            if before is not None:
                before()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._stdout,
                stderr=self._stderr,
                pass_fds=fds,
                env={**os.environ, **(_WATCHED if self.qemud and watched else {}), **(environment or {})},
            )
        self._cleanup.callback(self._stop)
        try:
            if qmp:
                self.qmp = self.connect(negotiate=negotiate)
        except BaseException as error:
            self.process.kill()
            self.process.wait()
            error.add_note(f"standard error of {' '.join(command)}:\n{self.stderr}")
            self._cleanup.close()
            raise

    def _listener(self) -> tuple[str, socket.socket]:
        folder = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="qemud-test-"))
        address = f"{folder}/qmp"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        return address, listener

    def connect(self, *, negotiate: bool = True) -> QmpClient:
        """Another client of the monitor. QEMU serves one at a time."""
        connection = self._cleanup.enter_context(socket.socket(socket.AF_UNIX))
        connection.connect(self.qmp_address)
        return QmpClient(connection, negotiate=negotiate, greets_again=not self.qemud)

    @property
    def stderr(self) -> str:
        return self._text(self._stderr.fileno())

    @property
    def stdout(self) -> str:
        return self._text(self._stdout.fileno())

    @staticmethod
    def _text(fd: int) -> str:
        return os.pread(fd, 1 << 24, 0).decode("utf-8", "replace")

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for the process to end by itself; its status."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Hang(f"{self.command[0]} did not end; standard error: {self.stderr}") from None

    def terminate(self) -> int:
        """End it as a service manager does; its status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it without warning."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def _stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise Hang(f"SIGTERM did not end {self.command}; standard error: {self.stderr}") from None

    def check(self) -> None:
        """Fail when the program complained of itself."""
        if self.qemud:
            said = self.stderr
            assert not _TROUBLE.search(said), said
            status = self.process.poll()
            assert status is None or status >= 0 or self.killed, f"ended by signal {-status}: {said}"

    def close(self) -> None:
        """End the process if it still runs, and look at its last words."""
        try:
            with contextlib.ExitStack() as last:
                last.callback(self._cleanup.close)
                self._stop()
                self.check()
        except BaseException as error:
            error.add_note(f"command: {' '.join(self.command)}")
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def quiet(connection: socket.socket, seconds: float) -> bool:
    """Whether nothing comes on `connection` for a while: the only way to see that no reply follows."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return not selector.select(seconds)
