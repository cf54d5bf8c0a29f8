"""Images that are not as they must be: errors, and nothing worse."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.graph import Graph
from qemud.block.qcow2 import snapshots
from qemud.qapi.runtime.errors import GenericError
from tests.block.qcow2.tools import MemoryNode, check_image, make_image, open_qcow2, qemu_img
from tests.block.support import opened, read, typed, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 128 << 10
TRIES = 40
MEMORY = 64 << 20


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Images with everything in them."""
    folder = tmp_path_factory.mktemp("images")
    raw = folder / "data.raw"
    raw.write_bytes((random.Random(1).randbytes(3000) + bytes(5000) + b"text" * 1500) * 10)
    made = []
    for compressed, options in (
        (["-c"], "cluster_size=512"),
        (["-c"], "cluster_size=4096,compression_type=zstd,lazy_refcounts=on"),
        ([], "cluster_size=512,compat=0.10"),
        ([], "cluster_size=1024,refcount_bits=64"),
    ):
        path = folder / "disk.qcow2"
        qemu_img("convert", *compressed, "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
        qemu_img("snapshot", "-c", "s0", path)
        if "compat" not in options:
            qemu_img("bitmap", "--add", "-g", "512", path, "b0")
        made.append(path.read_bytes())
    return made


def spoil(rng: random.Random, image: bytes) -> bytes:
    """Change something in the tables or anywhere."""
    data = bytearray(image)
    for _ in range(rng.randrange(1, 4)):
        where = rng.choice((rng.randrange(112), rng.randrange(512), rng.randrange(len(data) - 8)))
        kind = rng.randrange(5)
        if kind == 0:
            data[where] = rng.randrange(256)
        elif kind == 1:
            data[where] ^= 1 << rng.randrange(8)
        elif kind == 2:
            where -= where % 8
            value = rng.choice(
                (0, 1, 1 << 62, (1 << 64) - 1, rng.randrange(len(data)), rng.randrange(1 << 64))
            )
            data[where : where + 8] = struct.pack(">Q", value)
        elif kind == 3:
            # An entry of a table refers to another cluster: perhaps to a table.
            where -= where % 8
            data[where : where + 8] = struct.pack(">Q", rng.randrange(len(data) // 512 + 1) * 512 | 1 << 63)
        else:
            del data[rng.randrange(600, max(601, len(data))) :]
    return bytes(data).ljust(1024, b"\0")


async def use(image: bytes, rng: random.Random) -> bool:
    """Open an image and do everything with it that can be done; whether it could be opened."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    graph = Graph(lambda _name, _data: None)
    disk = MemoryNode(graph, image)
    try:
        node: Any = await graph.open(
            typed(driver="qcow2", file="disk", backing=None, discard="unmap", read_only=rng.random() < 0.2)
        )
    except GenericError as error:
        assert "\n" not in str(error)  # noqa: PT017 - what is raised is one line
        return False
    size = min(node.size, SIZE)
    for _ in range(30):
        if not size:
            break
        offset = rng.randrange(size)
        length = min(rng.choice((1, 512, 5000)), size - offset)
        try:
            kind = rng.randrange(8)
            if kind < 2:
                await read(node, offset, length)
            elif kind < 4:
                await write(node, offset, bytes([kind]) * length)
            elif kind == 4:
                await node.write_zeroes(offset, length, unmap=True)
            elif kind == 5:
                await node.discard(offset, length)
            elif kind == 6:
                await node.block_status(offset, size - offset)
                node.read_now(offset, [memoryview(bytearray(length))])
                node.write_now(offset, [memoryview(bytes(length))])
            else:
                await node.flush()
        except OSError:
            continue
    await node.image_specific()
    await node.snapshots()
    if not node.read_only and not node.image.unusable:
        await _change(node, rng)
    await graph.release(node)
    assert disk.operations < 200_000
    gc.collect(0)
    assert not failures
    return True


async def _change(node: Any, rng: random.Random) -> None:
    try:
        async with node.drained():
            if rng.random() < 0.5:
                await snapshots.create(node.image, "new", size=node.size, date_ns=0, vm_clock_ns=0)
            elif node.image.snapshots:
                await snapshots.delete(node.image, node.image.snapshots[0])
            if rng.random() < 0.5:
                await node.truncate(rng.choice((0, 65536, SIZE * 2)))
    except (GenericError, OSError):
        return


@pytest.mark.parametrize("seed", range(8))
def test_spoiled_images_give_errors_and_nothing_worse(
    images: list[bytes], seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    # Watching memory makes everything much slower.
    watched = seed == 0
    if watched:
        tracemalloc.start()
    try:
        good = 0
        for _ in range(TRIES):
            image = spoil(rng, rng.choice(images))
            good += asyncio.run(asyncio.wait_for(use(image, rng), 20))
            if watched:
                _, peak = tracemalloc.get_traced_memory()
                assert peak < MEMORY
                tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
    assert good > TRIES // 10
    capfd.readouterr()


def _patched(path: Path, *changes: tuple[int, bytes]) -> Path:
    data = bytearray(path.read_bytes())
    for offset, new in changes:
        data[offset : offset + len(new)] = new
    path.write_bytes(data)
    return path


FEATURES = 72
CASES: dict[str, tuple[dict[str, object], list[tuple[int, bytes]]]] = {
    "magic": ({}, [(0, b"QFJ\xfb")]),
    "version": ({}, [(4, b"\0\0\0\7")]),
    "cluster size": ({}, [(20, b"\0\0\0\5")]),
    "header too short": ({}, [(100, b"\0\0\0\x60")]),
    "header too long": ({}, [(100, b"\0\2\0\0")]),
    "backing file offset": ({}, [(8, b"\0\0\0\0\0\2\0\0")]),
    "backing file name": ({}, [(8, b"\0\0\0\0\0\0\1\0"), (16, b"\0\0\x10\0")]),
    "unknown feature": ({}, [(FEATURES, b"\x40\0\0\0\0\0\0\x20")]),
    "a data file without a name": ({}, [(FEATURES + 7, b"\x04")]),
    "a raw data file without one": ({}, [(FEATURES + 23, b"\x02")]),
    "subcluster size": ({}, [(FEATURES + 7, b"\x10"), (20, b"\0\0\0\x0d")]),
    "corrupt": ({}, [(FEATURES + 7, b"\x02")]),
    "count width": ({}, [(96, b"\0\0\0\x07")]),
    "encryption": ({}, [(32, b"\0\0\0\x07")]),
    "no count table": ({}, [(56, b"\0\0\0\0")]),
    "count table too large": ({}, [(56, b"\0\1\0\0")]),
    "count table offset": ({}, [(48, b"\0\0\0\0\0\1\0\1")]),
    "snapshots too many": ({}, [(60, b"\0\x10\0\0")]),
    "snapshots offset": ({}, [(60, b"\0\0\0\1"), (64, b"\0\0\0\0\0\0\0\1")]),
    "L1 too large": ({}, [(36, b"\1\0\0\0")]),
    "L1 offset": ({}, [(40, b"\0\0\0\0\0\0\1\1")]),
    "L1 too small": ({}, [(24, b"\0\0\1\0\0\0\0\0")]),
    "extension too large": ({}, [(112, b"\x11\x22\x33\x44\0\2\0\0")]),
    "compression unknown": ({}, [(104, b"\7")]),
    "compression bit missing": ({}, [(104, b"\1")]),
    "compression bit without reason": ({}, [(FEATURES + 7, b"\x08")]),
    "bitmaps extension": (
        {},
        [(112, b"\x23\x85\x28\x75\0\0\0\x10" + bytes(16) + bytes(8)), (88, b"\0\0\0\0\0\0\0\1")],
    ),
    "no bitmaps": (
        {},
        [(112, b"\x23\x85\x28\x75\0\0\0\x18" + bytes(24) + bytes(8)), (88, b"\0\0\0\0\0\0\0\1")],
    ),
    "backing format": ({}, [(112, b"\xe2\x79\x2a\xca\0\0\0\x20" + b"x" * 32 + bytes(8))]),
    "crypto header": ({}, [(112, b"\x05\x37\xbe\x77\0\0\0\x10" + bytes(16) + bytes(8))]),
}


@pytest.mark.differential
@pytest.mark.parametrize("name", CASES)
def test_refusals_are_those_of_qemu(tmp_path: Path, name: str) -> None:
    options, changes = CASES[name]
    path = _patched(make_image(tmp_path / "disk.qcow2", 1 << 20, **options), *changes)
    import subprocess

    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "read 0 512", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    expected = done.stderr.splitlines()[0].partition(f"{path}: ")[2]

    async def test(graph: Graph, events: list[Any]) -> None:
        with pytest.raises(GenericError) as caught:
            await open_qcow2(graph, path)
        assert str(caught.value) == expected

    with_graph(test)


def test_a_table_that_is_nowhere_makes_the_image_corrupt(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_image(tmp_path / "disk.qcow2", 1 << 20)
    l1 = int.from_bytes(path.read_bytes()[40:48], "big")
    _patched(path, (l1, b"\x80\0\0\0\0\5\2\0"))

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await opened(
            graph, driver="qcow2", node_name="n", file={"driver": "file", "filename": str(path)}
        )
        with pytest.raises(OSError, match="Input/output error"):
            await read(node, 0, 512)
        assert events == [
            (
                "BLOCK_IMAGE_CORRUPTED",
                {
                    "device": "",
                    "node-name": "n",
                    "msg": "L2 table offset 0x50200 unaligned (L1 index: 0)",
                    "fatal": True,
                },
            )
        ]
        with pytest.raises(OSError, match="No medium found"):
            await read(node, 0, 512)

    with_graph(test)
    assert "qcow2: Marking image as corrupt: L2 table offset 0x50200 unaligned" in capfd.readouterr().err
    assert path.read_bytes()[FEATURES + 7] & 2

    async def again(graph: Graph, events: list[Any]) -> None:
        with pytest.raises(GenericError, match="qcow2: Image is corrupt; cannot be opened read/write"):
            await open_qcow2(graph, path)
        node = await open_qcow2(graph, path, read_only=True)
        info = await node.image_specific()
        assert info.data.corrupt
        await graph.release(node)

    with_graph(again)


@pytest.mark.parametrize(("place", "what"), [(0x10000, "refcount table"), (0x20000, "refcount block")])
def test_data_does_not_go_over_tables(
    tmp_path: Path, place: int, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_image(tmp_path / "disk.qcow2", 1 << 20)

    async def prepare(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await write(node, 0, b"x" * 65536)
        await graph.release(node)

    with_graph(prepare)
    data = path.read_bytes()
    l1 = int.from_bytes(data[40:48], "big")
    l2 = int.from_bytes(data[l1 : l1 + 8], "big") & ~(1 << 63)
    _patched(path, (l2, struct.pack(">Q", place | 1 << 63)))

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        with pytest.raises(OSError, match="Input/output error"):
            await write(node, 512, b"y" * 512)
        assert events[0][1] is not None
        assert events[0][1]["msg"] == f"Preventing invalid write on metadata (overlaps with {what})"
        assert (events[0][1]["offset"], events[0][1]["size"]) == (place + 512, 512)
        await graph.release(node)

    with_graph(test)
    assert path.read_bytes()[place + 512 : place + 1024] == data[place + 512 : place + 1024]
    capfd.readouterr()


def test_names_that_are_no_text_stay_as_they_are(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", 1 << 20, cluster_size=4096)
    qemu_img("bitmap", "--add", path, "bitmap-name")
    qemu_img("snapshot", "-c", "snapshot-name", path)
    data = path.read_bytes()
    for name in (b"bitmap-name", b"snapshot-name"):
        assert name in data
        data = data.replace(name, name[:-4] + b"\xff\xfe\xfd\xfc")
    path.write_bytes(data)

    async def test(graph: Graph, events: list[Any]) -> None:
        node = await open_qcow2(graph, path)
        await write(node, 0, b"x")
        assert [each.name for each in await node.snapshots()] == ["snapshot-\ufffd\ufffd\ufffd\ufffd"]
        async with node.drained():
            await snapshots.create(node.image, "other", size=node.size, date_ns=0, vm_clock_ns=0)
        await graph.release(node)

    with_graph(test)
    check_image(path)
    assert b"snapshot-\xff\xfe\xfd\xfc" in path.read_bytes()
    info = json.loads(qemu_img("info", "--output=json", path))
    assert [each["name"] for each in info["snapshots"]][1] == "other"


def test_a_snapshot_with_an_absurd_table_costs_no_memory(tmp_path: Path) -> None:
    path = make_image(tmp_path / "disk.qcow2", 1 << 20, cluster_size=512)
    qemu_img("snapshot", "-c", "s", path)
    data = path.read_bytes()
    table = int.from_bytes(data[64:72], "big")
    _patched(path, (table + 8, b"\xff\xff\xff\xff"))

    async def test(graph: Graph, events: list[Any]) -> None:
        tracemalloc.start()
        node = await open_qcow2(graph, path)
        await write(node, 0, b"x")
        await node.flush()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MEMORY
        with pytest.raises(GenericError, match="Snapshot L1 table too large"):
            await node.delete_snapshot("1", "s")
        await graph.release(node)

    with_graph(test)
