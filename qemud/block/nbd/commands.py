"""The commands of `block-export.json`.

Source of rules and texts: QEMU 10.0, blockdev-nbd.c and block/export/export.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemud._generated.commands.block_export import BlockExportCommands
from qemud._generated.types.block_export import BlockExportRemoveMode
from qemud.block.nbd.exports import exports_of
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.block_export import (
        BlockExportInfo,
        BlockExportOptions,
        NbdServerAddOptions,
        NbdServerOptionsLegacy,
    )
    from qemud.block.graph import Graph
    from qemud.block.nbd.exports import Exports


class Services(Protocol):
    """What these handlers need of the process."""

    @property
    def block(self) -> Graph:
        """The graph of block nodes, made when it is asked for."""

    @property
    def has_block(self) -> bool:
        """Whether it has been made."""

    @property
    def take_descriptor(self) -> Callable[[str], int]:
        """Takes the descriptor that the client has named."""


class BlockExportHandlers(BlockExportCommands):
    """Handlers of `block-export.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @property
    def _exports(self) -> Exports:
        return exports_of(self._services.block)

    async def nbd_server_start(self, arg: NbdServerOptionsLegacy) -> None:
        """`nbd-server-start`."""
        from qemud.block.nbd.server import NbdServer
        from qemud.chardev.address import flatten, listen

        exports = self._exports
        async with exports.turn:
            if exports.server is not None:
                raise GenericError("NBD server already running")
            listener = await listen(flatten(arg.addr), self._services.take_descriptor)
            protection = None
            try:
                if arg.tls_creds is not None:
                    from qemud.chardev.tls import Protection

                    objects = self._services.block.objects
                    protection = Protection(objects, arg.tls_creds, arg.tls_authz, server=True)
            except BaseException:
                listener.close()
                raise
            exports.server = NbdServer(
                exports,
                listener,
                max_connections=arg.max_connections,
                handshake_seconds=arg.handshake_max_seconds,
                protection=protection,
            )

    async def nbd_server_stop(self) -> None:
        """`nbd-server-stop`."""
        async with self._exports.turn:
            await self._exports.stop_server()

    async def nbd_server_add(self, arg: NbdServerAddOptions) -> None:
        """`nbd-server-add`."""
        from qemud._generated.types.block_export import BlockExportOptionsNbd_

        node = self._services.block.lookup_any(arg.device)
        name = arg.device if arg.name is None else arg.name
        await self._exports.add(
            BlockExportOptionsNbd_(
                id=name,
                node_name=node.node_name,
                # A wish to write is not refused here, as it is by block-export-add.
                writable=arg.writable and not node.read_only,
                name=name,
                description=arg.description,
                bitmaps=None if arg.bitmap is None else [arg.bitmap],
            )
        )

    async def nbd_server_remove(self, *, name: str, mode: BlockExportRemoveMode) -> None:
        """`nbd-server-remove`."""
        self._exports.remove(name, hard=mode is BlockExportRemoveMode.HARD)

    async def block_export_add(self, arg: BlockExportOptions) -> None:
        """`block-export-add`."""
        await self._exports.add(arg)

    async def block_export_del(
        self,
        *,
        id: str,  # noqa: A002 - wire name
        mode: BlockExportRemoveMode,
    ) -> None:
        """`block-export-del`."""
        self._exports.remove(id, hard=mode is BlockExportRemoveMode.HARD)

    async def query_block_exports(self) -> list[BlockExportInfo]:
        """`query-block-exports`."""
        if not self._services.has_block:
            return []
        # The newest first, as in QEMU.
        return [export.info() for export in reversed(self._exports.all.values())]
