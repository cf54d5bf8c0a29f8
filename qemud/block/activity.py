"""Which process has the images: nodes are handed over to another process, and taken again.

    await graph.inactivate_all()        # another process can open the images for writing
    await graph.activate_all()          # they are ours again, with what the other one has written

A node that is *inactive* can be read, and is not written to: requests that write fail with EPERM.  What was in memory only has been
written before, no locks are held, and what devices and drives need of it is put aside until it is active.  When it becomes active,
locks are taken, and sizes and tables are read again.

Parents become inactive before their children, and active after them.  A node stays active while a parent is; when somebody writes
to it who does not bear it (a job, an export without `allow-inactive`), nothing becomes inactive.

While a machine comes in (`graph.incoming`), what clients open is inactive.  What is activated before the machine has arrived, for an
export that writes the disk, is shared by its device with everybody until it has and all is activated, which `cont` does.

Source of rules and texts: QEMU 10.0, block.c (bdrv_activate, bdrv_inactivate) and block/block-backend.c.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from qemud.block import permission
from qemud.block.node import BlockNode
from qemud.block.shape import descendants
from qemud.block.whole import held
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.block.backend import BlockBackend
    from qemud.block.graph import Graph

_WRITES = permission.WRITE | permission.WRITE_UNCHANGED


async def inactivate_all(graph: Graph) -> None:
    """As `Graph.inactivate_all`."""
    async with graph.handover, held(graph):
        await _inactivate(graph, list(graph.nodes.values()), "Failed to inactivate all nodes")


async def inactivate(graph: Graph, node: BlockNode) -> None:
    """Give one image up, and what is below it unless others have that.  GenericError, and then all is as before."""
    async with graph.handover, held(graph):
        if any(not parent.inactive for parent in _parents(node)):
            raise GenericError("Node has active parent node")
        await _inactivate(graph, [node], "Failed to inactivate node")


async def activate_all(graph: Graph) -> None:
    """As `Graph.activate_all`."""
    async with graph.handover:
        if any(node.inactive for node in graph.nodes.values()):
            async with held(graph):
                await _activate(graph, list(graph.nodes.values()))
        if not graph.incoming:
            _share_no_more(graph)


async def activate(graph: Graph, node: BlockNode) -> None:
    """Take one image, and all below it.  GenericError, and then all is as before: another process has it, or it cannot be read."""
    async with graph.handover, held(graph):
        await _activate(graph, [node])


def _share_no_more(graph: Graph) -> None:
    """The machine is here: its devices share again what they are to share."""
    for backend in graph.backends:
        if backend.shares_all:
            backend.shares_all = False
            try:
                backend.set_permissions(backend.needs, backend.shares)
            except GenericError as error:
                sys.stderr.write(f"{error}\n")


# Inside of a drain of all nodes.


async def _inactivate(graph: Graph, nodes: list[BlockNode], trouble: str) -> None:
    """Let nodes be inactive, and all below them.  GenericError that begins with `trouble`, and then all is as before."""
    done: list[BlockNode] = []
    try:
        for node in nodes:
            await _inactivate_tree(graph, node, done)
    except (OSError, GenericError) as error:
        # Children are behind their parents here, and come first on the way back.
        for node in reversed(done):
            try:
                await _activate(graph, [node])
            except GenericError as problem:
                sys.stderr.write(f"Node '{node.node_name}' stays inactive: {problem}\n")
        reason = os.strerror(error.errno or errno.EIO) if isinstance(error, OSError) else str(error)
        raise GenericError(f"{trouble}: {reason}") from None


async def _inactivate_tree(graph: Graph, node: BlockNode, done: list[BlockNode]) -> None:
    if node.inactive or any(not parent.inactive for parent in _parents(node)):
        return  # a node with several parents follows the last of them
    _check(graph, node)
    await node.flush()
    await node.do_inactivate()
    try:
        _check(graph, node)
    except OSError:
        # Somebody has begun to use it meanwhile.
        await node.do_activate()
        raise
    for backend in _backends(graph, node):
        _put_aside(graph, backend)
    node.flags = node.flags._replace(inactive=True)
    done.append(node)
    graph.refresh([node], loosen=True)
    for child in list(node.children.values()):
        await _inactivate_tree(graph, child, done)


def _check(graph: Graph, node: BlockNode) -> None:
    """Raise OSError when somebody uses the node who does not bear that it is inactive."""
    backends = _backends(graph, node)
    own = {backend.root for backend in backends}
    others = [edge for edge in node.parents if edge not in own]
    if (
        any(edge.needs & _WRITES for edge in others)
        or any(not parent.inactive for parent in _parents(node))
        or not all(backend.can_inactivate for backend in backends)
    ):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


async def _activate(graph: Graph, nodes: list[BlockNode]) -> None:
    """Let nodes be active, and all below them.  GenericError, and then all is as before."""
    done: list[BlockNode] = []
    seen: set[BlockNode] = set()
    try:
        for node in nodes:
            await _activate_tree(graph, node, done, seen)
    except GenericError:
        # Who has one of the images is to get all of them: nobody has written to the others here.
        for node in reversed(done):
            try:
                await _inactivate_tree(graph, node, [])
            except OSError as problem:
                sys.stderr.write(f"Node '{node.node_name}' stays active: {problem.strerror}\n")
        raise


async def _activate_tree(graph: Graph, node: BlockNode, done: list[BlockNode], seen: set[BlockNode]) -> None:
    if node in seen:
        return
    seen.add(node)
    for child in list(node.children.values()):
        await _activate_tree(graph, child, done, seen)
    if node.inactive:
        node.flags = node.flags._replace(inactive=False)
        try:
            graph.refresh([node])
            for below in descendants(node):
                # What was active, but not written to from here, may have another size now as well.
                if below.is_protocol and below not in done:
                    await below.do_activate()
            if not node.is_protocol:
                await node.do_activate()
        except GenericError:
            node.flags = node.flags._replace(inactive=True)
            graph.refresh([node], loosen=True)
            raise
        done.append(node)
    for backend in _backends(graph, node):
        _take_up(graph, backend)


def _put_aside(graph: Graph, backend: BlockBackend) -> None:
    """A backend has no permissions for a while."""
    if backend.root is not None and not backend.put_aside:
        backend.put_aside, backend.shares_all = True, False
        graph.set_permissions(backend.root, 0, permission.ALL)


def _take_up(graph: Graph, backend: BlockBackend) -> None:
    """A backend has its permissions again.  GenericError: others use the node in a way that conflicts."""
    if backend.root is None or not backend.put_aside:
        return
    shares = permission.ALL if graph.incoming else backend.shares
    graph.set_permissions(backend.root, backend.needs, shares)
    backend.put_aside, backend.shares_all = False, graph.incoming


def _backends(graph: Graph, node: BlockNode) -> list[BlockBackend]:
    """Those whose disk it is."""
    return [backend for backend in graph.backends if backend.node is node]


def _parents(node: BlockNode) -> list[BlockNode]:
    """The nodes above it."""
    return [edge.user for edge in node.parents if isinstance(edge.user, BlockNode)]
