"""Images whose clusters have parts (extended L2 entries), against a model, and against what QEMU makes of the same."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.graph import Graph
from tests.block.qcow2.test_data_file import do_both, image_with_data, mapped, qemu_io
from tests.block.qcow2.test_images import Model
from tests.block.qcow2.test_power_cut import Load
from tests.block.qcow2.tools import MemoryNode, check_image, content, make_image, open_qcow2, qemu_img
from tests.block.support import read, typed, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

CLUSTER = 16384
PART = CLUSTER // 32
SIZE = 48 * CLUSTER
EXTENDED: dict[str, object] = {"extended_l2": "on", "cluster_size": CLUSTER}


def overlay(path: Path, base: Path, **options: object) -> Path:
    """An image made by qemu-img, above a raw file."""
    text = ",".join(f"{name}={value}" for name, value in {**EXTENDED, **options}.items())
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "-o", text, path)
    return path


@pytest.mark.parametrize("kind", ["plain", "overlay", "data file", "raw data file", "compressed"])
@pytest.mark.parametrize("seed", range(4))
def test_tables_are_those_that_qemu_makes(tmp_path: Path, kind: str, seed: int) -> None:
    rng = random.Random(seed)
    base = tmp_path / "base.raw"
    base.write_bytes(rng.randbytes(SIZE))
    images = []
    for name in ("ours", "theirs"):
        path = tmp_path / f"{name}.qcow2"
        if kind == "plain":
            make_image(path, SIZE, **EXTENDED)
        elif kind == "overlay":
            overlay(path, base, preallocation="metadata" if seed == 3 else "off")
        elif kind == "compressed":
            options = ",".join(f"{key}={value}" for key, value in EXTENDED.items())
            base.write_bytes(b"pattern" * (SIZE // 7) + bytes(SIZE % 7))
            qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, base, path)
        else:
            raw = {"data_file_raw": "on"} if kind == "raw data file" else {}
            image_with_data(tmp_path, SIZE, name, **EXTENDED, **raw)
        images.append(path)
    ours, theirs = images
    steps = []
    for number in range(40):
        what = rng.choice(("write", "write", "write", "zero", "unmap", "discard"))
        if kind == "compressed" and what in {"zero", "unmap"}:
            what = "write"  # parts of a compressed cluster are no zeroes in QEMU, which writes more than that then
        unit = {"write": 512, "discard": CLUSTER}.get(what, PART)
        offset = rng.randrange(SIZE // unit) * unit
        length = rng.choice((1, 3, 17, 60, 100)) * (1 if what == "discard" else 512)
        steps.append((what, offset, min(-(-length // unit) * unit, SIZE - offset), number + 1))
    do_both(ours, theirs, steps)
    found = [mapped(path) for path in images]
    for each in found:
        for entry in each if kind in {"overlay", "compressed"} else ():
            entry.pop("offset", None)  # clusters are given in another order, and so do runs end elsewhere
    assert joined(found[0]) == joined(found[1])
    if kind == "raw data file":
        assert (tmp_path / "ours.data").read_bytes()[:SIZE] == content(ours, SIZE)


def joined(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What qemu-img has found, where it matters only whether data is there."""
    result: list[dict[str, Any]] = []
    for entry in entries:
        what = {key: entry[key] for key in ("depth", "present", "zero", "data", "compressed")}
        if result and result[-1]["what"] == what:
            result[-1]["length"] += entry["length"]
        else:
            result.append({"what": what, "start": entry["start"], "length": entry["length"]})
    return result


@pytest.mark.parametrize("seed", range(3))
def test_an_overlay_copies_parts(tmp_path: Path, seed: int) -> None:
    base = tmp_path / "base.raw"
    below = random.Random(seed).randbytes(SIZE)
    base.write_bytes(below)
    path = overlay(tmp_path / "disk.qcow2", base)
    model = Model(seed, SIZE, zeroes=below)
    small = {"l2_cache_size": 0, "l2_cache_entry_size": 512} if seed else {}

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path, **small)
        await write(node, 5 * PART + 7, b"x")
        model.data[5 * PART + 7] = ord("x")
        extent = await node.block_status(5 * PART, CLUSTER)
        assert (extent.length, extent.allocated) == (PART, True)
        assert not (await node.block_status(0, CLUSTER)).allocated
        await model.play(node, 200)
        assert await read(node, 0, SIZE) == model.data
        await graph.release(node)
        assert not events

    with_graph(test)
    check_image(path)
    assert content(path, SIZE) == model.data


