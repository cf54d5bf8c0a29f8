"""Locks on images: QEMU's tools and qemud keep out of each other's way."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from qemud.block import permission
from qemud.block.backend import BlockBackend
from qemud.block.locking import LockError
from qemud.qapi.runtime.errors import GenericError
from tests.block.support import Event, image, opened, typed, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

QEMU_IO = ("qemu-io", "-f", "raw")
ELSEWHERE = "Is another process using the image [{}]?"

pytestmark = pytest.mark.needs("qemu-io", "qemu-img")


def tool(*words: str) -> str:
    """What one of QEMU's tools says, on either output."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def test_what_a_device_uses_nobody_else_writes_to(tmp_path: Path):
    name = image(tmp_path, bytes(4096))

    async def test(graph: Graph, _events: list[Event]) -> None:
        backend = BlockBackend(graph, "hd0")
        backend.insert(await opened(graph, driver="raw", file={"driver": "file", "filename": name}))
        assert "4 KiB" in tool(*QEMU_IO, "-c", "write 0 4k", name)  # nobody needs anything yet
        backend.configure(read_only=False)
        refused = tool(*QEMU_IO, "-c", "write 0 4k", name)
        assert 'Failed to get "write" lock' in refused
        assert ELSEWHERE.format(name) in refused
        assert "Failed to get" in tool("qemu-img", "resize", "-f", "raw", name, "8k")
        backend.configure(read_only=False, share_rw=True)
        assert "4 KiB" in tool(*QEMU_IO, "-c", "write 0 4k", name)

    with_graph(test)
    assert "4 KiB" in tool(*QEMU_IO, "-c", "write 0 4k", name)


def test_readers_go_together_and_writers_do_not(tmp_path: Path):
    name = image(tmp_path, bytes(4096))

    async def test(graph: Graph, _events: list[Event]) -> None:
        backend = BlockBackend(graph, "hd0")
        backend.insert(
            await opened(graph, driver="raw", read_only=True, file={"driver": "file", "filename": name})
        )
        backend.configure(read_only=True)
        assert "4 KiB" in tool(*QEMU_IO, "-r", "-c", "read 0 4k", name)
        assert 'Failed to get "write" lock' in tool(*QEMU_IO, "-c", "read 0 4k", name)

    with_graph(test)


@pytest.mark.parametrize("locking", ["auto", "on", "off"])
def test_what_a_tool_writes_to_is_refused(tmp_path: Path, locking: str):
    name = image(tmp_path, bytes(4096))
    with subprocess.Popen([*QEMU_IO, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(b"write 0 512\n")
        other.stdin.flush()
        other.stdout.readline()

        async def test(graph: Graph, _events: list[Event]) -> None:
            node = await opened(
                graph, driver="raw", file={"driver": "file", "filename": name, "locking": locking}
            )
            backend = BlockBackend(graph, "hd0")
            backend.insert(node)
            if locking == "off":
                backend.configure(read_only=False)
                await write(backend, 0, b"both")
                return
            with pytest.raises(LockError) as caught:
                backend.configure(read_only=False)
            assert str(caught.value) == 'Failed to get shared "write" lock'
            assert caught.value.hint == ELSEWHERE.format(name)
            assert backend.needs == 0
            assert node.file.cumulative[0] == 0

        with_graph(test)
        other.communicate(b"quit\n", timeout=60)


def test_two_nodes_of_one_process_are_two_users(tmp_path: Path):
    name = image(tmp_path, bytes(4096))

    async def test(graph: Graph, _events: list[Event]) -> None:
        first, second = BlockBackend(graph, "a"), BlockBackend(graph, "b")
        file = {"driver": "file", "filename": name}
        first.insert(await opened(graph, node_name="one", driver="raw", file=file))
        second.insert(await opened(graph, node_name="two", driver="raw", file=file))
        first.configure(read_only=False)
        with pytest.raises(GenericError, match="lock"):
            second.configure(read_only=False)
        with pytest.raises(GenericError, match="lock"):
            second.configure(read_only=True)
        first.set_permissions(0, permission.ALL)
        second.configure(read_only=False)
        await write(second, 0, b"now")

    with_graph(test)


def test_auto_read_only_opens_for_writing_when_somebody_writes(tmp_path: Path):
    name = image(tmp_path, bytes(4096))

    async def test(graph: Graph, _events: list[Event]) -> None:
        options = typed(
            driver="raw",
            node_name="top",
            auto_read_only=True,
            file={"driver": "file", "filename": name},
        )
        (tmp_path / "disk.img").chmod(0o444)
        node = await graph.add(options)
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        backend.configure(read_only=True)
        with pytest.raises(OSError, match="Bad file descriptor"):
            await node.writev(0, [memoryview(b"too early")])
        (tmp_path / "disk.img").chmod(0o644)
        backend.configure(read_only=False)
        await write(backend, 0, b"written")
        assert 'Failed to get "write" lock' in tool(*QEMU_IO, "-c", "write 0 4k", name)
        backend.configure(read_only=True)
        with pytest.raises(OSError, match="Bad file descriptor"):
            await node.writev(0, [memoryview(b"too late")])

    with_graph(test)
    assert (tmp_path / "disk.img").read_bytes()[:7] == b"written"
