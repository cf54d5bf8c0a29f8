"""A human monitor without a process: answers to QMP commands from a table."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from qemud.monitor.hmp.shell import Shell
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Qmp:
    """Executes commands by a table of replies (or functions of the arguments); keeps what was asked."""

    def __init__(self, replies: Mapping[str, Any] | None = None) -> None:
        self.replies = {"query-machine-phase": {"phase": "machine-ready"}, **(replies or {})}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def execute(self, name: str, arguments: dict[str, Any], *, oob: bool = False) -> bytes:
        assert not oob
        self.asked.append((name, arguments))
        reply = self.replies.get(name, GenericError(f"no {name} here"))
        if isinstance(reply, Exception):
            raise reply
        return json.dumps(reply(arguments) if callable(reply) else reply).encode()


def run(lines: str | list[str], replies: Mapping[str, Any] | None = None, **how: Any) -> str:
    """What one monitor prints for the lines."""
    shell = Shell(Qmp(replies).execute, **how)

    async def talk() -> str:
        return "".join([await shell.run(line) for line in ([lines] if isinstance(lines, str) else lines)])

    return asyncio.run(talk())


def memory(contents: bytes, base: int = 0) -> Callable[[dict[str, Any]], dict[str, str]]:
    """x-read-memory of a machine with nothing but `contents`, from `base`."""
    from base64 import b64encode

    def read(arguments: dict[str, Any]) -> dict[str, str]:
        start = arguments["address"] - base
        part = contents[start : start + arguments["size"]] if start >= 0 else b""
        return {"data": b64encode(part).decode()}

    return read
