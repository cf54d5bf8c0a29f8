"""A machine with a SCSI host adapter, all of it real but the processor.

    async with ScsiRig(tmp_path) as rig:
        disk = await rig.add("scsi-hd", content)
        await rig.start()
        answer = await rig.command(bytes([0x12, 0, 0, 0, 36, 0]), room=36)
        assert answer.status == 0
        answer.data

With `slow=True` nothing is served at once, and each request of the block layer waits until `rig.gate` is set.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from qemud.hw.scsi.disk import ScsiCd, ScsiDisk, ScsiHd
from qemud.hw.virtio.mmio import Reg
from qemud.hw.virtio.scsi import VirtioScsi
from qemud.qapi.runtime.check import parse_type
from tests.hw.virtio.slot import DiskRig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CONTROL, EVENT, COMMANDS = range(3)
GOOD, CHECK = 0, 2
HEADER = struct.Struct("<IIHBB")
SENSE_SIZE = 96
CDB_SIZE = 32


class Answer(NamedTuple):
    """What came back: `sense` is key, code and qualifier, `data` what was written and not left over."""

    response: int
    status: int
    residual: int
    sense: tuple[int, int, int] | None
    data: bytes


def address(target: int = 0, lun: int = 0) -> bytes:
    high = lun >> 8 | 0x40 if lun >= 256 else 0
    return bytes([1, target, high, lun & 0xFF, 0, 0, 0, 0])


class ScsiRig(DiskRig):
    """See the module."""

    def __init__(self, folder: Path, *, slow: bool = False, legacy: bool = False, **options: Any) -> None:
        super().__init__()
        self.folder = folder
        self.slow = slow
        self.legacy = legacy
        self.options = options
        self.disks: list[ScsiDisk] = []

    async def __aenter__(self) -> Self:
        await self.open_slot(legacy=self.legacy)
        self.adapter = VirtioScsi(parse_type("VirtioScsiOptions", self.options))
        self.adapter.id = "scsi0"
        try:
            await self.plug_in("scsi0", self.adapter, self.slot.virtio_bus)
        except BaseException:
            await self.close_slot()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        for disk in tuple(self.disks):
            if disk.realized:
                await self.take_out(disk)
        if self.adapter.realized:
            await self.take_out(self.adapter)
        await self.close_slot()

    # Devices.

    async def node(self, name: str, content: bytes, **more: Any) -> None:
        """A node on a file of its own."""
        path = self.folder / name
        path.write_bytes(content)
        options = {
            "driver": "raw",
            "node-name": name,
            "file": {"driver": "file", "filename": str(path)},
            "discard": "unmap",
            **more,
        }
        await self.graph.add(parse_type("BlockdevOptions", options))
        if self.slow:
            self.slow_down(name)

    async def add(
        self,
        kind: str = "scsi-hd",
        content: bytes | None = b"",
        *,
        more: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> ScsiDisk:
        """A disk or drive on a new node, or on none."""
        given = {**options, **(more or {})}
        name = f"n{len(self.disks)}"
        if content is not None and "drive" not in given:
            await self.node(name, content)
            given["drive"] = name
        cls, struct_name = (ScsiHd, "ScsiHdOptions") if kind == "scsi-hd" else (ScsiCd, "ScsiCdOptions")
        disk: ScsiDisk = cls(parse_type(struct_name, given))
        disk.id = f"disk{len(self.disks)}"
        gate_was_set = self.gate.is_set()
        self.gate.set()
        try:
            await self.plug_in(disk.id, disk, self.adapter.scsi_bus)
        finally:
            if not gate_was_set:
                self.gate.clear()
        self.began = 0
        self.disks.append(disk)
        return disk

    # The driver.

    async def start(
        self, wanted: int = ~0, *, size: int = 64, packed: bool = False, quiet: bool = True
    ) -> None:
        """Bring the driver up; with `quiet` the attentions of the reset are fetched."""
        await self.call(lambda: self.driver.start(wanted, size=size, packed=packed, count=3))
        if quiet:
            for disk in self.disks:
                while (await self.command(bytes(6), lun=disk.lun, target=disk.target)).sense == (6, 0x29, 0):
                    pass

    def put(
        self,
        cdb: bytes,
        data: Sequence[bytes] = (),
        room: Sequence[int] = (),
        *,
        target: int = 0,
        lun: int = 0,
        tag: int = 0,
    ) -> int:
        """Machine thread: put a command into its queue; its number."""
        header = address(target, lun) + struct.pack("<QBBB", tag, 0, 0, 0) + cdb.ljust(CDB_SIZE, b"\0")
        return self.driver.add(COMMANDS, [header, *data], [HEADER.size + SENSE_SIZE, *room], indirect=True)

    def kick(self, queue: int = COMMANDS) -> None:
        self.driver.set(Reg.QUEUE_NOTIFY, queue)

    async def collect(self, queue: int, number: int) -> bytes:
        """What was written for a request, once it is used."""
        while True:
            used = await self.call(self.driver.used, queue)
            if used:
                assert [name for name, _ in used] == [number]
                return await self.call(self.driver.data, queue, number)
            await asyncio.sleep(0)

    @staticmethod
    def decode(content: bytes) -> Answer:
        length, residual, _, status, response = HEADER.unpack_from(content)
        sense = content[HEADER.size : HEADER.size + length]
        data = content[HEADER.size + SENSE_SIZE :]
        return Answer(
            response,
            status,
            residual,
            (sense[2], sense[12], sense[13]) if sense else None,
            data[: len(data) - residual] if not status else data,
        )

    async def command(
        self,
        cdb: bytes,
        data: bytes = b"",
        room: int = 0,
        *,
        target: int = 0,
        lun: int = 0,
    ) -> Answer:
        """One command, until it has ended."""

        def begin() -> int:
            number = self.put(cdb, [data] if data else [], [room] if room else [], target=target, lun=lun)
            self.kick()
            return number

        number = await self.call(begin)
        return self.decode(await self.collect(COMMANDS, number))

    async def task(self, subtype: int, *, target: int = 0, lun: int = 0, tag: int = 0) -> int:
        """Task management; the response."""
        request = struct.pack("<II8sQ", 0, subtype, address(target, lun), tag)

        def begin() -> int:
            number = self.driver.add(CONTROL, [request], [1])
            self.kick(CONTROL)
            return number

        return (await self.collect(CONTROL, await self.call(begin)))[0]

    async def offer_events(self, count: int = 4) -> None:
        """Give the adapter buffers for events."""

        def offer() -> None:
            for _ in range(count):
                self.driver.add(EVENT, [], [16])
            self.kick(EVENT)

        await self.call(offer)

    async def event(self) -> tuple[int, bytes, int]:
        """The next event, once it has come: kind, address, reason."""
        while True:
            used = await self.call(self.driver.used, EVENT)
            if used:
                ((number, written),) = used
                assert written == 16
                content = await self.call(self.driver.data, EVENT, number)
                kind, where, reason = struct.unpack("<I8sI", content)
                return kind, where, reason
            await asyncio.sleep(0)
