"""Disks of NBD servers: QEMU's server and ours, servers that go away, and servers that lie."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import subprocess
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud._generated.types.block_export import BlockExportOptionsNbd_
from qemud._generated.types.sockets import UnixSocketAddress
from qemud.block.nbd.exports import exports_of
from qemud.block.nbd.server import NbdServer
from qemud.chardev.address import listen
from qemud.qapi.runtime.errors import GenericError
from tests.block.support import image, opened, read, with_graph, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from qemud.block.graph import Graph

SIZE = 4 << 20


def where(path: Path | str) -> dict[str, str]:
    return {"type": "unix", "path": os.fspath(path)}


async def our_server(graph: Graph, path: Path, disk: str) -> NbdServer:
    """A server in this process, with the export `d` of a file."""
    exports = exports_of(graph)
    listener = await listen(UnixSocketAddress(path=os.fspath(path)), int)
    server = NbdServer(exports, listener, max_connections=100, handshake_seconds=10, protection=None)
    exports.server = server
    if graph.find_node("served") is None:
        await opened(graph, driver="file", filename=disk, node_name="served", discard="unmap")
    await exports.add(BlockExportOptionsNbd_(id="d", node_name="served", name="d", writable=True))
    return server


@asynccontextmanager
async def their_server(path: Path, disk: str) -> AsyncIterator[None]:
    """qemu-nbd, once it listens."""
    words = [
        "qemu-nbd",
        "-f",
        "raw",
        "-k",
        os.fspath(path),
        "-x",
        "d",
        "-t",
        "-e",
        "8",
        "--discard=unmap",
        disk,
    ]
    process = await asyncio.create_subprocess_exec(*words, stdin=subprocess.DEVNULL)
    try:
        while not path.exists():
            assert process.returncode is None
            await asyncio.sleep(0.01)
        yield
    finally:
        process.terminate()
        await process.wait()


async def exercise(disk: Any, seed: int) -> bytes:
    """Requests in any order on parts of their own, then on all of it; what must be there now."""
    chance = random.Random(seed)
    model = bytearray(await read(disk, 0, SIZE))
    part = 1 << 16

    async def one(number: int) -> None:
        begin = number * part
        for _ in range(4):
            offset = begin + chance.randrange(part)
            length = chance.randrange(1, begin + part - offset + 1)
            if chance.random() < 0.7:
                data = chance.randbytes(length)
                model[offset : offset + length] = data
                await write(disk, offset, data, fua=chance.random() < 0.2)
            else:
                model[offset : offset + length] = bytes(length)
                await disk.write_zeroes(offset, length, unmap=chance.random() < 0.5)
            assert await read(disk, offset, length) == model[offset : offset + length]

    await asyncio.gather(*(one(number) for number in range(SIZE // part)))
    await disk.flush()
    assert await read(disk, 0, SIZE) == model
    return bytes(model)


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_of_our_server(tmp_path: Path, seed: int) -> None:
    disk = image(tmp_path, random.Random(seed).randbytes(SIZE))

    async def test(graph: Graph, events: list[Any]) -> None:
        await our_server(graph, tmp_path / "s", disk)
        node = await opened(graph, driver="nbd", server=where(tmp_path / "s"), export="d", discard="unmap")
        assert node.size == SIZE
        model = await exercise(node, seed)
        await node.discard(0, 1 << 16)
        assert await read(node, 1 << 16, SIZE - (1 << 16)) == model[1 << 16 :]
        extent = await node.block_status(0, SIZE)
        assert extent.zero
        await graph.remove("top")
        await exports_of(graph).stop_server()
        assert ("BLOCK_EXPORT_DELETED", {"id": "d"}) in events

    with_graph(test)


@pytest.mark.needs("qemu-nbd")
def test_a_disk_of_qemu_nbd(tmp_path: Path) -> None:
    disk = image(tmp_path, random.Random(7).randbytes(SIZE))

    async def test(graph: Graph, _events: list[Any]) -> None:
        async with their_server(tmp_path / "s", disk):
            name = f"nbd+unix:///d?socket={tmp_path / 's'}"
            node = await opened(graph, driver="nbd", server=where(tmp_path / "s"), export="d")
            assert node.filename == name
            model = await exercise(node, 7)
            with pytest.raises(GenericError, match=r"^Requested export not available$"):
                await opened(
                    graph, node_name="other", driver="nbd", server=where(tmp_path / "s"), export="nope"
                )
            await graph.remove("top")
        assert (tmp_path / "disk.img").read_bytes() == model

    with_graph(test)


def test_without_a_server_nothing_is_opened(tmp_path: Path) -> None:
    async def test(graph: Graph, _events: list[Any]) -> None:
        for server in (where(tmp_path / "s"), {"type": "inet", "host": "127.0.0.1", "port": "1"}):
            with pytest.raises(GenericError, match=r"^Failed to connect to "):
                await opened(graph, driver="nbd", server=server)
        assert not graph.nodes

    with_graph(test)


def test_a_lost_connection_without_patience(tmp_path: Path) -> None:
    """Requests fail while there is no server, and succeed as soon as it is back."""
    disk = image(tmp_path, b"\5" * SIZE)

    async def test(graph: Graph, _events: list[Any]) -> None:
        await our_server(graph, tmp_path / "s", disk)
        node = await opened(graph, driver="nbd", server=where(tmp_path / "s"), export="d")
        await exports_of(graph).stop_server()
        with pytest.raises(OSError, match="Input/output error"):
            await read(node, 0, 512)
        await our_server(graph, tmp_path / "s", disk)
        assert await read(node, 0, 512) == b"\5" * 512
        await graph.remove("top")

    with_graph(test)


def test_a_lost_connection_with_patience(tmp_path: Path) -> None:
    """Writes go on while the server is stopped and started; none is lost."""
    disk = image(tmp_path, bytes(SIZE))

    async def test(graph: Graph, _events: list[Any]) -> None:
        await our_server(graph, tmp_path / "s", disk)
        node = await opened(graph, driver="nbd", server=where(tmp_path / "s"), export="d", reconnect_delay=30)
        begun = asyncio.Event()

        async def writer(number: int) -> None:
            for turn in range(40):
                await write(node, number * 65536 + turn * 512, bytes([number + 1]) * 512)
                if turn == 3:
                    begun.set()

        writers = asyncio.gather(*(writer(number) for number in range(8)))
        await begun.wait()
        await exports_of(graph).stop_server()
        await our_server(graph, tmp_path / "s", disk)
        await writers
        for number in range(8):
            assert await read(node, number * 65536, 40 * 512) == bytes([number + 1]) * (40 * 512)
        await graph.remove("top")

    with_graph(test)


GREETING = b"NBDMAGICIHAVEOPT\0\3"
REPLY = struct.Struct(">QIII")


def told(option: int, kind: int, data: bytes = b"") -> bytes:
    return REPLY.pack(0x0003E889045565A9, option, kind, len(data)) + data


HANDSHAKE = (
    GREETING
    + told(8, 1)
    + told(10, 4, b"\0\0\0\0base:allocation")
    + told(10, 1)
    + told(7, 3, struct.pack(">HQH", 0, SIZE, 0xFFF & ~2))
    + told(7, 1)
)


async def against(graph: Graph, path: Path, said: bytes) -> None:
    """A server that says this, whatever it is asked, and then waits for the client to go."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.write_eof()
        while await reader.read(65536):
            pass
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        try:
            node = await opened(graph, driver="nbd", server=where(path))
        except GenericError:
            return
        for request in (read(node, 0, 4096), node.block_status(0, 4096), write(node, 0, b"x" * 512)):
            with suppress(OSError):
                await request
        await graph.remove(node.node_name)


