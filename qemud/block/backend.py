"""Block backends: what a device, an export or a job has as its disk.

A backend has a root node, or none when there is no medium.  It keeps requests within the medium, holds them back while nodes below
are drained, counts them, and knows what is to become of errors.  A `-drive` makes one with a name; a device that names
a node gets one of its own (`claim_drive`).

    backend = BlockBackend(graph, "hd0")
    backend.insert(node)
    backend.configure(read_only=False)              # permissions, by the device that has it
    await backend.writev(0, [memoryview(b"data")])  # raises OSError
    disk = Disk(backend, mailboxes, vm)             # (disk.py) the same for the machine thread

Everything belongs to the event loop, except what says otherwise.

Source of rules and texts: QEMU 10.0, block/block-backend.c and hw/core/qdev-properties-system.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from qemud._generated.types.block_info import BlockDeviceIoStatus, BlockdevOnError
from qemud._generated.types.block_options import BlockdevDetectZeroesOptions
from qemud.block import permission
from qemud.block.buffers import total
from qemud.block.driver import Flags
from qemud.block.edges import InFlight
from qemud.block.stats import Accounting
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from qemud._generated.types.block_info import BlockDeviceInfo
    from qemud.block.edges import Edge
    from qemud.block.graph import Graph
    from qemud.block.node import BlockNode


class Throttle(Protocol):
    """What limits the requests of a backend."""

    async def wait(self, length: int, *, write: bool) -> None:
        """Until a request of so many bytes may begin."""

    def suspend(self) -> None:
        """Let everything that waits begin, and do not limit until `resume`."""

    def resume(self) -> None:
        """See `suspend`."""

    def close(self) -> None:
        """The backend has no limits any more: let everything that waits begin."""

    def tell(self, info: BlockDeviceInfo) -> None:
        """Put the limits into what clients are told of the drive."""


class Medium(Protocol):
    """A device whose medium can be changed."""

    @property
    def tray_open(self) -> bool | None:
        """Whether the tray is open; None for a device without a tray."""

    @property
    def medium_locked(self) -> bool:
        """Whether the guest holds the medium."""

    async def eject_request(self, *, force: bool) -> None:
        """Somebody would like to have the medium."""

    async def medium_changed(self, *, loaded: bool) -> None:
        """A medium is there now, or the tray is opened to take it."""


class BlockBackend:
    """See the module.  `name` is empty unless a `-drive` or a client gave one."""

    def __init__(self, graph: Graph, name: str = "") -> None:
        self.graph = graph
        self.name = name
        self.root: Edge | None = None
        self.device: Any = None
        """The device that has it: an object with `id` and `path`."""
        self.medium: Medium | None = None
        """The same device, when its medium can be changed."""
        self.legacy: Any = None
        """Options of the `-drive` that made it; its drive goes when its device goes."""
        self.on_resize: list[Callable[[], None]] = []
        self.on_reverted: list[Callable[[], Awaitable[None]]] = []
        """Called when the content is what it was once: who keeps some of it reads it again.  No request is let in meanwhile."""
        self.stats = Accounting()
        self.on_read_error = BlockdevOnError.REPORT
        self.on_write_error = BlockdevOnError.ENOSPC
        self.enable_write_cache = self.chosen_write_cache = True
        """Now, which the guest may change, and what the user has chosen."""
        self.allow_beyond_end = False
        """Whether requests may go beyond the end, and make the node larger: jobs and image creation."""
        self.iostatus_enabled = False
        self.iostatus = BlockDeviceIoStatus.OK
        self.needs = 0
        self.shares = permission.ALL
        self.put_aside = False
        """Whether its node is inactive, so that it has no permissions until that is over; see `qemud.block.activity`."""
        self.shares_all = False
        """Whether everything is shared until the machine that comes in has arrived."""
        self.bears_inactive = False
        """Whether its node may become inactive although it needs something."""
        self.at_once = threading.Lock()
        """Held by the machine thread while it uses `node_now`, and by the loop while it changes it."""
        self.node_now: BlockNode | None = None
        """The root node, while requests may be tried at once."""
        self._flags = Flags()
        self.detects_zeroes = False
        """Whether the last medium did, and the next one is to do so."""
        self._throttle: Throttle | None = None
        self._requests = InFlight()
        self._quiesced = 0
        self._go_on: asyncio.Future[None] | None = None
        graph.backends.append(self)

    # The node.

    @property
    def node(self) -> BlockNode | None:
        """The root node; None without a medium."""
        root = self.root
        return None if root is None else root.node

    @property
    def reference(self) -> str:
        """What names it now: its own name, or else its node's; empty when it has neither.  Any thread."""
        node = self.node
        return self.name or ("" if node is None else node.node_name)

    @property
    def size(self) -> int:
        """Bytes; 0 without a medium.  Any thread."""
        root = self.root
        return 0 if root is None else root.node.size

    @property
    def read_only(self) -> bool:
        """Whether the medium cannot be written to."""
        node = self.node
        return node is not None and node.read_only

    @property
    def available(self) -> bool:
        """Whether there is a medium that can be reached."""
        return self.root is not None and not (self.medium is not None and self.medium.tray_open)

    def insert(self, node: BlockNode) -> None:
        """Use a node from now on.  GenericError: others use it in a way that conflicts."""
        self.put_aside = aside = node.inactive and self.can_inactivate
        needs, shares = (0, permission.ALL) if aside else (self.needs, self.shares)
        self.root = self.graph.attach(self, node, needs=needs, shares=shares)
        self.update_now()

    @property
    def can_inactivate(self) -> bool:
        """Whether it bears that its node becomes inactive: devices and drives do, and who only reads."""
        claimed = self.device is not None or bool(self.name)
        return claimed or self.bears_inactive or not self.needs & ~permission.CONSISTENT_READ

    async def remove(self) -> None:
        """Use the node no longer: what is under way is waited for."""
        root = self.root
        if root is None:
            return
        async with root.node.drained():
            self.root = None
            self.put_aside = self.shares_all = False
            self.update_now()
            root.node.holds += 1
            self.graph.cut(root)
        await self.graph.release(root.node)

    async def close(self) -> None:
        """Be gone: nobody can find it any more."""
        await self.remove()
        throttle, self._throttle = self._throttle, None
        if throttle is not None:
            throttle.close()
        if self in self.graph.backends:
            self.graph.backends.remove(self)

    def set_permissions(self, needs: int, shares: int) -> None:
        """Need and share something else.  GenericError, and then nothing has changed."""
        if self.root is not None and not self.put_aside:
            self.graph.set_permissions(self.root, needs, shares)
        self.needs, self.shares = needs, shares

    def configure(self, *, read_only: bool, resizable: bool = True, share_rw: bool = False) -> None:
        """Need what a device needs, and share what it shares.  GenericError."""
        needs = permission.CONSISTENT_READ | (0 if read_only else permission.WRITE)
        shares = permission.CONSISTENT_READ | permission.WRITE_UNCHANGED
        if resizable:
            shares |= permission.RESIZE
        if share_rw:
            shares |= permission.WRITE
        self.set_permissions(needs, shares)

    def attach_device(self, device: Any) -> None:
        """A device has it from now on.  GenericError: another one has."""
        if self.device is not None:
            raise GenericError(f"Drive '{self.name}' is already in use by another device")
        self.device = device
        self.reset_iostatus()

    def detach_device(self) -> None:
        """The device has it no longer."""
        self.device = self.medium = None
        self.on_resize.clear()
        self.set_permissions(0, permission.ALL)
        self.on_reverted.clear()
        self.update_now()

    @property
    def device_id(self) -> str:
        """The device that has it, by its id or else its path; empty when none has.

        A device may want to be known by another path (`client_path`).
        """
        device = self.device
        return "" if device is None else getattr(device, "client_path", "") or device.id or device.path

    @property
    def device_path(self) -> str:
        """The device that has it, by its path; empty when none has."""
        device = self.device
        return "" if device is None else getattr(device, "client_path", "") or device.path

    def remember_root(self) -> None:
        """Keep how the medium was open, for the next one."""
        node = self.node
        if node is not None:
            self._flags = node.flags
            self.detects_zeroes = node.detect_zeroes is not BlockdevDetectZeroesOptions.OFF

    @property
    def root_flags(self) -> Flags:
        """How the medium is open, or the last one was."""
        self.remember_root()
        return self._flags._replace(no_backing=False, auto_read_only=False)

    @root_flags.setter
    def root_flags(self, flags: Flags) -> None:
        self._flags = flags

    def tray_moved(self) -> None:
        """Tell clients that the tray was opened or closed; the device calls it when its guest has done so."""
        from qemud._generated.events import block as events

        medium = self.medium
        if medium is not None and medium.tray_open is not None:
            self.update_now()
            events.device_tray_moved(
                self.graph.emit, device=self.name, id=self.device_id, tray_open=medium.tray_open
            )

    # What becomes of errors.

    @property
    def counts_iostatus(self) -> bool:
        """Whether `iostatus` means anything: the device knows of it, and errors can stop the machine."""
        return self.iostatus_enabled and (
            self.on_write_error in {BlockdevOnError.ENOSPC, BlockdevOnError.STOP}
            or self.on_read_error is BlockdevOnError.STOP
        )

    def reset_iostatus(self) -> None:
        """The guest is continued: what went wrong will be tried again."""
        self.iostatus = BlockDeviceIoStatus.OK

    def error_action(self, number: int, *, read: bool) -> str:
        """What is to become of a failed request: ignore, report or stop.  Any thread."""
        policy = self.on_read_error if read else self.on_write_error
        if policy is BlockdevOnError.ENOSPC:
            return "stop" if number == errno.ENOSPC else "report"
        action: str = policy.value
        return action

    def report_error(self, action: str, number: int, *, read: bool) -> None:
        """Tell clients of a failed request."""
        from qemud._generated.events import block_core as events
        from qemud._generated.types.block_core import BlockErrorAction, IoOperationType

        if action == "stop" and self.iostatus is BlockDeviceIoStatus.OK:
            self.iostatus = (
                BlockDeviceIoStatus.NOSPACE if number == errno.ENOSPC else BlockDeviceIoStatus.FAILED
            )
        node = self.node
        events.block_io_error(
            self.graph.emit,
            qom_path=self.device_path,
            device=self.name,
            node_name=None if node is None else node.node_name,
            operation=IoOperationType.READ if read else IoOperationType.WRITE,
            action=BlockErrorAction(action),
            nospace=number == errno.ENOSPC if self.counts_iostatus else None,
            reason=os.strerror(number),
        )

    # As `User` of its node.

    def description(self) -> str:
        """For error messages."""
        name = self.name or self.device_id
        return f"block device '{name}'" if name else "an unnamed block device"

    def users(self) -> Sequence[Edge]:
        """Nobody is above a backend."""
        return ()

    @property
    def in_flight(self) -> int:
        """Requests that have begun."""
        return self._requests.count

    async def idle(self) -> None:
        """Until there are none."""
        await self._requests.idle()

    def drain_begin(self) -> None:
        """Begin no request, neither here nor at once in the machine thread."""
        self._quiesced += 1
        if self._quiesced == 1:
            self.update_now()
            if self._throttle is not None:
                self._throttle.suspend()

    def drain_end(self) -> None:
        """Go on."""
        self._quiesced -= 1
        if not self._quiesced:
            if self._throttle is not None:
                self._throttle.resume()
            self.update_now()
            go_on, self._go_on = self._go_on, None
            if go_on is not None and not go_on.done():
                go_on.set_result(None)

    def child_resized(self, edge: Edge) -> None:
        """The device is told."""
        del edge
        for tell in tuple(self.on_resize):
            tell()

    @property
    def throttle(self) -> Throttle | None:
        """What limits requests."""
        return self._throttle

    @throttle.setter
    def throttle(self, throttle: Throttle | None) -> None:
        if self._throttle is not None and self._quiesced:
            self._throttle.resume()
        self._throttle = throttle
        if throttle is not None and self._quiesced:
            throttle.suspend()
        self.update_now()

    def update_now(self) -> None:
        """Decide anew whether requests may be tried at once; waits for one that is being."""
        possible = not self._quiesced and self._throttle is None and self.available
        with self.at_once:
            self.node_now = self.node if possible else None

    # Requests.

    @asynccontextmanager
    async def _request(
        self, offset: int, length: int, *, write: bool, limited: bool = True
    ) -> AsyncIterator[BlockNode]:
        """A request of that range: what it is for, once it may begin."""
        while self._quiesced:
            if self._go_on is None:
                self._go_on = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._go_on)
        self._requests.count += 1
        try:
            node = self.check(offset, length)
            if limited and self._throttle is not None:
                await self._throttle.wait(length, write=write)
            yield node
        finally:
            self._requests.leave()

    def check(self, offset: int, length: int) -> BlockNode:
        """The node for a request; OSError: there is no medium, or it is not that large."""
        node = self.node
        if node is None or not self.available:
            raise OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM))
        if offset < 0 or length < 0 or (not self.allow_beyond_end and offset + length > node.size):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return node

    async def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """As `BlockNode.readv`."""
        async with self._request(offset, total(buffers), write=False) as node:
            await node.readv(offset, buffers)

    async def writev(self, offset: int, buffers: Sequence[memoryview], *, fua: bool = False) -> None:
        """As `BlockNode.writev`; without a write cache every write is stable at its end."""
        async with self._request(offset, total(buffers), write=True) as node:
            await node.writev(offset, buffers, fua=fua or not self.enable_write_cache)

    async def write_zeroes(
        self, offset: int, length: int, *, unmap: bool = False, fua: bool = False, fallback: bool = True
    ) -> None:
        """As `BlockNode.write_zeroes`."""
        async with self._request(offset, length, write=True) as node:
            fua = fua or not self.enable_write_cache
            await node.write_zeroes(offset, length, unmap=unmap, fua=fua, fallback=fallback)

    async def discard(self, offset: int, length: int) -> None:
        """As `BlockNode.discard`."""
        async with self._request(offset, length, write=True) as node:
            await node.discard(offset, length)

    async def flush(self) -> None:
        """As `BlockNode.flush`."""
        async with self._request(0, 0, write=True, limited=False) as node:
            await node.flush()

    async def drain(self) -> None:
        """Wait until nothing of this backend is under way."""
        node = self.node
        if node is not None:
            await node.drain()


