"""Mirrors: the copy is the disk, whatever is written meanwhile, and takes its place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from qemud.qapi.runtime.errors import GenericError
from tests.block.jobs.support import MIB, Client, Guest, disks, qemu_img, run

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 5 * MIB + 512


def test_events_come_in_the_order_that_libvirt_has_recorded(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await disks(client, tmp_path, SIZE)
        guest = Guest(client, "source")
        await client(
            "blockdev-mirror", job_id="j", device="source", target="copy", sync="full", auto_dismiss=False
        )
        assert client.told() == ["created", "running"]
        ready = await client.until("BLOCK_JOB_READY")
        assert ready == {"type": "mirror", "device": "j", "len": SIZE, "offset": SIZE, "speed": 0}
        (info,) = await client("query-block-jobs")
        assert info == {
            "auto-finalize": True,
            "io-status": "ok",
            "device": "j",
            "auto-dismiss": False,
            "busy": False,
            "len": SIZE,
            "offset": SIZE,
            "status": "ready",
            "paused": False,
            "speed": 0,
            "ready": True,
            "type": "mirror",
            "actively-synced": False,
        }
        await client("job-complete", id="j")
        assert client.told() == []
        await client.status("j", "waiting")
        await client.status("j", "pending")
        await client.until("BLOCK_JOB_COMPLETED", device="j", len=SIZE, offset=SIZE)
        assert client.told() == ["concluded"]
        (info,) = await client("query-jobs")
        assert info == {
            "id": "j",
            "type": "mirror",
            "status": "concluded",
            "current-progress": SIZE,
            "total-progress": SIZE,
        }
        await client("job-dismiss", id="j")
        assert client.told() == ["null"]
        assert guest.backend.node is client.block.nodes["copy"]
        await client("blockdev-del", node_name="source")
        await guest.unplug()

    run(test)


@pytest.mark.parametrize("copy_mode", ["background", "write-blocking"])
@pytest.mark.parametrize("discard", ["ignore", "unmap"])
@pytest.mark.parametrize("seed", range(3))
def test_the_copy_is_the_disk_when_the_guest_moves_to_it(
    tmp_path: Path, copy_mode: str, discard: str, seed: int
) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE, discard=discard)
        guest = Guest(client, "source", data, seed)
        writing = asyncio.create_task(guest.keep_writing())
        await client(
            "blockdev-mirror",
            job_id="j",
            device="source",
            target="copy",
            sync="full",
            copy_mode=copy_mode,
            granularity=512 << seed * 3,
            auto_finalize=bool(seed % 2),
        )
        await client.until("BLOCK_JOB_READY")
        await client("job-complete", id="j")
        if not seed % 2:
            await client.until("BLOCK_JOB_PENDING", id="j", type="mirror")
            await client("job-finalize", id="j")
        await client.until("BLOCK_JOB_COMPLETED")
        await client.status("j", "null")
        guest.stopped = True
        await writing
        assert not guest.errors
        assert guest.backend.node is client.block.nodes["copy"]
        assert await guest.read() == guest.disk
        await guest.unplug()
        await client("blockdev-del", node_name="copy")
        assert (tmp_path / "copy.img").read_bytes() == guest.disk

    run(test)


@pytest.mark.parametrize("seed", range(4))
def test_a_mirror_that_is_cancelled_at_any_moment_leaves_the_disk_alone(tmp_path: Path, seed: int) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE)
        guest = Guest(client, "source", data, seed)
        writing = asyncio.create_task(guest.keep_writing())
        for _ in range(8):
            await client("blockdev-mirror", job_id="j", device="source", target="copy", sync="full")
            await asyncio.sleep(guest.random.random() * 0.03)
            if guest.random.random() < 0.5:
                await client("job-cancel", id="j")
            else:
                await client("block-job-cancel", device="j", force=True)
            await client.until("BLOCK_JOB_CANCELLED", device="j", type="mirror")
            await client.status("j", "null")
        guest.stopped = True
        await writing
        assert guest.backend.node is client.block.nodes["source"]
        assert await guest.read() == guest.disk
        assert set(client.block.nodes) == {"source", "source-file", "copy", "copy-file"}
        assert not client.block.nodes["source"].blockers
        await guest.unplug()

    run(test)


def test_a_ready_mirror_that_is_cancelled_without_force_leaves_a_copy_of_that_moment(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE)
        guest = Guest(client, "source", data)
        await client(
            "blockdev-mirror", job_id="j", device="hd0", target="copy", sync="full", filter_node_name="top"
        )
        await client.until("BLOCK_JOB_READY")
        for _ in range(20):
            await guest.write_once()
        copied = bytes(guest.disk)
        await client("block-job-cancel", device="j")
        await client.until("BLOCK_JOB_COMPLETED")
        await client.status("j", "null")
        await guest.write_once()
        assert guest.backend.node is client.block.nodes["source"]
        await guest.unplug()
        await client("blockdev-del", node_name="copy")
        assert (tmp_path / "copy.img").read_bytes() == copied

    run(test)


def test_only_what_is_new_is_copied_with_sync_none(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE)
        guest = Guest(client, "source", data)
        await client(
            "blockdev-mirror", job_id="j", device="hd0", target="copy", sync="none", granularity=4096
        )
        await client.until("BLOCK_JOB_READY", len=0, offset=0)
        await guest.backend.writev(8192, [memoryview(b"x" * 4096)])
        await client("block-job-cancel", device="j")
        await client.until("BLOCK_JOB_COMPLETED", len=4096, offset=4096)
        await client.status("j", "null")
        await guest.unplug()
        await client("blockdev-del", node_name="copy")
        assert (tmp_path / "copy.img").read_bytes() == bytes(8192) + b"x" * 4096 + bytes(SIZE - 12288)

    run(test)


def test_pause_speed_and_resume(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await disks(client, tmp_path, SIZE)
        await client("blockdev-mirror", job_id="j", device="source", target="copy", sync="full", speed=65536)
        await client("job-pause", id="j")
        await client.status("j", "paused")
        with pytest.raises(GenericError, match="Job is already paused"):
            await client("job-pause", id="j")
        with pytest.raises(GenericError, match="The block job for device 'j' is currently paused"):
            await client("block-job-cancel", device="j")
        with pytest.raises(
            GenericError, match="Job 'j' in state 'paused' cannot accept command verb 'complete'"
        ):
            await client("job-complete", id="j")
        (info,) = await client("query-block-jobs")
        assert (info["paused"], info["busy"], info["speed"]) == (True, False, 65536)
        before = info["offset"]
        assert before <= 2 * MIB
        await client("job-resume", id="j")
        assert client.told()[0] == "running"
        with pytest.raises(GenericError, match="Can't resume a job that was not paused"):
            await client("job-resume", id="j")
        with pytest.raises(GenericError, match="Parameter 'speed' expects a non-negative value"):
            await client("block-job-set-speed", device="j", speed=-1)
        await client("block-job-set-speed", device="j", speed=0)
        await client.until("BLOCK_JOB_READY")
        await client("job-pause", id="j")
        await client.status("j", "standby")
        await client("job-cancel", id="j")
        await client.status("j", "ready")
        await client.status("j", "aborting")
        await client.until("BLOCK_JOB_CANCELLED")

    run(test)


def test_what_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await disks(client, tmp_path, SIZE)
        (tmp_path / "small.img").write_bytes(bytes(MIB))
        await client.file("small", tmp_path / "small.img")

        async def refused(text: str, **arguments: object) -> None:
            with pytest.raises(GenericError) as error:
                await client(
                    "blockdev-mirror",
                    **{"job_id": "j", "device": "source", "target": "copy", "sync": "full", **arguments},
                )
            assert str(error.value) == text
            assert client.told() in ([], ["created", "null"])
            assert set(client.block.nodes) == {
                f"{a}{b}" for a in ("source", "copy", "small") for b in ("", "-file")
            }

        await refused("Cannot find device='x' nor node-name='x'", device="x")
        await refused("Need a root block node", device="source-file")
        await refused("Can't mirror node into itself", target="source")
        await refused("Parameter 'granularity' expects a value in range [512B, 64MB]", granularity=256)
        await refused("Parameter 'granularity' expects a power of 2", granularity=768)
        await refused("Invalid parameter 'buf-size'", buf_size=-1)
        await refused("Sync mode 'incremental' not supported", sync="incremental")
        await refused("Failed to find node with node-name='x'", replaces="x")
        await refused(
            "Cannot replace 'copy' by a node mirrored from 'source', because it cannot be guaranteed that doing so would not "
            "lead to an abrupt change of visible data",
            replaces="copy",
        )
        await refused("Invalid job ID '1'", job_id="1")
        await refused("Parameter 'speed' expects a non-negative value", speed=-1)
        await client("blockdev-mirror", job_id="j", device="source", target="copy", sync="full")
        client.told()
        with pytest.raises(GenericError, match="Need a root block node"):
            await client("blockdev-mirror", job_id="k", device="source", target="small", sync="full")
        with pytest.raises(GenericError, match="Node copy is in use"):
            await client("blockdev-del", node_name="copy")
        with pytest.raises(
            GenericError, match="Node 'source' is busy: block device is in use by block job: mirror"
        ):
            await client("blockdev-del", node_name="source")
        await client.until("BLOCK_JOB_READY")
        await client("job-cancel", id="j")
        await client.status("j", "null")
        await client(
            "blockdev-mirror", job_id="j", device="source", target="small", sync="full", auto_dismiss=False
        )
        failed = await client.until("BLOCK_JOB_COMPLETED")
        assert failed["error"] == "Source and target image have different sizes"
        (info,) = await client("query-jobs")
        assert info["error"] == failed["error"]
        await client("job-dismiss", id="j")

    run(test)


def test_copy_mode_can_be_changed_once(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE)
        guest = Guest(client, "source", data)
        await client("blockdev-mirror", job_id="j", device="source", target="copy", sync="full")
        await client.until("BLOCK_JOB_READY")
        change = {"id": "j", "type": "mirror"}
        await client("block-job-change", **change, copy_mode="background")
        await client("block-job-change", **change, copy_mode="write-blocking")
        with pytest.raises(GenericError, match="Change to copy mode 'background' is not implemented"):
            await client("block-job-change", **change, copy_mode="background")
        for _ in range(30):
            await guest.write_once()
        # Nothing is left to do, so that what is written is in both.
        await client("job-pause", id="j")
        await client.status("j", "standby")
        await client("job-resume", id="j")
        await client("job-complete", id="j")
        await client.status("j", "null")
        await guest.unplug()
        await client("blockdev-del", node_name="source")
        await client("blockdev-del", node_name="copy")
        assert "Images are identical" in qemu_img(
            "compare", "-f", "raw", "-F", "raw", tmp_path / "source.img", tmp_path / "copy.img"
        )

    run(test)
