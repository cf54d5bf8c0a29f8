"""The commands of `virtio-inspection.json`: virtio devices and their queues, for those who look for faults.

A request is shown as the driver has written it, with two differences from QEMU's command, which ends when the driver names a descriptor
that there is not, and puts the device out of order when one leads to another that there is not: here, the former is an error, and the
latter the end of the list.  No list is longer than a request can be.

Source: QEMU 10.0, hw/virtio/virtio-qmp.c and hw/virtio/virtio.c, for what is told and for the texts of errors.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from qemud._generated.commands.virtio_inspection import VirtioInspectionCommands
from qemud._generated.types.virtio_inspection import (
    VirtioDeviceFeatures,
    VirtioDeviceStatus,
    VirtioInfo,
    VirtioQueueElement,
    VirtioRingAvail,
    VirtioRingDesc,
    VirtioRingUsed,
    VirtioStatus,
    VirtQueueStatus,
)
from qemud.hw.virtio.device import VirtioDevice
from qemud.hw.virtio.feature_names import DEVICES, STATUSES, TRANSPORT, decode
from qemud.hw.virtio.queue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, FEATURE_RING_PACKED, MAX_SIZE
from qemud.machine.memory import MemoryFault
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.tree import AmbiguousPathError

if TYPE_CHECKING:
    from qemud.hw.virtio.queue import VirtQueue
    from qemud.machine.services import Services

_DESCRIPTOR = Struct("<QIHH")  # address, length, flags, next
_FLAGS = (
    (1 << 15, "used"),
    (1 << 7, "avail"),
    (DESC_INDIRECT, "indirect"),
    (DESC_WRITE, "write"),
    (DESC_NEXT, "next"),
)


class VirtioInspectionHandlers(VirtioInspectionCommands):
    """Handlers of `virtio-inspection.json`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def x_query_virtio(self) -> list[VirtioInfo]:
        """`x-query-virtio`."""
        found = [
            VirtioInfo(path=node.path, name=_name(node))
            for node in self._services.tree.root.walk()
            if isinstance(node, VirtioDevice) and node.realized
        ]
        if not found:
            raise GenericError("No virtio devices found")
        return found

    async def x_query_virtio_status(self, *, path: str) -> VirtioStatus:
        """`x-query-virtio-status`."""
        vm = self._services.vm
        device = self._find(path, "realized VirtIODevice")
        return await vm.mailboxes.call(_status, device, vm.running)

    async def x_query_virtio_queue_status(self, *, path: str, queue: int) -> VirtQueueStatus:
        """`x-query-virtio-queue-status`."""
        device = self._find(path, "VirtIODevice")
        return await self._services.vm.mailboxes.call(_queue_status, device, queue)

    async def x_query_virtio_queue_element(
        self, *, path: str, queue: int, index: int | None = None
    ) -> VirtioQueueElement:
        """`x-query-virtio-queue-element`."""
        device = self._find(path, "VirtIO device")
        return await self._services.vm.mailboxes.call(_element, device, queue, index)

    def _find(self, path: str, wanted: str) -> VirtioDevice:
        try:
            found = self._services.tree.find(path)
        except AmbiguousPathError:
            found = None
        if not isinstance(found, VirtioDevice) or not found.realized:
            raise GenericError(f"Path {path} is not a {wanted}")
        return found


def _name(device: VirtioDevice) -> str:
    return DEVICES[device.device_id][0]


# On the machine thread.


def _status(device: VirtioDevice, running: bool) -> VirtioStatus:
    state = device.state
    transport = device.transport.transport_status()
    statuses, unknown = decode(state.status, STATUSES)
    return VirtioStatus(
        name=_name(device),
        device_id=device.device_id,
        vhost_started=False,
        device_endian="little",
        guest_features=_features(device, state.features),
        host_features=_features(device, device.host_features),
        backend_features=_features(device, 0),
        num_vqs=len(device.queues),
        status=VirtioDeviceStatus(statuses=statuses, unknown_statuses=unknown or None),
        isr=transport.isr & 0xFF,
        queue_sel=transport.queue_selected & 0xFFFF,
        vm_running=running,
        broken=state.broken,
        disabled=transport.disabled,
        use_started=True,
        started=state.started,
        start_on_kick=state.start_on_kick,
        disable_legacy_check=False,
        bus_name=transport.bus_name or "",
        use_guest_notifier_mask=True,
    )


