"""QMP through a raw client: round trips, a pipeline, and the largest reply there is."""

from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING

from bench.startup import NO_MACHINE
from bench.table import Row
from tests.programs import Program

if TYPE_CHECKING:
    import socket

ROWS = (
    Row("round-trip", "QMP round trip (`query-name`), p50", "µs", 0.5),
    Row("pipelined", "QMP commands per second, pipelined", "/s", 15, at_least=True),
    Row("schema", "`query-qmp-schema` round trip, per KB of reply", "µs", 0.05),
)
TRIPS = 2000
PIPELINED = 20000
SCHEMAS = 30
REQUEST = b'{"execute": "query-name"}\n'


def sample(program: str) -> dict[str, float]:
    with Program(program, *NO_MACHINE, watched=False) as running:
        connection = running.qmp.socket
        for _ in range(200):
            trip(connection, REQUEST)
        trips = [trip(connection, REQUEST)[0] for _ in range(TRIPS)]
        rate = PIPELINED / pipeline(connection)
        schemas = [trip(connection, b'{"execute": "query-qmp-schema"}\n') for _ in range(SCHEMAS)]
    return {
        "round-trip": statistics.median(trips) * 1e6,
        "pipelined": rate,
        "schema": statistics.median(seconds * 1e6 / (length / 1000) for seconds, length in schemas),
    }


def trip(connection: socket.socket, request: bytes) -> tuple[float, int]:
    """Send one request and read its reply, one line: seconds, and bytes of the reply."""
    start = time.perf_counter()
    connection.sendall(request)
    length = 0
    while True:
        data = connection.recv(1 << 20)
        assert data, "the monitor closed the connection"
        length += len(data)
        if data.endswith(b"\n"):
            return time.perf_counter() - start, length


def pipeline(connection: socket.socket) -> float:
    """Seconds for many requests sent without waiting for replies."""
    requests = REQUEST * PIPELINED
    start = time.perf_counter()
    sender = threading.Thread(target=connection.sendall, args=(requests,))
    sender.start()
    replies = 0
    while replies < PIPELINED:
        data = connection.recv(1 << 18)
        assert data, "the monitor closed the connection"
        replies += data.count(b"\n")
    seconds = time.perf_counter() - start
    sender.join()
    return seconds
