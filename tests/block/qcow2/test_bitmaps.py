"""Dirty bitmaps that are kept in images, as qemu-img sees them."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.bitmaps import DirtyBitmap, add_bitmap, drop_bitmap
from qemud.qapi.runtime.errors import GenericError
from tests.block.qcow2.tools import check_image, make_image, open_qcow2, qemu_img
from tests.block.support import with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

SIZE = 8 << 20


def listed(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, Any] = json.loads(qemu_img("info", "--output=json", path))
    return {each["name"]: each for each in found["format-specific"]["data"].get("bitmaps", [])}


@pytest.mark.parametrize("cluster", [512, 4096, 65536])
@pytest.mark.parametrize("granularity", [512, 65536])
def test_bitmaps_survive(tmp_path: Path, cluster: int, granularity: int) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, cluster_size=cluster)
    rng = random.Random(cluster + granularity)
    kept: dict[str, set[tuple[int, int]]] = {}

    async def fill(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        for name in ("on", "off", "gone"):
            node.check_new_bitmap(name, granularity)
            bitmap = DirtyBitmap(node.size, granularity, name)
            bitmap.persistent = True
            bitmap.enabled = name == "on"
            add_bitmap(node, bitmap)
        for _ in range(50):
            await write(node, rng.randrange(SIZE - 512), rng.randbytes(512))
        node.dirty_bitmaps["off"].set(4096, 300_000)
        node.dirty_bitmaps["gone"].set(0, SIZE)
        for name, bitmap in node.dirty_bitmaps.items():
            kept[name] = set(bitmap.extents())
        await graph.release(node)

    with_graph(fill)
    check_image(path)
    found = listed(path)
    assert {name: each["flags"] for name, each in found.items()} == {"on": ["auto"], "off": [], "gone": []}
    assert {each["granularity"] for each in found.values()} == {granularity}

    async def again(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        assert {name: set(each.extents()) for name, each in node.dirty_bitmaps.items()} == kept
        assert node.dirty_bitmaps["on"].enabled
        assert not node.dirty_bitmaps["off"].enabled
        info = await node.image_specific()
        assert {each.name: [flag.value for flag in each.flags] for each in info.data.bitmaps} == {
            "on": ["in-use", "auto"],
            "off": ["in-use"],
            "gone": ["in-use"],
        }
        await node.remove_stored_bitmap("gone")
        drop_bitmap(node, node.dirty_bitmaps["gone"])
        await write(node, 1 << 20, b"x")
        kept["on"] = set(node.dirty_bitmaps["on"].extents())
        await graph.release(node)

    with_graph(again)
    check_image(path)
    assert set(listed(path)) == {"on", "off"}

    async def read_only(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path, read_only=True)
        assert node.dirty_bitmaps["on"].read_only
        assert set(node.dirty_bitmaps["on"].extents()) == kept["on"]
        await graph.release(node)

    before = path.read_bytes()
    with_graph(read_only)
    assert path.read_bytes() == before


def test_bitmaps_of_qemu_img(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE)
    qemu_img("bitmap", "--add", "-g", "4096", path, "b0")
    seen: list[tuple[int, int]] = []

    async def use(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await write(node, 12288, b"abc")
        await write(node, 5 << 20, b"abc")
        seen.extend(node.dirty_bitmaps["b0"].extents())
        await graph.release(node)

    with_graph(use)
    assert seen == [(12288, 4096), (5 << 20, 4096)]
    # qemu-img takes it for a good one: it can be merged.
    qemu_img("bitmap", "--add", "-g", "4096", path, "b1")
    qemu_img("bitmap", "--merge", "b0", path, "b1")
    check_image(path)

    async def again(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        assert list(node.dirty_bitmaps["b1"].extents()) == seen
        await graph.release(node)

    with_graph(again)
    check_image(path)


def test_a_bitmap_that_was_not_stored_is_inconsistent(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE)
    qemu_img("bitmap", "--add", path, "b0")
    copy = tmp_path / "copy.qcow2"

    async def killed(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        copy.write_bytes(path.read_bytes())
        await graph.release(node)

    with_graph(killed)
    assert listed(copy)["b0"]["flags"] == ["in-use", "auto"]

    async def again(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, copy)
        bitmap = node.dirty_bitmaps["b0"]
        assert bitmap.inconsistent
        with pytest.raises(GenericError, match="Bitmap 'b0' is inconsistent and cannot be used"):
            await node.truncate(2 * SIZE)
        await graph.release(node)

    with_graph(again)
    assert listed(copy)["b0"]["flags"] == ["in-use", "auto"]
    check_image(copy)


def test_a_resized_image_has_resized_bitmaps(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, cluster_size=512)
    qemu_img("bitmap", "--add", "-g", "512", path, "b0")

    async def grow(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await node.truncate(2 * SIZE)
        await write(node, 2 * SIZE - 512, b"x" * 512)
        await graph.release(node)

    with_graph(grow)
    check_image(path)

    async def again(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        assert (2 * SIZE - 512, 512) in list(node.dirty_bitmaps["b0"].extents())
        await graph.release(node)

    with_graph(again)
    check_image(path)


def test_what_cannot_be_kept(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, compat="0.10")
    new = make_image(tmp_path / "new.qcow2", SIZE)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path, node_name="n")
        with pytest.raises(GenericError) as caught:
            node.check_new_bitmap("b", 65536)
        assert (
            str(caught.value)
            == "Can't make bitmap 'b' persistent in 'n': Cannot store dirty bitmaps in qcow2 v2 files"
        )
        await graph.release(node)
        node = await open_qcow2(graph, new, node_name="n")
        with pytest.raises(GenericError, match="Granularity is under minimum"):
            node.check_new_bitmap("b", 256)
        await graph.release(node)

    with_graph(test)
