"""Nodes that jobs put into the graph, between a disk and who uses it, and how they get there and away again.

    node = graph.make_filter(MirrorFilter, below, name, FilterOptions())
    async with below.drained():
        put_above(node, below)
    ...
    async with node.drained():
        pull_out(node)

Unless a client has given it a name, such a node is not told of where clients ask for drives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from qemud.block.node import BlockNode, Edge, Extent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qemud._generated.types.block_options import BlockdevDriver


class FilterOptions(NamedTuple):
    """What takes the place of the options that nodes of clients have."""

    detect_zeroes: Any = None
    read_only: bool | None = None
    auto_read_only: bool | None = None
    force_share: bool | None = None
    discard: Any = None
    cache: Any = None


class _Name(NamedTuple):
    value: str


def driver_name(value: str) -> BlockdevDriver:
    """The name of a driver that clients cannot ask for; it has all that is asked of one of theirs."""
    return cast("BlockdevDriver", _Name(value))


class JobFilter(BlockNode):
    """Hands everything on; jobs' filters override what they want to see."""

    is_filter = True

    def child_resized(self, edge: Edge) -> None:
        """Be as large as the node below."""
        if edge.name == "file":
            self.set_size(edge.node.size)

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Hand it on."""
        await self.file.readv(offset, buffers)

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """Hand it on."""
        await self.file.writev(offset, buffers, fua=fua)

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Hand it on."""
        await self.file.write_zeroes(offset, length, unmap=unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        """Hand it on."""
        await self.file.discard(offset, length)

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """What is below."""
        return await self.file.block_status(offset, length)

    async def do_truncate(self, size: int, *, preallocation: str, exact: bool, zeroes: bool) -> None:
        """Hand it on."""
        await self.file.truncate(size, preallocation=preallocation, exact=exact, zeroes=zeroes)
        self.set_size(self.file.size)

    def read_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """Hand it on."""
        return self.file.read_now(offset, buffers)

    def exact_filename(self) -> str | None:
        """That of the node below."""
        return self.file.exact_filename()

    def open_options(self) -> dict[str, Any]:
        """Those of the node below: the filter lasts as long as its job."""
        return self.file.open_options()


def is_job_edge(edge: Edge) -> bool:
    """Whether an edge is a job's: it stays at its node, whatever takes the node's place for others."""
    from qemud.block.jobs.job import Job

    return isinstance(edge.user, Job)


def job_edges(node: BlockNode) -> list[Edge]:
    """Edges of jobs to a node."""
    return [edge for edge in node.parents if is_job_edge(edge)]


def put_above(node: BlockNode, below: BlockNode, *, keep: Iterable[Edge] = ()) -> None:
    """Let all who use a node use the one above it; it is drained.  GenericError, and then nothing has changed."""
    node.graph.replace(below, node, keep=[*job_edges(below), *keep])


def pull_out(node: BlockNode) -> None:
    """Let all who use a filter use what is below it; it is drained, and is held by who calls."""
    node.graph.replace(node, node.file, keep=job_edges(node))
