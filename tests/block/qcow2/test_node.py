"""Images as nodes of a graph: backing files, reopening, caches, requests at once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.image import open_image
from qemud.block.info import node_info
from qemud.block.reopen import reopen
from qemud.qapi.runtime.check import parse_type, to_wire
from qemud.qapi.runtime.errors import GenericError
from tests.block.qcow2.tools import check_image, content, make_image, open_qcow2, qemu_img, refusal
from tests.block.support import opened, read, typed, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

SIZE = 4 << 20


def file(path: Path, **options: Any) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in options.items()}
    return {"driver": "file", "filename": str(path), **named}


def overlay(path: Path, base: Path, **options: object) -> Path:
    text = ",".join(f"{name}={value}" for name, value in options.items())
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", *(["-o", text] if text else []), path)
    return path


# Backing files.


def test_chains_are_opened_as_images_say(tmp_path: Path) -> None:
    bottom = make_image(tmp_path / "bottom.qcow2", SIZE)
    middle = overlay(tmp_path / "middle.qcow2", bottom)
    top = overlay(tmp_path / "top.qcow2", middle)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, bottom)
        await write(node, 4096, b"bottom")
        await graph.release(node)
        node = await open_image(graph, str(top), {})
        assert node.backing is not None
        assert node.backing.backing is not None
        assert await read(node, 4096, 6) == b"bottom"
        info = await node_info(node)
        assert info.backing_file_depth == 2
        assert info.backing_file == str(middle)
        await graph.release(node)

    with_graph(test)


def test_backing_files_by_reference_by_definition_and_none(tmp_path: Path) -> None:
    base = make_image(tmp_path / "base.qcow2", SIZE)
    other = make_image(tmp_path / "other.qcow2", SIZE)
    top = overlay(tmp_path / "top.qcow2", base)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, other)
        await write(node, 0, b"other")
        await graph.release(node)
        await opened(graph, driver="qcow2", node_name="other", file=file(other), read_only=True)
        node = await open_qcow2(graph, top, backing="other")
        assert await read(node, 0, 5) == b"other"
        assert "backing" in node.filename
        await graph.release(node)
        node = await open_qcow2(graph, top, backing=None)
        assert node.backing is None
        assert await read(node, 0, 5) == bytes(5)
        await graph.release(node)
        node = await open_qcow2(graph, top, backing={"driver": "raw", "file": file(other)})
        assert await read(node, 0, 4) == b"QFI\xfb"
        await graph.release(node)
        assert await refusal(open_qcow2(graph, top, backing="nobody")) == (
            "Could not open backing file: Cannot find device='nobody' nor node-name='nobody'"
        )
        os.unlink(base)
        assert await refusal(open_qcow2(graph, top)) == (
            f"Could not open backing file: Could not open '{base}': No such file or directory"
        )

    with_graph(test)


def test_a_backing_file_can_go_and_come(tmp_path: Path) -> None:
    """Whether there is one decides how much of a cluster is written, and what a discard leaves."""
    base = make_image(tmp_path / "base.qcow2", SIZE)
    top = overlay(tmp_path / "top.qcow2", base)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, base)
        await write(node, 0, b"b" * 200_000)
        await graph.release(node)
        await opened(graph, driver="qcow2", node_name="base", file=file(base), read_only=True)
        node = await opened(
            graph, driver="qcow2", node_name="top", file=file(top, node_name="f"), backing=None
        )
        await write(node, 10, b"t")
        await reopen(
            graph, [typed(driver="qcow2", node_name="top", file="f", backing="base", discard="unmap")]
        )
        assert await read(node, 0, 20) == bytes(10) + b"t" + bytes(9)
        assert await read(node, 65536, 4) == b"bbbb"
        await write(node, 65536 + 10, b"t")
        assert await read(node, 65536, 20) == b"b" * 10 + b"t" + b"b" * 9
        await node.discard(0, 65536 * 2)
        assert await read(node, 0, 65536 * 2) == bytes(65536 * 2)

    with_graph(test)
    check_image(top)


# Reopening.


def test_reopening_changes_what_can_be_changed(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, lazy_refcounts="on")
    qemu_img("bitmap", "--add", path, "b0")

    async def test(graph: Graph, events: list[Any]) -> None:
        node: Any = await opened(graph, driver="qcow2", node_name="q", file=file(path, node_name="f"))

        async def again(**options: Any) -> None:
            await reopen(graph, [typed(driver="qcow2", node_name="q", file="f", **options)])

        await write(node, 0, b"x" * 100_000)
        assert (await node.get_info()).is_dirty
        await again(read_only=True)
        assert not (await node.get_info()).is_dirty
        check_image(path)
        with pytest.raises(OSError, match="Operation not permitted"):
            await write(node, 0, b"y")
        await again(lazy_refcounts=False, cache_clean_interval=0)
        await write(node, 5, b"y")
        assert not (await node.get_info()).is_dirty
        assert node.dirty_bitmaps["b0"].get(5)
        assert await refusal(again(l2_cache_entry_size=7)) == (
            "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"
        )
        assert await read(node, 0, 10) == b"xxxxxyxxxx"

    with_graph(test)
    check_image(path)


def test_a_dirty_image_is_repaired_when_it_becomes_writable(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, lazy_refcounts="on")
    copy = tmp_path / "copy.qcow2"

    async def leave_dirty(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await write(node, 0, b"x" * 300_000)
        await node.flush()
        copy.write_bytes(path.read_bytes())
        await graph.release(node)

    with_graph(leave_dirty)

    async def test(graph: Graph, events: list[Any]) -> None:
        node: Any = await opened(
            graph, driver="qcow2", node_name="q", file=file(copy, node_name="f"), read_only=True
        )
        assert (await node.get_info()).is_dirty
        assert await read(node, 0, 300_000) == b"x" * 300_000
        await reopen(graph, [typed(driver="qcow2", node_name="q", file="f")])
        await write(node, 1 << 20, b"y" * 300_000)
        assert await read(node, 0, 300_000) == b"x" * 300_000

    with_graph(test)
    check_image(copy)


def test_another_node_can_take_the_place_of_the_file(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE)

    async def test(graph: Graph, events: list[Any]) -> None:
        below = await opened(graph, driver="file", node_name="f", filename=str(path))
        node: Any = await opened(graph, driver="qcow2", node_name="q", file="f")
        await write(node, 0, b"x")
        filter_node = await opened(graph, driver="raw", node_name="r", file="f")
        async with node.drained():
            graph.replace(below, filter_node, keep=[filter_node.edges["file"]])
        assert node.file is filter_node
        seen: list[int] = []
        filter_node.trackers.append(lambda offset, _length: seen.append(offset))
        await write(node, 1 << 20, b"y")
        await node.flush()
        assert len(seen) > 2
        assert await read(node, 0, 1) == b"x"
        filter_node.trackers.clear()

    with_graph(test)
    check_image(path)


# Memory.


def test_large_images_cost_no_memory(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", 1 << 40)
    rng = random.Random(1)

    async def test(graph: Graph, events: list[Any]) -> None:
        tracemalloc.start()
        node = await open_qcow2(graph, path)
        _, peak = tracemalloc.get_traced_memory()
        assert peak < 2 << 20
        for _ in range(150):
            await write(node, rng.randrange(1 << 40) // 512 * 512, b"x" * 512)
        mapping = node.image.mapping
        assert mapping.piece_bits == 9  # 4 KiB, since 32 MiB are not enough for all tables
        assert len(mapping.pieces) <= mapping.limit
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10 << 20
        await graph.release(node)

    with_graph(test)
    check_image(path)


def test_caches_are_kept_small(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", 64 << 20, cluster_size=512)
    rng = random.Random(2)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path, l2_cache_size=4096, refcount_cache_size=4096)
        image = node.image
        kept: dict[int, bytes] = {}
        for _ in range(400):
            offset = rng.randrange(64 << 11) * 512
            kept[offset] = rng.randbytes(512)
            await write(node, offset, kept[offset])
            assert len(image.mapping.pieces) <= 9
            assert len(image.refcounts.blocks) <= 9
        for offset, data in kept.items():
            assert await read(node, offset, 512) == data
        # Nobody has used anything since the last time but one.
        await node.flush()
        image.mapping.drop_unused()
        image.mapping.drop_unused()
        image.refcounts.drop_unused()
        image.refcounts.drop_unused()
        assert not [each for each in image.mapping.pieces.values() if not each.dirty]
        assert not [each for each in image.refcounts.blocks.values() if not each.dirty]
        await graph.release(node)

    with_graph(test)
    check_image(path)


# At once.


@pytest.mark.parametrize("kind", ["plain", "extended", "data file"])
def test_requests_at_once_while_tables_change(tmp_path: Path, kind: str) -> None:
    """A thread reads and writes its half at once; the loop writes, discards and flushes the other half."""
    unit = 16384 if kind == "extended" else 4096
    options = {"cluster_size": unit, "extended_l2": "on" if kind == "extended" else "off"}
    if kind == "data file":
        options |= {"data_file": str(tmp_path / "data"), "data_file_raw": "on"}
    path = make_image(tmp_path / "disk.qcow2", SIZE, **options)
    half = SIZE // 2
    rng = random.Random(4)
    mine = bytearray(rng.randbytes(half))
    theirs = bytearray(half)
    served = {"read": 0, "write": 0}
    wrong: list[int] = []
    stop = threading.Event()

    def machine(node: Any) -> None:
        rng = random.Random(5)
        buffer = bytearray(16384)
        while not stop.is_set():
            length = rng.choice((512, 4096, 16384))
            offset = rng.randrange(half - length) // 4096 * 4096
            length = min(length, half - offset)
            view = memoryview(buffer)[:length]
            if rng.random() < 0.5:
                if node.read_now(offset, [view]):
                    served["read"] += 1
                    if view != mine[offset : offset + length]:
                        wrong.append(offset)
            elif length % 4096 == 0:
                data = rng.randbytes(length)
                if node.write_now(offset, [memoryview(data)]):
                    mine[offset : offset + length] = data
                    served["write"] += 1

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path, pass_discard_other=True, l2_cache_size=8192)
        await write(node, 0, bytes(mine))
        thread = threading.Thread(target=machine, args=(node,))
        thread.start()
        try:
            steps = 0
            while steps < 200 or served["read"] <= 100:
                steps += 1
                offset = half + rng.randrange(half - 20000)
                length = rng.randrange(1, 20000)
                if rng.random() < 0.6:
                    data = rng.randbytes(length)
                    theirs[offset - half : offset - half + length] = data
                    await write(node, offset, data)
                else:
                    start, end = -(-offset // unit) * unit, (offset + length) // unit * unit
                    if start < end:
                        theirs[start - half : end - half] = bytes(end - start)
                    await node.discard(offset, length)
                if rng.random() < 0.3:
                    await node.flush()
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)
        assert not wrong
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert content(path, SIZE) == mine + theirs


def test_what_is_not_served_at_once(tmp_path: Path) -> None:
    base = make_image(tmp_path / "base.qcow2", SIZE)
    path = overlay(tmp_path / "disk.qcow2", base)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, base)
        await write(node, 0, b"below" * 1000)
        await graph.release(node)
        node = await open_qcow2(graph, path)
        await write(node, 65536, b"x" * 65536)
        page = memoryview(bytearray(b"?" * 4096))
        # What is below can be read at once when its table is in memory.
        await read(node, 0, 1)
        if node.read_now(0, [page]):
            assert bytes(page) == (b"below" * 1000)[:4096]
        assert not node.write_now(0, [page])
        assert not node.read_now(SIZE - 512, [page])
        await node.write_zeroes(65536, 65536)
        assert node.read_now(65536, [page])
        assert bytes(page) == bytes(4096)
        assert not node.write_now(65536, [page])
        await graph.release(node)

    with_graph(test)


# Side by side with QEMU.


def told_by_qemu(options: dict[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
    """What QEMU says to a blockdev-add, and of its nodes then."""
    commands = [
        {"execute": "qmp_capabilities"},
        {"execute": "blockdev-add", "arguments": options},
        {"execute": "query-named-block-nodes"},
        {"execute": "quit"},
    ]
    done = subprocess.run(
        ["qemu-system-riscv64", "-M", "none", "-display", "none", "-qmp", "stdio"],
        input="".join(map(json.dumps, commands)),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    answers = [each for each in answers if "return" in each or "error" in each]
    nodes: list[dict[str, Any]] = answers[2]["return"]
    return answers[1].get("error", {}).get("desc"), nodes


OPTIONS: list[dict[str, Any]] = [
    {},
    {"read-only": True, "cache": {"direct": True}},
    {"lazy-refcounts": True},
    {"cache-size": 1, "l2-cache-size": 2},
    {"cache-size": 1, "l2-cache-size": 1, "refcount-cache-size": 1},
    {"cache-size": 1, "refcount-cache-size": 2},
    {"l2-cache-entry-size": 100},
    {"l2-cache-entry-size": 8192},
    {"l2-cache-size": -1},
    {"cache-clean-interval": 1 << 33},
    {"cache-clean-interval": -1},
    {"discard-no-unref": True},
    {"overlap-check": "foo"},
    {"overlap-check": {"template": "none", "active-l1": True}},
    {"backing": "nobody"},
    {"refcount-cache-size": 1 << 60},
    {"cache-size": 1 << 62},
]


@pytest.mark.differential
@pytest.mark.parametrize("version", ["0.10", "1.1"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_nodes_are_told_of_as_by_qemu(tmp_path: Path, version: str, options: dict[str, Any]) -> None:
    base = make_image(tmp_path / "base.qcow2", SIZE)
    path = overlay(tmp_path / "disk.qcow2", base, compat=version, cluster_size=4096)
    qemu_img("snapshot", "-c", "s", path)
    if version == "1.1":
        qemu_img("bitmap", "--add", path, "b0")
    given = {"driver": "qcow2", "node-name": "q", "file": file(path) | {"node-name": "f"}, "backing": None}
    given |= options
    before = path.read_bytes()
    error, nodes = told_by_qemu(given)
    path.write_bytes(before)

    async def test(graph: Graph, events: list[Any]) -> None:
        try:
            await graph.add(parse_type("BlockdevOptions", given))
        except GenericError as failure:
            assert str(failure) == error  # noqa: PT017 - compared with QEMU's
        else:
            assert error is None
        found = [to_wire(await node_info(node)) for node in reversed(list(graph.nodes.values()))]
        assert comparable(found) == comparable(nodes)

    with_graph(test)


def comparable(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what differs for no reason of ours: how much a file system takes for a file, how JSON is spaced."""
    for each in nodes:
        del each["image"]["actual-size"]
        each["file"] = _parsed(each["file"])
        each["image"]["filename"] = _parsed(each["image"]["filename"])
    return nodes


def _parsed(name: str) -> Any:
    return json.loads(name.removeprefix("json:")) if name.startswith("json:") else name
