"""A machine with a disk, all of it real but the processor: machine thread, block graph, file, slot, device, driver.

    async with Rig(tmp_path / "disk", content) as rig:
        await rig.start()
        number = await rig.call(rig.read, sector, 4096)
        ...

With `slow=True` nothing is served at once, and each request waits in the event loop until `rig.gate` is set.
"""

from __future__ import annotations

import asyncio
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud._generated.types.virtio import VirtioBlkOptions
from qemud.block.graph import Graph
from qemud.hw.virtio.blk import VirtioBlk
from qemud.hw.virtio.mmio import Reg, VirtioMmio
from qemud.machine.thread import MachineThread
from qemud.machine.vm import VirtualMachine
from qemud.qapi.runtime.check import parse_type
from qemud.qom.device import reset_tree
from qemud.qom.object import Root
from tests.hw.virtio.driver import Driver, add_ram

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

HEADER = struct.Struct("<IIQ")
OK, IOERR, UNSUPP = range(3)


class Rig:
    """See the module."""

    def __init__(
        self,
        path: Path,
        content: bytes,
        *,
        slow: bool = False,
        legacy: bool = False,
        node: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        path.write_bytes(content)
        self.path = path
        self.slow = slow
        self.legacy = legacy
        self.node_options = {
            "driver": "raw",
            "node-name": "n0",
            "file": {"driver": "file", "filename": str(path)},
        }
        self.node_options.update(node or {})
        self.options = {"drive": "n0", **more, **(options or {})}
        self.events: list[tuple[str, Any]] = []
        self.gate = asyncio.Event()
        self.began = 0

    async def __aenter__(self) -> Self:
        self.graph = Graph(self.emit)
        await self.graph.add(parse_type("BlockdevOptions", self.node_options))
        self.node = self.graph.nodes["n0"]
        if self.slow:
            self._slow_down()
        self.thread = MachineThread()
        self.vm = VirtualMachine(self.thread, self.emit, lambda _status: None)
        self.services = SimpleNamespace(block=self.graph, vm=self.vm)
        self.thread.start()
        await self.call(self.thread.attach_clock, self.vm.clock)
        await self.call(add_ram, self.vm)
        self.root = Root()
        self.slot = self.root.add_child("slot", VirtioMmio(VirtioMmioOptions(force_legacy=self.legacy)))
        await self.call(self.slot.bring_up, self.vm)
        self.vm.reset_devices = lambda: reset_tree(self.root)
        self.driver = Driver(self.vm, self.slot)  # type: ignore[arg-type]  # the real one has what it needs
        try:
            await self.plug()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        if self.device.realized:
            await self.unplug()
        await self._close()

    async def _close(self) -> None:
        await self.thread.end()
        await self.graph.close()

    def emit(self, name: str, data: Any) -> None:
        self.events.append((name, data))

    def _slow_down(self) -> None:
        file = self.node.children["file"]
        for name in ("do_readv", "do_writev", "do_flush_to_disk", "do_discard", "do_write_zeroes"):
            setattr(file, name, self._gated(getattr(file, name)))
        for node in (self.node, file):
            for name in ("read_now", "write_now"):
                setattr(node, name, lambda *_: False)

    def _gated(self, work: Callable[..., Any]) -> Callable[..., Any]:
        async def gated(*arguments: Any, **keywords: Any) -> Any:
            self.began += 1
            await self.gate.wait()
            return await work(*arguments, **keywords)

        return gated

    async def plug(self) -> None:
        self.device = VirtioBlk(parse_type("VirtioBlkOptions", self.options))
        assert isinstance(self.device.options, VirtioBlkOptions)
        self.root.add_child("disk", self.device)
        try:
            self.gate.set()
            await self.device.claim(self.services)
            self.gate.clear()
            self.began = 0
            await self.call(self.device.bring_up, self.vm, self.slot.virtio_bus)
            await self.call(reset_tree, self.device)
        except BaseException:
            self.device.unparent()
            raise

    async def unplug(self) -> None:
        await self.call(self.device.take_down)
        await self.device.settled()
        await self.device.give_up()
        self.device.unparent()

    async def call(self, fn: Callable[..., T], *arguments: Any) -> T:
        return await self.vm.mailboxes.call(fn, *arguments)

    async def start(self, wanted: int = ~0, *, size: int = 64, packed: bool = False, count: int = 1) -> None:
        await self.call(lambda: self.driver.start(wanted, size=size, packed=packed, count=count))

    # Requests, in the machine thread.

    def put(
        self, kind: int, sector: int, data: Sequence[bytes] = (), room: Sequence[int] = (), queue: int = 0
    ) -> int:
        """Put a request into the queue; its number."""
        return self.driver.add(queue, [HEADER.pack(kind, 0, sector), *data], [*room, 1], indirect=True)

    def kick(self, queue: int = 0) -> None:
        self.driver.set(Reg.QUEUE_NOTIFY, queue)

    # Requests, from the loop.

    async def request(
        self, kind: int, sector: int, data: Sequence[bytes] = (), room: Sequence[int] = (), queue: int = 0
    ) -> tuple[int, bytes]:
        """Make one request; its status and what was read."""
        content = await self.raw([HEADER.pack(kind, 0, sector), *data], [*room, 1], queue)
        return content[-1], content[:-1]

    async def raw(self, readable: Sequence[bytes], writable: Sequence[int], queue: int = 0) -> bytes:
        """Put buffers into the queue as they are; what was written into them when they come back."""

        def begin() -> int:
            number = self.driver.add(queue, readable, writable)
            self.kick(queue)
            return number

        number = await self.call(begin)
        while True:
            used = await self.call(self.driver.used, queue)
            if used:
                assert [name for name, _ in used] == [number]
                return await self.call(self.driver.data, queue, number)
            await asyncio.sleep(0)
