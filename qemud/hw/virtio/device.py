"""Virtio devices: what all of them have in common, and what a transport must offer.

    class VirtioRng(VirtioDevice, type_name="virtio-rng-device", options=VirtioRngOptions, state=VirtioDeviceState):
        device_id = 4

        def realize(self) -> None:
            self.queue_sizes = (8,)
            super().realize()                      # last: it tells the transport

        def handle_queue(self, index: int) -> None:
            while (element := self.queues[index].pop()) is not None: ...

A device sits on a bus of type `virtio-bus`, which a transport owns: a slot of registers (`mmio.py`) or a PCI function.  The driver
reaches the device through the transport, which calls the methods below "For the transport"; the device reaches the driver
by `queues[n].notify()` and `config_changed()`.

**Hostile drivers.**  `QueueError` and `MemoryFault`, raised anywhere below `serve` or `attempt`, put the device into the state "needs
reset": it does nothing more until the driver resets it.

**Requests under way.**  What the outside reads or writes meanwhile is lent by `self.dma`.  After a reset or unplug `lease.stale` tells a
completion to release the lease and do no more.  A driver that resets the device waits, by its processor being held, until all leases
are back: after the store to the status register nothing is written into the guest's memory any more.

Source: Virtual I/O Device (VIRTIO) Version 1.2, sections 2 and 3; texts and order: QEMU 10.0, hw/virtio/virtio.c.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from qemud._generated.types.virtio import VirtioDeviceOptions, VirtioDeviceState
from qemud.hw.virtio.queue import (
    FEATURE_ACCESS_PLATFORM,
    FEATURE_ANY_LAYOUT,
    FEATURE_BAD,
    FEATURE_EVENT_IDX,
    FEATURE_INDIRECT_DESC,
    FEATURE_NOTIFY_ON_EMPTY,
    FEATURE_RING_PACKED,
    FEATURE_RING_RESET,
    FEATURE_VERSION_1,
    QueueError,
    VirtQueue,
    check_state,
)
from qemud.logs import guest_error, trace, traced
from qemud.machine.memory import MemoryFault
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Bus, Device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    from qemud.machine.dma import LeaseOwner

    _OwnBus = TypeVar("_OwnBus", bound=Bus)

STATUS_ACKNOWLEDGE = 1
STATUS_DRIVER = 2
STATUS_DRIVER_OK = 4
STATUS_FEATURES_OK = 8
STATUS_NEEDS_RESET = 64
STATUS_FAILED = 128

LEGACY_FEATURES = FEATURE_NOTIFY_ON_EMPTY | FEATURE_ANY_LAYOUT | FEATURE_BAD
"""What only drivers of the legacy interface are offered."""

_OPTIONS = (
    ("indirect_desc", FEATURE_INDIRECT_DESC),
    ("event_idx", FEATURE_EVENT_IDX),
    ("notify_on_empty", FEATURE_NOTIFY_ON_EMPTY),
    ("any_layout", FEATURE_ANY_LAYOUT),
    ("iommu_platform", FEATURE_ACCESS_PLATFORM),
    ("packed", FEATURE_RING_PACKED),
    ("queue_reset", FEATURE_RING_RESET),
)


class TransportStatus(NamedTuple):
    """What a transport knows of its device.

    `isr`: reasons for an interrupt; `queue_selected`: what the driver looks at; `disabled`: whether the device must not reach into
    memory; `bus_name`: what the bus is called that the device has for others, if the transport says.
    """

    isr: int
    queue_selected: int
    disabled: bool = False
    bus_name: str | None = None


class VirtioTransport(Protocol):
    """What a device needs of its transport.  `features` are offered besides the device's own."""

    features: int

    @property
    def modern(self) -> bool:
        """Whether a driver of version 1 of the standard can use it."""

    def plugged(self, device: VirtioDevice) -> None:
        """A device is there, and realized."""

    def unplugged(self) -> None:
        """It is there no longer."""

    def queue_interrupt(self, index: int) -> None:
        """Tell the driver that buffers of a queue were used."""

    def config_interrupt(self) -> None:
        """Tell the driver that the configuration has changed."""

    def transport_status(self) -> TransportStatus:
        """What it knows of the device, for those who look for faults."""


class VirtioBus(Bus, type_name="virtio-bus", abstract=True):
    """Where a transport's device plugs in; there is room for one."""

    capacity = 1

    def __init__(self, bus_name: str, transport: VirtioTransport) -> None:
        super().__init__(bus_name)
        self.transport = transport


