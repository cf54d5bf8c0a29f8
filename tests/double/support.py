"""A running double, found at a socket that listened before it was started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tests.programs import LIMIT, QmpClient

if TYPE_CHECKING:
    from collections.abc import Iterator

QEMUD = str(Path(sys.executable).with_name("qemud"))


class Double:
    """The process, and where it listens."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address
        self._sockets: list[socket.socket] = []

    def socket(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        self._sockets.append(made)
        made.settimeout(LIMIT)
        made.connect(self.address)
        return made

    def connect(self, *, negotiate: bool = True) -> QmpClient:
        return QmpClient(self.socket(), negotiate=negotiate)

    def close(self) -> None:
        for made in self._sockets:
            made.close()
        if self.process.poll() is None:
            self.process.terminate()
        _, errors = self.process.communicate(timeout=LIMIT)
        assert errors == ""


@contextmanager
def double(scenario: dict[str, Any] | str | None = None) -> Iterator[Double]:
    """A double that plays a scenario: a dict, or the text of a TOML file."""
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(folder, "qmp"))
        listener.bind(address)
        listener.listen()
        words = [QEMUD, "double", "-qmp", f"fd:{listener.fileno()}"]
        if scenario is not None:
            path = Path(folder, "scenario.toml" if isinstance(scenario, str) else "scenario.json")
            path.write_text(scenario if isinstance(scenario, str) else json.dumps(scenario))
            words += ["--scenario", str(path)]
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[listener.fileno()],
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
        running = Double(process, address)
        try:
            yield running
        finally:
            running.close()
