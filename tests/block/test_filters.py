"""Filters: copy-on-read copies what it says and nothing else; throttle keeps to its group."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block import throttle
from qemud.block.backend import BlockBackend
from qemud.block.reopen import reopen
from qemud.qapi.runtime.errors import GenericError
from tests.block.support import Event, opened, read, typed, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

SIZE = 1 << 20
NULL = {"driver": "null-co", "read-zeroes": True, "size": SIZE}


def img(*words: str) -> str:
    """What qemu-img says."""
    return subprocess.run(["qemu-img", *words], capture_output=True, text=True, check=True, timeout=60).stdout


def mapped(name: str) -> list[tuple[int, int]]:
    """Offsets and lengths of what an image has itself."""
    import json

    extents = json.loads(img("map", "--output=json", name))
    return [(each["start"], each["length"]) for each in extents if each["depth"] == 0]


@pytest.mark.needs("qemu-img", "qemu-io")
@pytest.mark.parametrize("bottom", [False, True])
def test_what_is_read_is_copied(tmp_path: Path, bottom: bool):
    base, middle, top = (str(tmp_path / name) for name in ("base", "middle", "top"))
    img("create", "-q", "-f", "qcow2", base, str(SIZE))
    subprocess.run(["qemu-io", "-c", "write -P 7 0 256k", base], check=True, capture_output=True, timeout=60)
    img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", middle)
    subprocess.run(
        ["qemu-io", "-c", "write -P 9 64k 64k", middle], check=True, capture_output=True, timeout=60
    )
    img("create", "-q", "-f", "qcow2", "-b", middle, "-F", "qcow2", top)

    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(
            graph, node_name="base", driver="qcow2", file={"driver": "file", "filename": base}, read_only=True
        )
        await opened(
            graph,
            node_name="middle",
            driver="qcow2",
            file={"driver": "file", "filename": middle},
            backing="base",
            read_only=True,
        )
        await opened(graph, driver="qcow2", file={"driver": "file", "filename": top}, backing="middle")
        how = {"bottom": "middle"} if bottom else {}
        node = await opened(graph, node_name="filter", driver="copy-on-read", file="top", **how)
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        backend.configure(read_only=False)
        assert await read(backend, 1000, 100 << 10) == b"\7" * ((64 << 10) - 1000) + b"\11" * (
            (36 << 10) + 1000
        )
        assert not node.read_now(0, [memoryview(bytearray(1))])

        async def write_while_it_is_read(offset: int) -> None:
            await asyncio.gather(read(backend, offset, 4096), write(backend, offset + 100, b"new"))
            assert await read(backend, offset + 98, 7) == b"\7\7new\7\7"

        await write_while_it_is_read(192 << 10)

    with_graph(test)
    assert "No errors were found" in img("check", top)
    cluster = 64 << 10
    first = [(cluster, cluster)] if bottom else [(0, 2 * cluster)]
    assert mapped(top) == [*first, (3 * cluster, cluster)]


def test_copy_on_read_needs_an_image_to_write_to():
    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(graph, node_name="ro", read_only=True, **NULL)
        node = await opened(
            graph,
            node_name="filter",
            driver="copy-on-read",
            read_only=True,
            file={**NULL, "read-only": False},
        )
        assert await read(node, 0, 10) == bytes(10)
        with pytest.raises(GenericError, match="Block node is read-only"):
            await opened(graph, node_name="other", driver="copy-on-read", file="ro")

    with_graph(test)


def test_a_throttled_node_changes_its_group():
    async def test(graph: Graph, _events: list[Event]) -> None:
        slow, fast = throttle.group_of("slow"), throttle.group_of("fast")
        for group in (slow, fast):
            group.users += 1
        slow.configure(throttle.Limits({"iops-total": 1}))
        await opened(graph, node_name="null", **NULL)
        node = await opened(graph, driver="throttle", throttle_group="slow", file="null")
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        await read(backend, 0, 1)
        waits = asyncio.create_task(read(backend, 0, 1))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waits.done()

        def options(group: str) -> Any:
            return typed(driver="throttle", node_name="top", throttle_group=group, file="null")

        with pytest.raises(GenericError, match="Throttle group 'none' does not exist"):
            await reopen(graph, [options("none")])
        await reopen(graph, [options("fast")])
        await waits
        for _ in range(20):
            await read(backend, 0, 1)
        assert (slow.users, fast.users) == (1, 2)
        await backend.close()
        await graph.remove("top")
        assert fast.users == 1
        throttle.leave(slow)
        throttle.leave(fast)

    with_graph(test)
