"""The state of a machine in a snapshot: kept, found again, in nobody's way, and seen by qemu-img."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.driver import STATE_UNIT
from tests.block.qcow2.test_snapshots import listed
from tests.block.qcow2.tools import check_image, make_image, open_qcow2, qemu_img
from tests.block.support import read, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

SIZE = 1 << 20
STATE = os.urandom(1 << 20) * 5 + b"the end"


async def take(node: Any, name: str, state: bytes = b"") -> None:
    """A snapshot, with a state if there is one."""
    async with node.drained():
        writer = None
        if state:
            writer = await node.state_writer()
            view = memoryview(state)
            middle = len(state) // 3
            at = 2 * STATE_UNIT
            # In pieces of any size, as memory is.
            await writer.append([view[:middle], view[middle:at]])
            await writer.append([view[at:]])
            assert writer.size == len(state)
        await node.take_snapshot(name, 10**18 + 5, 7_000_000_003, writer)


async def state_of(node: Any, name: str, position: int = 0, length: int | None = None) -> bytes:
    reader = await node.state_reader(name)
    data = bytearray(b"\xee" * (reader.size if length is None else length))
    half = len(data) // 2
    await reader.readv(position, [memoryview(data)[:half], memoryview(data)[half:]])
    return bytes(data)


@pytest.mark.parametrize(
    "kind",
    [
        {"cluster_size": 512},
        {"cluster_size": 4096, "compat": "0.10"},
        {},
        {"cluster_size": "2M"},
        {"refcount_bits": 64},
        {"lazy_refcounts": "on"},
        {"extended_l2": "on", "cluster_size": 16384},
    ],
    ids=str,
)
def test_a_state_is_kept(tmp_path: Path, kind: dict[str, object]) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, **kind)
    resizable = kind.get("compat") != "0.10"

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await write(node, 0, b"a" * 100000)
        await take(node, "one", STATE)
        await take(node, "disk-only")
        await write(node, 0, b"b" * SIZE)
        if resizable:
            await node.truncate(3 * SIZE)
            # Where the state would be seen if the disk had it.
            assert await read(node, SIZE, 2 * SIZE) == bytes(2 * SIZE)
        await take(node, "two", STATE[::-1])
        assert await state_of(node, "one") == STATE
        async with node.drained():
            await node.check_snapshot("one")
            await node.apply_snapshot("one")
        assert node.size == SIZE
        assert await read(node, 0, 100001) == b"a" * 100000 + b"\0"
        # Applied once, it can be applied again.
        await write(node, 0, b"c" * SIZE)
        async with node.drained():
            await node.apply_snapshot("one")
        assert await read(node, 0, 100001) == b"a" * 100000 + b"\0"
        await graph.release(node)

    with_graph(test)
    check_image(path)
    told = [(each["name"], each["vm-state-size"], each["vm-clock-sec"]) for each in listed(path)]
    assert told == [("one", len(STATE), 7), ("disk-only", 0, 7), ("two", len(STATE), 7)]

    async def again(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        assert await state_of(node, "one") == STATE
        assert await state_of(node, "two") == STATE[::-1]
        assert await state_of(node, "disk-only") == b""
        for _ in range(30):
            position = random.randrange(len(STATE))
            length = random.randrange(1, 200000)
            kept = STATE[position : position + length]
            found = await state_of(node, "one", position, length)
            assert found[: len(kept)] == kept
            assert not any(found[len(kept) :])
        async with node.drained():
            await node.delete_snapshot("2", "disk-only")
            await node.delete_snapshot("1", "one")
        assert await state_of(node, "two") == STATE[::-1]
        assert await read(node, 0, 100001) == b"a" * 100000 + b"\0"
        async with node.drained():
            await node.delete_snapshot("3", "two")
        await graph.release(node)

    with_graph(again)
    check_image(path)


def test_a_state_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await write(node, 0, b"a" * 100000)
        async with node.drained():
            writer = await node.state_writer()
            await writer.append([memoryview(STATE)[:STATE_UNIT]])
            await writer.abort()
            writer = await node.state_writer()
            await writer.append([memoryview(STATE)[:100]])
            await writer.finish()
            await writer.abort()
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert listed(path) == []


@pytest.mark.parametrize("size", [SIZE // 2, 100 * SIZE])
def test_a_state_that_qemu_has_left_in_the_disk(tmp_path: Path, size: int) -> None:
    """It goes back to a snapshot with all that there is in it; another size neither shows that nor loses it."""
    path = make_image(tmp_path / "disk.qcow2", SIZE, cluster_size=4096)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await write(node, 0, b"a" * 100000)
        await take(node, "one", STATE)
        await graph.release(node)

    with_graph(test)
    qemu_img("snapshot", "-a", "one", path)
    check_image(path)

    async def again(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await node.truncate(size)
        assert await read(node, 0, 100000) == b"a" * 100000
        if size > SIZE:
            assert not any(await read(node, SIZE, 10 * SIZE))
        assert await state_of(node, "one") == STATE
        async with node.drained():
            await node.apply_snapshot("one")
        assert node.size == SIZE
        assert await read(node, 0, 100001) == b"a" * 100000 + b"\0"
        await graph.release(node)

    with_graph(again)
    check_image(path)
