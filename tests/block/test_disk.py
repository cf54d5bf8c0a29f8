"""Disks as the machine thread sees them: at once or later, errors by policy, stop and go on, counters."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import pytest

from qemud._generated.types.block_info import BlockDeviceIoStatus, BlockdevOnError
from qemud.block.backend import BlockBackend
from qemud.block.disk import Disk
from qemud.block.stats import FLUSH, READ, UNMAP, WRITE, Accounting, Interval
from qemud.machine.mailbox import Mailboxes
from tests.block.support import Event, image, opened, with_graph

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from qemud.block.graph import Graph


class Machine:
    """A machine that only stops and goes on, with its thread played by the test."""

    def __init__(self) -> None:
        self.on_stopped: list[Callable[[], Awaitable[None]]] = []
        self.on_resume: list[Callable[[], None]] = []
        self.on_cont: list[Callable[[], None]] = []
        self.stops = 0

    def io_error(self) -> None:
        self.stops += 1


class Lease:
    """What a request keeps."""

    def __init__(self) -> None:
        self.parked = 0
        self.stale = False

    def park(self) -> None:
        self.parked += 1

    def unpark(self) -> None:
        self.parked -= 1


class Rig:
    """A disk, and what its device heard."""

    def __init__(self, graph: Graph) -> None:
        self.machine: Any = Machine()
        self.mailboxes = Mailboxes(lambda: None)
        self.backend = BlockBackend(graph, "hd0")
        self.disk = Disk(self.backend, self.mailboxes, self.machine)
        self.answers: list[int] = []

    async def settle(self, count: int) -> list[int]:
        """Run the machine thread's mail until the device has heard so often; what it heard."""
        while len(self.answers) < count:
            await asyncio.sleep(0)
            self.mailboxes.drain()
        heard, self.answers = self.answers, []
        return heard

    async def until(self, condition: Callable[[], object]) -> None:
        """Run the machine thread's mail until something is so."""
        while not condition():
            await asyncio.sleep(0)
            self.mailboxes.drain()


def views(data: bytes | bytearray) -> list[memoryview]:
    return [memoryview(data)]


def test_what_is_in_memory_is_served_within_the_call(tmp_path: Path):
    name = image(tmp_path, b"abcd" * 4096)

    async def test(graph: Graph, _events: list[Event]) -> None:
        rig = Rig(graph)
        rig.backend.insert(await opened(graph, driver="raw", file={"driver": "file", "filename": name}))
        rig.backend.configure(read_only=False)
        data = bytearray(4096)
        rig.disk.read(0, views(data), rig.answers.append)
        assert rig.answers == [0]
        assert data == b"abcd" * 1024
        rig.answers.clear()
        async with rig.backend.node.drained():  # type: ignore[union-attr]
            rig.disk.read(4096, views(data), rig.answers.append)
            assert rig.answers == []
        assert await rig.settle(1) == [0]
        # Without a cache for writes, nothing is done at once that has to be stable.
        rig.backend.enable_write_cache = False
        rig.disk.write(0, views(b"x" * 4096), rig.answers.append)
        assert rig.answers == []
        assert await rig.settle(1) == [0]
        assert rig.backend.stats.operations == [2, 1, 0, 0]
        assert rig.backend.stats.bytes == [8192, 4096, 0, 0]

    with_graph(test)
    assert (tmp_path / "disk.img").read_bytes() == b"x" * 4096 + b"abcd" * 3072


def test_everything_goes_through_the_loop_where_it_must():
    async def test(graph: Graph, _events: list[Event]) -> None:
        rig = Rig(graph)
        rig.backend.insert(await opened(graph, driver="null-aio", read_zeroes=True, size=65536))
        rig.backend.configure(read_only=False)
        disk, done = rig.disk, rig.answers.append
        data = bytearray(b"\xff" * 512)
        disk.read(0, views(data), done)
        disk.write(512, views(data), done, fua=True)
        disk.write_zeroes(0, 1024, done, unmap=True)
        disk.discard(0, 4096, done)
        disk.flush(done)
        disk.read(65536, views(data), done)
        disk.write(65536 - 256, views(data), done)
        assert rig.answers == []
        assert sorted(await rig.settle(7)) == [0] * 5 + [errno.EIO] * 2
        stats = rig.backend.stats
        assert stats.operations == [1, 2, 1, 1]
        assert stats.bytes == [512, 1536, 0, 4096]
        assert stats.failed == [1, 1, 0, 0]
        assert all(stats.total_ns)
        assert disk.size == 65536

    with_graph(test)


def failing(graph: Graph, rig: Rig, number: int) -> Callable[[], None]:
    """Let the disk's node fail until the result is called."""
    node: Any = rig.backend.node
    real = node.do_readv, node.do_writev, node.do_flush_to_disk

    async def fail(*_arguments: Any, **_keywords: Any) -> None:
        raise OSError(number, "as the test wants it")

    node.do_readv = node.do_writev = node.do_flush_to_disk = fail

    def mend() -> None:
        node.do_readv, node.do_writev, node.do_flush_to_disk = real

    del graph
    return mend


async def null_rig(graph: Graph) -> Rig:
    rig = Rig(graph)
    rig.backend.insert(await opened(graph, driver="null-co", read_zeroes=True, size=65536))
    rig.backend.configure(read_only=False)
    return rig


