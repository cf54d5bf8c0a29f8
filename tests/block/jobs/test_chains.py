"""Stream and commit: the guest sees the same, and what is not needed any more can go."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.jobs.chain import chain as chain_of
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError
from tests.block.jobs.support import MIB, Client, Guest, image, qemu_img, run

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 4 * MIB
UNIT = 64 << 10
LAYERS = ("base", "low", "mid", "top")


async def chain(client: Client, folder: Path) -> bytes:
    """Images base (raw) to top, each with some data of its own; what a guest sees of the top."""
    data = bytearray(image(folder / "base.img", SIZE - UNIT).ljust(SIZE, b"\0"))
    chance = random.Random(5)
    below, fmt = folder / "base.img", "raw"
    for name in LAYERS[1:]:
        path = folder / f"{name}.img"
        qemu_img("create", "-q", "-f", "qcow2", "-b", below, "-F", fmt, path, SIZE)
        await client.file("writer", path, "qcow2")
        guest = Guest(client, "writer", bytes(data))
        for _ in range(8):
            start = chance.randrange(SIZE // UNIT) * UNIT
            piece = chance.randbytes(UNIT) if chance.random() < 0.7 else bytes(UNIT)
            await guest.backend.writev(start, [memoryview(piece)])
            data[start : start + UNIT] = piece
        await guest.unplug()
        await client("blockdev-del", node_name="writer")
        below, fmt = path, "qcow2"
    await client.file("base", folder / "base.img", auto_read_only=True, read_only=False)
    for low, name in itertools.pairwise(LAYERS):
        await client.file(name, folder / f"{name}.img", "qcow2", backing=low)
    return bytes(data)


def info(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(qemu_img("info", "--output=json", path))
    return result


def check(folder: Path, name: str, data: bytes) -> None:
    """An image is sound and has this content."""
    path = folder / f"{name}.img"
    if name != "base":
        qemu_img("check", "-q", path)
    plain = folder / "plain.img"
    plain.write_bytes(data)
    assert "Images are identical" in qemu_img(
        "compare", "-f", "raw" if name == "base" else "qcow2", "-F", "raw", path, plain
    )


async def finish(client: Client, guest: Guest, writing: asyncio.Task[None]) -> None:
    guest.stopped = True
    await writing
    assert not guest.errors
    assert await guest.read() == guest.disk
    await guest.unplug()


@pytest.mark.parametrize(
    ("arguments", "left", "backing"),
    [
        ({}, ["top"], None),
        ({"base_node": "base"}, ["top", "base"], "base"),
        ({"base_node": "low", "backing_file": "renamed"}, ["top", "low", "base"], "renamed"),
        ({"bottom": "mid"}, ["top", "low", "base"], "low"),
        ({"base_node": "mid"}, ["top", "mid", "low", "base"], "mid"),
        ({"bottom": "low", "speed": 8 * MIB}, ["top", "base"], "base"),
    ],
)
def test_stream(tmp_path: Path, arguments: dict[str, Any], left: list[str], backing: str | None) -> None:
    async def test(client: Client) -> None:
        data = await chain(client, tmp_path)
        guest = Guest(client, "top", data)
        writing = asyncio.create_task(guest.keep_writing())
        await client("block-stream", job_id="j", device="top", auto_dismiss=False, **arguments)
        assert client.told() == ["created", "running"]
        await client.status("j", "waiting")
        await client.status("j", "pending")
        done = await client.until("BLOCK_JOB_COMPLETED", type="stream", device="j")
        size = 0 if arguments.get("base_node") == "mid" else SIZE
        assert (done["len"], done["offset"]) == (size, size)
        assert "error" not in done
        await client("job-dismiss", id="j")
        names = [node.node_name for node in chain_of(client.block.nodes["top"])]
        assert names == left
        await finish(client, guest, writing)
        for name in reversed(LAYERS):
            await client("blockdev-del", node_name=name)
        told = info(tmp_path / "top.img").get("backing-filename")
        assert told == (
            None if backing is None else backing if backing == "renamed" else str(tmp_path / f"{backing}.img")
        )
        if backing == "renamed":
            (tmp_path / "renamed").symlink_to(tmp_path / "low.img")
        check(tmp_path, "top", bytes(guest.disk))

    run(test)


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_can_be_cancelled_at_any_moment(tmp_path: Path, seed: int) -> None:
    async def test(client: Client) -> None:
        data = await chain(client, tmp_path)
        guest = Guest(client, "top", data, seed)
        writing = asyncio.create_task(guest.keep_writing())
        for _ in range(4):
            await client("block-stream", job_id="j", device="top", speed=MIB // 2)
            await asyncio.sleep(guest.random.random() * 0.05)
            try:
                await client("job-cancel", id="j")
            except GenericError:
                # The guest had written everything itself by then.
                await client.until("BLOCK_JOB_COMPLETED", type="stream")
            else:
                await client.until("BLOCK_JOB_CANCELLED", type="stream")
            await client.status("j", "null")
        await finish(client, guest, writing)
        assert not client.block.nodes["mid"].blockers
        for name in reversed(LAYERS):
            await client("blockdev-del", node_name=name)
        check(tmp_path, "top", bytes(guest.disk))

    run(test)


@pytest.mark.parametrize(("top", "base"), [("mid", "base"), ("mid", "low"), ("low", "base")])
def test_commit_of_images_that_nobody_writes_to(tmp_path: Path, top: str, base: str) -> None:
    async def test(client: Client) -> None:
        data = await chain(client, tmp_path)
        guest = Guest(client, "top", data)
        writing = asyncio.create_task(guest.keep_writing())
        await client(
            "block-commit", job_id="j", device="top", top_node=top, base_node=base, filter_node_name="filter"
        )
        assert "filter" in client.block.nodes
        assert client.told() == ["created", "running"]
        done = await client.until("BLOCK_JOB_COMPLETED", type="commit", device="j", len=SIZE, offset=SIZE)
        assert "error" not in done
        await client.status("j", "null")
        over = LAYERS[LAYERS.index(top) + 1]
        below = client.block.nodes[over].backing
        assert below is client.block.nodes[base]
        assert "filter" not in client.block.nodes
        await finish(client, guest, writing)
        for name in reversed(LAYERS):
            await client("blockdev-del", node_name=name)
        assert info(tmp_path / f"{over}.img")["backing-filename"] == str(tmp_path / f"{base}.img")
        check(tmp_path, "top", bytes(guest.disk))

    run(test)


@pytest.mark.parametrize("base", ["base", "low", "mid"])
@pytest.mark.parametrize("cancel", ["", "soft", "force"])
def test_commit_of_the_image_that_the_guest_writes_to(tmp_path: Path, base: str, cancel: str) -> None:
    async def test(client: Client) -> None:
        data = await chain(client, tmp_path)
        guest = Guest(client, "top", data)
        writing = asyncio.create_task(guest.keep_writing())
        await client("block-commit", job_id="j", device="hd0", base_node=base)
        await client.until("BLOCK_JOB_READY", type="commit", device="j")
        assert not client.block.nodes[base].read_only
        await guest.more(20)
        if cancel:
            await client("block-job-cancel", device="j", force=cancel == "force")
            await client.until("BLOCK_JOB_CANCELLED" if cancel == "force" else "BLOCK_JOB_COMPLETED")
            await client.status("j", "null")
            assert guest.backend.node is client.block.nodes["top"]
        else:
            await client("job-complete", id="j")
            await client.until("BLOCK_JOB_COMPLETED", type="commit")
            await client.status("j", "null")
            assert guest.backend.node is client.block.nodes[base]
        await finish(client, guest, writing)
        for name in reversed(LAYERS):
            await client("blockdev-del", node_name=name)
        check(tmp_path, "top" if cancel else base, bytes(guest.disk))

    run(test)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await chain(client, tmp_path)
        guest = Guest(client, "top")
        nodes = set(client.block.nodes)

        async def refused(text: str, command: str, **arguments: Any) -> None:
            with pytest.raises(GenericError) as error:
                await client(command, **{"job_id": "j", "device": "top", **arguments})
            assert str(error.value) == text
            assert client.told() in ([], ["created", "null"])
            assert set(client.block.nodes) == nodes

        both = "'base' and 'base-node' cannot be specified at the same time"
        await refused(both, "block-stream", base="x", base_node="low")
        await refused(
            "'base' and 'bottom' cannot be specified at the same time", "block-stream", base="x", bottom="y"
        )
        await refused(
            "'bottom' and 'base-node' cannot be specified at the same time",
            "block-stream",
            bottom="x",
            base_node="y",
        )
        await refused("Can't find 'x' in the backing chain", "block-stream", base="x")
        await refused("Node 'top' is not a backing image of 'top'", "block-stream", base_node="top")
        await refused(
            "backing file specified, but streaming the entire chain", "block-stream", backing_file="x"
        )
        await refused(
            "Node 'top-file' is not in a chain starting from 'top'", "block-stream", bottom="top-file"
        )
        await refused("'top-node' and 'top' are mutually exclusive", "block-commit", top="x", top_node="y")
        await refused(
            "'base-node' and 'base' are mutually exclusive", "block-commit", base="x", base_node="y"
        )
        await refused("'top-file' is not in this backing file chain", "block-commit", top_node="top-file")
        await refused("Top image file x not found", "block-commit", top="x")
        await refused("cannot commit an image into itself", "block-commit", top_node="low", base_node="low")
        await refused(
            "'backing-file' specified, but 'top' is the active layer", "block-commit", backing_file="x"
        )
        await refused("Need a root block node", "block-commit", device="mid")
        with pytest.raises(DeviceNotFound, match="Device 'x' not found"):
            await client("block-commit", device="x")
        await client("block-stream", job_id="j", device="top", speed=1)
        with pytest.raises(
            GenericError, match="Node 'hd0' is busy: block device is in use by block job: stream"
        ):
            await client("block-commit", job_id="k", device="hd0", top_node="mid", base_node="low")
        await client("job-cancel", id="j")
        await guest.unplug()

    run(test)
