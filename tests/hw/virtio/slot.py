"""What rigs of virtio devices share: a machine with one slot, all of it real but the processor, and a driver.

    class RngRig(SlotRig):
        async def __aenter__(self) -> Self:
            await self.open_slot()
            self.device = VirtioRng(parse_type("VirtioRngOptions", {}))
            await self.plug_in("rng0", self.device, self.slot.virtio_bus)
            return self

        async def __aexit__(self, *_: object) -> None:
            await self.take_out(self.device)
            await self.close_slot()

`DiskRig` has a graph of block nodes besides; those that `slow_down` was told of serve nothing at once, and each of their requests waits
until `gate` is set.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from qemud._generated.types.hw_riscv import VirtioMmioOptions
from qemud.block.graph import Graph
from qemud.hw.virtio.mmio import VirtioMmio
from qemud.machine.thread import MachineThread
from qemud.machine.vm import VirtualMachine
from qemud.qom.device import reset_tree
from qemud.qom.object import Root
from tests.hw.virtio.driver import Driver, add_ram

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.qom.object import Object

T = TypeVar("T")


class SlotRig:
    """See the module.  `services` are what devices claim things from: a rig adds its own; `events` are what the machine has told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    async def open_slot(self, *, legacy: bool = False) -> None:
        """Make the machine, which is stopped."""
        self.thread = MachineThread()
        self.vm = VirtualMachine(self.thread, self.emit, lambda _status: None)
        self.services = SimpleNamespace(vm=self.vm, emit=self.emit)
        self.thread.start()
        await self.call(self.thread.attach_clock, self.vm.clock)
        await self.call(add_ram, self.vm)
        self.root = Root()
        self.slot = self.board().add_child("slot", VirtioMmio(VirtioMmioOptions(force_legacy=legacy)))
        await self.call(self.slot.bring_up, self.vm)
        self.vm.reset_devices = lambda: reset_tree(self.root)
        self.driver = Driver(self.vm, self.slot)  # type: ignore[arg-type]  # the real one has what it needs

    def board(self) -> Object:
        """What the slot is a child of."""
        return self.root

    async def close_slot(self) -> None:
        """End the machine."""
        await self.thread.end()

    def emit(self, name: str, data: Any) -> None:
        self.events.append((name, data))

    async def call(self, fn: Callable[..., T], *arguments: Any) -> T:
        """Have something done by the machine thread."""
        return await self.vm.mailboxes.call(fn, *arguments)

    async def plug_in(self, name: str, device: Any, bus: Any, *, owner: Object | None = None) -> None:
        """A device comes as by `device_add`; if it cannot, nothing is left of it."""
        (owner or self.root).add_child(name, device)
        try:
            await device.claim(self.services)
            try:
                await self.call(device.bring_up, self.vm, bus)
                await self.call(reset_tree, device)
                await self.call(bus.plugged, device)
            except BaseException:
                await device.give_up()
                raise
        except BaseException:
            device.unparent()
            raise

    async def take_out(self, device: Any) -> None:
        """A device goes, and gives back what it has claimed."""
        await self.call(device.take_down)
        await device.settled()
        await device.give_up()
        device.unparent()


class DiskRig(SlotRig):
    """See the module.  `began` counts the requests that have come to the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.began = 0
        self.graph = Graph(self.emit)

    async def open_slot(self, *, legacy: bool = False) -> None:
        """As in the base."""
        await super().open_slot(legacy=legacy)
        self.services.block = self.graph

    async def close_slot(self) -> None:
        """As in the base."""
        await super().close_slot()
        await self.graph.close()

    def slow_down(self, name: str) -> None:
        """Let what is asked of a node on a file wait."""
        node = self.graph.nodes[name]
        file = node.children["file"]
        for method in ("do_readv", "do_writev", "do_flush_to_disk", "do_discard", "do_write_zeroes"):
            setattr(file, method, self._gated(getattr(file, method)))
        for each in (node, file):
            for method in ("read_now", "write_now"):
                setattr(each, method, lambda *_: False)

    def _gated(self, work: Callable[..., Any]) -> Callable[..., Any]:
        async def gated(*arguments: Any, **keywords: Any) -> Any:
            self.began += 1
            await self.gate.wait()
            return await work(*arguments, **keywords)

        return gated