@pytest.mark.parametrize(
    ("policy", "number", "heard", "action"),
    [
        (BlockdevOnError.REPORT, errno.ENOSPC, errno.ENOSPC, "report"),
        (BlockdevOnError.ENOSPC, errno.EIO, errno.EIO, "report"),
        (BlockdevOnError.IGNORE, errno.EIO, 0, "ignore"),
    ],
)
def test_errors_are_reported_or_ignored_as_the_policy_is(
    policy: BlockdevOnError, number: int, heard: int, action: str
):
    async def test(graph: Graph, events: list[Event]) -> None:
        rig = await null_rig(graph)
        rig.backend.on_write_error = policy
        failing(graph, rig, number)
        rig.disk.write(0, views(b"x"), rig.answers.append)
        assert await rig.settle(1) == [heard]
        await rig.until(lambda: events)
        ((name, data),) = events
        assert name == "BLOCK_IO_ERROR"
        assert data is not None
        assert (data["device"], data["node-name"], data["operation"], data["action"]) == (
            "hd0",
            "top",
            "write",
            action,
        )
        assert rig.machine.stops == 0
        assert rig.backend.iostatus is BlockDeviceIoStatus.OK

    with_graph(test)


@pytest.mark.parametrize(
    ("policy", "number", "status"),
    [
        (BlockdevOnError.STOP, errno.EIO, BlockDeviceIoStatus.FAILED),
        (BlockdevOnError.ENOSPC, errno.ENOSPC, BlockDeviceIoStatus.NOSPACE),
    ],
)
def test_a_request_that_stops_the_machine_is_tried_again(
    policy: BlockdevOnError, number: int, status: BlockDeviceIoStatus
):
    async def test(graph: Graph, events: list[Event]) -> None:
        rig = await null_rig(graph)
        rig.backend.on_write_error = policy
        mend = failing(graph, rig, number)
        leases = [Lease(), Lease()]
        for lease in leases:
            rig.disk.write(0, views(b"x"), rig.answers.append, lease)
        await rig.until(lambda: rig.machine.stops == 2)
        assert rig.answers == []
        assert [lease.parked for lease in leases] == [1, 1]
        assert [data["nospace"] for _, data in events if data] == [number == errno.ENOSPC] * 2
        assert rig.backend.iostatus is status
        # It fails again, and waits again.
        for go_on in rig.machine.on_cont + rig.machine.on_resume:
            go_on()
        assert rig.backend.iostatus is BlockDeviceIoStatus.OK
        await rig.until(lambda: rig.machine.stops == 4)
        assert [lease.parked for lease in leases] == [1, 1]
        mend()
        for go_on in rig.machine.on_cont + rig.machine.on_resume:
            go_on()
        assert await rig.settle(2) == [0, 0]
        assert [lease.parked for lease in leases] == [0, 0]
        assert rig.backend.stats.operations[WRITE] == 2
        assert rig.backend.stats.failed[WRITE] == 0

    with_graph(test)


def test_a_reset_drops_what_is_parked_and_what_comes_late():
    async def test(graph: Graph, _events: list[Event]) -> None:
        rig = await null_rig(graph)
        rig.backend.on_read_error = BlockdevOnError.STOP
        failing(graph, rig, errno.EIO)
        lease, stale = Lease(), Lease()
        rig.disk.read(0, views(bytearray(1)), rig.answers.append, lease)
        await rig.until(lambda: rig.machine.stops)
        rig.disk.drop_parked()
        assert rig.answers == [errno.ECANCELED]
        assert lease.parked == 0
        rig.answers.clear()
        rig.disk.read(0, views(bytearray(1)), rig.answers.append, stale)
        stale.stale = True
        assert await rig.settle(1) == [errno.EIO]
        assert rig.machine.stops == 1

    with_graph(test)


def test_a_stop_flushes_and_a_closed_disk_is_forgotten():
    async def test(graph: Graph, events: list[Event]) -> None:
        rig = await null_rig(graph)
        node: Any = rig.backend.node
        flushed: list[int] = []

        async def flush() -> None:
            flushed.append(1)

        node.do_flush_to_disk = flush
        rig.disk.write(0, views(b"x"), rig.answers.append)
        assert await rig.settle(1) == [0]
        (stop,) = rig.machine.on_stopped
        await stop()
        await stop()  # nothing new to flush
        assert flushed == [1]
        rig.disk.close()
        assert rig.machine.on_stopped == rig.machine.on_resume == rig.machine.on_cont == []
        assert events == []

    with_graph(test)


def test_a_disk_without_a_medium_says_so():
    async def test(graph: Graph, _events: list[Event]) -> None:
        rig = Rig(graph)
        rig.disk.read(0, views(bytearray(1)), rig.answers.append)
        rig.disk.flush(rig.answers.append)
        assert await rig.settle(2) == [errno.ENOMEDIUM] * 2
        assert rig.disk.size == 0

    with_graph(test)


def test_counters_count_what_they_say():
    stats = Accounting()
    stats.intervals.append(Interval(1000))
    stats.done(READ, 10, 0)
    stats.done(FLUSH, 0, 0)
    stats.account_failed = False
    before = list(stats.total_ns)
    stats.fail(UNMAP, 0)
    assert stats.total_ns == before
    stats.account_failed = True
    stats.fail(WRITE, 0)
    stats.refuse(READ)
    stats.merge(WRITE, 3)
    assert stats.operations == [1, 0, 1, 0]
    assert stats.failed == [0, 1, 0, 1]
    assert stats.invalid == [1, 0, 0, 0]
    assert stats.merged == [0, 3, 0, 0]
    smallest, largest, average = stats.intervals[0].latencies(READ)
    assert smallest == largest == average == stats.total_ns[READ]
    assert stats.intervals[0].latencies(UNMAP) == (0, 0, 0)
    assert stats.intervals[0].queue_depth(READ) > 0