class VirtioDevice(
    Device,
    type_name="virtio-device",
    abstract=True,
    options=VirtioDeviceOptions,
    state=VirtioDeviceState,
    bus_type="virtio-bus",
):
    """See the module.

    A device sets `device_id`, and `queue_sizes`, the number of buffers of each queue, before it calls `realize` of this class; one that
    has fewer queues until the driver has taken a feature overrides `sizes_for`.
    `host_features` is what the driver is offered, `state.features` what it has taken.
    """

    device_id: ClassVar[int] = 0
    options: VirtioDeviceOptions
    state: VirtioDeviceState
    queue_sizes: tuple[int, ...] = ()
    dma: LeaseOwner
    transport: VirtioTransport

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.queues: list[VirtQueue] = []
        self.host_features = 0

    # -- for the device's author ------------------------------------------------------------------------------------

    def features(self) -> int:
        """What this kind of device offers."""
        return 0

    def offer(self, *, modern: bool) -> int:
        """All that the driver is offered; `modern` says whether a driver of version 1 of the standard may come."""
        features = self.features()
        for name, bit in _OPTIONS:
            if getattr(self.options, name):
                features |= bit
        return features | FEATURE_VERSION_1 if modern else features

    def config(self) -> bytes:
        """The configuration space as it is now, little-endian."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes into the configuration space; the range lies inside."""

    def sizes_for(self, features: int) -> tuple[int, ...]:  # noqa: ARG002 - for those whose queues depend on them
        """The number of buffers of each queue that a driver with these features has."""
        return self.queue_sizes

    def set_features(self, features: int) -> None:
        """The driver has taken these features."""

    def set_status(self, status: int) -> None:
        """The driver has written the status register; `state.status` is the new one already."""

    def handle_queue(self, index: int) -> None:
        """The driver says that there is something in the queue.  May raise QueueError and MemoryFault."""

    def reset_device(self) -> None:
        """The device begins anew: forget what is under way, which is stale from now on."""

    def reset_queue(self, index: int) -> None:
        """The same for one queue."""

    def config_changed(self) -> None:
        """Tell the driver that the configuration has changed, if it is there to hear of it."""
        if self.state.status & STATUS_DRIVER_OK:
            self.state.generation = (self.state.generation + 1) & 0xFFFF_FFFF
            self.transport.config_interrupt()

    def fail(self, reason: str) -> None:
        """The driver has done what it must not: do nothing more until it resets the device."""
        state = self.state
        if state.broken:
            return
        guest_error("virtio", reason, device=self.path)
        state.broken = True
        for queue in self.queues:
            queue.unmap()
        if state.features & FEATURE_VERSION_1:
            state.status |= STATUS_NEEDS_RESET
            self.config_changed()

    def serve(self, index: int) -> None:
        """Look into a queue, as after a notification."""
        self.attempt(self.handle_queue, index)

    def attempt(self, step: Callable[..., object], *arguments: Any) -> None:
        """Do a part of the device's work that may find the driver at fault."""
        if self.state.broken:
            return
        try:
            step(*arguments)
        except (QueueError, MemoryFault) as error:
            self.fail(str(error))

    def name_for_bus(self, kind: type[Bus], prefix: str) -> str:
        """What to call a bus that the device has for others: after it, or the function that it is behind; else a name of its own."""
        owner = self.parent if self.id is None and isinstance(self.parent, Device) else self
        name = getattr(owner, "id", None)
        if name is not None:
            return f"{name}.0"
        taken = {node.bus_name for node in self.root.walk() if isinstance(node, kind)}
        return next(free for n in range(len(taken) + 1) if (free := f"{prefix}.{n}") not in taken)

    @contextmanager
    def with_bus(self, bus: _OwnBus) -> Iterator[_OwnBus]:
        """Have a bus for others, by its name, unless the body fails.  `unrealize` is to abandon it."""
        self.add_child(bus.bus_name, bus)
        try:
            yield bus
        except BaseException:
            self.abandon(bus.name)
            raise

    # -- life -------------------------------------------------------------------------------------------------------

    def realize(self) -> None:
        """Make the queues and tell the transport."""
        assert isinstance(self.bus, VirtioBus)
        self.transport = transport = self.bus.transport
        dma = self.machine.dma
        self.dma = dma.owner(self.path or self.type_name)
        self.queues = []
        self._arrange_queues(0)
        self.host_features = self.offer(modern=transport.modern) | transport.features
        dma.on_ram_removed.append(self._remap)
        transport.plugged(self)

    def _arrange_queues(self, features: int) -> None:
        """Have the queues that go with features; those that stay what they were are left alone."""
        old, sizes = self.queues, self.sizes_for(features)
        if len(old) == len(sizes):
            return
        self.queues = [
            old[index]
            if index < len(old) and old[index].maximum == size
            else VirtQueue(index, size, self.dma, self._interrupt)
            for index, size in enumerate(sizes)
        ]
        for queue in old:
            if queue not in self.queues:
                queue.reset()

    def unrealize(self) -> None:
        """Leave the transport; what is under way is stale."""
        self.transport.unplugged()
        self.machine.dma.on_ram_removed.remove(self._remap)
        for queue in self.queues:
            queue.unmap()
        self.dma.close()

    async def settled(self) -> None:
        """From the loop: wait until the outside has let go of the guest's memory."""
        await self.dma.returned()

    def reset_enter(self) -> None:
        """The state after power-on."""
        self.reset()

    def _interrupt(self, index: int) -> None:
        if "virtio_notify" in traced:
            trace("virtio_notify", device=self.path, queue=index)
        self.transport.queue_interrupt(index)

    def _remap(self) -> None:
        """RAM has gone away; perhaps it was where the rings were."""
        for queue in self.queues:
            self.attempt(queue.remap)

    # -- for the transport ------------------------------------------------------------------------------------------

    def offered(self, *, legacy: bool) -> int:
        """The features to show to a driver of this interface."""
        return self.host_features & 0xFFFF_FFFF if legacy else self.host_features & ~LEGACY_FEATURES

    def driver_features(self, features: int) -> bool:
        """The driver takes features; False if it has taken what is not offered, or left what it must take."""
        taken = features & self.host_features
        self.state.features = taken
        self._arrange_queues(taken)
        for queue in self.queues:
            queue.features = taken
        self.set_features(taken)
        state = self.state
        if not state.started and not taken & FEATURE_VERSION_1:
            state.start_on_kick = True
        return taken == features and not self.host_features & ~taken & FEATURE_ACCESS_PLATFORM

    def driver_status(self, status: int) -> None:
        """The driver writes its status; 0 is for `reset`."""
        if "virtio_set_status" in traced:
            trace("virtio_set_status", device=self.path, status=status)
        state = self.state
        if (state.status ^ status) & STATUS_DRIVER_OK:
            state.started = bool(status & STATUS_DRIVER_OK)
            if state.started:
                state.start_on_kick = False
        state.status = status & 0xFF | (STATUS_NEEDS_RESET if state.status & STATUS_NEEDS_RESET else 0)
        self.set_status(state.status)

    def driver_notify(self, index: int) -> None:
        """The driver says that there is something in a queue."""
        if "virtio_queue_notify" in traced:
            trace("virtio_queue_notify", device=self.path, queue=index)
        if index < len(self.queues) and self.queues[index].ready:
            if self.state.start_on_kick:
                self.state.start_on_kick = False
                self.state.started = True
            self.serve(index)

    def enable_queue(self, index: int) -> None:
        """The driver has said where a queue is."""
        self.attempt(self.queues[index].enable)

    def disable_queue(self, index: int) -> None:
        """The driver wants a queue back.  It waits until nobody writes into its buffers."""
        self.reset_queue(index)
        self.queues[index].disable()
        self.wait_for_leases()

    def clear_queue(self, index: int) -> None:
        """The driver resets one queue, which is then as after a reset of the device."""
        self.disable_queue(index)
        self.queues[index].reset()

    def reset(self) -> None:
        """The driver, or the machine, resets the device.  The driver waits until nobody writes into its buffers."""
        if "virtio_set_status" in traced:
            trace("virtio_set_status", device=self.path, status=0)
        self.dma.retire()
        self.reset_device()
        state = self.state
        state.status = 0
        state.features = 0
        state.broken = False
        state.started = state.start_on_kick = False
        self._arrange_queues(0)
        for queue in self.queues:
            queue.features = 0
            queue.reset()
        self.wait_for_leases()

    def read_config(self, offset: int, size: int) -> int:
        """A load from the configuration space; all ones outside of it."""
        content = self.config()
        if offset + size > len(content):
            return (1 << 8 * size) - 1
        return int.from_bytes(content[offset : offset + size], "little")

    def store_config(self, offset: int, value: int, size: int) -> None:
        """A store to the configuration space; outside of it nothing happens."""
        if offset + size <= len(self.config()):
            self.attempt(self.write_config, offset, value.to_bytes(size, "little"))

    def wait_for_leases(self) -> None:
        """Let the processor wait until the outside has let go of the guest's memory."""
        if self.dma.count:
            executor = self.machine.executor
            executor.hold()
            self.dma.when_returned(executor.let_go)

    # -- state ------------------------------------------------------------------------------------------------------

    def before_save(self) -> None:
        """Note where the queues are."""
        self.state.queues = [queue.save() for queue in self.queues]

    def check_state(self, state: VirtioDeviceState) -> None:
        """Refuse what no device like this can be in."""
        count = len(self.sizes_for(state.features))
        if len(state.queues) != count:
            raise GenericError(f"it has {len(state.queues)} queues, here there are {count}")
        if unknown := state.features & ~self.host_features:
            raise GenericError(f"the driver uses features {unknown:#x}, which are not offered here")
        for queue in state.queues:
            if problem := check_state(queue, state.features):
                raise GenericError(problem)

    def after_load(self) -> None:
        """Map the queues where they are now."""
        self.dma.retire()
        self._arrange_queues(self.state.features)
        for queue, saved in zip(self.queues, self.state.queues, strict=True):
            try:
                queue.load(saved, self.state.features)
            except QueueError as error:
                self.fail(str(error))
        if self.state.broken:
            for queue in self.queues:
                queue.unmap()
        else:
            self.set_features(self.state.features)
