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
from typing import TYPE_CHECKING, Any, Self

from qemud._generated.types.virtio import VirtioBlkOptions
from qemud.hw.virtio.blk import VirtioBlk
from qemud.hw.virtio.mmio import Reg
from qemud.qapi.runtime.check import parse_type
from tests.hw.virtio.slot import DiskRig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

HEADER = struct.Struct("<IIQ")
OK, IOERR, UNSUPP = range(3)


class Rig(DiskRig):
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
        super().__init__()
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

    async def __aenter__(self) -> Self:
        await self.graph.add(parse_type("BlockdevOptions", self.node_options))
        self.node = self.graph.nodes["n0"]
        if self.slow:
            self.slow_down("n0")
        await self.open_slot(legacy=self.legacy)
        try:
            await self.plug()
        except BaseException:
            await self.close_slot()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        if self.device.realized:
            await self.unplug()
        await self.close_slot()

    async def plug(self) -> None:
        self.device = VirtioBlk(parse_type("VirtioBlkOptions", self.options))
        assert isinstance(self.device.options, VirtioBlkOptions)
        self.gate.set()
        await self.plug_in("disk", self.device, self.slot.virtio_bus)
        self.gate.clear()
        self.began = 0

    async def unplug(self) -> None:
        await self.take_out(self.device)

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
