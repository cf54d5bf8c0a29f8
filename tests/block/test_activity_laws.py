"""What always holds when images are given up and taken, in whatever order, by whoever uses them."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from qemud.block import activity, permission
from qemud.block.backend import BlockBackend
from qemud.block.file import FileNode
from qemud.block.locking import PERM_BASE, SHARED_BASE
from qemud.qapi.runtime.errors import GenericError
from tests.block.support import Event, image, typed, with_graph, write

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from qemud.block.graph import Graph

SIZE = 64 << 10
FILES = 3
WRITES = permission.WRITE | permission.WRITE_UNCHANGED

NODES = st.lists(
    st.tuples(
        st.sampled_from(["raw", "part", "copy-on-read"]),
        st.integers(0, 30),
        st.sampled_from([None, True, False]),
    ),
    max_size=6,
)
"""What is made above the files: its kind, what it is above, and what it is told of being active."""

USERS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["device", "reader", "writer", "export"])), max_size=4
)
"""Who uses which node."""

STEPS = st.lists(
    st.tuples(st.sampled_from(["give", "take", "give all", "take all", "fail"]), st.integers(0, 30)),
    max_size=12,
)


async def build(
    graph: Graph,
    folder: Path,
    nodes: list[tuple[str, int, bool | None]],
    users: list[tuple[int, str]],
) -> None:
    """A graph at random; what cannot be is left out."""
    for number in range(FILES):
        path = image(folder, bytes(SIZE), f"{number}.img")
        await graph.add(typed(driver="file", node_name=f"f{number}", filename=path, auto_read_only=True))
    for number, (kind, below, active) in enumerate(nodes):
        name = list(graph.nodes)[below % len(graph.nodes)]
        options = {"offset": 512, "size": 4096} if kind == "part" else {}
        driver = "raw" if kind == "part" else kind
        with contextlib.suppress(GenericError):
            await graph.add(
                typed(driver=driver, node_name=f"n{number}", file=name, active=active, **options)
                if active is not None
                else typed(driver=driver, node_name=f"n{number}", file=name, **options)
            )
    for number, (which, kind) in enumerate(users):
        node = list(graph.nodes.values())[which % len(graph.nodes)]
        backend = BlockBackend(graph, f"hd{number}" if kind == "device" else "")
        backend.needs = permission.CONSISTENT_READ | (0 if kind == "reader" else permission.WRITE)
        backend.bears_inactive = kind == "export"
        try:
            backend.insert(node)
        except GenericError:
            await backend.close()


def states(graph: Graph) -> dict[str, bool]:
    return {name: not node.inactive for name, node in graph.nodes.items()}


def hold_to_laws(graph: Graph) -> None:
    for node in graph.nodes.values():
        for child in node.children.values():
            assert node.inactive or not child.inactive
        if isinstance(node, FileNode):
            locks = node._locks
            assert locks is not None
            if node.inactive:
                assert locks._held == {PERM_BASE: 0, SHARED_BASE: 0}
            else:
                assert locks._held[PERM_BASE] == node.cumulative[0]
        if node.inactive:
            assert not node.cumulative[0] & WRITES
    for backend in graph.backends:
        edge = backend.root
        assert edge is not None
        assert backend.put_aside is edge.node.inactive
        expected = (0, permission.ALL) if backend.put_aside else (backend.needs, backend.shares)
        assert (edge.needs, edge.shares) == expected


async def carry_out(graph: Graph, step: str, which: int) -> None:
    """One step; when it is refused, nothing has changed."""
    before = states(graph)
    node = list(graph.nodes.values())[which % len(graph.nodes)]
    try:
        match step:
            case "give":
                await activity.inactivate(graph, node)
                assert node.inactive
            case "take":
                await activity.activate(graph, node)
                assert not node.inactive
            case "give all":
                await graph.inactivate_all()
                assert not any(states(graph).values())
            case "take all":
                await graph.activate_all()
                assert all(states(graph).values())
            case _:
                await give_with_a_fault(graph, node)
    except GenericError:
        assert states(graph) == before


async def give_with_a_fault(graph: Graph, node: object) -> None:
    """Give all up, when one image cannot be written."""

    async def broken() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    node.do_inactivate = broken  # type: ignore[attr-defined]
    try:
        await graph.inactivate_all()
        assert not any(states(graph).values())
    finally:
        del node.do_inactivate  # type: ignore[attr-defined]


@settings(max_examples=120, deadline=None)
@given(nodes=NODES, users=USERS, steps=STEPS)
def test_laws_of_activity(
    tmp_path_factory: pytest.TempPathFactory,
    nodes: list[tuple[str, int, bool | None]],
    users: list[tuple[int, str]],
    steps: list[tuple[str, int]],
):
    folder = tmp_path_factory.getbasetemp()

    async def test(graph: Graph, _events: list[Event]) -> None:
        await build(graph, folder, nodes, users)
        hold_to_laws(graph)
        for step, which in steps:
            await carry_out(graph, step, which)
            hold_to_laws(graph)
            await try_writes(graph)

    with_graph(test)


async def try_writes(graph: Graph) -> None:
    """Devices can write to what is active, and to nothing else."""
    for backend in graph.backends:
        if backend.needs & permission.WRITE:
            assert backend.node is not None
            if backend.node.inactive:
                with contextlib.suppress(OSError):
                    await write(backend, 0, b"x" * 512)
                    raise AssertionError("an inactive node was written to")
            else:
                await write(backend, 0, b"x" * 512)
