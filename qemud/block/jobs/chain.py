"""Chains of backing files: finding one's way, and what is known of data when all layers are looked through.

Source of rules: QEMU 10.0, block.c and block/io.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.block.driver import Extent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.block.node import BlockNode


def below(node: BlockNode) -> BlockNode | None:
    """The next node down that has the disk: what a filter filters, or the backing file."""
    return node.filtered or node.backing


def chain(node: BlockNode | None) -> Iterator[BlockNode]:
    """A node and all below it, filters and backing files."""
    while node is not None:
        yield node
        node = below(node)


def contains(top: BlockNode, node: BlockNode) -> bool:
    """Whether a node is another one or below it."""
    return any(each is node for each in chain(top))


def next_layer(node: BlockNode) -> BlockNode | None:
    """The backing file of a layer, without filters."""
    backing = node.cow_child
    return None if backing is None else backing.skip_filters()


def bottom(node: BlockNode) -> BlockNode:
    """The last layer."""
    node = node.skip_filters()
    while (after := next_layer(node)) is not None:
        node = after
    return node


def overlay_of(active: BlockNode, base: BlockNode | None) -> BlockNode | None:
    """The layer whose backing file is another one; the last layer for None.  None: it is not below."""
    base = None if base is None else base.skip_filters()
    layer: BlockNode | None = active.skip_filters()
    while layer is not None:
        after = next_layer(layer)
        if after is base:
            return layer
        layer = after
    return None


def find_by_filename(top: BlockNode, name: str) -> BlockNode | None:
    """The backing file of that name, as it is in an image above, or as it was opened."""
    from qemud.block.filename import absolute_name

    layer: BlockNode | None = top.skip_filters()
    while layer is not None:
        after = next_layer(layer)
        if after is None:
            return None
        full = absolute_name(layer, name)
        if name in {layer.backing_filename, after.filename} or full == after.filename:
            return after
        layer = after
    return None


async def status_above(
    node: BlockNode, base: BlockNode | None, offset: int, length: int, *, include_base: bool = False
) -> Extent:
    """What is known of the bytes from an offset on, in the layers from a node down to above `base`, or to it.

    Not allocated: none of these layers has it.  At the end of the node the length is 0.
    """
    first = True
    for layer in chain(node):
        if layer is base and not include_base:
            break
        if not layer.is_filter:
            if offset >= layer.size:
                if first:
                    return Extent(0, data=False, zero=False, allocated=False)
                # Beyond the end of a backing file everything reads as zeroes.
                return Extent(length, data=False, zero=True, allocated=True)
            first = False
            extent = await layer.block_status(offset, length)
            length = min(length, extent.length)
            if extent.allocated:
                return extent._replace(length=length)
        if layer is base:
            break
    else:
        return Extent(length, data=False, zero=True, allocated=False)
    return Extent(length, data=False, zero=False, allocated=False)
