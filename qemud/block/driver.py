"""What a block driver overrides: the half of `BlockNode` that the kinds of nodes differ in.

The other half, in `qemud.block.node`, counts, checks and aligns requests and calls this one.  All of it runs in the event loop but
`read_now` and `write_now`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from qemud.block.edges import Role, needs_of_child
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemud._generated.types.block_options import BlockdevDriver
    from qemud.block.edges import Edge
    from qemud.block.graph import Graph
    from qemud.block.node import BlockNode


class Flags(NamedTuple):
    """Options that every node has, after defaults and what it inherits; see `inherit`."""

    read_only: bool = False
    auto_read_only: bool = False
    direct: bool = False
    no_flush: bool = False
    unmap: bool = False
    force_share: bool = False
    no_backing: bool = False
    """Do not open the backing file that the image names (a reopen, or a node that somebody else completes)."""
    inactive: bool = False
    """Another process has the image; see `qemud.block.activity`."""


class Extent(NamedTuple):
    """What is known of the bytes from some offset on; see `BlockNode.block_status`."""

    length: int
    """How many bytes this is about; at least 1 within the node, 0 at its end."""
    data: bool
    """There are bytes in this layer, or in a layer of its file."""
    zero: bool
    """They read as zeroes."""
    allocated: bool
    """The content is decided by this layer, not by its backing file."""
    map_offset: int | None = None
    """Where the bytes are in `file`, when they are there as they are."""
    file: BlockNode | None = None
    """The node that `map_offset` is about."""


class NodeInfo(NamedTuple):
    """What formats know of themselves; QEMU's BlockDriverInfo."""

    cluster_size: int = 0
    """Unit of allocation, bytes; 0 when there is none."""
    is_dirty: bool = False
    needs_compressed_writes: bool = False


def unsupported() -> OSError:
    """What a driver raises that cannot do what it is asked."""
    return OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


class StateWriter(Protocol):
    """Takes the state of a machine, from its beginning."""

    @property
    def size(self) -> int:
        """Bytes so far."""

    async def append(self, views: Sequence[memoryview]) -> None:
        """Take what comes next: a multiple of `STATE_UNIT` bytes, but for the last time.  OSError."""

    async def abort(self) -> None:
        """Forget all of it.  OSError."""


class StateReader(Protocol):
    """Gives the state of a machine."""

    @property
    def size(self) -> int:
        """Bytes."""

    async def readv(self, position: int, views: Sequence[memoryview]) -> None:
        """Fill the views with what is at `position`; beyond the end it is zero.  OSError."""


STATE_UNIT = 2 << 20
"""Bytes: the largest cluster that a format has."""


