"""Data files of images at work: power cuts, errors of the files below, jobs."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from qemud.block.graph import Graph
from tests.block.jobs.support import Client, Guest, run
from tests.block.qcow2.test_data_file import image_with_data
from tests.block.qcow2.test_power_cut import Load
from tests.block.qcow2.tools import MemoryNode, check_image, content, qemu_img
from tests.block.support import read, typed

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 1 << 20


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_leaves_no_errors_and_what_was_flushed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    cluster = rng.choice((512, 1024, 4096))
    size = 1 << 19
    raw = seed % 2 == 1
    path, data = image_with_data(tmp_path, size, cluster_size=cluster, data_file_raw="on" if raw else "off")
    load = Load(rng, size, cluster)
    moments = set(rng.sample(range(1, 600), 16))
    pairs: list[tuple[bytes, bytes]] = []

    async def work() -> None:
        graph = Graph(lambda _name, _data: None)
        disks = [MemoryNode(graph, path.read_bytes()), MemoryNode(graph, data.read_bytes(), "data")]

        def happened() -> None:
            if sum(each.operations for each in disks) in moments:
                load.cut(disks[0])
                pairs.append((load.cuts[-1][0], disks[1].after_power_cut(rng)))

        for disk in disks:
            disk.on_operation = happened
        small = {"l2_cache_size": 0, "l2_cache_entry_size": 512} if rng.random() < 0.5 else {}
        node = await graph.open(
            typed(driver="qcow2", file="disk", data_file="data", discard="unmap", **small)
        )
        for _ in range(60):
            await load.step(node)
        await graph.release(node)

    asyncio.run(work())
    assert pairs
    for (image, other), (_, versions) in zip(pairs, load.cuts, strict=True):
        path.write_bytes(image)
        data.write_bytes(other)
        check_image(path, leaks=True)
        load.check(content(path, size), versions)


@pytest.mark.parametrize("seed", range(4))
def test_errors_of_the_files_below_spoil_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(200 + seed)
    cluster = rng.choice((512, 1024, 4096))
    size = 1 << 19
    path, data = image_with_data(tmp_path, size, cluster_size=cluster)
    load = Load(rng, size, cluster)
    failed = 0

    async def work() -> None:
        nonlocal failed
        graph = Graph(lambda _name, _data: None)
        disks = [MemoryNode(graph, path.read_bytes()), MemoryNode(graph, data.read_bytes(), "data")]
        node = await graph.open(typed(driver="qcow2", file="disk", data_file="data", discard="unmap"))
        for _ in range(80):
            for disk in disks:
                chance = rng.choice((0, 0, 0.05, 0.3))
                disk.fails = lambda chance=chance: rng.random() < chance  # type: ignore[misc]
            try:
                await load.step(node)
            except OSError:
                failed += 1
        for disk in disks:
            disk.fails = lambda: False
        await node.flush()
        await graph.release(node)
        path.write_bytes(disks[0].stable)
        data.write_bytes(disks[1].stable)

    asyncio.run(work())
    assert failed > 5
    check_image(path, leaks=True)
    load.check(content(path, size), load.versions)


@pytest.mark.parametrize("extended", ["off", "on"])
@pytest.mark.parametrize("job", ["blockdev-mirror", "blockdev-backup"])
def test_jobs_copy_onto_it(tmp_path: Path, job: str, extended: str) -> None:
    source, _ = image_with_data(tmp_path, SIZE, "source", extended_l2=extended)
    copy, raw = image_with_data(tmp_path, SIZE, "copy", data_file_raw="on", cluster_size=4096)

    async def test(client: Client) -> None:
        await client.file("source", source, "qcow2", discard="unmap")
        await client.file("copy", copy, "qcow2", discard="unmap")
        guest = Guest(client, "source")
        for _ in range(60):
            await guest.write_once()
        before = bytes(guest.disk)
        await client(job, job_id="j", device="source", target="copy", sync="full")
        if job == "blockdev-mirror":
            await client.until("BLOCK_JOB_READY")
            for _ in range(20):
                await guest.write_once()
            before = bytes(guest.disk)
            await client("job-complete", id="j")
        await client.until("BLOCK_JOB_COMPLETED", device="j")
        await guest.backend.close()
        for each in client.block.nodes["copy"], client.block.nodes["source"]:
            await each.flush()
        assert raw.read_bytes()[:SIZE] == before

    run(test)
    check_image(source)
    check_image(copy)
    assert content(copy, SIZE) == raw.read_bytes()[:SIZE]


@pytest.mark.parametrize("extended", ["off", "on"])
@pytest.mark.parametrize("job", ["block-commit", "block-stream"])
def test_chains_with_data_files(tmp_path: Path, job: str, extended: str) -> None:
    base, base_data = image_with_data(tmp_path, SIZE, "base", cluster_size=4096, data_file_raw="on")
    top, top_data = tmp_path / "top.qcow2", tmp_path / "top.data"
    qemu_img(
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        base,
        "-F",
        "qcow2",
        "-o",
        f"data_file={top_data},extended_l2={extended}",
        top,
    )

    async def test(client: Client) -> None:
        await client.file("base", base, "qcow2")
        guest = Guest(client, "base")
        for _ in range(40):
            await guest.write_once()
        below = bytes(guest.disk)
        await guest.backend.close()
        await client.file("top", top, "qcow2", backing="base")
        guest = Guest(client, "top", below, seed=1)
        for _ in range(40):
            await guest.write_once()
        await client(job, job_id="j", device="top")
        if job == "block-commit":
            await client.until("BLOCK_JOB_READY")
            await client("job-complete", id="j")
        await client.until("BLOCK_JOB_COMPLETED", device="j")
        assert "error" not in (await client("query-block"))
        disk = bytes(guest.disk)
        await guest.backend.flush()
        await guest.backend.close()
        assert (base_data.read_bytes()[:SIZE] == disk) == (job == "block-commit")
        seen = await read(client.block.nodes["base" if job == "block-commit" else "top"], 0, SIZE)
        assert seen == disk

    run(test)
    check_image(base)
    check_image(top)