def _features(device: VirtioDevice, bits: int) -> VirtioDeviceFeatures:
    transports, bits = decode(bits, TRANSPORT)
    own, bits = decode(bits, DEVICES[device.device_id][1])
    return VirtioDeviceFeatures(transports=transports, dev_features=own, unknown_dev_features=bits or None)


def _queue(device: VirtioDevice, number: int) -> VirtQueue:
    if number >= len(device.queues):
        raise GenericError(f"Invalid virtqueue number {number}")
    return device.queues[number]


def _queue_status(device: VirtioDevice, number: int) -> VirtQueueStatus:
    queue = _queue(device, number)
    # The transport puts addresses together piece by piece; they are the queue's from when it is enabled.
    desc, avail, used = (queue.desc, queue.avail, queue.used) if queue.ready else (0, 0, 0)
    return VirtQueueStatus(
        name=_name(device),
        queue_index=number,
        inuse=queue.in_use,
        vring_num=queue.size,
        vring_num_default=queue.maximum,
        vring_align=queue.align,
        vring_desc=desc,
        vring_avail=avail,
        vring_used=used,
        last_avail_idx=queue.last_avail,
        shadow_avail_idx=queue.seen,
        used_idx=queue.used_index,
        signalled_used=queue.signalled,
        signalled_used_valid=queue.signalled_valid,
    )


def _element(device: VirtioDevice, number: int, index: int | None) -> VirtioQueueElement:
    queue = _queue(device, number)
    if device.state.features & FEATURE_RING_PACKED:
        raise GenericError("Packed ring not supported")
    if not queue.mapped:
        raise GenericError("Region caches not initialized")
    size = queue.size
    try:
        avail = queue.dma.view(queue.avail, 4 + 2 * size).cast("H")
        used = queue.dma.view(queue.used, 4).cast("H")
        table = queue.dma.view(queue.desc, 16 * size)
    except MemoryFault:
        raise GenericError("Cannot map descriptor ring") from None
    head = avail[2 + (queue.last_avail if index is None else index) % size]
    if head >= size:
        raise GenericError(f"Guest says index {head} is available")
    return VirtioQueueElement(
        name=_name(device),
        index=head,
        descs=_chain(queue, table, head),
        avail=VirtioRingAvail(flags=avail[0], idx=avail[1], ring=head),
        used=VirtioRingUsed(flags=used[0], idx=used[1]),
    )


def _chain(queue: VirtQueue, table: memoryview, at: int) -> list[VirtioRingDesc]:
    """The descriptors of a request, the last one first."""
    limit = len(table) >> 4
    address, length, flags, following = _DESCRIPTOR.unpack_from(table, at << 4)
    if flags & DESC_INDIRECT:
        if length < _DESCRIPTOR.size:
            raise GenericError("Invalid size for indirect buffer table")
        try:
            table = queue.dma.view(address, length)
        except MemoryFault:
            raise GenericError("Cannot map indirect buffer") from None
        limit = length >> 4
        address, length, flags, following = _DESCRIPTOR.unpack_from(table, 0)
    found: list[VirtioRingDesc] = []
    while True:
        names = [name for flag, name in _FLAGS if flags & flag]
        found.append(VirtioRingDesc(addr=address, len=length, flags=names))
        if not flags & DESC_NEXT or following >= limit or len(found) >= min(limit, MAX_SIZE):
            found.reverse()
            return found
        address, length, flags, following = _DESCRIPTOR.unpack_from(table, following << 4)
