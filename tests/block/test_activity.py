"""Images that are given up for another process and taken again: what the other one may do, and what is seen afterwards."""

from __future__ import annotations

import errno
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block import activity, permission
from qemud.block.backend import BlockBackend
from qemud.block.bitmaps import DirtyBitmap, add_bitmap
from qemud.block.drive import open_drive
from qemud.block.info import node_info
from tests.block.qcow2.test_bitmaps import listed
from tests.block.qcow2.tools import check_image, make_image, qemu_img, refusal
from tests.block.support import Event, image, opened, read, typed, with_graph, write
from tests.block.test_disk import Rig, views
from tests.programs import LIMIT

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph
    from qemud.block.node import BlockNode

SIZE = 8 << 20
HELD = 'Failed to get "write" lock'


def qemu_io(path: Path | str, *commands: str, form: str = "qcow2") -> str:
    """What another process does to an image; it may be refused."""
    words = ["qemu-io", "-f", form, *(word for line in commands for word in ("-c", line)), str(path)]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=LIMIT, stdin=subprocess.DEVNULL
    )
    return done.stdout + done.stderr


def changed(path: Path | str, *commands: str, form: str = "qcow2") -> None:
    said = qemu_io(path, *commands, form=form)
    assert "failed" not in said, said
    assert "Failed" not in said, said


async def disk(graph: Graph, path: Path | str, **options: Any) -> tuple[BlockNode, BlockBackend]:
    """A qcow2 disk that a device has."""
    node = await opened(
        graph, driver="qcow2", file={"driver": "file", "filename": str(path), "node-name": "f"}, **options
    )
    backend = BlockBackend(graph, "hd0")
    backend.insert(node)
    backend.configure(read_only=False)
    return node, backend


def states(graph: Graph) -> dict[str, bool]:
    return {name: not node.inactive for name, node in graph.nodes.items()}


def keep(node: BlockNode, name: str, *, persistent: bool = True) -> DirtyBitmap:
    bitmap = DirtyBitmap(node.size, 65536, name)
    bitmap.persistent = persistent
    add_bitmap(node, bitmap)
    return bitmap


@pytest.mark.parametrize("lazy", [False, True])
def test_what_another_process_has_done_is_seen_afterwards(tmp_path: Path, lazy: bool):
    path = make_image(tmp_path / "disk.qcow2", SIZE, lazy_refcounts="on" if lazy else "off")

    async def test(graph: Graph, _events: list[Event]) -> None:
        node, backend = await disk(graph, path)
        sizes: list[int] = []
        backend.on_resize.append(lambda: sizes.append(backend.size))
        await write(backend, 1 << 20, b"ours" * 1024)
        assert "lock" in qemu_io(path, "write -P 1 0 64k")
        await graph.inactivate_all()
        assert states(graph) == {"f": False, "top": False}
        assert not (await node_info(node)).active
        check_image(path)  # nothing is in memory only, and no dirty bit is left
        changed(path, "read -P 0x6f 1M 1", "write -P 5 2M 1M", "discard 0 1M", "truncate 16M")
        qemu_img("snapshot", "-c", "theirs", path)
        changed(path, "write -P 6 1M 64k")
        await graph.activate_all()
        assert states(graph) == {"f": True, "top": True}
        assert sizes == [2 * SIZE]
        assert await read(backend, 1 << 20, 65536) == b"\x06" * 65536
        assert await read(backend, 2 << 20, 1 << 20) == b"\x05" * (1 << 20)
        assert [each.name for each in await node.snapshots() or []] == ["theirs"]
        await write(backend, 2 * SIZE - 4096, b"z" * 4096)
        await backend.flush()
        assert "lock" in qemu_io(path, "write -P 1 0 64k")

    with_graph(test)
    check_image(path)
    changed(path, "read -P 122 16773120 4k", "read -P 6 1M 64k")


def test_reads_go_on_and_writes_are_refused(tmp_path: Path):
    path = make_image(tmp_path / "disk.qcow2", SIZE)

    async def test(graph: Graph, _events: list[Event]) -> None:
        node: Any
        node, backend = await disk(graph, path, discard="unmap")
        await write(backend, 0, b"a" * 65536)
        await graph.inactivate_all()
        before = path.read_bytes()
        assert await read(backend, 0, 65536) == b"a" * 65536
        for refused in (
            write(backend, 0, b"b" * 512),
            backend.write_zeroes(0, 65536),
            backend.discard(0, 65536),
            node.truncate(2 * SIZE),
            node.take_snapshot("s", 0, 0),
            node.change_backing_file("x", "raw"),
            node.remove_stored_bitmap("b"),
        ):
            with pytest.raises(OSError, match="Node 'top' is inactive") as caught:
                await refused
            assert caught.value.errno == errno.EPERM
        await backend.flush()
        assert path.read_bytes() == before
        await graph.activate_all()
        await write(backend, 0, b"b" * 512)

    with_graph(test)
    check_image(path)


