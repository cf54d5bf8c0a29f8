"""Metadata contexts of an export: what a client can ask of each byte of it.

A context has a name, a number that the client and the server have agreed on, and tells extents: (length, flags) from an offset on.

Source: the NBD protocol, "Metadata querying"; docs/interop/nbd.txt of QEMU 10.0 for those that begin with "qemu:".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud.block.jobs.chain import chain, status_above
from qemud.block.nbd.protocol import STATE_DIRTY, STATE_HOLE, STATE_ZERO

if TYPE_CHECKING:
    from qemud.block.bitmaps import DirtyBitmap
    from qemud.block.node import BlockNode

BASE_ALLOCATION = "base:allocation"
ALLOCATION_DEPTH = "qemu:allocation-depth"
DIRTY_BITMAP = "qemu:dirty-bitmap:"


class Context(Protocol):
    """One kind of metadata."""

    name: str

    async def extent(self, node: BlockNode, offset: int, length: int) -> tuple[int, int]:
        """The length, at most `length` and at least 1, of what has the same flags from `offset` on, and these."""


class BaseAllocation:
    """Holes, and what reads as zeroes."""

    name = BASE_ALLOCATION

    async def extent(self, node: BlockNode, offset: int, length: int) -> tuple[int, int]:
        """See `Context`."""
        found = await status_above(node, None, offset, length)
        flags = (0 if found.data else STATE_HOLE) | (STATE_ZERO if found.zero else 0)
        return found.length or length, flags


class AllocationDepth:
    """In which layer the bytes are: 1 is the uppermost, 0 stands for none."""

    name = ALLOCATION_DEPTH

    async def extent(self, node: BlockNode, offset: int, length: int) -> tuple[int, int]:
        """See `Context`."""
        depth = 0
        for layer in chain(node):
            if layer.is_filter:
                continue
            depth += 1
            if offset >= layer.size:
                return length, depth
            found = await layer.block_status(offset, length)
            length = min(length, found.length)
            if found.allocated:
                return length, depth
        return length, 0


class Dirty:
    """What a dirty bitmap has."""

    def __init__(self, bitmap: DirtyBitmap) -> None:
        self.bitmap = bitmap
        self.name = f"{DIRTY_BITMAP}{bitmap.name}"

    async def extent(self, node: BlockNode, offset: int, length: int) -> tuple[int, int]:
        """See `Context`."""
        del node
        end = offset + length
        if self.bitmap.get(offset):
            clean = self.bitmap.next_clean(offset, end)
            return (end if clean is None else clean) - offset, STATE_DIRTY
        dirty = self.bitmap.next_dirty(offset, end)
        return (end if dirty is None else dirty) - offset, 0


def select(contexts: list[Context], queries: list[str], *, listing: bool) -> list[Context]:
    """Those that a client's queries name, in the export's order; a namespace alone stands for all in it when listing."""
    if listing and not queries:
        return contexts
    return [
        context for context in contexts if any(_matches(context.name, query, listing) for query in queries)
    ]


def _matches(name: str, query: str, listing: bool) -> bool:
    return name == query or (
        listing
        and query.endswith(":")
        and query in {"base:", "qemu:", DIRTY_BITMAP}
        and name.startswith(query)
    )
