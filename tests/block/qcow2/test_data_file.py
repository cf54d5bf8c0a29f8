"""Images whose data is in a file of its own, against a model, and against what QEMU makes of the same."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.block.qcow2.test_images import Model
from tests.block.qcow2.tools import check_image, content, make_image, open_qcow2, qemu_img
from tests.block.support import read, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

SIZE = (2 << 20) + 3 * 512

KINDS: list[dict[str, object]] = [
    {},
    {"data_file_raw": "on"},
    {"cluster_size": 512, "refcount_bits": 1},
    {"cluster_size": 512, "data_file_raw": "on", "lazy_refcounts": "on"},
    {"cluster_size": 4096, "preallocation": "metadata"},
    {"cluster_size": 1024, "preallocation": "falloc", "data_file_raw": "on"},
    {"cluster_size": 2 << 20, "refcount_bits": 64},
]


def image_with_data(folder: Path, size: int, name: str = "disk", /, **options: object) -> tuple[Path, Path]:
    """An image made by qemu-img, and its data file."""
    data = folder / f"{name}.data"
    return make_image(folder / f"{name}.qcow2", size, data_file=data, **options), data


def qemu_io(path: Path, *commands: str) -> None:
    """Let QEMU do these things to an image."""
    arguments = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", "-d", "unmap", *arguments, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def mapped(path: Path) -> Any:
    """What qemu-img finds where."""
    return json.loads(qemu_img("map", "--output=json", path))


def do_both(ours: Path, theirs: Path, steps: list[tuple[str, int, int, int]]) -> None:
    """Do the same to two images, here and by qemu-io: what, where, how much, and of which byte.  They are equal after that."""
    words = {"zero": "write -z", "unmap": "write -z -u", "discard": "discard"}
    qemu_io(theirs, *(f"{words.get(what, f'write -P {n}')} {at} {length}" for what, at, length, n in steps))

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, ours)
        for what, offset, length, number in steps:
            if what == "write":
                await write(node, offset, bytes([number]) * length)
            elif what == "discard":
                await node.discard(offset, length)
            else:
                await node.write_zeroes(offset, length, unmap=what == "unmap")
        await graph.release(node)

    with_graph(test)
    check_image(ours)
    qemu_img("compare", "-f", "qcow2", "-F", "qcow2", ours, theirs)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_requests_are_what_qemu_img_reads(tmp_path: Path, kind: dict[str, object], seed: int) -> None:
    path, data = image_with_data(tmp_path, SIZE, **kind)
    model = Model(seed, SIZE)
    small = {"l2_cache_size": 0, "l2_cache_entry_size": 512} if seed else {}

    async def test(graph: Graph, events: list[Any]) -> None:
        for _ in range(2):
            node = await open_qcow2(graph, path, pass_discard_request=model.rng.random() < 0.5, **small)
            await model.play(node, 80)
            assert await read(node, 0, SIZE) == model.data
            await graph.release(node)
        assert not events

    with_graph(test)
    check_image(path)
    assert content(path, SIZE) == model.data
    if "data_file_raw" in kind:
        assert data.read_bytes()[:SIZE] == model.data


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_tables_are_those_that_qemu_makes(tmp_path: Path, seed: int, raw: bool) -> None:
    rng = random.Random(seed)
    cluster = rng.choice((512, 4096, 65536))
    size = 32 * cluster
    options = {"cluster_size": cluster, **({"data_file_raw": "on"} if raw else {})}
    ours, our_data = image_with_data(tmp_path, size, "ours", **options)
    theirs, their_data = image_with_data(tmp_path, size, "theirs", **options)
    steps = []
    for number in range(30):
        kind = rng.choice(("write", "write", "zero", "unmap", "discard"))
        unit = 512 if kind == "write" else cluster
        offset = rng.randrange(size // unit) * unit
        steps.append((kind, offset, min(rng.randrange(1, 5) * unit, size - offset), number + 1))
    do_both(ours, theirs, steps)
    assert mapped(ours) == mapped(theirs)
    if raw:
        assert our_data.read_bytes() == their_data.read_bytes() == content(ours, size)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("mode", ["off", "metadata", "falloc", "full"])
def test_resizing(tmp_path: Path, mode: str, raw: bool) -> None:
    options = {"cluster_size": 1024, **({"data_file_raw": "on"} if raw else {})}
    path, data = image_with_data(tmp_path, 1 << 20, **options)
    model = Model(4, 1 << 20)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        for size in (1 << 20, 700 * 512 + 512, 3 << 19, 1 << 19, 9 << 17):
            await node.truncate(size, preallocation=mode if size > len(model.data) else "off")
            model.data = model.data[:size].ljust(size, b"\0")
            assert data.stat().st_size >= size
            await model.play(node, 20)
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert content(path, len(model.data)) == model.data
    if raw:
        assert data.read_bytes()[: len(model.data)] == model.data


@pytest.mark.parametrize("raw", [False, True])
def test_other_sizes_make_what_qemu_makes(tmp_path: Path, raw: bool) -> None:
    options = {"cluster_size": 4096, **({"data_file_raw": "on"} if raw else {})}
    ours, our_data = image_with_data(tmp_path, 1 << 18, "ours", **options)
    theirs, their_data = image_with_data(tmp_path, 1 << 18, "theirs", **options)
    steps = (
        (512 * 1001, "off"),
        (3 << 18, "metadata"),
        (1 << 20, "falloc"),
        (513 * 512, "off"),
        (512, "off"),
    )
    for path in ours, theirs:
        qemu_io(path, "write 0 200k")

    async def test(graph: Graph, events: list[Any]) -> None:
        for size, mode in steps:
            node = await open_qcow2(graph, ours)
            await node.truncate(size, preallocation=mode)
            await graph.release(node)
            qemu_img("resize", "-q", "-f", "qcow2", "--shrink", f"--preallocation={mode}", theirs, size)
            assert our_data.stat().st_size == their_data.stat().st_size
            assert mapped(ours) == mapped(theirs)
            check_image(ours)

    with_graph(test)


def test_an_overlay_with_a_data_file(tmp_path: Path) -> None:
    base = make_image(tmp_path / "base.qcow2", SIZE, cluster_size=4096)
    below = Model(1, SIZE)

    async def fill(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, base)
        await below.play(node, 60)
        await graph.release(node)

    with_graph(fill)
    path = tmp_path / "disk.qcow2"
    data = tmp_path / "disk.data"
    qemu_img(
        "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", "-o", f"data_file={data},cluster_size=2k", path
    )  # fmt: skip
    model = Model(2, SIZE, zeroes=bytes(below.data))

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await model.play(node, 150)
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert content(path, SIZE) == model.data


@pytest.mark.parametrize("raw", [False, True])
def test_requests_at_the_same_time(tmp_path: Path, raw: bool) -> None:
    path, data = image_with_data(
        tmp_path, 1 << 20, cluster_size=4096, **({"data_file_raw": "on"} if raw else {})
    )
    rng = random.Random(3)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)

        async def one() -> None:
            # They overlap: which is the last nobody knows, but both files agree.
            offset = rng.randrange(0, 255) * 4096
            kind = rng.randrange(4)
            if kind < 2:
                await write(node, offset + rng.randrange(8) * 512, rng.randbytes(512))
            elif kind == 2:
                await node.write_zeroes(offset // 16384 * 16384, 16384, unmap=rng.random() < 0.5)
            else:
                await node.discard(offset, 4096)

        for _ in range(40):
            await asyncio.gather(*(one() for _ in range(24)))
        seen = await read(node, 0, 1 << 20)
        await node.flush()
        if raw:
            assert data.read_bytes() == seen
        await graph.release(node)
        assert content(path, 1 << 20) == seen

    with_graph(test)
    check_image(path)
