"""chardev-add is all or nothing: whichever step fails, nothing is left, and the same again succeeds."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from qemud.chardev import descriptor, log, pool
from qemud.chardev.registry import Chardevs
from qemud.chardev.stream import Chardev
from qemud.qapi.runtime.errors import GenericError
from tests.chardev.support import run_on

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BACKENDS = {
    "server": "socket,path={}/s,server=on,wait=off",
    "tcp": "socket,host=127.0.0.1,port=0,server=on,wait=off",
    "client": "socket,path={}/listening",
    "file": "file,path={}/f,input-path={}/in",
    "pipe": "pipe,path={}/p",
    "pty": "pty,path={}/link",
    "ringbuf": "ringbuf,size=64",
    "null": "null",
    "mux": "null,mux=on",
}
STEPS: list[tuple[Any, str]] = [
    *((os, name) for name in ("open", "dup", "openpty", "set_blocking", "symlink", "fchmod", "ttyname")),
    *((socket.socket, name) for name in ("bind", "listen", "connect", "setblocking", "getsockname")),
    (Chardev, "set_open"),
    (descriptor.DescriptorChardev, "connect"),
    (descriptor.Output, "__init__"),
    (descriptor.Input, "on"),
    (log.Log, "__init__"),
    (pool.PooledWriter, "__init__"),
]


class Fault:
    """Fails the n-th call of all steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, watch: Callable[[Any], None]) -> None:
        self.left = 0
        self.watch = self._step(watch)
        for owner, name in STEPS:
            monkeypatch.setattr(owner, name, self._step(getattr(owner, name)))

    def _step(self, original: Any) -> Any:
        def step(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise OSError(12, "fault")
            return original(*arguments, **named)

        return step


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_failure_at_any_step_leaves_nothing_behind(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").write_bytes(b"")
    for pipe in ("p.in", "p.out"):
        os.mkfifo(tmp_path / pipe)

    async def main() -> None:
        seen: list[str] = []
        text = BACKENDS[kind].replace("{}", str(tmp_path)) + f",id=c,logfile={tmp_path}/log"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "listening"))
            listening.listen()
            with monkeypatch.context() as patch:
                fault = Fault(patch, lambda chardev: seen.append(chardev.label))
                chardevs = Chardevs(announce=lambda _: None)
                chardevs.watch(fault.watch, lambda chardev: seen.remove(chardev.label))
                names = {entry.name for entry in tmp_path.iterdir()} | {"f", "log"}
                descriptors = len(os.listdir("/proc/self/fd"))
                for number in range(1, 200):
                    fault.left = number
                    try:
                        await chardevs.open_options(text)
                    except (GenericError, OSError):
                        fault.left = 0
                    else:
                        break
                    assert list(chardevs) == []
                    assert seen == []
                    assert len(os.listdir("/proc/self/fd")) == descriptors, number
                    assert {entry.name for entry in tmp_path.iterdir()} <= names, number
                assert number > 1
                fault.left = 0
                await chardevs.close_all()
                assert seen == []
        await asyncio.sleep(0)

    run_on("asyncio", main())


def test_a_client_that_gives_up_leaves_nothing(tmp_path: Path) -> None:
    """One that connects to somebody who does not accept, and a server that waits for nobody."""

    async def main() -> None:
        chardevs = Chardevs()
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
            listening.bind(str(tmp_path / "s"))
            listening.listen(0)
            first.connect(str(tmp_path / "s"))
            descriptors = os.listdir("/proc/self/fd")
            for text in (
                f"socket,path={tmp_path}/s,id=c",
                f"socket,path={tmp_path}/t,server=on,wait=on,id=c",
            ):
                task = asyncio.create_task(chardevs.open_options(text))
                for _ in range(10):
                    await asyncio.sleep(0)
                assert not task.done()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert os.listdir("/proc/self/fd") == descriptors
                assert os.listdir(tmp_path) == ["s"]
            await chardevs.open_options("null,id=c")
        await chardevs.close_all()

    run_on("asyncio", main())
