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

from qemud.block.filters import FilterNode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qemud._generated.types.block_options import BlockdevDriver
    from qemud.block.node import BlockNode, Edge


class FilterOptions(NamedTuple):
    """What takes the place of the options that nodes of clients have."""

    detect_zeroes: Any = None
    read_only: bool | None = None
    auto_read_only: bool | None = None
    force_share: bool | None = None
    discard: Any = None
    cache: Any = None
    active: bool | None = None


class _Name(NamedTuple):
    value: str


def driver_name(value: str) -> BlockdevDriver:
    """The name of a driver that clients cannot ask for; it has all that is asked of one of theirs."""
    return cast("BlockdevDriver", _Name(value))


class JobFilter(FilterNode):
    """Hands everything on, at once too; jobs' filters override what they want to see."""

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