def mutations() -> st.SearchStrategy[bytes]:
    """A good handshake and good answers, with pieces cut out, doubled or replaced."""
    chunk = struct.Struct(">IHHQI")
    answers = [
        chunk.pack(0x668E33EF, 1, 1, 1, 8 + 4096) + bytes(8) + b"d" * 4096,
        chunk.pack(0x668E33EF, 1, 2, 1, 12) + struct.pack(">QI", 0, 4096),
        chunk.pack(0x668E33EF, 0, 2, 1, 12) + struct.pack(">QI", 0, 1 << 31),
        chunk.pack(0x668E33EF, 1, 5, 2, 12) + struct.pack(">III", 0, 4096, 3),
        chunk.pack(0x668E33EF, 1, 5, 2, 4 + 8 * 3) + bytes(28),
        chunk.pack(0x668E33EF, 1, 0x8001, 1, 8) + struct.pack(">IH", 5, 2) + b"no",
        chunk.pack(0x668E33EF, 1, 0, 3, 0),
        chunk.pack(0x668E33EF, 1, 1, 99, 0xFFFF_FFFF),
        struct.pack(">IIQ", 0x67446698, 0, 1) + b"d" * 4096,
        struct.pack(">IIQ", 0x67446698, 5, 3),
    ]
    spoiled = st.tuples(st.sampled_from(answers), st.integers(0, 40), st.binary(max_size=6)).map(
        lambda it: it[0][: it[1]] + it[2] + it[0][it[1] + len(it[2]) :]
    )
    handshakes = st.one_of(
        st.just(HANDSHAKE),
        st.tuples(st.integers(0, len(HANDSHAKE) - 1), st.binary(max_size=8)).map(
            lambda it: HANDSHAKE[: it[0]] + it[1] + HANDSHAKE[it[0] + len(it[1]) :]
        ),
    )
    return st.tuples(handshakes, st.lists(st.one_of(st.sampled_from(answers), spoiled), max_size=5)).map(
        lambda it: it[0] + b"".join(it[1])
    )