async def claim_drive(graph: Graph, device: Any, prop: str, value: str) -> BlockBackend:
    """The backend that a device's property names: a drive, or a new one on a node.  GenericError with QEMU's text.

    Give it back with `release_drive`.
    """
    backend = graph.backend_by_name(value)
    if backend is None:
        node = graph.find_node(value)
        if node is None:
            raise GenericError(f"Property '{device.type_name}.{prop}' can't find value '{value}'")
        backend = BlockBackend(graph)
        try:
            backend.insert(node)
        except GenericError:
            await backend.close()
            raise
        backend.device = device
        return backend
    if backend.device is not None:
        if backend.legacy is not None and backend.legacy.interface != "none":
            raise GenericError(
                f"Drive '{value}' is already in use because it has been automatically connected to another device "
                "(did you need 'if=none' in the drive options?)"
            )
        raise GenericError(f"Drive '{value}' is already in use by another device")
    backend.attach_device(device)
    return backend


async def release_drive(backend: BlockBackend, *, unplugged: bool = False) -> None:
    """A device gives back what `claim_drive` gave it; `unplugged` when it was in use, and not only tried.

    What was made for the device goes with it, and so does a `-drive` when its device is unplugged; jobs on that are cancelled.
    """
    node, jobs = backend.node, backend.graph.jobs
    goes = unplugged and backend.legacy is not None
    if node is not None:
        if goes and jobs is not None:
            await jobs.cancel_on(node)
        await node.drain()
    backend.detach_device()
    if goes or not backend.name:
        await backend.close()