class Driver:
    """See the module."""

    driver: ClassVar[BlockdevDriver]
    is_filter: ClassVar[bool] = False
    """A filter has one child, of role FILTERED, and changes no data."""
    is_protocol: ClassVar[bool] = False
    """A protocol has data of its own and no child that holds the disk."""
    supports_backing: ClassVar[bool] = False
    """A format whose images may have a backing file."""
    has_snapshots: ClassVar[bool] = False
    """A format that has snapshots inside of its images."""
    supports_fua = False
    """`do_writev` sees to it that data is stable when asked; otherwise a flush follows."""

    file_role: ClassVar[int] = Role.DATA | Role.METADATA | Role.PRIMARY
    """What the child `file` is to the node."""
    backing_role: ClassVar[int] = Role.COW
    """What the child `backing` is to the node."""
    protocols: ClassVar[tuple[str, ...]] = ()
    """What file names begin with, before a colon, that a protocol's driver is for."""
    makes_images: ClassVar[bool] = False
    """Whether `create` makes new images of this kind."""
    encrypted: ClassVar[bool] = False
    file_shown: ClassVar[str] = "file"
    """What the child `file` is called when it is refused."""
    implicit = False
    """Put into the graph by a job: clients that ask for drives are not told of it."""
    is_temporary = False
    """Above an image to take what is written until the end (`-snapshot`)."""
    probed = False
    """Its format was guessed: it must not become another by what the guest writes."""
    backing_filename: str | None = None
    """The name of the backing file, as it is in the image."""
    backing_format: str | None = None
    """The format of the backing file, as it is in the image."""

    node_name: str
    options: Any
    read_only: bool
    flags: Flags
    children: dict[str, BlockNode]
    edges: dict[str, Edge]

    def __init_subclass__(cls, *, driver: BlockdevDriver | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if driver is not None:
            cls.driver = driver

    @classmethod
    def parse_filename(cls, name: str, *, from_options: bool = False) -> dict[str, Any]:
        """The options that a file name stands for; `from_options` when it was given as the option itself.  GenericError."""
        if not from_options:
            for protocol in cls.protocols:
                name = name.removeprefix(f"{protocol}:")
        return {"filename": name}

    @classmethod
    async def create(cls, graph: Graph, options: Any) -> None:
        """Make a new image of this kind, as BlockdevCreateOptions say.  GenericError."""
        del graph, options
        raise GenericError("Driver does not support blockdev-create")

    # Opening.

    async def do_open(self) -> None:
        """Open children by `self.graph.open_child`, then what the node is about; set `size` and the alignments."""

    async def do_close(self) -> None:
        """Undo `do_open`, but for the children."""

    async def prepare_reopen(self, options: Any, flags: Flags) -> Callable[[], None] | None:
        """Make everything ready for other options of the same driver, without effect yet.

        Returns what is to be called when all nodes of the request are ready (must not fail), or None when there is nothing to do;
        raises GenericError when it cannot be.  `abort_reopen` undoes it.
        """
        del options, flags
        raise GenericError(
            f"Block format '{self.driver.value}' used by node '{self.node_name}' does not support reopening files"
        )

    async def abort_reopen(self) -> None:
        """Undo `prepare_reopen`."""

    # Handing the image over to another process.

    @property
    def inactive(self) -> bool:
        """Whether another process has the image; see `qemud.block.activity`.  Any thread."""
        return self.flags.inactive

    @property
    def writable(self) -> bool:
        """Whether it can be written to now."""
        return not self.read_only and not self.flags.inactive

    async def do_inactivate(self) -> None:
        """Write what is in memory only: another process will have the image.  OSError, and then it is as before.

        The node is drained, flushed and still active.
        """

    async def do_activate(self) -> None:
        """Read again what another process may have changed.  GenericError, and then it is as before.

        The node is drained and active already, and so is what is below it.
        """

    # Permissions.

    def child_permissions(self, edge: Edge, needs: int, shares: int) -> tuple[int, int]:
        """What this node needs of a child and shares, when its own users need and share this; by the child's role."""
        return needs_of_child(edge.role, needs, shares, writable=self.writable, inactive=self.inactive)

    def prepare_permissions(self, needs: int, shares: int) -> None:
        """Get from the host what the users are to have (locks, a writable descriptor).  GenericError.

        Followed by `commit_permissions` or `abort_permissions`.  Synchronous, so that changes of the graph are whole.
        """

    def commit_permissions(self, needs: int, shares: int) -> None:
        """Let go of what the users do not need any more."""

    def abort_permissions(self) -> None:
        """Go back to what was before `prepare_permissions`."""

    def on_drain(self, *, begin: bool) -> None:
        """For drivers that hold requests back themselves, or work in the background: let go of all, or go on."""

    # Requests.

    async def do_readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers; aligned, and it begins within the node."""
        del offset, buffers
        raise unsupported()

    async def do_writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool) -> None:
        """Write the buffers; aligned.  `fua` matters with `supports_fua` only."""
        del offset, buffers, fua
        raise unsupported()

    async def do_write_compressed(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Write the buffers compressed."""
        del offset, buffers
        raise unsupported()

    async def do_write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make the range read as zeroes; ENOTSUP where only writing them as data would do."""
        del offset, length, unmap
        raise unsupported()

    async def do_discard(self, offset: int, length: int) -> None:
        """Give the range back; ENOTSUP where that cannot be is not an error for the guest."""
        del offset, length
        raise unsupported()

    async def do_flush_to_os(self) -> None:
        """Write what the driver keeps in memory to the nodes below, or to the system."""

    async def do_flush_to_disk(self) -> None:
        """Make what the driver has written stable; nodes below are flushed afterwards."""

    async def do_block_status(self, offset: int, length: int) -> Extent:
        """As `block_status`, with a range within the node; data without a place by default."""
        del offset
        return Extent(length, data=True, zero=False, allocated=True)

    async def do_truncate(self, size: int, *, preallocation: str, exact: bool, zeroes: bool) -> None:
        """Change the size, and call `set_size`."""
        del size, preallocation, exact, zeroes
        raise GenericError("Image format driver does not support resize")

    async def get_info(self) -> NodeInfo | None:
        """What the format knows of itself; of a filter, what its child knows; None when there is nothing to know."""
        below = self.filtered
        return await below.get_info() if below is not None else None

    async def image_specific(self) -> Any:
        """The struct ImageInfoSpecific of the driver, for query-block; None when there is none."""
        return None

    def stats_specific(self) -> Any:
        """The struct BlockStatsSpecific of the driver, for query-blockstats; None when there is none."""
        return None

    async def snapshots(self) -> list[Any] | None:
        """The snapshots in the image, as structs SnapshotInfo; None when the format has none."""
        return None

    async def take_snapshot(
        self, name: str, date_ns: int, vm_clock_ns: int, state: StateWriter | None = None
    ) -> Any:
        """Take a snapshot inside of the image, with what `state_writer` has got: the struct SnapshotInfo.  OSError.  The node is drained."""
        del name, date_ns, vm_clock_ns, state
        raise unsupported()

    async def check_snapshot(self, name: str) -> None:
        """Raise OSError or GenericError when `apply_snapshot` could not work, as far as that can be known before."""
        del name
        raise unsupported()

    async def apply_snapshot(self, name: str) -> None:
        """Let the disk be what it was when a snapshot was taken, of that size too.  GenericError, or OSError.  The node is drained."""
        del name
        raise unsupported()

    async def state_writer(self) -> StateWriter:
        """Where the state of a machine goes, for a snapshot that is about to be taken.  OSError."""
        raise unsupported()

    async def state_reader(self, name: str) -> StateReader:
        """The state of a machine that a snapshot has.  GenericError, or OSError."""
        del name
        raise unsupported()

    async def delete_snapshot(self, identifier: str, name: str) -> None:
        """Remove a snapshot from inside of the image.  GenericError, or OSError.  The node is drained."""
        del identifier, name
        raise unsupported()

    async def change_backing_file(self, name: str | None, format_name: str | None) -> None:
        """Write another name of the backing file into the image; the graph is not concerned.  ENOTSUP."""
        del name, format_name
        raise unsupported()

    async def allocated_size(self) -> int | None:
        """How many bytes of the host's storage it takes; None when that is not known."""
        parts = [edge.node for edge in self.edges.values() if not edge.role & Role.COW]
        known = [await node.allocated_size() for node in parts]
        return sum(size for size in known if size is not None) if known and None not in known else None

    # At once, on the machine thread.

    def read_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """Fill the buffers at once, or return False; see the module.  Machine thread."""
        del offset, buffers
        return False

    def write_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """Write the buffers at once, or return False, whatever has been written then; see the module.  Machine thread.

        A driver asks `writable_now` of itself, and afterwards calls `wrote_now`.
        """
        del offset, buffers
        return False

    # Names.

    def exact_filename(self) -> str | None:
        """A name that opens the same, if there is one: that of the file, unless the backing file is not the image's own."""
        below = self.children.get("file")
        if below is None or self.is_filter:
            return None
        if self.supports_backing:
            from qemud.block.filename import absolute_name

            node: Any = self
            own = None if self.backing_filename is None else absolute_name(node, self.backing_filename)
            backing = self.children.get("backing")
            if own != (None if backing is None else backing.filename):
                return None
        return below.exact_filename()

    def open_options(self) -> dict[str, Any]:
        """Options that open the same, as JSON: those which decide what data is seen."""
        options: dict[str, Any] = {"driver": self.driver.value}
        for name, child in self.children.items():
            options[name] = child.open_options()
        return options

    @property
    def filename(self) -> str:
        """How clients see what is open: a file name, or `json:` and options."""
        exact = self.exact_filename()
        if exact is not None:
            return exact
        import json

        return "json:" + json.dumps(self.open_options(), ensure_ascii=False)

    @property
    def filtered(self) -> BlockNode | None:
        """A filter's only child of that role."""
        if self.is_filter:
            for edge in self.edges.values():
                if edge.role & Role.FILTERED:
                    return edge.node
        return None
