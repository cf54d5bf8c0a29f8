"""The daemon inside a test's process, and a daemon that does what no QMP command does yet: save, load and inspect the machine.

`embedded` runs a `Daemon` in this process, on a loop of its own::

    with embedded("-machine", "virt", "-S") as machine:
        machine.run(machine.vm.cont())

`Embedded` is a `Program` (see `tests.programs`) whose process is this module's `main`, with a control line beside monitor
and console::

    with Embedded(*board, serial=True) as program:
        program.qmp.command("stop")
        program.save(path)
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from qemud.machine.snapshot import Snapshot, load_machine, save_machine, save_objects
from qemud.qapi.runtime.errors import QmpError
from tests.programs import Program, Stream

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from qemud.daemon.startup import Daemon

_CONTROL = "QEMUD_TEST_CONTROL"
_ROOT = Path(__file__).parents[2]


class Machine:
    """A daemon and its loop, for synchronous tests."""

    def __init__(self, daemon: Daemon, loop: asyncio.AbstractEventLoop) -> None:
        self.daemon = daemon
        self.loop = loop
        self.vm = daemon.services.vm
        self.board = daemon.services.board

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Do something in the machine thread."""
        return self.run(self.vm.mailboxes.call(function, *arguments))

    def save(self) -> Snapshot:
        saved: Snapshot = self.run(save_machine(self.vm, self.board))
        return saved

    def load(self, saved: Snapshot) -> None:
        self.run(load_machine(self.vm, self.board, saved))


@contextlib.contextmanager
def embedded(*arguments: str) -> Iterator[Machine]:
    """A daemon in this process; its end is awaited."""
    from qemud.daemon.cmdline import parse
    from qemud.daemon.startup import Daemon

    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        async def start() -> Daemon:
            daemon = Daemon(parse(list(arguments), print), "riscv64")
            try:
                await daemon.build(await daemon.open())
            except BaseException:
                await daemon.close()
                raise
            return daemon

        daemon = runner.run(start())
        try:
            yield Machine(daemon, loop)
        finally:
            runner.run(daemon.close())


class Embedded(Program):
    """A daemon in another process, with a control line."""

    def __init__(self, *arguments: str, **how: Any) -> None:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="qemud-test-"))
            script = Path(folder) / "qemud-embedded"
            script.write_text(
                f"#!{sys.executable}\n"
                f"import sys\nsys.path.insert(0, {str(_ROOT)!r})\n"
                "from tests.system.embed import main\nsys.exit(main(sys.argv[1:]))\n"
            )
            script.chmod(0o755)
            here, there = socket.socketpair()
            stack.enter_context(there)
            self.control = Stream(stack.enter_context(here))
            environment = {_CONTROL: str(there.fileno()), **how.pop("environment", {})}
            super().__init__(
                str(script), *arguments, environment=environment, pass_fds=(there.fileno(),), **how
            )
            self._cleanup.push(stack.pop_all())
        self._open = True

    def close(self) -> None:
        """As a Program's; a second time is no mistake, since machines that move are closed on the way."""
        if self._open:
            self._open = False
            super().close()

    def ask(self, what: str, argument: str = "") -> Any:
        """One request on the control line; its result, or a QmpError."""
        self.control.send(json.dumps([what, argument]).encode() + b"\n")
        reply = b""
        while not reply.endswith(b"\n"):
            data = self.control.socket.recv(1 << 16)
            assert data, f"the daemon is gone; standard error: {self.stderr}"
            reply += data
        result = json.loads(reply)
        if "error" in result:
            raise QmpError(result["error"])
        return result["return"]

    def save(self, path: Path) -> dict[str, Any]:
        """Save the stopped machine to a file; the value of what was saved."""
        value: dict[str, Any] = self.ask("save", str(path))
        return value

    def load(self, path: Path) -> None:
        """Load the stopped machine from a file."""
        self.ask("load", str(path))

    def digest(self) -> str:
        """A hash of the processor's registers and of all memory."""
        digest: str = self.ask("digest")
        return digest

    def clock(self) -> int:
        """Virtual time, ns."""
        now: int = self.ask("clock")
        return now


class Control:
    """The near end of the control line, in the daemon's process."""

    def __init__(self, daemon: Daemon, connection: socket.socket) -> None:
        self.daemon = daemon
        self.connection = connection
        self._buffer = b""
        self._tasks: set[asyncio.Task[None]] = set()
        connection.setblocking(False)
        daemon.loop.add_reader(connection, self._readable)

    def _readable(self) -> None:
        data = self.connection.recv(1 << 16)
        if not data:
            self.daemon.loop.remove_reader(self.connection)
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            task = self.daemon.loop.create_task(self._serve(*json.loads(line)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, what: str, argument: str) -> None:
        try:
            reply = {"return": await getattr(self, what)(argument)}
        except QmpError as error:
            reply = {"error": str(error)}
        data = json.dumps(reply).encode() + b"\n"
        while data:
            with contextlib.suppress(BlockingIOError):
                data = data[self.connection.send(data) :]
            await asyncio.sleep(0)

    async def save(self, path: str) -> Any:
        saved = await save_machine(self.daemon.services.vm, self.daemon.services.board)
        await asyncio.to_thread(lambda: Path(path).write_bytes(msgspec.msgpack.encode(saved)))
        return saved.value

    async def load(self, path: str) -> None:
        saved = await asyncio.to_thread(
            lambda: msgspec.msgpack.decode(Path(path).read_bytes(), type=Snapshot)
        )
        await load_machine(self.daemon.services.vm, self.daemon.services.board, saved)

    async def value(self, _argument: str) -> Any:
        """What was saved but for memory."""
        vm = self.daemon.services.vm
        return await vm.mailboxes.call(save_objects, vm, self.daemon.services.board)

    async def digest(self, _argument: str) -> str:
        saved = await save_machine(self.daemon.services.vm, self.daemon.services.board)
        cpu = [item["state"] for item in saved.value["objects"] if item["path"] == "/machine/soc0/harts[0]"]
        assert len(cpu) == 1
        total = hashlib.sha256(json.dumps(cpu).encode())
        for name, content in saved.memory.items():
            for offset, piece in content.items():
                total.update(f"{name} {offset} ".encode())
                total.update(piece)
        return total.hexdigest()

    async def flood(self, count: str) -> None:
        """Emit so many events; clients get their turns meanwhile."""
        for number in range(int(count)):
            self.daemon.events.emit("STOP", None)
            if number % 10 == 0:
                await asyncio.sleep(0)

    async def clock(self, _argument: str) -> int:
        now: int = await self.daemon.services.vm.mailboxes.call(self.daemon.services.vm.clock.now)
        return now


def main(words: list[str]) -> int:
    """The daemon as `qemud.daemon.main` runs it, with the control line."""
    import uvloop

    from qemud.daemon import signals
    from qemud.daemon.cmdline import parse
    from qemud.daemon.startup import Daemon
    from qemud.logs import report

    signals.block()

    async def serve() -> int:
        daemon = Daemon(parse(words, report), "riscv64")
        try:
            await daemon.build(await daemon.open())
            daemon.announce()
            with socket.socket(fileno=int(os.environ[_CONTROL])) as connection:
                Control(daemon, connection)
                status = await daemon.ended
                daemon.loop.remove_reader(connection)
                return status
        finally:
            await daemon.close()

    return uvloop.run(serve())
