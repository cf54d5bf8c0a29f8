"""What tests of qcow2 share: QEMU's tools as the truth, and a disk in memory whose power can be cut."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.block_options import BlockdevDriver
from qemud.block.node import Flags
from qemud.block.null import NullCoNode
from qemud.qapi.runtime.errors import GenericError
from tests.block.support import typed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from qemud.block.graph import Graph

SECTOR = 512
CAPACITY = 32 << 20
"""Of a disk in memory."""


def qemu_img(*arguments: object, status: int = 0) -> str:
    """Run qemu-img; what it printed."""
    done = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def make_image(path: Path, size: int, **options: object) -> Path:
    """An image made by qemu-img."""
    path.unlink(missing_ok=True)
    text = ",".join(f"{name}={value}" for name, value in options.items())
    qemu_img("create", "-q", "-f", "qcow2", *(["-o", text] if text else []), path, size)
    return path


def check_image(path: Path, *, leaks: bool = False) -> None:
    """qemu-img finds no error in an image, and no leak unless these are allowed."""
    done = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode in ({0, 3} if leaks else {0}), done.stdout + done.stderr


def content(path: Path, size: int) -> bytes:
    """What qemu-img reads from an image."""
    raw = path.with_suffix(".content")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, raw)
    data = raw.read_bytes()
    assert len(data) == size
    return data


async def refusal(work: Awaitable[Any]) -> str:
    """What is said by something that fails."""
    with pytest.raises(GenericError) as caught:
        await work
    return str(caught.value)


async def open_qcow2(graph: Graph, path: Path | str, **options: Any) -> Any:
    """A node of an image, held."""
    return await graph.open(
        typed(driver="qcow2", file={"driver": "file", "filename": str(path)}, discard="unmap", **options)
    )


class MemoryNode(NullCoNode, driver=BlockdevDriver.NULL_CO):
    """A disk in memory with a cache that forgets, sector by sector, what was not flushed when the power is cut."""

    def __init__(self, graph: Graph, data: bytes, name: str = "disk") -> None:
        super().__init__(graph, typed(driver="null-co"), name, Flags())
        self.stable = bytearray(data)
        self.pending: list[tuple[int, bytes]] = []
        """Sectors that were written and not flushed, in that order."""
        self.operations = 0
        self.on_operation: Any = None
        self.fails: Callable[[], bool] = lambda: False
        """Whether the next request fails."""
        self.size = len(data)
        self._now = bytearray(data)
        self._rng = random.Random(len(data))
        self.holds = 1
        graph.nodes[name] = self

    async def do_open(self) -> None:
        pass

    async def _delay(self) -> None:
        # Requests overtake each other.
        for _ in range(self._rng.choice((0, 1, 2, 5))):
            await asyncio.sleep(0)

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        await self._delay()
        for buffer in buffers:
            part = self._now[offset : offset + len(buffer)]
            buffer[:] = part.ljust(len(buffer), b"\0")
            offset += len(buffer)

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        data = b"".join(buffers)
        await self._delay()
        failed = self.fails()
        if failed:
            # Some of it may have been written all the same.
            data = data[: self._rng.randrange(len(data) // SECTOR + 1) * SECTOR]
        end = offset + len(data)
        if end > CAPACITY:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if end > len(self._now):
            self._now.extend(bytes(end - len(self._now)))
        self._now[offset:end] = data
        first, last = offset // SECTOR, -(-end // SECTOR)
        for sector in range(first, last):
            self.pending.append((sector, bytes(self._now[sector * SECTOR : (sector + 1) * SECTOR])))
        if failed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._happened()

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        await self.do_writev(offset, [memoryview(bytes(length))], fua=False)

    async def do_discard(self, offset: int, length: int) -> None:
        # What is not needed may be anything afterwards.
        await self.do_writev(offset, [memoryview(b"\xdb" * length)], fua=False)

    async def do_flush_to_disk(self) -> None:
        count = len(self.pending)
        await self._delay()
        if self.fails():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._apply(self.stable, self.pending[:count])
        del self.pending[:count]
        self._happened()

    def _happened(self) -> None:
        self.operations += 1
        if self.on_operation is not None:
            self.on_operation()

    def _apply(self, disk: bytearray, sectors: Sequence[tuple[int, bytes]]) -> None:
        for sector, data in sectors:
            end = sector * SECTOR + len(data)
            if end > len(disk):
                disk.extend(bytes(end - len(disk)))
            disk[sector * SECTOR : end] = data

    def after_power_cut(self, rng: random.Random) -> bytes:
        """What is on the disk when the power is cut now: of what was not flushed, any part, in any order."""
        disk = bytearray(self.stable)
        chance = rng.choice((0.1, 0.5, 0.9))
        kept = [each for each in self.pending if rng.random() < chance]
        rng.shuffle(kept)
        self._apply(disk, kept)
        return bytes(disk)