@settings(max_examples=300, deadline=None)
@given(said=mutations())
def test_a_server_that_lies_is_an_error_and_nothing_more(
    tmp_path_factory: pytest.TempPathFactory, said: bytes
) -> None:
    path = tmp_path_factory.mktemp("liar") / "s"
    with_graph(lambda graph, _events: against(graph, path, said))


def scripts() -> st.SearchStrategy[bytes]:
    """What a client might say: a choice of export, then requests, spoiled here and there."""
    request = struct.Struct(">IHHQQI")
    choice = b"\0\0\0\3IHAVEOPT" + struct.pack(">II", 1, 1) + b"d"
    go = (
        b"\0\0\0\3IHAVEOPT"
        + struct.pack(">II", 8, 0)
        + b"IHAVEOPT"
        + struct.pack(">II", 7, 7)
        + b"\0\0\0\1d\0\0"
    )
    numbers = st.integers(0, (1 << 64) - 1)
    offsets = st.one_of(numbers, st.integers(0, SIZE), st.just(SIZE - 512))
    lengths = st.one_of(st.integers(0, 1 << 16), st.integers(0, (1 << 32) - 1))
    requests = st.builds(
        lambda flags, kind, cookie, offset, length, data: (
            request.pack(0x25609513, flags, kind, cookie, offset, length) + data
        ),
        st.sampled_from((0, 1, 2, 4, 8, 16, 0xFFFF)),
        st.one_of(st.integers(0, 9), st.integers(0, 65535)),
        numbers,
        offsets,
        lengths,
        st.binary(max_size=600),
    )
    options = st.builds(
        lambda option, data, lie: b"IHAVEOPT" + struct.pack(">II", option, len(data) + lie) + data,
        st.integers(0, 12),
        st.binary(max_size=64),
        st.sampled_from((0, 0, 0, 1, 1 << 31)),
    )
    before = st.lists(options, max_size=4).map(b"".join)
    return st.one_of(
        st.tuples(st.sampled_from((choice, go)), st.lists(requests, max_size=6)).map(
            lambda it: it[0] + b"".join(it[1])
        ),
        st.tuples(st.just(b"\0\0\0\3"), before).map(b"".join),
        st.binary(max_size=200),
    )


def test_clients_that_say_anything_harm_nobody(tmp_path: Path) -> None:
    disk = image(tmp_path, bytes(SIZE))

    def attack(script: bytes) -> Callable[[Graph, list[Any]], Any]:
        async def test(graph: Graph, _events: list[Any]) -> None:
            path = tmp_path / "s"
            await our_server(graph, path, disk)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(script)
            writer.write_eof()
            while await reader.read(1 << 16):
                pass
            writer.close()
            node = await opened(graph, driver="nbd", server=where(path), export="d")
            assert len(await read(node, 0, 512)) == 512
            await graph.remove("top")
            assert os.path.getsize(disk) == SIZE

        return test

    @settings(max_examples=200, deadline=None)
    @given(script=scripts())
    def run(script: bytes) -> None:
        with_graph(attack(script))

    run()
