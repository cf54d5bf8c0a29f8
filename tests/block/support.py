"""Graphs of block nodes for tests, and what to hold them to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qemud.block.graph import Graph
from qemud.qapi.runtime.check import parse_type

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from qemud.block.node import BlockNode

Event = tuple[str, "dict[str, Any] | None"]


def typed(**options: Any) -> Any:
    """BlockdevOptions; underscores in names stand for hyphens."""
    return parse_type("BlockdevOptions", {name.replace("_", "-"): value for name, value in options.items()})


def with_graph(test: Callable[[Graph, list[Event]], Awaitable[None]]) -> None:
    """Run a test with a graph of its own and the list of its events; afterwards nothing may be left of it."""

    async def run() -> None:
        events: list[Event] = []
        graph = Graph(lambda name, data: events.append((name, data)))
        await asyncio.wait_for(test(graph, events), 60)
        await graph.close()
        assert not graph.nodes
        assert not graph.backends

    asyncio.run(run())


def image(folder: Path, data: bytes, name: str = "disk.img") -> str:
    """A file with that content."""
    path = folder / name
    path.write_bytes(data)
    return str(path)


async def read(node: Any, offset: int, length: int) -> bytes:
    """Bytes of a node or a backend."""
    data = bytearray(b"\xee" * length)
    await node.readv(offset, [memoryview(data)])
    return bytes(data)


async def write(node: Any, offset: int, data: bytes, **how: Any) -> None:
    """Write into a node or a backend."""
    await node.writev(offset, [memoryview(data)], **how)


async def opened(graph: Graph, **options: Any) -> BlockNode:
    """A node that stays until the graph is closed."""
    return await graph.add(typed(**{"node_name": "top", **options}))
