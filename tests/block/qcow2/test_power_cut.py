"""The power is cut at any moment: the image has no errors, and what was flushed is there."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.graph import Graph
from tests.block.qcow2.tools import SECTOR, MemoryNode, check_image, content, make_image, open_qcow2
from tests.block.support import typed

if TYPE_CHECKING:
    from pathlib import Path

CUTS = 24
"""Moments in each load."""

Versions = dict[int, list[bytes]]


class Load:
    """Random requests of a guest, and what each sector may hold after a power cut."""

    def __init__(self, rng: random.Random, size: int, cluster: int) -> None:
        self.rng = rng
        self.size = size
        self.cluster = cluster
        self.versions: Versions = {}
        """What a sector may hold, if it was ever written to; the last is what it holds now."""
        self.uncertain: set[int] = set()
        """Sectors whose last write has failed, and may have happened or not."""
        self.cuts: list[tuple[bytes, Versions]] = []

    def cut(self, disk: MemoryNode) -> None:
        """The power might be cut now."""
        state = {sector: list(each) for sector, each in self.versions.items()}
        self.cuts.append((disk.after_power_cut(self.rng), state))

    def note(self, offset: int, data: bytes) -> None:
        """Data is written: from now on it may be there."""
        for start in range(0, len(data), SECTOR):
            sector = (offset + start) // SECTOR
            self.versions.setdefault(sector, [bytes(SECTOR)]).append(data[start : start + SECTOR])

    async def step(self, node: Any) -> None:
        """Some requests at the same time, then perhaps a flush."""
        rng = self.rng
        work = []
        taken: list[tuple[int, int]] = []
        for _ in range(rng.randrange(1, 6)):
            length = rng.choice((SECTOR, rng.randrange(1, 8) * SECTOR, 3 * self.cluster))
            offset = rng.randrange(0, self.size - length) // SECTOR * SECTOR
            # Requests that overlap at the same time may end in any order, sector by sector.
            low, high = offset - offset % self.cluster, offset + length + self.cluster
            if any(start < high and low < end for start, end in taken):
                continue
            taken.append((low, high))
            work.append(self._request(node, offset, length))
        if rng.random() < 0.3:
            work.append(self._flush(node))
        for error in await asyncio.gather(*work, return_exceptions=True):
            if error is not None:
                raise error
        if rng.random() < 0.3:
            await self._flush(node)

    async def _flush(self, node: Any) -> None:
        """What has ended before is stable afterwards."""
        before = {
            sector: len(each) - 1 for sector, each in self.versions.items() if sector not in self.uncertain
        }
        await node.flush()
        for sector, count in before.items():
            del self.versions[sector][:count]

    async def _request(self, node: Any, offset: int, length: int) -> None:
        rng = self.rng
        kind = rng.random()
        start, end = offset, offset + length
        if kind >= 0.85:
            # Only whole clusters are discarded.
            start, end = -(-start // self.cluster) * self.cluster, end // self.cluster * self.cluster
        sectors = range(start // SECTOR, end // SECTOR)
        self.uncertain.update(sectors)
        data = rng.randbytes(length) if kind < 0.7 else bytes(max(0, end - start))
        self.note(start, data)
        if kind < 0.7:
            await node.writev(offset, [memoryview(data)])
        elif kind < 0.85:
            await node.write_zeroes(offset, length, unmap=rng.random() < 0.5)
        else:
            await node.discard(offset, length)
        self.uncertain.difference_update(sectors)

    def check(self, found: bytes, versions: Versions) -> None:
        """A disk after a power cut is one that could be."""
        for sector in range(self.size // SECTOR):
            data = found[sector * SECTOR : (sector + 1) * SECTOR]
            assert data in versions.get(sector, [bytes(SECTOR)]), f"sector {sector}"


async def run_load(image: bytes, load: Load, moments: set[int], **options: Any) -> bytes:
    """Put a load on an image; what is on the disk after it was closed."""
    graph = Graph(lambda _name, _data: None)
    disk = MemoryNode(graph, image)

    def happened() -> None:
        if disk.operations in moments:
            load.cut(disk)

    disk.on_operation = happened
    node = await graph.open(typed(driver="qcow2", file="disk", discard="unmap", **options))
    for _ in range(60):
        await load.step(node)
    await graph.release(node)
    assert not disk.pending or bytes(disk.stable)
    return disk.after_power_cut(random.Random(1)) if disk.pending else bytes(disk.stable)


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_leaves_no_errors_and_what_was_flushed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    cluster = rng.choice((512, 1024, 4096))
    size = 1 << 20  # with small clusters there are many tables then
    path = make_image(
        tmp_path / "disk.qcow2", size, cluster_size=cluster, refcount_bits=rng.choice((1, 8, 16, 64))
    )
    load = Load(rng, size, cluster)
    moments = set(rng.sample(range(1, 900), CUTS))
    # Caches that are too small write tables back in the middle of everything.
    small = {"l2_cache_size": 0, "l2_cache_entry_size": 512} if rng.random() < 0.5 else {}
    asyncio.run(run_load(path.read_bytes(), load, moments, pass_discard_other=rng.random() < 0.5, **small))
    assert load.cuts
    for image, versions in load.cuts:
        path.write_bytes(image)
        check_image(path, leaks=True)
        load.check(content(path, size), versions)


@pytest.mark.parametrize("seed", range(2))
def test_lazy_reference_counts_are_put_right_after_a_power_cut(tmp_path: Path, seed: int) -> None:
    rng = random.Random(100 + seed)
    cluster, size = 1024, 1 << 18
    path = make_image(tmp_path / "disk.qcow2", size, cluster_size=cluster, lazy_refcounts="on")
    load = Load(rng, size, cluster)
    asyncio.run(run_load(path.read_bytes(), load, set(rng.sample(range(1, 700), CUTS))))
    for image, versions in load.cuts:
        path.write_bytes(image)
        asyncio.run(_open_once(path))
        check_image(path)
        load.check(content(path, size), versions)


@pytest.mark.parametrize("seed", range(6))
def test_errors_of_the_file_below_spoil_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(200 + seed)
    cluster = rng.choice((512, 1024, 4096))
    size = 1 << 20
    path = make_image(tmp_path / "disk.qcow2", size, cluster_size=cluster, refcount_bits=rng.choice((1, 16)))
    load = Load(rng, size, cluster)
    failed = 0

    async def run() -> bytes:
        nonlocal failed
        graph = Graph(lambda _name, _data: None)
        disk = MemoryNode(graph, path.read_bytes())
        small = {"l2_cache_size": 0, "l2_cache_entry_size": 512} if rng.random() < 0.5 else {}
        node = await graph.open(typed(driver="qcow2", file="disk", discard="unmap", **small))
        for _ in range(80):
            chance = rng.choice((0, 0, 0.05, 0.3))
            disk.fails = lambda chance=chance: rng.random() < chance  # type: ignore[misc]
            try:
                await load.step(node)
            except OSError:
                failed += 1
        disk.fails = lambda: False
        await node.flush()
        await graph.release(node)
        return bytes(disk.stable)

    path.write_bytes(asyncio.run(run()))
    assert failed > 5
    check_image(path, leaks=True)
    load.check(content(path, size), load.versions)


async def _open_once(path: Path) -> None:
    graph = Graph(lambda _name, _data: None)
    await graph.release(await open_qcow2(graph, path))


@pytest.mark.parametrize("seed", range(2))
def test_tables_that_are_made_while_others_are_written(tmp_path: Path, seed: int) -> None:
    rng = random.Random(300 + seed)
    size = 2 << 20
    path = make_image(tmp_path / "disk.qcow2", size, cluster_size=512, refcount_bits=rng.choice((16, 64)))
    load = Load(rng, size, 512)
    places = [index * 32768 for index in range(size // 32768)]
    rng.shuffle(places)

    async def first(node: Any, place: int) -> None:
        for _ in range(rng.randrange(20)):
            await asyncio.sleep(0)
        data = rng.randbytes(512)
        load.note(place, data)
        await node.writev(place, [memoryview(data)])

    async def run() -> None:
        graph = Graph(lambda _name, _data: None)
        disk = MemoryNode(graph, path.read_bytes())

        def happened() -> None:
            if rng.random() < 0.1:
                load.cut(disk)

        disk.on_operation = happened
        node = await graph.open(typed(driver="qcow2", file="disk"))
        for start in range(0, len(places), 8):
            await asyncio.gather(*(first(node, place) for place in places[start : start + 8]), node.flush())
        await graph.release(node)

    asyncio.run(run())
    for image, versions in load.cuts:
        path.write_bytes(image)
        check_image(path, leaks=True)
        load.check(content(path, size), versions)
