"""A port without a chardev, handlers without a machine, and what their tests say and read."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from qemud._generated.table import COMMANDS
from qemud._generated.types.machine import NameInfo
from qemud._generated.types.run_state import RunState, StatusInfo
from qemud.chardev.stream import ChardevEvent
from qemud.monitor.dispatch import Dispatcher
from qemud.monitor.qmp.server import Monitor, Turn
from qemud.monitor.version import version_text
from qemud.qapi.runtime.errors import DeviceNotFound
from qemud.qapi.runtime.table import EARLY, CommandInfo
from qemud.qapi.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

HERE = "tests.qmp.fakes"
HANDLERS = {
    "control": "qemud.monitor.commands:ControlHandlers",
    "machine": f"{HERE}:MachineHandlers",
    "run-state": f"{HERE}:RunStateHandlers",
    "qom": f"{HERE}:QomHandlers",
    "test": f"{HERE}:SlowHandlers",
}
# Commands that no schema has: they wait for the test.
SLOW = {
    "slow": CommandInfo("slow", "test", "slow", has_arguments=False),
    "slow-oob": CommandInfo("slow-oob", "test", "slow", allow_oob=True),
    "oob": CommandInfo("oob", "test", "quick", allow_oob=True),
    "silent": CommandInfo("silent", "test", "quick", success_response=False),
    "broken": CommandInfo("broken", "test", "broken"),
    "big": CommandInfo("big", "test", "big"),
    "early": CommandInfo("early", "test", "quick", phases=EARLY),
}


class Services:
    """What the handlers share with the test."""

    target = "riscv64"

    def __init__(self, log: list[str] | None = None) -> None:
        self.log = [] if log is None else log
        self.gates: list[asyncio.Future[Any]] = []
        self.during: Callable[[], None] = lambda: None
        self.quits = 0
        self.dispatcher = Dispatcher(COMMANDS | SLOW, HANDLERS, self, defined=TARGETS["riscv64"])

    async def quit(self) -> None:
        self.quits += 1


class MachineHandlers:
    def __init__(self, services: Services) -> None: ...

    async def query_name(self) -> NameInfo:
        return NameInfo()


class RunStateHandlers:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def query_status(self) -> StatusInfo:
        self._services.during()
        return StatusInfo(running=False, status=RunState.PRELAUNCH)


class QomHandlers:
    def __init__(self, services: Services) -> None: ...

    async def qom_list(self, *, path: str) -> list[Any]:
        if path == "/nope":
            raise DeviceNotFound(f"Device '{path}' not found")
        return []


class SlowHandlers:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def slow(self) -> Any:
        self._services.log.append("begun")
        gate = asyncio.get_running_loop().create_future()
        self._services.gates.append(gate)
        try:
            return await gate
        finally:
            self._services.log.append("ended")

    async def quick(self) -> None:
        self._services.log.append("quick")

    async def broken(self) -> None:
        raise ZeroDivisionError("the handler's own mistake")

    async def big(self) -> str:
        return "x" * 100_000


class FakePort:
    """A chardev's port; `pending` is the test's to set."""

    def __init__(self) -> None:
        self.pending = 0
        self.sent = b""
        self.writes = 0
        self.paused = False
        self.detached = False
        self.fds: list[int] = []

    def start(self, receive: Any, event: Any = None, drained: Any = None, *, answers: bool = False) -> None:
        assert answers
        self.receive, self.event, self.drained = receive, event, drained

    def write(self, data: bytes) -> None:
        self.sent += data
        self.writes += 1

    def set_paused(self, *, paused: bool) -> None:
        self.paused = paused

    def take_fds(self) -> list[int]:
        fds, self.fds = self.fds, []
        return fds

    def detach(self) -> None:
        self.detached = True

    # what a test says

    def open(self) -> None:
        self.event(ChardevEvent.OPENED)

    def hang_up(self) -> None:
        self.event(ChardevEvent.CLOSED)

    def messages(self) -> list[Any]:
        """What has been sent since the last call."""
        sent, self.sent = self.sent, b""
        assert sent.isascii()
        return read_messages(sent)


def read_messages(sent: bytes) -> list[Any]:
    *lines, rest = sent.split(b"\r\n")
    assert rest == b""
    assert all(b"\n" not in line for line in lines)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20000)  # one conversation nests a thousand arrays
    try:
        return [json.loads(line) for line in lines]
    finally:
        sys.setrecursionlimit(limit)


def monitor(
    services: Services, *, turn: Turn | None = None, negotiate: bool | str = True, **options: Any
) -> tuple[Monitor, FakePort]:
    """A monitor with a client, which has negotiated if `negotiate` says so ("oob": with that)."""
    port = FakePort()
    made = Monitor(port, services.dispatcher.execute, version_text(), turn or Turn(), **options)
    port.open()
    if negotiate:
        enable = ["oob"] if negotiate == "oob" else []
        port.receive(json.dumps({"execute": "qmp_capabilities", "arguments": {"enable": enable}}).encode())
        assert port.messages()[1:] == [{"return": {}}]
    return made, port


async def settle() -> None:
    """Let the loop run what is ready, and what that makes ready."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(test: Callable[[Services], Coroutine[Any, Any, None]]) -> None:
    """Run on asyncio's own loop, which complains of what is forgotten."""
    asyncio.run(test(Services()), debug=True)


def command(name: str, identity: Any = None, **more: Any) -> bytes:
    message = {"execute": name, **more}
    if identity is not None:
        message["id"] = identity
    return json.dumps(message).encode()


def oob(name: str, identity: Any) -> bytes:
    return json.dumps({"exec-oob": name, "id": identity}).encode()


def ids(messages: list[Any]) -> list[Any]:
    """The id of each reply, the name of each event."""
    return [message.get("id", message.get("event")) for message in messages]
