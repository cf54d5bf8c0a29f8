"""Other options for open nodes: all of them or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qemud.block.backend import BlockBackend
from qemud.block.reopen import reopen, set_read_only
from qemud.qapi.runtime.errors import GenericError
from tests.block.support import Event, image, opened, read, typed, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    from qemud.block.graph import Graph

NULL = {"driver": "null-co", "read-zeroes": True, "size": 65536}


def raw(name: str, **options: Any) -> Any:
    return typed(driver="raw", node_name="top", file={"driver": "file", "filename": name}, **options)


def test_a_node_goes_between_reading_and_writing(tmp_path: Path):
    name = image(tmp_path, bytes(4096))

    async def test(graph: Graph, _events: list[Event]) -> None:
        node = await graph.add(raw(name, read_only=True))
        assert (node.read_only, node.file.read_only) == (True, True)
        await reopen(graph, [raw(name)])
        assert (node.read_only, node.file.read_only) == (False, False)
        await write(node, 0, b"written")
        await reopen(graph, [raw(name, read_only=True, cache={"direct": True})])
        assert node.file.request_alignment > 1
        assert await read(node, 0, 7) == b"written"
        with pytest.raises(OSError, match="not permitted"):
            await write(node, 0, b"no")
        await set_read_only(graph, node, read_only=False)
        await write(node, 1, b"W")
        assert await read(node, 0, 7) == b"wWitten"

    with_graph(test)


def test_one_that_fails_leaves_all_as_they_were(tmp_path: Path):
    first, second = image(tmp_path, bytes(4096), "one"), image(tmp_path, bytes(4096), "two")

    async def test(graph: Graph, _events: list[Event]) -> None:
        nodes = []
        for name, node_name in ((first, "a"), (second, "b")):
            nodes.append(
                await opened(
                    graph, node_name=node_name, driver="raw", file={"driver": "file", "filename": name}
                )
            )
        backend = BlockBackend(graph, "hd0")
        backend.insert(nodes[1])
        backend.configure(read_only=False)

        def both(**options: Any) -> list[Any]:
            return [
                typed(driver="raw", node_name=node_name, file={"driver": "file", "filename": name}, **options)
                for name, node_name in ((first, "a"), (second, "b"))
            ]

        before = [(node.flags, node.options, node.file.flags) for node in nodes]
        for wrong, trouble in (
            (both(read_only=True), "Read-only block node 'b' cannot support read-write users"),
            ([both()[0], typed(node_name="b", **NULL)], "Cannot change the option 'driver'"),
            ([both(discard="unmap")[0], raw(first)], "Failed to find node with node-name='top'"),
            (
                [both(discard="unmap")[0], typed(driver="raw", node_name="b", file="a", size=1)],
                "Specified size is not multiple of 512",
            ),
            (
                [both(discard="unmap")[0], typed(driver="raw", node_name="b", file="b")],
                "Making 'b' a file child of 'b' would create a cycle",
            ),
            (
                [
                    both(discard="unmap")[0],
                    typed(driver="raw", node_name="b", file={"driver": "file", "filename": first}),
                ],
                "Cannot change the option 'filename'",
            ),
        ):
            with pytest.raises(GenericError, match=trouble):
                await reopen(graph, wrong)
            assert [(node.flags, node.options, node.file.flags) for node in nodes] == before
            await write(backend, 0, b"still")
        await reopen(graph, both(discard="unmap"))
        assert [node.flags.unmap for node in nodes] == [True, True]

    with_graph(test)


def test_a_file_that_cannot_be_opened_otherwise_stays_open(tmp_path: Path):
    name = image(tmp_path, b"data" * 1024)

    async def test(graph: Graph, _events: list[Event]) -> None:
        node = await graph.add(raw(name, read_only=True))
        (tmp_path / "disk.img").rename(tmp_path / "elsewhere")
        with pytest.raises(GenericError, match=f"Could not open '{name}': No such file or directory"):
            await reopen(graph, [raw(name)])
        assert node.read_only
        assert await read(node, 0, 4) == b"data"

    with_graph(test)


def test_a_child_becomes_another(tmp_path: Path):
    name = image(tmp_path, b"file" * 256)

    async def test(graph: Graph, _events: list[Event]) -> None:
        await opened(graph, node_name="null", **NULL)
        await opened(graph, node_name="file", driver="file", filename=name)
        node = await opened(graph, driver="raw", file="null")
        backend = BlockBackend(graph, "hd0")
        backend.insert(node)
        sizes: list[int] = []
        backend.on_resize.append(lambda: sizes.append(backend.size))
        await reopen(graph, [typed(driver="raw", node_name="top", file="file")])
        assert await read(backend, 0, 4) == b"file"
        assert sizes == [1024]
        assert graph.nodes["null"].parents == []
        await graph.remove("null")

    with_graph(test)
