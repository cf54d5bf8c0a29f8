"""Random requests to images of every kind against a model; qemu-img checks them, and reads what was written."""

from __future__ import annotations

import asyncio
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.block.qcow2.tools import check_image, content, make_image, open_qcow2, qemu_img
from tests.block.support import read, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

SIZE = 4 << 20

KINDS: list[dict[str, object]] = [
    {},
    {"compat": "0.10"},
    {"cluster_size": 512, "refcount_bits": 1},
    {"cluster_size": 512, "refcount_bits": 64},
    {"cluster_size": 1024, "refcount_bits": 2, "lazy_refcounts": "on"},
    {"cluster_size": 4096, "refcount_bits": 4},
    {"cluster_size": 8192, "refcount_bits": 8},
    {"cluster_size": 65536, "refcount_bits": 32},
    {"cluster_size": 2 << 20},
    {"cluster_size": 4096, "preallocation": "metadata"},
    {"preallocation": "falloc"},
    {"preallocation": "full", "compat": "0.10"},
    {"extended_l2": "on"},
    {"extended_l2": "on", "cluster_size": 16384, "refcount_bits": 1},
    {"extended_l2": "on", "cluster_size": 16384, "preallocation": "metadata", "lazy_refcounts": "on"},
    {"extended_l2": "on", "cluster_size": 32768, "preallocation": "falloc"},
    {"extended_l2": "on", "cluster_size": 2 << 20},
]


