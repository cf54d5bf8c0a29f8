"""The commands of `block.json`: trays and media of drives.

Without a device that has it, the medium of a drive can be changed at will.

Source of rules and texts: QEMU 10.0, block/qapi-system.c.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from qemud._generated.commands.block import BlockCommands
from qemud._generated.types.block import BlockdevChangeReadOnlyMode
from qemud.qapi.runtime.errors import DeviceNotFound, GenericError

if TYPE_CHECKING:
    from qemud.block.backend import BlockBackend
    from qemud.block.graph import Graph


class Services(Protocol):
    """What these handlers need of the process."""

    @property
    def block(self) -> Graph:
        """The graph of block nodes."""


def find_backend(graph: Graph, device: str | None, device_id: str | None) -> BlockBackend:
    """The drive that a client means, by its name or by the device that has it.  QmpError."""
    if (device is None) == (device_id is None):
        raise GenericError("Need exactly one of 'device' and 'id'")
    if device is not None:
        found = graph.backend_by_name(device)
        if found is None:
            raise DeviceNotFound(f"Device '{device}' not found")
        return found
    for backend in graph.backends:
        owner = backend.device
        if owner is not None and device_id in {owner.id, owner.path, backend.device_path}:
            return backend
    match graph.kind_of(device_id or ""):
        case "device":
            raise GenericError("Device does not have a block device backend")
        case "object":
            raise GenericError(f"{device_id} is not a device")
    raise DeviceNotFound(f"Device '{device_id}' not found")


class _Locked(GenericError):
    """The guest holds the medium, and was asked for it."""


class BlockHandlers(BlockCommands):
    """Handlers of `block.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @property
    def _graph(self) -> Graph:
        return self._services.block

    async def eject(self, *, device: str | None, id: str | None, force: bool) -> None:  # noqa: A002 - wire name
        """`eject`."""
        await self._open_tray(device, id, force=force)
        await self._remove(device, id)

    async def blockdev_open_tray(
        self,
        *,
        device: str | None,
        id: str | None,  # noqa: A002 - wire name
        force: bool,
    ) -> None:
        """`blockdev-open-tray`."""
        with contextlib.suppress(_Locked):  # the guest decides, and the event tells
            await self._open_tray(device, id, force=force)

    async def blockdev_close_tray(self, *, device: str | None, id: str | None) -> None:  # noqa: A002 - wire name
        """`blockdev-close-tray`."""
        backend = find_backend(self._graph, device, id)
        _check_removable(backend, device or id)
        if backend.medium is not None and backend.medium.tray_open:
            await self._move(backend, loaded=True)

    async def blockdev_remove_medium(self, *, id: str) -> None:  # noqa: A002 - wire name
        """`blockdev-remove-medium`."""
        await self._remove(None, id)

    async def blockdev_insert_medium(self, *, id: str, node_name: str) -> None:  # noqa: A002 - wire name
        """`blockdev-insert-medium`."""
        backend = find_backend(self._graph, None, id)
        node = self._graph.find_node(node_name)
        if node is None:
            raise GenericError(f"Node '{node_name}' not found")
        if any(edge.name == "root" for edge in node.parents):
            raise GenericError(f"Node '{node_name}' is already in use")
        await self._insert(backend, node_name)

    async def blockdev_change_medium(
        self,
        *,
        device: str | None,
        id: str | None,  # noqa: A002 - wire name
        filename: str,
        format: str | None,  # noqa: A002 - wire name
        force: bool,
        read_only_mode: BlockdevChangeReadOnlyMode,
    ) -> None:
        """`blockdev-change-medium`."""
        from qemud.block.image import open_image

        graph = self._graph
        backend = find_backend(graph, device, id)
        flags = backend.root_flags
        if read_only_mode is not BlockdevChangeReadOnlyMode.RETAIN:
            flags = flags._replace(read_only=read_only_mode is BlockdevChangeReadOnlyMode.READ_ONLY)
        options = {"detect-zeroes": "on" if backend.detects_zeroes else "off"}
        if format is not None:
            options["driver"] = format
        node = await open_image(graph, filename, options, flags=flags)
        try:
            await self._open_tray(device, id, force=force)
            await self._remove(device, id)
            await self._insert(backend, node.node_name)
            if backend.medium is not None and backend.medium.tray_open:
                await self._move(backend, loaded=True)
        finally:
            await graph.release(node)

    # Steps.

    async def _open_tray(self, device: str | None, device_id: str | None, *, force: bool) -> None:
        """Open the tray, where there is one.  _Locked: the guest has been asked to."""
        backend = find_backend(self._graph, device, device_id)
        name = device_id or device
        _check_removable(backend, name)
        medium = backend.medium
        if medium is None or medium.tray_open is None or medium.tray_open:
            return
        locked = medium.medium_locked
        if locked:
            await medium.eject_request(force=force)
        if not locked or force:
            await self._move(backend, loaded=False)
        if locked and not force:
            raise _Locked(
                f"Device '{name}' is locked and force was not specified, wait for tray to open and try again"
            )

    async def _remove(self, device: str | None, device_id: str | None) -> None:
        """Take the medium out."""
        graph = self._graph
        backend = find_backend(graph, device, device_id)
        name = device or device_id
        if backend.device is not None:
            _check_removable(backend, name)
            if backend.medium is not None and backend.medium.tray_open is False:
                raise GenericError(f"Tray of device '{name}' is not open")
        node = backend.node
        if node is None:
            return
        graph.check_not_blocked(node)
        backend.remember_root()
        await backend.remove()
        if backend.medium is not None and backend.medium.tray_open is None:
            await self._move(backend, loaded=False)

    async def _insert(self, backend: BlockBackend, node_name: str) -> None:
        """Put a medium in."""
        if backend.device is not None:
            if backend.medium is None:
                raise GenericError("Device is not removable")
            if backend.medium.tray_open is False:
                raise GenericError("Tray of the device is not open")
        if backend.node is not None:
            raise GenericError("There already is a medium in the device")
        backend.insert(self._graph.nodes[node_name])
        if backend.medium is not None and backend.medium.tray_open is None:
            try:
                await self._move(backend, loaded=True)
            except GenericError:
                await backend.remove()
                raise

    async def _move(self, backend: BlockBackend, *, loaded: bool) -> None:
        """Tell the device of its medium, and clients of its tray."""
        medium = backend.medium
        assert medium is not None
        before = medium.tray_open
        await medium.medium_changed(loaded=loaded)
        backend.update_now()
        if medium.tray_open is not None and medium.tray_open != before:
            backend.tray_moved()


def _check_removable(backend: BlockBackend, name: str | None) -> None:
    """Raise GenericError when the medium cannot be changed."""
    if backend.device is not None and backend.medium is None:
        raise GenericError(f"Device '{name}' is not removable")
