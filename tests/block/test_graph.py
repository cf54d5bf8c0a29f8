"""The graph: names, permissions, cycles, draining, and that nothing half-made is left."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qemud.block import permission
from qemud.block.backend import BlockBackend
from qemud.block.edges import Role
from qemud.block.graph import MAX_NESTED
from qemud.block.node import BlockNode, Flags
from qemud.block.shape import MAX_DEPTH
from qemud.qapi.runtime.errors import GenericError
from tests.block.support import Event, image, opened, read, typed, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

NULL = {"driver": "null-co", "read-zeroes": True, "size": 65536}


def test_a_failed_definition_leaves_nothing_open(tmp_path: Path):
    name = image(tmp_path, bytes(4096))
    before = set(os.listdir("/proc/self/fd"))

    async def test(graph: Graph, _events: list[Event]) -> None:
        for bad in (
            {"driver": "raw", "offset": 1 << 20, "file": {"driver": "file", "filename": name}},
            {
                "driver": "raw",
                "file": {"driver": "raw", "size": 1, "file": {"driver": "file", "filename": name}},
            },
            {"driver": "raw", "file": {"driver": "file", "filename": str(tmp_path)}},
            {"driver": "raw", "detect-zeroes": "unmap", "file": NULL},
        ):
            with pytest.raises(GenericError):
                await opened(graph, node_name="bad", **bad)
            assert not graph.nodes
        await opened(graph, node_name="bad", **NULL)  # the name is free

    with_graph(test)
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def test(graph: Graph, _events: list[Event]) -> None:
        for read_only in (True, False):
            options = {"driver": "file", "filename": str(fifo), "read-only": read_only}
            with pytest.raises(GenericError, match=r"driver requires '.*/fifo' to be a regular file"):
                await opened(graph, node_name="bad", **options)

    with_graph(test)


def test_users_that_conflict_are_told_of_each_other(tmp_path: Path):
    del tmp_path

    async def test(graph: Graph, _events: list[Event]) -> None:
        node = await opened(graph, **NULL)
        first, second = BlockBackend(graph, "hd0"), BlockBackend(graph)
        first.insert(node)
        second.insert(node)
        first.configure(read_only=False)
        with pytest.raises(GenericError) as caught:
            second.configure(read_only=False)
        assert str(caught.value) == (
            "Permission conflict on node 'top': permissions 'write' are both required by block device 'hd0' "
            "(uses node 'top' as 'root' child) and unshared by an unnamed block device (uses node 'top' as 'root' child)."
        )
        assert (second.needs, second.shares) == (0, permission.ALL)
        raw = await opened(graph, node_name="raw", driver="raw", file="top")
        above = BlockBackend(graph, "hd1")
        above.insert(raw)
        with pytest.raises(GenericError, match="unshared by node 'raw'"):
            above.configure(read_only=False)
        reader = BlockBackend(graph, "hd2")
        reader.insert(await opened(graph, node_name="ro", read_only=True, **NULL))
        with pytest.raises(GenericError, match="Block node is read-only"):
            reader.configure(read_only=False)

    with_graph(test)


def test_a_node_does_not_get_below_itself():
    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(graph, node_name="bottom", **NULL)
        await opened(graph, node_name="middle", driver="raw", file="bottom")
        top = await opened(graph, node_name="upper", driver="raw", file="middle")
        with pytest.raises(
            GenericError, match="Making 'upper' a file child of 'middle' would create a cycle"
        ):
            graph.move([graph.nodes["middle"].edges["file"]], top)
        assert graph.nodes["middle"].file is graph.nodes["bottom"]
        assert [edge.user for edge in top.parents] == []
        assert await read(top, 0, 10) == bytes(10)

    with_graph(test)


class Slow(BlockNode):
    """A node that keeps its requests until it is told."""

    is_protocol = True

    async def do_open(self) -> None:
        self.size = 65536
        self.gate = asyncio.Event()
        self.begun = 0

    async def do_readv(self, offset: int, buffers: Any) -> None:
        del offset, buffers
        self.begun += 1
        await self.gate.wait()


def slow_node(graph: Graph) -> Slow:
    options = typed(**NULL, node_name="slow")
    node = Slow(graph, options, "slow", Flags())
    node.driver = options.driver  # type: ignore[misc]
    return node


def test_a_drain_waits_for_requests_and_holds_back_new_ones():
    async def test(graph: Graph, _events: list[Event]) -> None:
        node = slow_node(graph)
        await node.open()
        node.monitor_owned = True
        graph.nodes["slow"] = node
        raw = await opened(graph, node_name="raw", driver="raw", file="slow")
        backend = BlockBackend(graph, "hd0")
        backend.insert(raw)
        first = asyncio.create_task(read(backend, 0, 512))
        await asyncio.sleep(0)
        drained = asyncio.create_task(node.begin_drain())
        await asyncio.sleep(0)
        now = backend.node_now
        assert now is None
        second = asyncio.create_task(read(backend, 0, 512))
        for _ in range(5):
            await asyncio.sleep(0)
        assert (node.begun, drained.done()) == (1, False)
        node.gate.set()
        await drained
        assert first.done() or await first is not None
        for _ in range(5):
            await asyncio.sleep(0)
        assert (node.begun, node.in_flight, second.done()) == (1, 0, False)
        # An edge that is made now is held back, too; one that moves away is not.
        other = await opened(graph, node_name="other", **NULL)
        graph.move([raw.edges["file"]], other)
        assert await second == bytes(512)
        assert backend.node_now is raw
        node.end_drain()
        assert node.begun == 1

    with_graph(test)


def test_a_filter_is_put_in_and_taken_out_under_a_running_user():
    async def test(graph: Graph, _events: list[Event]) -> None:
        node = await opened(graph, **NULL)
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        backend.configure(read_only=False)
        raw = await opened(graph, node_name="filter", driver="raw", file="top")
        async with node.drained():
            graph.replace(node, raw)
        assert backend.node is raw
        assert [edge.user for edge in node.parents] == [raw]
        assert raw.cumulative[0] & permission.WRITE
        assert node.cumulative[0] & permission.WRITE
        await write(backend, 0, b"x")
        async with raw.drained():
            graph.replace(raw, node)
        assert backend.node is node

    with_graph(test)


def test_a_node_in_use_is_not_removed():
    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(graph, node_name="a", **NULL)
        await opened(graph, node_name="b", driver="raw", file="a")
        with pytest.raises(GenericError, match="Block device a is in use"):
            await graph.remove("a")
        backend = BlockBackend(graph, "hd0")
        backend.insert(graph.nodes["b"])
        with pytest.raises(GenericError, match="Node b is in use"):
            await graph.remove("b")
        await backend.close()
        await graph.remove("b")
        await graph.remove("a")
        assert not graph.nodes

    with_graph(test)


def test_sizes_go_up_to_who_uses_them(tmp_path: Path):
    name = image(tmp_path, bytes(4096))

    async def test(graph: Graph, _events: list[Event]) -> None:
        node = await opened(graph, driver="raw", file={"driver": "file", "filename": name})
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        told: list[int] = []
        backend.on_resize.append(lambda: told.append(backend.size))
        await graph.resize(node, 8192)
        await graph.resize(node, 8192)
        await graph.resize(node, 1024)
        assert told == [8192, 1024]
        with pytest.raises(OSError, match="Input/output error"):
            await read(backend, 1000, 100)

    with_graph(test)
    assert (tmp_path / "disk.img").stat().st_size == 1024


def test_a_write_beyond_the_threshold_is_told_of_once():
    async def test(graph: Graph, events: list[Event]) -> None:
        node = await opened(graph, **NULL)
        node.write_threshold = 1000
        await write(node, 0, bytes(1000))
        assert events == []
        await write(node, 996, bytes(8))
        await write(node, 2000, bytes(8))
        assert events == [
            (
                "BLOCK_WRITE_THRESHOLD",
                {"node-name": "top", "amount-exceeded": 4, "write-threshold": 1000},
            )
        ]

    with_graph(test)


def test_roles_decide_what_a_parent_needs():
    async def test(graph: Graph, _events: list[Event]) -> None:
        below = await opened(graph, node_name="below", **NULL)
        above = await opened(graph, node_name="above", driver="raw", file="below", offset=512)
        assert above.edges["file"].role == Role.DATA | Role.PRIMARY
        backend = BlockBackend(graph, "hd0")
        backend.insert(above)
        backend.configure(read_only=False)
        assert below.cumulative == (
            permission.CONSISTENT_READ | permission.WRITE,
            permission.CONSISTENT_READ | permission.WRITE_UNCHANGED,
        )

    with_graph(test)


def test_a_graph_does_not_get_too_deep():
    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(graph, node_name="n0", **NULL)
        for number in range(1, MAX_DEPTH):
            top = await opened(graph, node_name=f"n{number}", driver="raw", file=f"n{number - 1}")
        with pytest.raises(GenericError, match="would make the graph deeper than 200"):
            await opened(graph, node_name="more", driver="raw", file=f"n{MAX_DEPTH - 1}")
        await opened(graph, node_name="new", driver="raw", file=NULL)
        with pytest.raises(GenericError, match="deeper"):
            graph.move([graph.nodes["n1"].edges["file"]], graph.nodes["new"])
        backend = BlockBackend(graph, "hd0")
        backend.insert(top)
        backend.configure(read_only=False)
        assert await read(backend, 0, 10) == bytes(10)
        await write(backend, 0, b"x")
        await backend.flush()
        await backend.drain()

    with_graph(test)


def test_definitions_are_not_nested_too_deeply():
    async def test(graph: Graph, _events: list[Event]) -> None:
        def nested(count: int) -> dict[str, Any]:
            options: dict[str, Any] = dict(NULL)
            for _ in range(count - 1):
                options = {"driver": "raw", "file": options}
            return options

        await opened(graph, node_name="deep", **nested(MAX_NESTED))
        with pytest.raises(GenericError, match="No more than 100 nodes can be opened within each other"):
            await opened(graph, node_name="deeper", **nested(MAX_NESTED + 1))

    with_graph(test)


@pytest.mark.needs("qemu-img")
def test_an_image_that_is_its_own_backing_file_is_refused(tmp_path: Path):
    name = str(tmp_path / "loop.qcow2")
    for words in (
        ["create", "-q", "-f", "qcow2", name, "1M"],
        ["rebase", "-u", "-b", name, "-F", "qcow2", name],
    ):
        subprocess.run(["qemu-img", *words], check=True, capture_output=True, timeout=60)

    async def test(graph: Graph, _events: list[Event]) -> None:
        with pytest.raises(GenericError, match="No more than 100 nodes can be opened within each other"):
            await opened(graph, driver="qcow2", read_only=True, file={"driver": "file", "filename": name})
        assert not graph.nodes

    with_graph(test)
