"""The handlers of chardevs on a set of their own, for tests: `await room.add("c", "null")`."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from qemud.chardev.commands import CharHandlers
from qemud.chardev.registry import Chardevs
from qemud.qapi.runtime.check import parse_type
from qemud.qapi.runtime.errors import GenericError
from tests.chardev.support import run_on

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qemud._generated.types.char import ChardevReturn


def backend(kind: str, **data: Any) -> Any:
    return parse_type("ChardevBackend", {"type": kind, "data": data})


def unix(path: Path | str, **more: Any) -> dict[str, Any]:
    return {"type": "unix", "data": {"path": os.fspath(path), **more}}


class Room:
    """The handlers on a fresh set of chardevs."""

    def __init__(self, **how: Any) -> None:
        self.chardevs = Chardevs(announce=lambda _: None, **how)
        self.passed: dict[str, int] = {}
        services = SimpleNamespace(chardevs=self.chardevs, take_descriptor=self._take)
        self.qmp = CharHandlers(services)

    def _take(self, name: str) -> int:
        if name not in self.passed:
            raise GenericError(f"File descriptor named '{name}' has not been found")
        return self.passed.pop(name)

    async def add(self, label: str, kind: str, **data: Any) -> ChardevReturn:
        return await self.qmp.chardev_add(id=label, backend=backend(kind, **data))

    async def shown(self) -> dict[str, tuple[str, bool]]:
        return {info.label: (info.filename, info.frontend_open) for info in await self.qmp.query_chardev()}


def in_room(test: Callable[..., Any]) -> None:
    async def main() -> None:
        room = Room()
        try:
            await test(room)
        finally:
            room.chardevs.close_now()

    run_on("asyncio", main())


async def refused(awaitable: Any) -> str:
    with pytest.raises(GenericError) as caught:
        await awaitable
    return str(caught.value)
