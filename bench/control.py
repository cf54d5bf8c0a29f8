"""The object model through QMP, the start with a machine, and what one more client costs."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import tempfile
import time
from typing import TYPE_CHECKING

from bench.qmp import trip
from bench.startup import NO_MACHINE, resident
from bench.table import Row
from tests.programs import Program, QmpClient, QmpError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = (
    Row("walk", "`qom-list` over the whole tree, per object", "µs", 0.5),
    Row("values", "`qom-list-get` of the whole machine, one call", "ms", 20, absolute=True),
    Row("types", "`device-list-properties` for every type, per type", "µs", 0.2),
    Row("greeting-virt", "start to the QMP greeting, `-machine virt`", "ms", 7),
    Row("client", "one more idle monitor client", "KiB", 30, absolute=True),
)
VIRT = ("-machine", "virt", "-S", "-nodefaults", "-display", "none")
CLIENTS = 200
STARTS = 5


def sample(program: str) -> dict[str, float]:
    figures = objects(program)
    figures["greeting-virt"] = statistics.median(greeting(program) for _ in range(STARTS))
    figures["client"] = one_more_client(program)
    return figures


def objects(program: str) -> dict[str, float]:
    with Program(program, *VIRT, watched=False) as running:
        qmp = running.qmp
        paths = list(tree(qmp, "/"))  # also warms what is made on first use
        figures = {"walk": mean(qmp.socket, "qom-list", "path", paths)}
        if running.qemud:
            machine = [path for path in paths if path.startswith("/machine")]
            qmp.command("qom-list-get", paths=machine)
            start = time.perf_counter()
            qmp.command("qom-list-get", paths=machine)
            figures["values"] = (time.perf_counter() - start) * 1e3
        names = [entry["name"] for entry in qmp.command("qom-list-types", implements="device")]
        asked = [name for name in names if has_properties(qmp, name)]
        figures["types"] = mean(qmp.socket, "device-list-properties", "typename", asked)
    return figures


def mean(connection: socket.socket, command: str, argument: str, values: list[str]) -> float:
    """Microseconds from question to answer, which nobody looks at: a client takes as long for one program as for the other."""
    requests = [
        json.dumps({"execute": command, "arguments": {argument: value}}).encode() + b"\n" for value in values
    ]
    return statistics.fmean(trip(connection, request)[0] for request in requests) * 1e6


def tree(qmp: QmpClient, path: str) -> Iterator[str]:
    """Every object's path."""
    yield path
    for entry in qmp.command("qom-list", path=path):
        if entry["type"].startswith("child<"):
            yield from tree(qmp, f"{path.rstrip('/')}/{entry['name']}")


def has_properties(qmp: QmpClient, name: str) -> bool:
    try:
        qmp.command("device-list-properties", typename=name)
    except QmpError:
        return False
    return True


def greeting(program: str) -> float:
    """Milliseconds."""
    start = [0.0]

    def now() -> None:
        start[0] = time.perf_counter()

    with Program(program, *VIRT, negotiate=False, watched=False, before=now) as running:
        running.qmp.message()
        return (time.perf_counter() - start[0]) * 1e3


def one_more_client(program: str) -> float:
    """KiB of resident memory for each monitor more, with a client that has negotiated and waits."""
    return (with_clients(program, CLIENTS) - with_clients(program, 0)) * 1024 / CLIENTS


def with_clients(program: str, count: int) -> float:
    """MiB with that many monitors and clients more."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as clients:
        options: list[str] = []
        for number in range(count):
            options += ["-chardev", f"socket,id=m{number},path={folder}/{number},server=on,wait=off"]
            options += ["-mon", f"chardev=m{number},mode=control"]
        with Program(program, *NO_MACHINE, *options, watched=False) as running:
            running.qmp.command("query-status")
            for number in range(count):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(f"{folder}/{number}")
                QmpClient(client)
            return resident(running.process.pid)
