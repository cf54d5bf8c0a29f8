"""Devices for tests of the transport: one that echoes, and how to plug one in."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from qemud.hw.virtio.device import VirtioDevice
from qemud.hw.virtio.mmio import VirtioMmio
from qemud.qom.object import Root
from tests.hw.support import Lines, Vm
from tests.hw.virtio.driver import Driver, add_ram

if TYPE_CHECKING:
    from qemud._generated.types.hw_riscv import VirtioMmioOptions
    from qemud.hw.virtio.queue import Element


class Echo(VirtioDevice, type_name="test-echo"):
    """Writes what it reads into what it may write, cut to that; keeps requests when told to."""

    device_id: ClassVar[int] = 63
    queue_sizes = (64, 64)
    keep = False
    content = b"\x01\x02\x03\x04\x05\x06\x07\x08"

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Element] = []
        self.taken = 0
        self.log: list[str] = []

    def config(self) -> bytes:
        return self.content

    def write_config(self, offset: int, data: bytes) -> None:
        self.content = self.content[:offset] + data + self.content[offset + len(data) :]

    def set_features(self, features: int) -> None:
        self.log.append(f"features {features:#x}")

    def reset_device(self) -> None:
        self.kept = []
        self.log.append("reset")

    def handle_queue(self, index: int) -> None:
        queue = self.queues[index]
        while (element := queue.pop()) is not None:
            self.taken += 1
            if self.keep:
                self.kept.append(element)
            else:
                self.answer(index, element)
        queue.notify()

    def answer(self, index: int, element: Element) -> None:
        data = b"".join(self.dma.read(*piece) for piece in element.readable)
        done = 0
        for address, length in element.writable:
            part = data[done : done + length]
            self.dma.write(address, part)
            done += len(part)
        self.queues[index].push(element, done)


def plug(
    device: VirtioDevice, options: VirtioMmioOptions | None = None
) -> tuple[Vm, VirtioMmio, Driver, Lines]:
    """A machine with memory and one slot, and the device in it, all reset."""
    vm, lines = Vm(), Lines()
    add_ram(vm)
    root = Root()
    slot = root.add_child("slot", VirtioMmio(options))
    slot.connect(0, lines.line(0))
    slot.bring_up(vm)
    root.add_child("device", device)
    device.bring_up(vm, slot.virtio_bus)
    for phase in ("reset_enter", "reset_hold", "reset_exit"):
        for part in (device, slot):
            getattr(part, phase)()
    return vm, slot, Driver(vm, slot, lines), lines
