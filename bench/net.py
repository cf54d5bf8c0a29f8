"""User-mode networking: what goes through one TCP connection between a guest and its host."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from bench.table import Row
from qemud.demo.debian import PROMPT
from tests.programs import LIMIT, Program
from tests.system.debian import small

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = (
    Row("send", "user network, TCP, guest to host", "MiB/s", 0.5, at_least=True),
    Row("receive", "user network, TCP, host to guest", "MiB/s", 0.5, at_least=True),
)
NETWORK = ("-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net")
MIB = 1 << 20
SIZE = 256 * MIB


def sample(program: str) -> dict[str, float]:
    with Program(program, *small(*NETWORK), serial=True, watched=False) as running:
        running.serial.expect(PROMPT)
        running.serial.command("drivers", prompt=PROMPT)
        running.serial.command("dhcp", prompt=PROMPT)
        return {
            "send": through(running, f"netload send PORT {SIZE // MIB}", _take),
            "receive": through(running, f"netload receive PORT {SIZE // MIB}", _give),
        }


def through(running: Program, command: str, move: Callable[[socket.socket], None]) -> float:
    """MiB/s from the guest's connection to the last byte, with `move` on the host's side of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT)
        running.serial.send(command.replace("PORT", str(server.getsockname()[1])).encode() + b"\r")
        connection, _ = server.accept()
        with connection:
            connection.settimeout(LIMIT)
            start = time.perf_counter()
            move(connection)
            seconds = time.perf_counter() - start
    running.serial.expect(PROMPT)
    return SIZE / MIB / seconds


def _take(connection: socket.socket) -> None:
    buffer, left = bytearray(MIB), SIZE
    while left:
        got = connection.recv_into(buffer)
        assert got, "the guest closed the connection too early"
        left -= got


def _give(connection: socket.socket) -> None:
    """Send, and wait until the guest has it all: it closes its side then."""
    data = bytes(MIB)
    for _ in range(SIZE // MIB):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
