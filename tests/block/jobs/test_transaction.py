"""Transactions: all or nothing, whatever fails and at whichever step."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from qemud.qapi.runtime.errors import GenericError
from tests.block.jobs.support import MIB, Client, Guest, image, qemu_img, run

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 2 * MIB


async def setup(client: Client, folder: Path) -> bytes:
    data = image(folder / "disk.img", SIZE)
    await client.file("disk", folder / "disk.img")
    for name in ("over", "more"):
        path = folder / f"{name}.img"
        qemu_img("create", "-q", "-f", "qcow2", path, SIZE)
        await client.file(name, path, "qcow2")
    (folder / "copy.img").write_bytes(bytes(SIZE))
    await client.file("copy", folder / "copy.img")
    for bitmap in ("b0", "b1", "b2"):
        await client("block-dirty-bitmap-add", node="disk", name=bitmap, disabled=bitmap == "b2")
    return data


def state(client: Client) -> Any:
    """All that a transaction could have changed."""
    graph = client.block
    nodes = {
        name: (
            node.driver.value,
            sorted((role, child.node_name) for role, child in node.children.items()),
            sorted(edge.user.description() for edge in node.parents),
            node.read_only,
            node.quiesced,
            node.holds,
            sorted(node.blockers.values()),
            [
                (bitmap.name, bitmap.enabled, bitmap.busy, bitmap.count, bitmap.successor is None)
                for bitmap in node.dirty_bitmaps.values()
            ],
            len(node.trackers),
        )
        for name, node in graph.nodes.items()
    }
    return nodes, [backend.node for backend in graph.backends], graph.jobs.all if graph.jobs else []


def actions(folder: Path) -> dict[str, dict[str, Any]]:
    bitmap = {"node": "disk"}
    return {
        "add": {"type": "block-dirty-bitmap-add", "data": {**bitmap, "name": "new"}},
        "clear": {"type": "block-dirty-bitmap-clear", "data": {**bitmap, "name": "b0"}},
        "merge": {
            "type": "block-dirty-bitmap-merge",
            "data": {**bitmap, "target": "b1", "bitmaps": ["b0", {"node": "disk", "name": "b0"}]},
        },
        "disable": {"type": "block-dirty-bitmap-disable", "data": {**bitmap, "name": "b0"}},
        "enable": {"type": "block-dirty-bitmap-enable", "data": {**bitmap, "name": "b2"}},
        "remove": {"type": "block-dirty-bitmap-remove", "data": {**bitmap, "name": "b1"}},
        "backup": {
            "type": "blockdev-backup",
            "data": {
                "device": "disk",
                "target": "copy",
                "job-id": "j",
                "sync": "bitmap",
                "bitmap": "b1",
                "bitmap-mode": "on-success",
            },
        },
        "drive-backup": {
            "type": "drive-backup",
            "data": {"device": "disk", "target": str(folder / "b.img"), "job-id": "k", "sync": "full"},
        },
        "snapshot": {"type": "blockdev-snapshot", "data": {"node": "disk", "overlay": "over"}},
        "snapshot-sync": {
            "type": "blockdev-snapshot-sync",
            "data": {
                "node-name": "copy",
                "snapshot-file": str(folder / "s.img"),
                "snapshot-node-name": "sync",
            },
        },
        "internal": {
            "type": "blockdev-snapshot-internal-sync",
            "data": {"device": "more", "name": "inside"},
        },
    }


class Clock:
    """What internal snapshots ask of the machine."""

    mailboxes = clock = None

    async def call(self, _fn: Any) -> int:
        return 5

    def now(self) -> int:
        return 5


def with_clock(client: Client) -> None:
    clock: Any = Clock()
    clock.mailboxes = clock.clock = clock
    client.vm = clock  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "names",
    [
        ("add", "clear", "merge", "disable", "enable", "remove"),
        ("merge", "clear", "backup", "drive-backup"),
        ("snapshot", "add", "internal"),
        ("internal", "snapshot-sync", "snapshot"),
        ("drive-backup", "snapshot", "snapshot-sync", "disable"),
    ],
)
def test_what_fails_at_any_step_leaves_nothing(tmp_path: Path, names: tuple[str, ...]) -> None:
    async def test(client: Client) -> None:
        with_clock(client)
        data = await setup(client, tmp_path)
        guest = Guest(client, "disk", data)
        await guest.write_once()
        known = actions(tmp_path)
        before = state(client)
        for end in range(len(names) + 1):
            steps = [known[name] for name in names[:end]] + [{"type": "abort", "data": {}}]
            with pytest.raises(GenericError, match="Transaction aborted using Abort action"):
                await client("transaction", actions=steps)
            assert state(client) == before
            assert await client("query-jobs") == []
            client.told()
        await client("transaction", actions=[known[name] for name in names])
        assert state(client) != before
        if {"backup", "drive-backup"} & set(names):
            while client.block.jobs.all:
                await client.until("JOB_STATUS_CHANGE", status="null")
        assert not any(node.quiesced for node in client.block.nodes.values())
        await guest.write_once()
        assert await guest.read() == guest.disk
        await guest.unplug()

    run(test)


def test_internal_snapshots_are_taken_back(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        with_clock(client)
        await setup(client, tmp_path)
        step = actions(tmp_path)["internal"]
        with pytest.raises(GenericError):
            await client("transaction", actions=[step, {"type": "abort", "data": {}}])
        assert not await client.block.nodes["more"].snapshots()
        await client("transaction", actions=[step])
        (found,) = await client.block.nodes["more"].snapshots() or []
        assert (found.name, found.vm_clock_nsec) == ("inside", 5)
        text = "Snapshot with name 'inside' already exists on device 'more'"
        with pytest.raises(GenericError, match=text):
            await client("transaction", actions=[step])

    run(test)


@pytest.mark.parametrize("fail", [False, True])
def test_jobs_of_a_group_complete_together(tmp_path: Path, fail: bool) -> None:
    async def test(client: Client) -> None:
        data = await setup(client, tmp_path)
        guest = Guest(client, "disk", data)
        (tmp_path / "second.img").write_bytes(bytes(SIZE))
        await client.file("second", tmp_path / "second.img")
        steps = [
            {
                "type": "blockdev-backup",
                "data": {"device": device, "target": target, "job-id": target, "sync": "full", **more},
            }
            for device, target, more in (("disk", "copy", {}), ("second", "over", {"auto-finalize": False}))
        ]
        await client("transaction", actions=steps, properties={"completion-mode": "grouped"})
        await client.until("BLOCK_JOB_PENDING", id="over")
        jobs = {job["id"]: job["status"] for job in await client("query-jobs")}
        assert jobs == {"copy": "pending", "over": "pending"}
        if fail:
            await client("job-cancel", id="copy")
            told = [data["device"] for name, data in client.events if name == "BLOCK_JOB_CANCELLED"]
            assert sorted(told) == ["copy", "over"]
        else:
            await client("job-finalize", id="copy")
            told = [data["device"] for name, data in client.events if name == "BLOCK_JOB_COMPLETED"]
            assert sorted(told) == ["copy", "over"]
            assert (tmp_path / "copy.img").read_bytes() == data
        assert await client("query-jobs") == []
        await guest.unplug()

    run(test)


def test_only_jobs_can_be_grouped(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await setup(client, tmp_path)
        with pytest.raises(GenericError) as error:
            await client(
                "transaction", actions=[actions(tmp_path)["add"]], properties={"completion-mode": "grouped"}
            )
        assert str(error.value) == (
            "Action 'block-dirty-bitmap-add' does not support transaction property completion-mode = grouped"
        )

    run(test)


def test_disks_are_caught_at_one_moment(tmp_path: Path) -> None:
    """Two disks that the guest writes to in turn, never one more than one write ahead of the other."""

    async def test(client: Client) -> None:
        guests = []
        for name in ("a", "b"):
            (tmp_path / f"{name}.img").write_bytes(bytes(SIZE))
            await client.file(name, tmp_path / f"{name}.img")
            path = tmp_path / f"{name}.qcow2"
            qemu_img("create", "-q", "-f", "qcow2", path, SIZE)
            await client.file(f"{name}-over", path, "qcow2")
            guests.append(Guest(client, name))
            guests[-1].backend.name = name
        done = False
        begun = asyncio.Event()

        async def write() -> None:
            for number in itertools.count(1):
                for guest in guests:
                    await guest.backend.writev(0, [memoryview(number.to_bytes(8, "little"))])
                if done:
                    return
                if number == 10:
                    begun.set()
                await asyncio.sleep(0)

        writing = asyncio.create_task(write())
        await begun.wait()
        await client(
            "transaction",
            actions=[
                {"type": "blockdev-snapshot", "data": {"node": name, "overlay": f"{name}-over"}}
                for name in ("a", "b")
            ],
        )
        done = True
        await writing
        first, second = (
            int.from_bytes((tmp_path / f"{name}.img").read_bytes()[:8], "little") for name in ("a", "b")
        )
        assert 0 <= first - second <= 1
        assert first > 0
        for guest in guests:
            await guest.unplug()

    run(test)
