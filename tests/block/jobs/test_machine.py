"""Jobs under a guest that reads and writes in the thread of the machine, at once where it can, with several requests under way."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.disk import Disk
from qemud.machine.mailbox import Mailboxes
from tests.block.jobs.support import MIB, Client, Guest, image, qemu_img, run

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 2 * MIB
UNIT = 4096
DEPTH = 8


class Thread:
    """The machine's thread: as many requests as there are slots, each slot in a part of the disk of its own.

    It rests after so many requests until it is told to `go_on`: a guest that writes as fast as it can may keep
    ahead of a job that copies its disk for ever, here as in QEMU.
    """

    def __init__(self, guest: Guest, seed: int) -> None:
        self.guest = guest
        self.mailboxes = Mailboxes(lambda: None)
        self.mailboxes.bind(asyncio.get_running_loop())
        self.disk = Disk(guest.backend, self.mailboxes)
        self.model = guest.disk
        self.random = random.Random(seed)
        self.stopping = False
        self.served = self.at_once = self.left = 0
        self.wrong: list[Any] = []
        self.thread = threading.Thread(target=self._run)
        self.busy = [False] * DEPTH
        self.resting = asyncio.Event()

    def go_on(self, requests: int = 400) -> None:
        """Serve that many more requests, beside whatever the test does next."""
        self.resting.clear()
        self.mailboxes.post(self._grant, requests)

    def _grant(self, requests: int) -> None:
        self.left += requests

    def _run(self) -> None:
        self.mailboxes.claim()
        while not self.stopping or any(self.busy):
            self.mailboxes.drain()
            for slot in range(DEPTH):
                if self.left and not self.busy[slot] and not self.stopping:
                    self.left -= 1
                    self._begin(slot)
            self.mailboxes.wait(0.05 if all(self.busy) or self.stopping or not self.left else 0.005)

    def _begin(self, slot: int) -> None:
        part = SIZE // DEPTH
        offset = slot * part + self.random.randrange(part // UNIT) * UNIT
        length = min(self.random.choice((1, 2, 16)) * UNIT, (slot + 1) * part - offset)
        self.busy[slot] = True
        within = True

        def done(error: int) -> None:
            self.busy[slot] = False
            self.served += 1
            self.at_once += within
            if not self.left and not any(self.busy):
                self.mailboxes.send(self.resting.set)
            if error:
                self.wrong.append(error)
            elif kind == "read" and data != self.model[offset : offset + length]:
                self.wrong.append((offset, length))

        kind = self.random.choice(("read", "write", "write", "zero"))
        data = bytearray(length)
        if kind == "read":
            self.disk.read(offset, [memoryview(data)], done)
        elif kind == "write":
            data[:] = self.random.randbytes(length)
            self.model[offset : offset + length] = data
            self.disk.write(offset, [memoryview(data)], done)
        else:
            self.model[offset : offset + length] = data
            self.disk.write_zeroes(offset, length, done)
        within = False

    async def stop(self) -> None:
        self.stopping = True
        self.mailboxes.ring()
        while self.thread.is_alive():
            await asyncio.sleep(0.005)
        self.mailboxes.close()
        assert not self.wrong
        assert self.served


@pytest.mark.parametrize("copy_mode", ["background", "write-blocking"])
@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_a_guest_moves_from_disk_to_disk(tmp_path: Path, fmt: str, copy_mode: str) -> None:
    async def test(client: Client) -> None:
        data = image(tmp_path / "plain.img", SIZE)
        qemu_img("convert", "-f", "raw", "-O", fmt, tmp_path / "plain.img", tmp_path / "0.img")
        await client.file("n0", tmp_path / "0.img", fmt)
        guest = Guest(client, "n0", data)
        thread = Thread(guest, 3)
        thread.thread.start()
        for number in range(1, 3):
            path = tmp_path / f"{number}.img"
            qemu_img("create", "-q", "-f", fmt, path, SIZE)
            await client.file(f"n{number}", path, fmt, discard="unmap")
            thread.go_on()
            await client(
                "blockdev-mirror",
                job_id="j",
                device="hd0",
                target=f"n{number}",
                sync="full",
                copy_mode=copy_mode,
            )
            await client.until("BLOCK_JOB_READY")
            thread.go_on(100)
            await client("job-complete", id="j")
            done = await client.until("BLOCK_JOB_COMPLETED")
            assert "error" not in done
            await client.status("j", "null")
            await client("blockdev-del", node_name=f"n{number - 1}")
        await thread.stop()
        assert thread.at_once
        assert await guest.read() == guest.disk
        await guest.unplug()
        await client("blockdev-del", node_name="n2")
        if fmt == "qcow2":
            qemu_img("check", "-q", tmp_path / "2.img")

    run(test)


def test_snapshots_backups_and_commits(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        data = image(tmp_path / "base.img", SIZE)
        await client.file("base", tmp_path / "base.img")
        guest = Guest(client, "base", data)
        thread = Thread(guest, 7)
        thread.thread.start()
        for number in range(2):
            name = f"s{number}"
            thread.go_on()
            await client(
                "transaction",
                actions=[
                    {
                        "type": "drive-backup",
                        "data": {
                            "device": "hd0",
                            "job-id": "b",
                            "target": str(tmp_path / f"b{number}"),
                            "format": "raw",
                            "sync": "full",
                        },
                    },
                ],
            )
            await client.until("BLOCK_JOB_COMPLETED", device="b")
            await client.status("b", "null")
            await client(
                "blockdev-snapshot-sync",
                device="hd0",
                snapshot_file=str(tmp_path / name),
                snapshot_node_name=name,
            )
            await thread.resting.wait()
            thread.go_on()
            await client("block-commit", job_id="c", device=name)
            await client.until("BLOCK_JOB_READY")
            thread.go_on(100)
            await client("job-complete", id="c")
            done = await client.until("BLOCK_JOB_COMPLETED")
            assert "error" not in done
            await client.status("c", "null")
            assert guest.backend.node is client.block.nodes["base"]
        await thread.stop()
        assert await guest.read() == guest.disk
        await guest.unplug()

    run(test)
