"""Exports: nodes that others may use from outside, by id.

    exports = exports_of(graph)
    await exports.add(options)          # BlockExportOptions: `block-export-add`
    await exports.remove("exp0", hard=False)

An export lives until it is removed and its last client has gone; then BLOCK_EXPORT_DELETED is sent.

Source of rules and texts: QEMU 10.0, block/export/export.c, blockdev-nbd.c and nbd/server.c.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from qemud._generated.events import block_export as events
from qemud._generated.types.block_export import BlockExportInfo, BlockExportOptionsNbd_, BlockExportType
from qemud.block import permission
from qemud.block.backend import BlockBackend
from qemud.block.nbd.contexts import AllocationDepth, BaseAllocation, Dirty
from qemud.block.nbd.protocol import MAX_STRING, TransmissionFlag
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud._generated.types.block_export import BlockExportOptions
    from qemud.block.bitmaps import DirtyBitmap
    from qemud.block.graph import Graph
    from qemud.block.nbd.contexts import Context
    from qemud.block.nbd.server import NbdServer
    from qemud.block.nbd.wire import Wire
    from qemud.block.node import BlockNode

_ID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")


class NbdExport:
    """An export of the NBD server; `wires` are the connections of its clients."""

    type = BlockExportType.NBD

    def __init__(
        self, identifier: str, backend: BlockBackend, options: BlockExportOptionsNbd_, *, multiple: bool
    ) -> None:
        self.id = identifier
        self.backend = backend
        self.name = options.name if options.name is not None else options.node_name
        self.description = options.description
        self.read_only = not options.writable
        self.size = backend.size
        self.alignment = max(1, self.node.request_alignment)
        self.contexts: list[Context] = []
        self.bitmaps: list[DirtyBitmap] = []
        self.wires: set[Wire] = set()
        self.shutting_down = False
        self.gone = asyncio.Event()
        """It is no more."""
        flags = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_FUA
        flags |= TransmissionFlag.SEND_CACHE
        if multiple:
            flags |= TransmissionFlag.CAN_MULTI_CONN
        if self.read_only:
            flags |= TransmissionFlag.READ_ONLY
        else:
            flags |= TransmissionFlag.SEND_TRIM | TransmissionFlag.SEND_WRITE_ZEROES
            flags |= TransmissionFlag.SEND_FAST_ZERO
        self.flags = int(flags)

    @property
    def node(self) -> BlockNode:
        """What is exported."""
        node = self.backend.node
        assert node is not None
        return node

    def info(self) -> BlockExportInfo:
        """As `query-block-exports` tells it."""
        return BlockExportInfo(
            id=self.id,
            type=self.type,
            node_name=self.node.node_name,
            shutting_down=self.shutting_down,
        )

    def use_bitmaps(self, found: Sequence[DirtyBitmap], *, depth: bool) -> None:
        """Hold the bitmaps, and offer them with what every export offers."""
        self.contexts = [BaseAllocation()]
        if depth:
            self.contexts.append(AllocationDepth())
        for bitmap in found:
            bitmap.in_use = True
            self.bitmaps.append(bitmap)
            self.contexts.append(Dirty(bitmap))


class Exports:
    """All exports of the process, and the NBD server."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.all: dict[str, NbdExport] = {}
        self.server: NbdServer | None = None
        self.turn = asyncio.Lock()
        """Held while the server starts or ends."""
        self._ending: set[asyncio.Task[None]] = set()

    def find_by_name(self, name: str) -> NbdExport | None:
        """The export that NBD's clients know by that name."""
        for export in self.all.values():
            if export.name == name and not export.shutting_down:
                return export
        return None

    async def add(self, options: BlockExportOptions) -> NbdExport:
        """Export a node.  GenericError, and then nothing has happened, but that the node may be active."""
        assert isinstance(options, BlockExportOptionsNbd_)
        node = self._node_for(options)
        if node.inactive and not options.allow_inactive:
            from qemud.block.activity import activate

            await activate(self.graph, node)
        return self._add(self._node_for(options), options)

    def _node_for(self, options: BlockExportOptionsNbd_) -> BlockNode:
        """What is to be exported.  GenericError."""
        if not _ID.match(options.id):
            raise GenericError("Invalid block export id")
        if options.id in self.all:
            raise GenericError(f"Block export id '{options.id}' is already in use")
        node = self.graph.lookup(None, options.node_name)
        if node.read_only and options.writable:
            raise GenericError("Cannot export read-only node as writable")
        return node

    def _add(self, node: BlockNode, options: BlockExportOptionsNbd_) -> NbdExport:
        server = self.server
        if server is None:
            raise GenericError("NBD server not running")
        name = options.name if options.name is not None else options.node_name
        if len(name.encode()) > MAX_STRING:
            raise GenericError(f"export name '{name}' too long")
        if options.description is not None and len(options.description.encode()) > MAX_STRING:
            raise GenericError(f"description '{options.description}' too long")
        if any(export.name == name for export in self.all.values()):
            raise GenericError(f"NBD server already has export named '{name}'")
        bitmaps = [self._find_bitmap(node, each, writable=options.writable) for each in options.bitmaps or ()]
        backend = BlockBackend(self.graph)
        backend.enable_write_cache = not options.writethrough
        backend.bears_inactive = options.allow_inactive
        backend.needs = permission.CONSISTENT_READ | (permission.WRITE if options.writable else 0)
        backend.shares = permission.ALL & ~permission.RESIZE
        try:
            backend.insert(node)
        except BaseException:
            self.graph.backends.remove(backend)
            raise
        export = NbdExport(options.id, backend, options, multiple=server.max_connections != 1)
        export.use_bitmaps(bitmaps, depth=options.allocation_depth)
        self.all[export.id] = export
        return export

    def _find_bitmap(self, node: BlockNode, named: Any, *, writable: bool) -> DirtyBitmap:
        from qemud.block.bitmaps import ALLOW_READ_ONLY

        if isinstance(named, str):
            layer: BlockNode | None = node
            bitmap = None
            while layer is not None and bitmap is None:
                bitmap = layer.dirty_bitmaps.get(named)
                layer = layer.filtered or layer.backing
            if bitmap is None:
                raise GenericError(f"Bitmap '{named}' is not found")
            if not writable and bitmap.recording and not node.read_only:
                raise GenericError(f"Enabled bitmap '{named}' incompatible with readonly export")
        else:
            owner = self.graph.lookup(named.node, named.node)
            bitmap = owner.dirty_bitmaps.get(named.name)
            if bitmap is None:
                raise GenericError(f"Dirty bitmap '{named.name}' not found")
        bitmap.check(ALLOW_READ_ONLY)
        return bitmap

    # Ending.

    def find(self, identifier: str) -> NbdExport:
        """The export of that id.  GenericError."""
        found = self.all.get(identifier)
        if found is None:
            raise GenericError(f"Export '{identifier}' is not found")
        return found

    def remove(self, identifier: str, *, hard: bool) -> None:
        """Export it no longer; with `hard` its clients are disconnected.  GenericError: it has clients."""
        export = self.find(identifier)
        if export.shutting_down:
            raise GenericError(f"Export '{identifier}' is already shutting down")
        if export.wires and not hard:
            raise GenericError(f"export '{identifier}' still in use")
        self._shut_down(export)

    def _shut_down(self, export: NbdExport) -> None:
        if export.shutting_down:
            return
        export.shutting_down = True
        for wire in tuple(export.wires):
            wire.shut()
        self.settle(export)

    def settle(self, export: NbdExport) -> None:
        """A client has gone: an export that is shutting down ends with its last one."""
        if export.shutting_down and not export.wires and self.all.get(export.id) is export:
            # At once: who asks next sees it no longer, as in QEMU.
            del self.all[export.id]
            task = asyncio.get_running_loop().create_task(self._end(export))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, export: NbdExport) -> None:
        for bitmap in export.bitmaps:
            bitmap.in_use = False
        await export.backend.close()
        export.gone.set()
        events.block_export_deleted(self.graph.emit, id=export.id)

    async def end_all(self) -> None:
        """Disconnect all clients and end all exports."""
        exports = list(self.all.values())
        for export in exports:
            self._shut_down(export)
        for export in exports:
            await export.gone.wait()

    async def stop_server(self) -> None:
        """The server and its exports end.  GenericError: there is none."""
        server = self.server
        if server is None:
            raise GenericError("NBD server not running")
        self.server = None
        server.stop_listening()
        await self.end_all()
        await server.close()

    async def close(self) -> None:
        """The process ends."""
        if self.server is not None:
            await self.stop_server()


def exports_of(graph: Graph) -> Exports:
    """The graph's exports, made when first asked for."""
    if graph.exports is None:
        graph.exports = Exports(graph)
    found: Exports = graph.exports
    return found