def test_what_the_guest_writes_does_not_reach_an_inactive_image(tmp_path: Path):
    name = image(tmp_path, b"abcd" * 4096)

    async def test(graph: Graph, _events: list[Event]) -> None:
        rig = Rig(graph)
        rig.backend.insert(await opened(graph, driver="raw", file={"driver": "file", "filename": name}))
        rig.backend.configure(read_only=False)
        rig.disk.write(0, views(b"x" * 4096), rig.answers.append)
        assert await rig.settle(1) == [0]
        await graph.inactivate_all()
        rig.disk.write(4096, views(b"y" * 4096), rig.answers.append)
        rig.disk.write_zeroes(8192, 4096, rig.answers.append)
        assert await rig.settle(2) == [errno.EPERM] * 2
        data = bytearray(4096)
        rig.disk.read(0, views(data), rig.answers.append)
        assert await rig.settle(1) == [0]
        assert data == b"x" * 4096
        await graph.activate_all()
        rig.disk.write(4096, views(b"z" * 4096), rig.answers.append)
        assert await rig.settle(1) == [0]

    with_graph(test)
    assert (tmp_path / "disk.img").read_bytes() == b"x" * 4096 + b"z" * 4096 + b"abcd" * 2048


def test_an_image_that_another_process_has_is_not_taken(tmp_path: Path):
    path = make_image(tmp_path / "disk.qcow2", SIZE)

    async def test(graph: Graph, _events: list[Event]) -> None:
        node, backend = await disk(graph, path)
        await graph.inactivate_all()
        with subprocess.Popen(
            ["qemu-io", "-f", "qcow2", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            other.stdin.write("write -P 7 0 64k\n")
            other.stdin.flush()
            while "wrote" not in other.stdout.readline():
                pass
            assert await refusal(graph.activate_all()) == HELD
            assert node.inactive
            with pytest.raises(OSError, match="inactive"):
                await write(backend, 0, b"x")
            other.stdin.close()
            other.wait(LIMIT)
        await graph.activate_all()
        assert await read(backend, 0, 65536) == b"\x07" * 65536
        await write(backend, 0, b"x")

    with_graph(test)
    check_image(path)


def test_bitmaps_go_over_and_come_back(tmp_path: Path):
    path = make_image(tmp_path / "disk.qcow2", SIZE)

    async def test(graph: Graph, _events: list[Event]) -> None:
        node, backend = await disk(graph, path)
        keep(node, "kept")
        keep(node, "ours", persistent=False)
        await write(backend, 0, b"x" * 65536)
        await graph.inactivate_all()
        assert list(node.dirty_bitmaps) == ["ours"]
        assert listed(path)["kept"]["flags"] == ["auto"]
        qemu_img("bitmap", "--add", path, "theirs")
        changed(path, "write -P 5 1M 64k")
        await graph.activate_all()
        assert set(node.dirty_bitmaps) == {"kept", "ours", "theirs"}
        kept = node.dirty_bitmaps["kept"]
        assert list(kept.extents()) == [(0, 65536), (1 << 20, 65536)]
        assert list(node.dirty_bitmaps["theirs"].extents()) == [(1 << 20, 65536)]
        assert not kept.read_only
        await write(backend, 4 << 20, b"x" * 512)
        assert (4 << 20, 65536) in list(kept.extents())
        kept.in_use = True
        assert await refusal(graph.inactivate_all()) == (
            "Failed to inactivate all nodes: Device or resource busy"
        )
        assert states(graph) == {"f": True, "top": True}
        kept.in_use = False

    with_graph(test)
    check_image(path)
    assert {name: each["flags"] for name, each in listed(path).items()} == {
        "kept": ["auto"],
        "theirs": ["auto"],
    }


def test_a_bitmap_of_the_same_name_is_not_overwritten(tmp_path: Path):
    path = make_image(tmp_path / "disk.qcow2", SIZE)

    async def test(graph: Graph, _events: list[Event]) -> None:
        node, _ = await disk(graph, path)
        ours = keep(node, "b", persistent=False)
        await graph.inactivate_all()
        qemu_img("bitmap", "--add", path, "b")
        text = await refusal(graph.activate_all())
        assert text == "Could not reopen qcow2 layer: Bitmap already exists: b"
        assert states(graph) == {"f": False, "top": False}
        assert node.dirty_bitmaps == {"b": ours}
        qemu_img("bitmap", "--remove", path, "b")
        await graph.activate_all()
        assert states(graph) == {"f": True, "top": True}

    with_graph(test)
    check_image(path)


FAULTS = [{"iotype": "flush", "errno": 5}, {"iotype": "write", "errno": 5}]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault["iotype"]))
@pytest.mark.parametrize("bitmap", [False, True])
def test_what_cannot_be_written_stays_ours(tmp_path: Path, fault: dict[str, Any], bitmap: bool):
    path = make_image(tmp_path / "disk.qcow2", SIZE)
    plain = image(tmp_path, bytes(4096))

    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(graph, node_name="first", driver="raw", file={"driver": "file", "filename": plain})
        file = {"driver": "file", "filename": str(path), "node-name": "f"}
        await opened(graph, node_name="bad", driver="blkdebug", image=file)
        node = await opened(graph, driver="qcow2", file="bad")
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        backend.configure(read_only=False)
        if bitmap:
            keep(node, "b")
        await write(backend, 0, b"x" * 65536)
        await _rules(graph, fault)
        text = await refusal(graph.inactivate_all())
        assert text.startswith("Failed to inactivate all nodes: ")
        assert all(states(graph).values())
        assert permission.WRITE & node.cumulative[0]
        assert "lock" in qemu_io(path, "write -P 1 0 64k")
        await _rules(graph, None)
        await write(backend, 1 << 20, b"y" * 512)
        await graph.inactivate_all()
        assert not any(states(graph).values())
        check_image(path)
        changed(path, "read -P 120 0 64k", "read -P 121 1M 512")
        if bitmap:
            assert listed(path)["b"]["flags"] == ["auto"]
        await graph.activate_all()

    with_graph(test)
    check_image(path)


