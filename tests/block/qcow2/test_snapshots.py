"""Snapshots inside of images, as qemu-img sees them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.internal import delete_snapshot, take_snapshot
from qemud.block.qcow2 import snapshots
from qemud.qapi.runtime.errors import GenericError
from tests.block.qcow2.test_images import Model
from tests.block.qcow2.tools import check_image, content, make_image, open_qcow2, qemu_img
from tests.block.support import opened, read, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

SIZE = 1 << 20


def listed(path: Path) -> list[dict[str, Any]]:
    found: dict[str, Any] = json.loads(qemu_img("info", "--output=json", path))
    result: list[dict[str, Any]] = found.get("snapshots", [])
    return result


@pytest.mark.parametrize(
    "kind",
    [
        {"cluster_size": 512},
        {"cluster_size": 4096, "compat": "0.10"},
        {},
        {"refcount_bits": 64},
        {"lazy_refcounts": "on"},
        {"extended_l2": "on", "cluster_size": 16384},
    ],
    ids=str,
)
def test_snapshots_keep_what_was_there(tmp_path: Path, kind: dict[str, object]) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, **kind)
    model = Model(1, SIZE)
    kept: dict[str, bytes] = {}

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        for name in ("one", "two", "three"):
            await model.play(node, 25)
            async with node.drained():
                made = await snapshots.create(
                    node.image,
                    name,
                    size=node.size,
                    date_ns=1_700_000_000_000_000_001,
                    vm_clock_ns=5_000_000_007,
                )
            assert made.name == name
            kept[name] = bytes(model.data)
        await model.play(node, 25)
        told = await node.snapshots()
        assert [(each.id, each.name) for each in told] == [("1", "one"), ("2", "two"), ("3", "three")]
        assert (told[0].date_sec, told[0].date_nsec) == (1_700_000_000, 1)
        assert (told[0].vm_clock_sec, told[0].vm_clock_nsec) == (5, 7)
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert [(each["id"], each["name"]) for each in listed(path)] == [
        ("1", "one"),
        ("2", "two"),
        ("3", "three"),
    ]
    assert content(path, SIZE) == model.data
    for name, data in kept.items():
        raw = tmp_path / "snapshot.raw"
        qemu_img("convert", "-f", "qcow2", "-O", "raw", "-l", name, path, raw)
        assert raw.read_bytes() == data

    async def go_back(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        assert await read(node, 0, SIZE) == model.data
        two = snapshots.find(node.image, None, "two")
        one = snapshots.find(node.image, "1", None)
        assert two is not None
        assert one is not None
        async with node.drained():
            await snapshots.apply(node.image, two)
        assert await read(node, 0, SIZE) == kept["two"]
        model.data = bytearray(kept["two"])
        await model.play(node, 20)
        async with node.drained():
            await snapshots.delete(node.image, one)
        await model.play(node, 20)
        async with node.drained():
            await snapshots.delete(node.image, two)
        assert snapshots.find(node.image, None, "two") is None
        await model.play(node, 20)
        await graph.release(node)

    with_graph(go_back)
    check_image(path)
    assert [each["name"] for each in listed(path)] == ["three"]
    assert content(path, SIZE) == model.data


def test_snapshots_that_qemu_img_made(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, cluster_size=1024)
    model = Model(2, SIZE)

    async def use(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await model.play(node, 40)
        await graph.release(node)

    with_graph(use)
    qemu_img("snapshot", "-c", "first", path)
    before = bytes(model.data)
    with_graph(use)
    check_image(path)
    assert content(path, SIZE) == model.data
    qemu_img("snapshot", "-a", "first", path)
    assert content(path, SIZE) == before
    qemu_img("snapshot", "-d", "first", path)
    check_image(path)


def test_counts_that_are_too_narrow_leave_all_as_it_was(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, cluster_size=1024, refcount_bits=1)
    model = Model(3, SIZE)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await model.play(node, 40)
        async with node.drained():
            with pytest.raises(OSError, match="Invalid argument"):
                await snapshots.create(node.image, "s", size=SIZE, date_ns=0, vm_clock_ns=0)
        await model.play(node, 40)
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert content(path, SIZE) == model.data


def test_what_clients_are_told(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE)
    narrow = make_image(tmp_path / "narrow.qcow2", SIZE, refcount_bits=1)

    async def refused(work: Any) -> str:
        with pytest.raises(GenericError) as caught:
            await work
        return str(caught.value)

    async def test(graph: Graph, events: list[Any]) -> None:
        file = {"driver": "file", "filename": str(path)}
        node = await opened(graph, driver="qcow2", node_name="q", file=file)
        await opened(graph, driver="null-co", node_name="n")
        assert (await take_snapshot(graph, "q", "s", 5)).id == "1"
        assert await refused(take_snapshot(graph, "q", "s", 5)) == (
            "Snapshot with name 's' already exists on device 'q'"
        )
        assert await refused(take_snapshot(graph, "q", "", 5)) == "Name is empty"
        assert await refused(take_snapshot(graph, "x", "s", 5)) == "Cannot find device='x' nor node-name='x'"
        assert await refused(take_snapshot(graph, node.file.node_name, "s", 5)) == "Need a root block node"
        assert await refused(take_snapshot(graph, "n", "s", 5)) == (
            "Block format 'null-co' used by device 'n' does not support internal snapshots"
        )
        assert await refused(delete_snapshot(graph, "q", None, None)) == "Name or id must be provided"
        assert await refused(delete_snapshot(graph, "q", "7", None)) == (
            "Snapshot with id '7' and name 'null' does not exist on device 'q'"
        )
        assert (await delete_snapshot(graph, "q", "1", "s")).name == "s"
        assert not await node.snapshots()
        file = {"driver": "file", "filename": str(narrow)}
        await opened(graph, driver="qcow2", node_name="narrow", file=file)
        await write(graph.lookup_any("narrow"), 0, b"x")
        assert await refused(take_snapshot(graph, "narrow", "s", 5)) == (
            "Failed to create snapshot 's' on device 'narrow': Invalid argument"
        )

    with_graph(test)
    check_image(path)
    check_image(narrow)
