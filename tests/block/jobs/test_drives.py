"""drive-mirror and drive-backup: copies into files that are made for the purpose, or exist."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from qemud.qapi.runtime.errors import GenericError
from tests.block.jobs.support import MIB, Client, Guest, image, qemu_img, run

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 2 * MIB


async def overlay(client: Client, folder: Path) -> Guest:
    """A disk with a backing file, of which a guest has overwritten a bit."""
    data = image(folder / "base.img", SIZE)
    path = folder / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", folder / "base.img", "-F", "raw", path)
    await client.file("disk", path, "qcow2")
    guest = Guest(client, "disk", data)
    for _ in range(5):
        await guest.write_once()
    return guest


def content(folder: Path, name: str, fmt: str) -> bytes:
    plain = folder / "plain"
    qemu_img("convert", "-f", fmt, "-O", "raw", folder / name, plain)
    return plain.read_bytes()


def info(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(qemu_img("info", "-U", "--output=json", path))
    return result


@pytest.mark.parametrize(
    ("sync", "fmt", "mode"),
    [
        ("full", "qcow2", "absolute-paths"),
        ("full", "qcow2", "existing"),
        ("full", "raw", "absolute-paths"),
        ("full", "raw", "existing"),
        ("top", "qcow2", "absolute-paths"),
        ("top", "qcow2", "existing"),
        ("none", "qcow2", "absolute-paths"),
    ],
)
def test_mirror(tmp_path: Path, sync: str, fmt: str, mode: str) -> None:
    async def test(client: Client) -> None:
        guest = await overlay(client, tmp_path)
        copy = tmp_path / "copy"
        below = {"full": None, "top": "base.img", "none": "disk.qcow2"}[sync]
        if mode == "existing":
            more = (
                [] if below is None else ["-b", below, "-F", "raw" if below == "base.img" else "qcow2", "-u"]
            )
            qemu_img("create", "-q", "-f", fmt, *more, copy, SIZE)
        writing = asyncio.create_task(guest.keep_writing())
        await client(
            "drive-mirror", device="hd0", target=str(copy), format=fmt, sync=sync, mode=mode, node_name="new"
        )
        await client.until("BLOCK_JOB_READY", device="hd0", type="mirror")
        await guest.more()
        await client("job-complete", id="hd0")
        await client.until("BLOCK_JOB_COMPLETED", device="hd0")
        await client.status("hd0", "null")
        node = client.block.nodes["new"]
        assert guest.backend.node is node
        backing = node.backing
        assert (None if backing is None else backing.filename.rpartition("/")[2]) == below
        guest.stopped = True
        await writing
        assert not guest.errors
        assert await guest.read() == guest.disk
        await guest.unplug()
        await client("blockdev-del", node_name="disk")
        assert content(tmp_path, "copy", fmt) == guest.disk
        if fmt == "qcow2":
            qemu_img("check", "-q", copy)
            assert info(copy).get("backing-filename", "").rpartition("/")[2] == (below or "")

    run(test)


@pytest.mark.parametrize(("sync", "fmt"), [("full", "qcow2"), ("full", "raw"), ("top", "qcow2")])
@pytest.mark.parametrize("compress", [False, True])
def test_backup(tmp_path: Path, sync: str, fmt: str, *, compress: bool) -> None:
    async def test(client: Client) -> None:
        guest = await overlay(client, tmp_path)
        copy = tmp_path / "copy"
        arguments = {"device": "hd0", "target": str(copy), "format": fmt, "sync": sync, "compress": compress}
        if compress and fmt == "raw":
            with pytest.raises(GenericError, match="Compression is not supported for this drive "):
                await client("drive-backup", **arguments)
            await guest.unplug()
            return
        before = bytes(guest.disk)
        await client("drive-backup", **arguments)
        for _ in range(20):
            await guest.write_once()
        await client.until("BLOCK_JOB_COMPLETED", device="hd0", type="backup")
        await client.status("hd0", "null")
        assert await guest.read() == guest.disk
        await guest.unplug()
        assert set(client.block.nodes) == {
            "disk",
            "disk-file",
            *(n for n in client.block.nodes if n.startswith("#")),
        }
        await client("blockdev-del", node_name="disk")
        assert content(tmp_path, "copy", fmt) == before
        if fmt == "qcow2":
            qemu_img("check", "-q", copy)
            assert info(copy).get("backing-filename", "").endswith("base.img") == (sync == "top")

    run(test)


@pytest.mark.parametrize("mode", ["absolute-paths", "existing"])
def test_backup_of_what_is_overwritten(tmp_path: Path, mode: str) -> None:
    """The copy has the disk as its backing file while the job goes on, which is below the job, and above the disk."""

    async def test(client: Client) -> None:
        guest = await overlay(client, tmp_path)
        copy = tmp_path / "copy"
        if mode == "existing":
            qemu_img("create", "-q", "-f", "qcow2", copy, SIZE)
        arguments = {"device": "hd0", "target": str(copy), "sync": "none", "mode": mode}
        await client("drive-backup", format="qcow2", **arguments)
        await client.status("hd0", "running")
        for _ in range(20):
            await guest.write_once()
        await client("job-cancel", id="hd0")
        await client.until("BLOCK_JOB_CANCELLED", device="hd0", type="backup")
        await client.status("hd0", "null")
        assert await guest.read() == guest.disk
        (tmp_path / "raw").write_bytes(bytes(SIZE))
        with pytest.raises(
            GenericError, match=r"^Driver 'raw' of node '#block\d+' does not support backing files$"
        ):
            await client(
                "drive-backup",
                device="hd0",
                target=str(tmp_path / "raw"),
                format="raw",
                sync="none",
                mode="existing",
            )
        await guest.unplug()
        await client("blockdev-del", node_name="disk")
        assert content(tmp_path, "disk.qcow2", "qcow2") == guest.disk
        qemu_img("check", "-q", copy)

    run(test)


def test_what_was_backed_up_before_is_not_again(tmp_path: Path) -> None:
    """A full backup and two incremental ones, each above the one before."""

    async def test(client: Client) -> None:
        data = image(tmp_path / "disk.img", SIZE)
        path = tmp_path / "disk.qcow2"
        qemu_img("convert", "-f", "raw", "-O", "qcow2", tmp_path / "disk.img", path)
        await client.file("disk", path, "qcow2")
        guest = Guest(client, "disk", data)
        await client(
            "transaction",
            actions=[
                {
                    "type": "block-dirty-bitmap-add",
                    "data": {"node": "disk", "name": "b0", "persistent": True},
                },
                {
                    "type": "drive-backup",
                    "data": {"device": "hd0", "target": str(tmp_path / "0"), "sync": "full", "job-id": "j"},
                },
            ],
        )
        states = [bytes(guest.disk)]
        for number in range(3):
            if number:
                below = tmp_path / str(number - 1)
                qemu_img("create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", tmp_path / str(number))
                states.append(bytes(guest.disk))
                await client(
                    "drive-backup",
                    device="hd0",
                    target=str(tmp_path / str(number)),
                    format="qcow2",
                    mode="existing",
                    sync="incremental",
                    bitmap="b0",
                    job_id="j",
                )
            for _ in range(4):
                await guest.write_once()
            await client.until("BLOCK_JOB_COMPLETED", device="j")
            await client.status("j", "null")
        await guest.unplug()
        await client("blockdev-del", node_name="disk")
        for number, state in enumerate(states):
            assert content(tmp_path, str(number), "qcow2") == state
        (kept,) = info(path)["format-specific"]["data"]["bitmaps"]
        assert (kept["name"], kept["flags"]) == ("b0", ["auto"])

    run(test)