async def _rules(graph: Graph, fault: dict[str, Any] | None) -> None:
    from qemud.block.reopen import reopen

    given: dict[str, Any] = {} if fault is None else {"inject_error": [{"event": "none", **fault}]}
    await reopen(graph, [typed(driver="blkdebug", node_name="bad", image="f", **given)])


def test_a_writer_who_does_not_bear_it_keeps_everything_active(tmp_path: Path):
    path = make_image(tmp_path / "disk.qcow2", SIZE)

    async def test(graph: Graph, _events: list[Event]) -> None:
        await disk(graph, path)
        writer = BlockBackend(graph)
        writer.needs = permission.WRITE
        writer.insert(await opened(graph, node_name="other", driver="null-co"))
        assert await refusal(graph.inactivate_all()) == (
            "Failed to inactivate all nodes: Operation not permitted"
        )
        assert all(states(graph).values())
        assert "lock" in qemu_io(path, "write -P 1 0 64k")
        writer.bears_inactive = True
        await graph.inactivate_all()
        assert not any(states(graph).values())
        assert writer.root is not None
        assert (writer.root.needs, writer.root.shares) == (0, permission.ALL)
        await graph.activate_all()
        assert writer.root.needs == permission.WRITE

    with_graph(test)


def test_a_shared_node_follows_its_last_parent(tmp_path: Path):
    name = image(tmp_path, bytes(1 << 20))

    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(graph, node_name="f", driver="file", filename=name)
        halves = [
            await opened(graph, node_name=each, driver="raw", file="f", offset=offset, size=4096)
            for each, offset in (("a", 0), ("b", 4096))
        ]
        assert await refusal(activity.inactivate(graph, graph.nodes["f"])) == "Node has active parent node"
        await activity.inactivate(graph, halves[0])
        assert states(graph) == {"f": True, "a": False, "b": True}
        await activity.inactivate(graph, halves[1])
        assert states(graph) == {"f": False, "a": False, "b": False}
        await activity.activate(graph, halves[0])
        assert states(graph) == {"f": True, "a": True, "b": False}

    with_graph(test)