@pytest.mark.parametrize("seed", range(2))
def test_snapshots_and_compressed_clusters(tmp_path: Path, seed: int) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, **EXTENDED)
    model = Model(seed, SIZE)
    kept: dict[str, bytes] = {}

    async def pack(node: Any) -> None:
        for _ in range(4):
            offset = model.rng.randrange(SIZE // CLUSTER) * CLUSTER
            data = bytes([model.rng.randrange(256)]) * CLUSTER
            model.data[offset : offset + CLUSTER] = data
            await node.write_compressed(offset, [memoryview(data)])

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        for name in ("one", "two", "three"):
            await model.play(node, 30)
            await pack(node)
            await model.play(node, 15)
            async with node.drained():
                await node.take_snapshot(name, 1, 2)
            kept[name] = bytes(model.data)
        await model.play(node, 40)
        async with node.drained():
            await node.delete_snapshot("1", "one")
            await node.apply_snapshot("two")
        model.data = bytearray(kept["two"])
        await model.play(node, 40)
        await node.flush()
        await graph.release(node)
        assert not events

    with_graph(test)
    check_image(path)
    assert content(path, SIZE) == model.data
    for name in ("two", "three"):
        qemu_img("snapshot", "-a", name, path)
        check_image(path)
        assert content(path, SIZE) == kept[name]


@pytest.mark.parametrize("mode", ["off", "metadata", "falloc", "full"])
def test_resizing(tmp_path: Path, mode: str) -> None:
    path = make_image(tmp_path / "disk.qcow2", 1 << 20, **EXTENDED)
    model = Model(4, 1 << 20)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        for size in (1 << 20, 700 * 512 + 512, 3 << 19, 1 << 19, 9 << 17, 40 << 20, 1 << 20):
            await node.truncate(size, preallocation=mode if size > len(model.data) else "off")
            model.data = model.data[:size].ljust(size, b"\0")
            await model.play(node, 20)
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert content(path, len(model.data)) == model.data


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_power_cuts_and_errors(tmp_path: Path, seed: int, fails: bool) -> None:
    rng = random.Random(seed)
    size = 32 * CLUSTER
    path = make_image(tmp_path / "disk.qcow2", size, **EXTENDED, refcount_bits=rng.choice((1, 16)))
    load = Load(rng, size, CLUSTER)
    moments = set(rng.sample(range(1, 500), 16))

    async def work() -> bytes:
        graph = Graph(lambda _name, _data: None)
        disk = MemoryNode(graph, path.read_bytes())

        def happened() -> None:
            if disk.operations in moments and not fails:
                load.cut(disk)

        disk.on_operation = happened
        small = {"l2_cache_size": 0, "l2_cache_entry_size": 512} if rng.random() < 0.5 else {}
        node = await graph.open(typed(driver="qcow2", file="disk", discard="unmap", **small))
        for _ in range(80):
            chance = rng.choice((0, 0, 0.05, 0.3)) if fails else 0
            disk.fails = lambda chance=chance: rng.random() < chance  # type: ignore[misc]
            try:
                await load.step(node)
            except OSError:
                assert fails
        disk.fails = lambda: False
        await node.flush()
        await graph.release(node)
        return bytes(disk.stable)

    load.cuts.append((asyncio.run(work()), load.versions))
    for image, versions in load.cuts:
        path.write_bytes(image)
        check_image(path, leaks=True)
        load.check(content(path, size), versions)


@pytest.mark.parametrize(
    ("entry", "parts", "text"),
    [
        (0, 1, "Invalid cluster entry found (L2 offset: {l2}, L2 index: 0x1)"),
        (None, 1 << 32 | 1, "Invalid cluster entry found (L2 offset: {l2}, L2 index: 0x1)"),
        (1 << 63 | 512, 1, "Cluster allocation offset 0x200 unaligned (L2 offset: {l2}, L2 index: 0x1)"),
        (1 << 63 | 512, 0, "Cluster allocation offset 0x200 unaligned (L2 offset: {l2}, L2 index: 0x1)"),
        (1 << 63, 1, "Invalid cluster entry found (L2 offset: {l2}, L2 index: 0x1)"),
    ],
)
def test_maps_that_make_no_sense(
    tmp_path: Path, entry: int | None, parts: int, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, **EXTENDED)
    qemu_io(path, "write 0 32k")
    image = bytearray(path.read_bytes())
    table = int.from_bytes(image[40:48], "big")
    l2 = int.from_bytes(image[table : table + 8], "big") & ~(1 << 63)
    if entry is not None:
        image[l2 + 16 : l2 + 24] = entry.to_bytes(8, "big")
    image[l2 + 24 : l2 + 32] = parts.to_bytes(8, "big")
    path.write_bytes(image)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await read(node, 0, CLUSTER)
        for _ in range(2):
            with pytest.raises(OSError, match=r"error|medium"):
                await write(node, CLUSTER + 9, b"y")
        assert [data["msg"] for _, data in events] == [text.format(l2=hex(l2))]
        await graph.release(node)

    with_graph(test)
    capfd.readouterr()
