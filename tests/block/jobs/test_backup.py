"""Backups: the copy is the disk as it was when the job began, whatever is written meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from qemud.qapi.runtime.errors import GenericError
from tests.block.jobs.support import MIB, Client, Guest, disks, run

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 5 * MIB + 512
ROUNDED = 5 * MIB + 65536


def test_events_come_in_the_order_that_libvirt_has_recorded(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE)
        guest = Guest(client, "source", data)
        await client(
            "blockdev-backup", job_id="j", device="source", target="copy", sync="full", auto_dismiss=False
        )
        assert client.told() == ["created", "running", "paused", "running"]
        await client.status("j", "waiting")
        await client.status("j", "pending")
        await client.until("BLOCK_JOB_COMPLETED", type="backup", device="j", len=ROUNDED, offset=ROUNDED)
        assert client.told() == ["concluded"]
        await client("job-dismiss", id="j")
        await guest.unplug()
        await client("blockdev-del", node_name="copy")
        assert (tmp_path / "copy.img").read_bytes() == data

    run(test)


@pytest.mark.parametrize("discard", ["ignore", "unmap"])
@pytest.mark.parametrize("seed", range(4))
def test_the_copy_is_the_disk_as_it_was(tmp_path: Path, discard: str, seed: int) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE, discard=discard)
        guest = Guest(client, "source", data, seed)
        writing = [asyncio.create_task(guest.keep_writing()) for _ in range(1)]
        await guest.more()
        guest_before: list[bytes] = []
        node = client.block.nodes["source"]
        async with node.drained():
            for _ in range(10):
                await asyncio.sleep(0)  # what was on its way has arrived: let the guest note it down
            guest_before.append(bytes(guest.disk))
            await client(
                "blockdev-backup",
                job_id="j",
                device="hd0",
                target="copy",
                sync="full",
                auto_finalize=bool(seed % 2),
            )
        if not seed % 2:
            await client.until("BLOCK_JOB_PENDING", id="j", type="backup")
            await client("job-finalize", id="j")
        await client.until("BLOCK_JOB_COMPLETED")
        await client.status("j", "null")
        guest.stopped = True
        await asyncio.gather(*writing)
        assert not guest.errors
        assert await guest.read() == guest.disk
        await guest.unplug()
        await client("blockdev-del", node_name="copy")
        assert (tmp_path / "copy.img").read_bytes() == guest_before[0]

    run(test)


@pytest.mark.parametrize("seed", range(3))
def test_a_backup_that_is_cancelled_at_any_moment_leaves_the_disk_alone(tmp_path: Path, seed: int) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE)
        guest = Guest(client, "source", data, seed)
        writing = asyncio.create_task(guest.keep_writing())
        for _ in range(8):
            await client(
                "blockdev-backup",
                job_id="j",
                device="source",
                target="copy",
                sync="full",
                auto_finalize=False,
            )
            await asyncio.sleep(guest.random.random() * 0.03)
            await client("job-cancel", id="j")
            await client.until("BLOCK_JOB_CANCELLED", device="j", type="backup")
            await client.status("j", "null")
        guest.stopped = True
        await writing
        assert await guest.read() == guest.disk
        assert set(client.block.nodes) == {"source", "source-file", "copy", "copy-file"}
        assert not client.block.nodes["source"].blockers
        assert not client.block.nodes["copy"].parents
        await guest.unplug()

    run(test)


def test_with_sync_none_only_what_is_overwritten_is_copied(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE)
        guest = Guest(client, "source", data)
        await client("blockdev-backup", job_id="j", device="hd0", target="copy", sync="none")
        await guest.backend.writev(100_000, [memoryview(b"x" * 10)])
        await client("job-cancel", id="j")
        await client.until("BLOCK_JOB_CANCELLED", offset=65536)
        await client.status("j", "null")
        await guest.unplug()
        await client("blockdev-del", node_name="copy")
        expected = bytearray(SIZE)
        expected[65536:131072] = data[65536:131072]
        assert (tmp_path / "copy.img").read_bytes() == expected

    run(test)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("mode", ["on-success", "always", "never"])
def test_a_bitmap_says_what_is_copied_and_records_anew(tmp_path: Path, mode: str, fails: bool) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE)
        guest = Guest(client, "source", data)
        await client("block-dirty-bitmap-add", node="source", name="b0", granularity=65536)
        await guest.backend.writev(65536, [memoryview(b"x" * 65536)])
        await client(
            "blockdev-backup",
            job_id="j",
            device="source",
            target="copy",
            sync="bitmap",
            bitmap="b0",
            bitmap_mode=mode,
            auto_finalize=False,
        )
        await client.until("BLOCK_JOB_PENDING")
        await guest.backend.writev(0, [memoryview(b"y")])
        info = await bitmap(client)
        assert (info["busy"], info["count"], info["recording"]) == (True, 65536, True)
        with pytest.raises(
            GenericError, match="Bitmap 'b0' is currently in use by another operation and cannot be used"
        ):
            await client("block-dirty-bitmap-clear", node="source", name="b0")
        await client("job-cancel" if fails else "job-finalize", id="j")
        await client.status("j", "null")
        info = await bitmap(client)
        forgotten = mode == "always" or (mode == "on-success" and not fails)
        assert (info["busy"], info["count"]) == (False, 65536 if forgotten else 131072)
        await guest.unplug()
        await client("blockdev-del", node_name="copy")
        expected = bytearray(SIZE)
        expected[65536:131072] = b"x" * 65536
        assert (tmp_path / "copy.img").read_bytes() == expected

    run(test)


async def bitmap(client: Client) -> dict[str, Any]:
    nodes = await client("query-named-block-nodes")
    (found,) = (each["dirty-bitmaps"] for each in nodes if each["node-name"] == "source")
    (info,) = found
    return dict(info)


def test_what_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await disks(client, tmp_path, SIZE)
        (tmp_path / "small.img").write_bytes(bytes(MIB))
        await client.file("small", tmp_path / "small.img")
        await client("block-dirty-bitmap-add", node="source", name="b0")

        async def refused(text: str, **arguments: Any) -> None:
            with pytest.raises(GenericError) as error:
                await client(
                    "blockdev-backup",
                    **{"job_id": "j", "device": "source", "target": "copy", "sync": "full", **arguments},
                )
            assert str(error.value) == text
            assert client.told() in ([], ["created", "null"])
            assert set(client.block.nodes) == {
                f"{a}{b}" for a in ("source", "copy", "small") for b in ("", "-file")
            }
            assert not any(node.parents for name, node in client.block.nodes.items() if "-" not in name)
            assert not (await bitmap(client))["busy"]

        await refused("Source and target cannot be the same", target="source")
        await refused("Source and target image have different sizes", target="small")
        await refused("Compression is not supported for this drive ", compress=True)
        await refused("must provide a valid bitmap name for 'incremental' sync mode", sync="incremental")
        await refused("must provide a valid bitmap name for 'bitmap' sync mode", sync="bitmap")
        await refused(
            "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
            sync="incremental",
            bitmap="b0",
            bitmap_mode="never",
        )
        await refused("Bitmap 'b1' could not be found", sync="incremental", bitmap="b1")
        await refused("Bitmap sync mode must be given when providing a bitmap", sync="bitmap", bitmap="b0")
        await refused("Cannot specify bitmap sync mode without a bitmap", bitmap_mode="never")
        await refused(
            "sync mode 'none' does not produce meaningful bitmap outputs",
            sync="none",
            bitmap="b0",
            bitmap_mode="always",
        )
        await refused(
            "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode 'full'",
            bitmap="b0",
            bitmap_mode="never",
        )
        await refused("max-workers must be between 1 and 2147483647", x_perf={"max-workers": 0})
        await refused("max-chunk must be zero (which means no limit) or positive", x_perf={"max-chunk": -1})
        await refused(
            "Required max-chunk (4096) is less than backup cluster size (65536)", x_perf={"max-chunk": 4096}
        )
        await refused("Invalid job ID 'a b'", job_id="a b", bitmap="b0", bitmap_mode="always")

    run(test)
