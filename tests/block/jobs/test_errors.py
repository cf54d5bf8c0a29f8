"""Errors in the source and in the copy: what a job does of them, and what clients are told."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.block.jobs.support import MIB, Client, Guest, disks, image, run

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 3 * MIB


class Fault:
    """Lets requests of one kind fail at a node, from some offset on, until it is mended."""

    def __init__(self, client: Client, node: str, kind: str, number: int, offset: int = MIB) -> None:
        self.node: Any = client.block.nodes[node]
        self.kind = kind
        self.broken = True
        self.count = 0
        original = getattr(self.node, kind)

        async def request(start: int, *arguments: Any, **keywords: Any) -> None:
            if self.broken and start >= offset:
                self.count += 1
                raise OSError(number, os.strerror(number))
            await original(start, *arguments, **keywords)

        setattr(self.node, kind, request)

    def mend(self) -> None:
        self.broken = False


@pytest.mark.parametrize("command", ["blockdev-mirror", "blockdev-backup"])
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(
    "how",
    [
        ("report", errno.EIO, "report"),
        ("stop", errno.EIO, "stop"),
        ("enospc", errno.ENOSPC, "stop"),
        ("enospc", errno.EIO, "report"),
        ("ignore", errno.EIO, "ignore"),
    ],
)
def test_an_error(tmp_path: Path, command: str, side: str, how: tuple[str, int, str]) -> None:
    policy, number, action = how

    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE, density=1.0)
        guest = Guest(client, "source", data)
        reads = side == "source"
        fault = Fault(client, "source" if reads else "copy", "do_readv" if reads else "do_writev", number)
        await client(
            command,
            job_id="j",
            device="source",
            target="copy",
            sync="full",
            auto_dismiss=False,
            **{f"on_{side}_error": policy},
        )
        told = await client.until("BLOCK_JOB_ERROR", device="j")
        assert told == {"device": "j", "operation": "read" if reads else "write", "action": action}
        if action == "report":
            done = await client.until("BLOCK_JOB_COMPLETED")
            assert done["error"] == os.strerror(number)
            (job,) = await client("query-jobs")
            assert (job["status"], job["error"]) == ("concluded", os.strerror(number))
        else:
            if action == "stop":
                await client.status("j", "paused")
                (info,) = await client("query-block-jobs")
                status = "nospace" if number == errno.ENOSPC else "failed"
                assert (info["io-status"], info["paused"], info["status"]) == (status, True, "paused")
            fault.mend()
            if action == "stop":
                await client("job-resume", id="j")
                (info,) = await client("query-block-jobs")
                assert info["io-status"] == "ok"
            if command == "blockdev-mirror":
                await client.until("BLOCK_JOB_READY")
                await client("job-complete", id="j")
            done = await client.until("BLOCK_JOB_COMPLETED")
            assert "error" not in done
            assert await guest.read() == data
            assert (tmp_path / "copy.img").read_bytes() == data
        await client.status("j", "concluded")
        await client("job-dismiss", id="j")
        await guest.unplug()
        assert set(client.block.nodes) == {"source", "source-file", "copy", "copy-file"}

    run(test)


def test_a_mirror_that_fails_while_it_is_ready(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE, density=1.0)
        guest = Guest(client, "source", data)
        for mode in ("background", "write-blocking"):
            await client(
                "blockdev-mirror", job_id="j", device="source", target="copy", sync="full", copy_mode=mode
            )
            await client.until("BLOCK_JOB_READY")
            fault = Fault(client, "copy", "do_writev", errno.EIO, 0)
            await guest.backend.writev(0, [memoryview(b"x" * 512)])
            await client.until("BLOCK_JOB_ERROR", operation="write", action="report")
            done = await client.until("BLOCK_JOB_COMPLETED")
            assert done["error"] == "Input/output error"
            await client.status("j", "null")
            fault.mend()
            assert guest.backend.node is client.block.nodes["source"]
        await guest.backend.writev(0, [memoryview(data[:512])])
        assert await guest.read() == data
        await guest.unplug()

    run(test)


def test_a_guest_cannot_overwrite_what_could_not_be_copied(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        data = await disks(client, tmp_path, SIZE, density=1.0)
        guest = Guest(client, "source", data)
        await client("blockdev-backup", job_id="j", device="source", target="copy", sync="none")
        fault = Fault(client, "copy", "do_writev", errno.ENOSPC)
        with pytest.raises(OSError, match="No space left on device"):
            await guest.backend.writev(MIB, [memoryview(b"x" * 512)])
        fault.mend()
        await guest.backend.writev(MIB, [memoryview(b"x" * 512)])
        await client("job-cancel", id="j")
        await client.status("j", "null")
        assert (tmp_path / "copy.img").read_bytes()[MIB : MIB + 65536] == data[MIB : MIB + 65536]
        await guest.unplug()

    run(test)


@pytest.mark.parametrize("policy", ["report", "stop", "ignore"])
@pytest.mark.parametrize("command", ["block-stream", "block-commit"])
def test_chains(tmp_path: Path, command: str, policy: str) -> None:
    from tests.block.jobs.support import qemu_img

    async def test(client: Client) -> None:
        data = image(tmp_path / "base.img", SIZE, density=1.0)
        qemu_img("create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", tmp_path / "mid.img")
        qemu_img("create", "-q", "-f", "qcow2", "-b", "mid.img", "-F", "qcow2", tmp_path / "top.img")
        await client.file("base", tmp_path / "base.img")
        await client.file("mid", tmp_path / "mid.img", "qcow2", backing="base")
        if command == "block-commit":
            guest = Guest(client, "mid", data)
            await guest.backend.writev(MIB, [memoryview(b"x" * MIB)])
            await guest.unplug()
        await client.file("top", tmp_path / "top.img", "qcow2", backing="mid")
        reads = command == "block-stream"
        fault = Fault(client, "base", "do_readv" if reads else "do_writev", errno.EIO)
        more = {"top_node": "mid"} if command == "block-commit" else {}
        await client(command, job_id="j", device="top", on_error=policy, auto_dismiss=False, **more)
        told = await client.until("BLOCK_JOB_ERROR", device="j")
        assert told == {"device": "j", "operation": "read" if reads else "write", "action": policy}
        if policy == "stop":
            await client.status("j", "paused")
        if policy == "stop" or (policy == "ignore" and not reads):
            fault.mend()
            if policy == "stop":
                await client("job-resume", id="j")
            done = await client.until("BLOCK_JOB_COMPLETED")
            assert "error" not in done
            assert len(client.block.nodes["top"].children) == (1 if reads else 2)
        else:
            done = await client.until("BLOCK_JOB_COMPLETED")
            assert done["error"] == "Input/output error"
            assert client.block.nodes["top"].backing is client.block.nodes["mid"]
        await client.status("j", "concluded")
        await client("job-dismiss", id="j")
        fault.mend()
        for name in ("top", "mid", "base"):
            await client("blockdev-del", node_name=name)
        qemu_img("check", "-q", tmp_path / "top.img")

    run(test)
