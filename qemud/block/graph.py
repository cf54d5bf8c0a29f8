"""The graph of block nodes of this process: names, edges, permissions, and what makes and removes nodes.

    graph = Graph(emit)
    node = await graph.open(options)            # with all nodes below; held until `release` or an edge
    edge = graph.attach(user, "root", node, needs=permission.CONSISTENT_READ, shares=permission.ALL)
    await graph.detach(edge)                    # closes the node when nobody else has it

Edges change in one turn of the event loop: `attach`, `replace` and the like are synchronous, check all permissions first, and raise
GenericError with everything as it was.  Opening and closing wait.

A node lives while it has parents, is `monitor_owned` (a client's, by blockdev-add) or is held.

Source of rules and texts: QEMU 10.0, block.c and blockdev.c.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from qemud.block import permission
from qemud.block.activity import activate_all, inactivate_all
from qemud.block.backend import BlockBackend
from qemud.block.drivers import driver_class
from qemud.block.node import BlockNode, Edge, Flags, Role
from qemud.block.refresh import refresh
from qemud.block.shape import check_child, descendants
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from qemud._generated.types.block_options import BlockdevOptions
    from qemud.block.node import User
    from qemud.qapi.runtime.events import EmitFunction

MAX_NAME = 31

MAX_NESTED = 100
"""How many nodes may be opened within each other: nested definitions, and backing files by what images say of them."""

_IDENTIFIER_REST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")


_opening: ContextVar[int] = ContextVar("opening", default=0)
"""How many nodes are being opened around the next one."""


class Graph:
    """See the module."""

    def __init__(self, emit: EmitFunction) -> None:
        self.emit = emit
        self.nodes: dict[str, BlockNode] = {}
        """All open nodes by name, in the order in which they were made."""
        self.backends: list[BlockBackend] = []
        """Everything that uses a node as a disk, in the order in which it came; see `backend_by_name`."""
        self.kind_of: Callable[[str], str] = lambda _name: ""
        """What the machine has by that id or path: `device`, `object` or nothing; set by who makes the graph."""
        self.objects: Callable[[], Mapping[str, Any]] = dict
        """The objects of `object-add` by id; set by who makes the graph."""
        self.jobs: Any = None
        """Background jobs, made when the first begins; see `qemud.block.jobs`."""
        self.exports: Any = None
        """Nodes for others to use, made when the first is; see `qemud.block.nbd.exports`."""
        self.handover = asyncio.Lock()
        """Held while nodes become active or inactive."""
        self.incoming = False
        """Whether the machine is yet to come: clients' nodes and drives are inactive when they are opened."""
        self._reserved: set[str] = set()
        self._numbers = itertools.count()

    async def close(self) -> None:
        """The process ends: write everything back, and let go of it."""
        if self.jobs is not None:
            await self.jobs.close()
        if self.exports is not None:
            await self.exports.close()
        for backend in list(self.backends):
            await backend.close()
        for node in list(self.nodes.values()):
            if node.monitor_owned:
                node.monitor_owned = False
                node.holds += 1
                await self.release(node)

    # Handing images over to another process, and taking them; see `qemud.block.activity`.

    async def inactivate_all(self) -> None:
        """Give all images up for another process.  GenericError, and then everything is active as before."""
        await inactivate_all(self)

    async def activate_all(self) -> None:
        """Take all images.  GenericError, and then all is as before: another process has one, or it cannot be read."""
        await activate_all(self)

    # Finding.

    def find_node(self, name: str) -> BlockNode | None:
        """The node of that name."""
        return self.nodes.get(name)

    def backend_by_name(self, name: str) -> BlockBackend | None:
        """The backend that `-drive id=` named."""
        return next((each for each in self.backends if each.name == name), None) if name else None

    def lookup(self, device: str | None = None, node_name: str | None = None) -> BlockNode:
        """The node of a drive or of a name.  GenericError."""
        if device is not None and (backend := self.backend_by_name(device)) is not None:
            node = backend.node
            if node is None:
                raise GenericError(f"Device '{device}' has no medium")
            return node
        found = self.nodes.get(node_name) if node_name is not None else None
        if found is not None:
            return found
        raise GenericError(f"Cannot find device='{device or ''}' nor node-name='{node_name or ''}'")

    def lookup_any(self, name: str) -> BlockNode:
        """The node that a client means by a name that may be a drive's or a node's.  GenericError."""
        return self.lookup(name, name)

    def device_or_node_name(self, node: BlockNode) -> str:
        """What clients call a node: the drive it is the root of, or its own name."""
        for edge in node.parents:
            name: str = getattr(edge.user, "name", "")
            if name and edge.name == "root":
                return name
        return node.node_name

    # Opening.

    async def open(
        self, options: BlockdevOptions, *, flags: Flags | None = None, name: str | None = None
    ) -> BlockNode:
        """Open a node, and all below it that its options define.  GenericError with QEMU's text; nothing is left then.

        `flags` are defaults that the options override.  The node is held: give it an edge or `monitor_owned`, then `release` it.
        """
        depth = _opening.get()
        if depth == MAX_NESTED:
            raise GenericError(f"No more than {MAX_NESTED} nodes can be opened within each other")
        node_name = self._reserve(name if name is not None else options.node_name)
        opening = _opening.set(depth + 1)
        try:
            base = flags or Flags()
            flags = apply_options(base, options)
            node = driver_class(options.driver)(self, options, node_name, flags)
            node.base_flags = base
            node.holds = 1
            try:
                await node.open()
                # Edges of children were made while the node was not finished (its size and mode decide what it needs).
                self.refresh([node])
            except BaseException:
                await node.close()
                raise
            self.nodes[node_name] = node
        finally:
            _opening.reset(opening)
            self._reserved.discard(node_name)
        return node

    def make_filter(
        self, cls: type[BlockNode], below: BlockNode, name: str | None, options: Any
    ) -> BlockNode:
        """A job's own filter, which is a user of the node below, but is not yet used by anybody; held.  GenericError."""
        node_name = self._reserve(name)
        self._reserved.discard(node_name)
        node = cls(self, options, node_name, below.flags._replace(inactive=False))
        node.implicit = name is None
        node.holds = 1
        node.size = below.size
        node.opened = True
        self.add_child(node, "file", below, Role.FILTERED | Role.PRIMARY)
        self.nodes[node_name] = node
        return node

    async def open_reference(
        self, reference: BlockdevOptions | str, *, flags: Flags | None = None
    ) -> BlockNode:
        """An existing node by its name, or a new one; held, as from `open`."""
        if isinstance(reference, str):
            node = self.lookup_any(reference)
            node.holds += 1
            return node
        return await self.open(reference, flags=flags)

    async def open_child(
        self, parent: BlockNode, name: str, reference: BlockdevOptions | str, role: int
    ) -> BlockNode:
        """Open or find a node and make it a child; options that it does not set are inherited.  GenericError."""
        node = await self.open_reference(reference, flags=inherit(parent.flags, role))
        if not isinstance(reference, str):
            node.inherits_from = parent
        try:
            self.add_child(parent, name, node, role)
        finally:
            await self.release(node)
        return node

    def add_child(self, parent: BlockNode, name: str, node: BlockNode, role: int) -> Edge:
        """Make a node the child of another.  GenericError: a cycle, or permissions that conflict."""
        edge = self.link(parent, name, node, role)
        try:
            self.refresh([node])
        except GenericError:
            self.unlink(edge)
            raise
        return edge

    def link(self, parent: BlockNode, name: str, node: BlockNode, role: int) -> Edge:
        """As `add_child`, but permissions are the caller's to `refresh`.  GenericError: a cycle."""
        check_child(parent, name, node)
        edge = Edge(parent, name, node, role, 0, permission.ALL)
        edge.needs, edge.shares = parent.child_permissions(edge, *parent.cumulative)
        self.relink(edge)
        return edge

    def relink(self, edge: Edge) -> None:
        """Undo `unlink`."""
        parent = edge.user
        assert isinstance(parent, BlockNode)
        self._connect(edge)
        parent.children[edge.name] = edge.node
        parent.edges[edge.name] = edge

    def unlink(self, edge: Edge) -> None:
        """Undo `link`: nothing is released or closed."""
        parent = edge.user
        assert isinstance(parent, BlockNode)
        self._disconnect(edge)
        del parent.edges[edge.name], parent.children[edge.name]

    def _reserve(self, name: str | None) -> str:
        if name is None:
            # As QEMU's: no client can give such a name, and nobody can guess it.
            name = f"#block{next(self._numbers)}{random.randrange(100):02}"  # noqa: S311 - not a secret
        elif not (name[:1].isalpha() and name.isascii() and _IDENTIFIER_REST.issuperset(name)):
            raise GenericError(f"Invalid node-name: '{name}'")
        if self.backend_by_name(name) is not None:
            raise GenericError(f"node-name={name} is conflicting with a device id")
        if name in self.nodes or name in self._reserved:
            raise GenericError(f"Duplicate nodes with node-name='{name}'")
        if len(name) > MAX_NAME:
            raise GenericError("Node name too long")
        self._reserved.add(name)
        return name

    # Edges.

    def attach(
        self, user: User, node: BlockNode, *, needs: int, shares: int, name: str = "root", role: int = 0
    ) -> Edge:
        """Use a node.  GenericError: others use it in a way that conflicts."""
        if node.inactive and needs & ~permission.CONSISTENT_READ:
            raise GenericError(f"Permission '{permission.names(needs)}' unavailable on inactive node")
        edge = Edge(user, name, node, role, needs, shares)
        self._connect(edge)
        try:
            self.refresh([node])
        except GenericError:
            self._disconnect(edge)
            raise
        return edge

    def set_permissions(self, edge: Edge, needs: int, shares: int) -> None:
        """Need and share something else from now on.  GenericError, and then nothing has changed."""
        before = edge.needs, edge.shares
        edge.needs, edge.shares = needs, shares
        try:
            self.refresh([edge.node])
        except GenericError:
            edge.needs, edge.shares = before
            raise

    async def detach(self, edge: Edge) -> None:
        """Use a node no longer; it is closed when nobody uses it any more."""
        node = edge.node
        node.holds += 1
        self.cut(edge)
        await self.release(node)

    def cut(self, edge: Edge) -> None:
        """As `detach`, but leave the node open; whoever calls holds it."""
        self._disconnect(edge)
        if isinstance(edge.user, BlockNode) and edge.user.edges.get(edge.name) is edge:
            del edge.user.edges[edge.name], edge.user.children[edge.name]
        # Giving something back cannot conflict; what the host refuses meanwhile (a lock taken elsewhere) is tried again later.
        self.refresh([edge.node], loosen=True)

    def move(self, edges: Iterable[Edge], node: BlockNode) -> None:
        """Let edges end at another node, all of them or, with GenericError, none.  The nodes are drained."""
        moved = [(edge, edge.node) for edge in edges]
        for edge, _ in moved:
            check_child(edge.user, edge.name, node)
        for edge, _ in moved:
            self.repoint(edge, node)
        try:
            self.refresh([*dict.fromkeys([node, *(old for _, old in moved)])])
        except GenericError:
            for edge, old in moved:
                self.repoint(edge, old)
            raise
        if moved and any(old.size != node.size for _, old in moved):
            for edge, _ in moved:
                edge.user.child_resized(edge)

    def replace(self, old: BlockNode, new: BlockNode, *, keep: Iterable[Edge] = ()) -> None:
        """Put a node in the place of another for all its users, but for `keep`, `new` itself and what is below it.  GenericError."""
        kept, below = set(keep), set(descendants(new))
        self.move([edge for edge in old.parents if edge not in kept and edge.user not in below], new)

    async def release(self, node: BlockNode) -> None:
        """Hold a node no longer; close it when nobody uses it."""
        node.holds -= 1
        if node.holds or node.parents or node.monitor_owned:
            return
        if self.nodes.get(node.node_name) is node:
            del self.nodes[node.node_name]
        await node.close()

    async def add(self, options: BlockdevOptions) -> BlockNode:
        """Make a node for a client, who is to remove it.  GenericError."""
        if options.node_name is None:
            raise GenericError("'node-name' must be specified for the root node")
        node = await self.open(options, flags=Flags(inactive=self.incoming))
        node.monitor_owned = True
        await self.release(node)
        return node

    async def resize(self, node: BlockNode, size: int) -> None:
        """Change the size of a node, as a user of its own.  GenericError."""
        self.check_not_blocked(node)
        backend = BlockBackend(self)
        try:
            backend.set_permissions(permission.RESIZE, permission.ALL)
            backend.insert(node)
            async with node.drained():
                try:
                    await node.truncate(size, exact=False)
                except OSError as error:
                    raise GenericError(f"Failed to resize: {error.strerror}") from None
        finally:
            await backend.close()

    async def remove(self, name: str) -> None:
        """Remove the node that a client made.  GenericError: there is none, or it is in use."""
        node = self.nodes.get(name)
        if node is None:
            raise GenericError(f"Failed to find node with node-name='{name}'")
        if any(edge.name == "root" for edge in node.parents):
            raise GenericError(f"Node {name} is in use")
        self.check_not_blocked(node)
        if not node.monitor_owned:
            raise GenericError(f"Node {name} is not owned by the monitor")
        if node.parents or node.holds:
            raise GenericError(f"Block device {name} is in use")
        node.monitor_owned = False
        node.holds += 1
        await self.release(node)

    def _connect(self, edge: Edge) -> None:
        edge.node.parents.insert(0, edge)
        edge.settle(edge.node.quiesced)

    def _disconnect(self, edge: Edge) -> None:
        edge.node.parents.remove(edge)
        edge.settle(0)

    def repoint(self, edge: Edge, node: BlockNode) -> None:
        """Let an edge end at another node.  Permissions are the caller's to `refresh`."""
        edge.node.parents.remove(edge)
        edge.node = node
        node.parents.insert(0, edge)
        edge.settle(node.quiesced)
        if isinstance(edge.user, BlockNode):
            edge.user.children[edge.name] = node

    # Permissions.

    def refresh(self, nodes: Iterable[BlockNode], *, loosen: bool = False, reopening: bool = False) -> None:
        """Bring the permissions of these nodes, and of all below them, into line with their users.

        GenericError, and then everything is as before; with `loosen`, no error is raised.
        """
        refresh(nodes, loosen=loosen, reopening=reopening)

    # Operations that exclude each other.

    def check_not_blocked(self, node: BlockNode, *, in_chain: bool = False) -> None:
        """Raise GenericError when somebody works on the node in a way that does not bear another such operation.

        `in_chain` is for operations on the images of a chain, which bear that there is another image above.
        """
        reasons = list(node.blockers.values())
        if not in_chain:
            reasons += [
                f"node is used as backing hd of '{self.device_or_node_name(edge.user)}'"
                for edge in node.parents
                if edge.name == "backing" and isinstance(edge.user, BlockNode)
            ]
        if reasons:
            raise GenericError(f"Node '{self.device_or_node_name(node)}' is busy: {reasons[0]}")

    # Events.

    def write_threshold_exceeded(self, node: BlockNode, amount: int, threshold: int) -> None:
        """A write went beyond the threshold that a client has set."""
        from qemud._generated.events import block_core as events

        events.block_write_threshold(
            self.emit, node_name=node.node_name, amount_exceeded=amount, write_threshold=threshold
        )


def apply_options(flags: Flags, options: Any) -> Flags:
    """The flags of a node: what its options say, else the defaults.  GenericError when they contradict."""
    changes: dict[str, bool] = {}
    if options.read_only is not None:
        changes["read_only"] = options.read_only
    if options.active is False:
        changes["inactive"] = True
    if options.auto_read_only is not None:
        changes["auto_read_only"] = options.auto_read_only
    if options.force_share is not None:
        changes["force_share"] = options.force_share
    if options.discard is not None:
        changes["unmap"] = options.discard.value == "unmap"
    if options.cache is not None:
        changes["direct"] = options.cache.direct
        changes["no_flush"] = options.cache.no_flush
    flags = flags._replace(**changes)
    if flags.force_share and not flags.read_only:
        raise GenericError("force-share=on can only be used with read-only images")
    if options.detect_zeroes is not None and options.detect_zeroes.value == "unmap" and not flags.unmap:
        raise GenericError(
            "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
        )
    return flags


def inherit(flags: Flags, role: int) -> Flags:
    """What a child of a node with these flags has by default."""
    if role & Role.COW:
        flags = flags._replace(read_only=True, auto_read_only=False)
    return flags._replace(unmap=True, no_backing=False)
