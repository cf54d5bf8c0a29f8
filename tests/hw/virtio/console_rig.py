"""A machine with serial ports, all of it real but the processor, and sockets at the ports' other ends.

async with ConsoleRig(tmp_path) as rig:
    port = await rig.add("virtserialport", "p0", name="org.test.0")
    await rig.start()
    reader, writer = await rig.connect("p0")
    await rig.open(port.number)
    await rig.write(port.number, b"to the host")
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, Self

from qemud.chardev.registry import Chardevs
from qemud.hw.virtio.console import VirtioSerial
from qemud.hw.virtio.mmio import Reg
from qemud.hw.virtio.serial_port import VirtConsole, VirtSerialPort
from qemud.qapi.runtime.check import parse_type
from tests.hw.virtio.slot import SlotRig

if TYPE_CHECKING:
    from pathlib import Path

MESSAGE = struct.Struct("<IHH")
READY, ADD, REMOVE, PORT_READY, CONSOLE, _, OPEN, NAME = range(8)
MULTIPORT = 1 << 1
TO_GUEST, FROM_GUEST = 2, 3
PORTS = 4


def input_of(number: int) -> int:
    return 2 * number + 2 if number else 0


def output_of(number: int) -> int:
    return 2 * number + 3 if number else 1


class ConsoleRig(SlotRig):
    """See the module."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__()
        self.folder = folder
        self.options = {"max_ports": PORTS, **options}
        self.ports: list[VirtSerialPort] = []

    async def __aenter__(self) -> Self:
        await self.open_slot()
        self.chardevs = self.services.chardevs = Chardevs()
        await self.call(self.vm.clock.start)
        self.serial = VirtioSerial(parse_type("VirtioSerialOptions", self.options))
        self.serial.id = "serial0"
        await self.plug_in("serial0", self.serial, self.slot.virtio_bus)
        return self

    async def __aexit__(self, *_: object) -> None:
        for port in tuple(self.ports):
            await self.remove(port)
        await self.take_out(self.serial)
        await self.close_slot()
        self.chardevs.close_now()

    # Ports.

    async def add(
        self, kind: str, chardev: str | None = None, *, make: bool = True, **options: Any
    ) -> VirtSerialPort:
        """A port, with a socket that waits for somebody; `make` says to make that first."""
        if make and chardev is not None and self.chardevs.get(chardev) is None:
            await self.chardevs.open_compact(chardev, f"unix:{self.folder / chardev},server=on,wait=off")
        if chardev is not None:
            options["chardev"] = chardev
        cls = VirtConsole if kind == "virtconsole" else VirtSerialPort
        port: VirtSerialPort = cls(parse_type("VirtSerialPortOptions", options))
        port.id = f"port{len(self.root.children)}"
        await self.plug_in(port.id, port, self.serial.serial_bus)
        self.ports.append(port)
        return port

    async def remove(self, port: VirtSerialPort) -> None:
        await self.take_out(port)
        self.ports.remove(port)

    async def connect(self, chardev: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.folder / chardev))

    # The driver.

    async def start(self, wanted: int = ~0, *, room: int = 8) -> None:
        """Bring the driver up, with room for messages, and say that it is there."""
        count = 2 * PORTS + 2 if wanted & MULTIPORT else 2
        await self.call(lambda: self.driver.start(wanted, size=16, count=count))
        if wanted & MULTIPORT:
            for _ in range(room):
                await self.leave_room(TO_GUEST, 64)
            await self.say(0, READY)

    async def leave_room(self, queue: int, size: int) -> int:
        def leave() -> int:
            number = self.driver.add(queue, [], [size])
            self.driver.set(Reg.QUEUE_NOTIFY, queue)
            return number

        return await self.call(leave)

    async def say(self, number: int, event: int, value: int = 1) -> None:
        """Send a message."""

        def send() -> None:
            self.driver.add(FROM_GUEST, [MESSAGE.pack(number, event, value)], [])
            self.driver.set(Reg.QUEUE_NOTIFY, FROM_GUEST)

        await self.call(send)
        await self.used(FROM_GUEST)

    async def open(self, number: int) -> None:
        await self.say(number, OPEN)

    async def used(self, queue: int) -> bytes:
        """What came by the next buffer of a queue, once one is used."""
        pending = self._pending.setdefault(queue, [])
        while not pending:
            for number, written in await self.call(self.driver.used, queue):
                pending.append((await self.call(self.driver.data, queue, number))[:written])
            await asyncio.sleep(0)
        return pending.pop(0)

    @property
    def _pending(self) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = self.__dict__.setdefault("_pending_data", {})
        return found

    async def message(self) -> tuple[int, int, int, bytes]:
        """The next message: port, event, value, text."""
        content = await self.used(TO_GUEST)
        await self.leave_room(TO_GUEST, 64)
        return *MESSAGE.unpack_from(content), content[MESSAGE.size :]

    async def put(self, number: int, data: bytes) -> int:
        """Begin to write to a port."""

        def begin() -> int:
            name = self.driver.add(output_of(number), [data], [])
            self.driver.set(Reg.QUEUE_NOTIFY, output_of(number))
            return name

        return await self.call(begin)

    async def write(self, number: int, data: bytes) -> None:
        """Write to a port, and wait until the buffer comes back."""
        await self.put(number, data)
        await self.used(output_of(number))