class Model:
    """A disk as it should be."""

    def __init__(self, seed: int, size: int, *, zeroes: bytes | None = None) -> None:
        self.rng = random.Random(seed)
        self.data = bytearray(zeroes if zeroes is not None else bytes(size))

    async def play(self, node: Any, steps: int) -> None:
        """Do some things to the disk, one after the other."""
        size = len(self.data)
        for _ in range(steps):
            rng = self.rng
            length = rng.choice((512, rng.randrange(1, 5000), rng.randrange(1, 200_000)))
            offset = rng.randrange(size)
            length = min(length, size - offset)
            if rng.random() < 0.5:
                offset, length = offset // 512 * 512, max(512, length // 512 * 512)
                length = min(length, size - offset)
            await self.step(node, rng.choice("wwwwzzdrrrfs"), offset, length)

    async def step(self, node: Any, kind: str, offset: int, length: int) -> None:
        data = self.data
        if kind == "w":
            new = self.rng.randbytes(length)
            data[offset : offset + length] = new
            half = memoryview(new)[: length // 2], memoryview(new)[length // 2 :]
            await node.writev(offset, [part for part in half if len(part)])
        elif kind == "z":
            data[offset : offset + length] = bytes(length)
            await node.write_zeroes(offset, length, unmap=self.rng.random() < 0.5)
        elif kind == "d":
            unit = node.discard_alignment
            start, end = -(-offset // unit) * unit, (offset + length) // unit * unit
            if start < end and (node.image.header.version > 2 or node.backing is None):
                data[start:end] = bytes(end - start)
            await node.discard(offset, length)
        elif kind == "f":
            await node.flush()
        elif kind == "s":
            await self.check_status(node, offset, length)
        else:
            assert await read(node, offset, length) == data[offset : offset + length]
            now = bytearray(length)
            if node.read_now(offset, [memoryview(now)]):
                assert now == data[offset : offset + length]

    async def check_status(self, node: Any, offset: int, length: int) -> None:
        extent = await node.block_status(offset, length)
        assert 0 < extent.length <= length
        if extent.zero:
            assert not any(self.data[offset : offset + extent.length])
        if extent.map_offset is not None and extent.data:
            place = await read(extent.file, extent.map_offset, extent.length)
            assert place == self.data[offset : offset + extent.length]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_requests_are_what_qemu_img_reads(tmp_path: Path, kind: dict[str, object], seed: int) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, **kind)
    model = Model(seed, SIZE)
    small = {"l2_cache_size": 0, "l2_cache_entry_size": 512} if seed else {}

    async def test(graph: Graph, events: list[Any]) -> None:
        for _ in range(2):
            node = await open_qcow2(graph, path, **small)
            await model.play(node, 60)
            await graph.release(node)
        assert not events

    with_graph(test)
    check_image(path)
    assert content(path, SIZE) == model.data


@pytest.mark.parametrize("version", ["0.10", "1.1"])
@pytest.mark.parametrize("backing_size", [SIZE // 2 + 512, SIZE, SIZE * 2])
def test_overlays_keep_what_is_below(tmp_path: Path, version: str, backing_size: int) -> None:
    base = make_image(tmp_path / "base.qcow2", backing_size, cluster_size=4096)
    below = Model(1, backing_size)

    async def fill(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, base)
        await below.play(node, 60)
        await graph.release(node)

    with_graph(fill)
    path = tmp_path / "disk.qcow2"
    qemu_img(
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        "-o",
        f"compat={version}",
        path,
        SIZE,
    )
    model = Model(2, SIZE, zeroes=bytes(below.data[:SIZE].ljust(SIZE, b"\0")))

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        assert node.backing.read_only
        assert node.backing.filename == str(base)
        await model.play(node, 100)
        await graph.release(node)

    before = base.read_bytes()
    with_graph(test)
    assert base.read_bytes() == before
    check_image(path)
    assert content(path, SIZE) == model.data


@pytest.mark.parametrize("method", ["zlib", "zstd"])
def test_compressed_clusters(tmp_path: Path, method: str) -> None:
    rng = random.Random(5)
    parts = [rng.choice((bytes(5000), rng.randbytes(3000), b"qemud" * 900)) for _ in range(400)]
    data = b"".join(parts)[: SIZE // 4].ljust(SIZE // 4, b"\1")
    raw = tmp_path / "disk.raw"
    raw.write_bytes(data)
    path = tmp_path / "disk.qcow2"
    qemu_img(
        "convert",
        "-c",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-o",
        f"compression_type={method},cluster_size=16k",
        raw,
        path,
    )
    model = Model(6, len(data), zeroes=data)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        assert await read(node, 0, len(data)) == data
        await model.play(node, 100)
        # The same again, compressed by us.
        for offset in range(0, len(data), 16384):
            if model.rng.random() < 0.6:
                new = model.rng.choice((b"again " * 3000, model.rng.randbytes(20000), bytes(16384)))[:16384]
                new = new[: len(data) - offset]
                model.data[offset : offset + len(new)] = new
                await node.write_compressed(offset, [memoryview(new)])
        await model.play(node, 50)
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert content(path, len(data)) == model.data


@pytest.mark.parametrize(
    ("options", "size", "piece", "count"),
    [
        ({"cluster_size": 4096}, SIZE, 1024, 2000),
        ({"extended_l2": "on", "cluster_size": 16384}, 48 * 16384, 256, 2400),
    ],
    ids=["clusters", "parts of clusters"],
)
def test_requests_at_the_same_time(
    tmp_path: Path, options: dict[str, object], size: int, piece: int, count: int
) -> None:
    path = make_image(tmp_path / "disk.qcow2", size, **options)
    rng = random.Random(3)
    blocks = list(range(0, size, piece))
    rng.shuffle(blocks)
    expected = bytearray(size)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)

        async def one(offset: int) -> None:
            data = rng.randbytes(piece)
            expected[offset : offset + piece] = data
            await write(node, offset, data)
            if rng.random() < 0.1:
                await node.flush()
            assert await read(node, offset, piece) == data

        for start in range(0, count, 64):
            await asyncio.gather(*(one(offset) for offset in blocks[start : start + 64]))
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert content(path, size) == expected


def test_qemu_io_and_we_take_turns(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", SIZE, cluster_size=1024)
    model = Model(9, SIZE)

    async def test(graph: Graph, events: list[Any]) -> None:
        for turn in range(4):
            node = await open_qcow2(graph, path)
            await model.play(node, 30)
            await graph.release(node)
            offset = model.rng.randrange(SIZE // 512 - 64) * 512
            subprocess.run(
                [
                    "qemu-io", "-f", "qcow2", "-c", f"write -P {turn + 1} {offset} 32256", "-c", f"discard {offset} 1024", str(path),
                ],
                check=True,
                capture_output=True,
            )  # fmt: skip
            model.data[offset : offset + 32256] = bytes([turn + 1]) * 32256
            start, end = -(-offset // 1024) * 1024, (offset + 1024) // 1024 * 1024
            if start < end:
                model.data[start:end] = bytes(end - start)
        node = await open_qcow2(graph, path)
        assert await read(node, 0, SIZE) == model.data
        await graph.release(node)

    with_graph(test)
    check_image(path)


@pytest.mark.parametrize("mode", ["off", "metadata", "falloc", "full"])
@pytest.mark.parametrize("version", ["0.10", "1.1"])
def test_resizing(tmp_path: Path, mode: str, version: str) -> None:
    path = make_image(tmp_path / "disk.qcow2", 1 << 20, cluster_size=1024, compat=version)
    model = Model(4, 1 << 20)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        for size in (1 << 20, 700 * 512 + 512, 3 << 19, 1 << 19, 9 << 17):
            await node.truncate(size, preallocation=mode if size > len(model.data) else "off")
            model.data = model.data[:size].ljust(size, b"\0")
            await model.play(node, 20)
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert content(path, len(model.data)) == model.data


def test_a_larger_disk_does_not_show_a_backing_file_that_is_longer(tmp_path: Path) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(b"\x55" * (1 << 20))
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path, 100 * 512)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await node.truncate(1 << 20)
        assert await read(node, 0, 1 << 20) == (b"\x55" * (100 * 512)).ljust(1 << 20, b"\0")
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert content(path, 1 << 20) == (b"\x55" * (100 * 512)).ljust(1 << 20, b"\0")