def test_images_are_opened_beside_the_process_that_has_them(tmp_path: Path):
    path = make_image(tmp_path / "disk.qcow2", SIZE, lazy_refcounts="on")
    qemu_img("bitmap", "--add", path, "b")

    async def test(graph: Graph, _events: list[Event]) -> None:
        source_node, source = await disk(graph, path)
        await write(source, 0, b"x" * 65536)

        async def arriving(coming: Graph, _events: list[Event]) -> None:
            coming.incoming = True
            before = path.read_bytes()
            node, backend = await disk(coming, path)
            drive = await open_drive(coming, {"file": str(path), "if": "none", "id": "d", "format": "qcow2"})
            drive.backend.configure(read_only=True, share_rw=True)
            assert not any(states(coming).values())
            assert path.read_bytes() == before
            with pytest.raises(OSError, match="inactive"):
                await write(backend, 0, b"y")
            assert await refusal(coming.resize(node, 1 << 20)) == (
                "Permission 'resize' unavailable on inactive node"
            )
            assert await refusal(coming.activate_all()) == HELD
            await write(source, 1 << 20, b"late" * 128)
            await graph.inactivate_all()
            await drive.backend.close()
            await coming.activate_all()
            coming.incoming = False
            assert all(states(coming).values())
            assert await read(backend, 1 << 20, 512) == b"late" * 128
            assert list(node.dirty_bitmaps["b"].extents()) == [(0, 65536), (1 << 20, 65536)]
            await write(backend, 2 << 20, b"new" * 512)
            await write(backend, 0, b"y")
            assert await refusal(graph.activate_all()) == HELD
            await coming.inactivate_all()
            await graph.activate_all()
            assert await read(source, 2 << 20, 1536) == b"new" * 512
            assert await read(source, 0, 2) == b"yx"
            assert (2 << 20, 65536) in list(source_node.dirty_bitmaps["b"].extents())

        events: list[Event] = []
        other = type(graph)(lambda name, data: events.append((name, data)))
        await arriving(other, events)
        await other.close()
        await write(source, 3 << 20, b"end")

    with_graph(test)
    check_image(path)


def test_a_drive_with_filters_and_layers(tmp_path: Path):
    base = image(tmp_path, b"b" * SIZE, "base.img")
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path)

    async def test(graph: Graph, _events: list[Event]) -> None:
        drive = await open_drive(
            graph,
            {
                "file": str(path),
                "if": "none",
                "id": "d",
                "format": "qcow2",
                "copy-on-read": "on",
                "bps": "1000000000",
            },
        )
        backend = drive.backend
        backend.configure(read_only=False)
        assert await read(backend, 0, 512) == b"b" * 512  # and it is copied
        await graph.inactivate_all()
        assert not any(states(graph).values())
        before = path.read_bytes()
        assert await read(backend, 1 << 20, 512) == b"b" * 512
        assert path.read_bytes() == before
        changed(base, f"write -P 99 0 {SIZE}", form="raw")
        changed(path, "write -P 7 2M 64k")
        await graph.activate_all()
        assert await read(backend, 0, 512) == b"b" * 512
        assert await read(backend, 1 << 20, 512) == b"c" * 512
        assert await read(backend, 2 << 20, 512) == b"\x07" * 512
        await backend.flush()
        assert path.read_bytes() != before

    with_graph(test)
    check_image(path)


def test_data_in_a_file_of_its_own_goes_along(tmp_path: Path):
    data = tmp_path / "disk.data"
    path = make_image(tmp_path / "disk.qcow2", SIZE, data_file=data)

    async def test(graph: Graph, _events: list[Event]) -> None:
        _, backend = await disk(graph, path)
        await write(backend, 0, b"a" * 65536)
        assert "lock" in qemu_io(data, "write 0 64k", form="raw")
        await graph.inactivate_all()
        changed(data, "write -P 1 4M 64k", form="raw")
        changed(path, "read -P 97 0 64k", "write -P 2 1M 64k")
        await graph.activate_all()
        assert await read(backend, 1 << 20, 65536) == b"\x02" * 65536
        await write(backend, 2 << 20, b"b" * 65536)

    with_graph(test)
    check_image(path)
    changed(path, "read -P 98 2M 64k")


@pytest.mark.parametrize("gone", [True, False])
def test_a_disk_that_is_filled_before_its_machine_arrives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: bool
):
    name = image(tmp_path, bytes(1 << 20))

    async def test(graph: Graph, _events: list[Event]) -> None:
        graph.incoming = True
        node = await opened(graph, driver="raw", file={"driver": "file", "filename": name})
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        backend.configure(read_only=False)
        await activity.activate(graph, node)
        copier = BlockBackend(graph)
        copier.needs = permission.WRITE
        copier.insert(node)
        await write(copier, 0, b"copied")
        graph.incoming = False
        assert backend.root is not None
        assert backend.root.shares == permission.ALL
        if gone:
            await copier.close()
        await graph.activate_all()
        # The device has the disk for itself, unless whoever fills it is still there, which is told.
        assert bool(backend.root.shares & permission.WRITE) is not gone
        assert await read(backend, 0, 6) == b"copied"

    with_graph(test)
    assert ("Permission conflict on node 'top'" in capsys.readouterr().err) is not gone
