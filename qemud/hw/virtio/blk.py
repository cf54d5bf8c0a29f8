"""A disk: `virtio-blk-device`.

A request is a header, data, and a byte for the status.  Data goes straight between the guest's pages and the block layer: what the
host has in memory within the notification itself, the rest by leases that end when the block layer is done.  The driver
is interrupted once for each batch.

    readable: type, sector | data to write, or the range to discard
    writable: data that was read | status

Requests that failed where the user wants the machine stopped wait in the disk (`qemud.block.disk`), and are saved with the device.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.2; limits and texts: QEMU 10.0, hw/block/virtio-blk.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.virtio import VirtioBlkOptions, VirtioBlkRequest, VirtioBlkState
from qemud.block.stats import READ, WRITE
from qemud.hw.block.drive import MAX_SECTORS, SECTOR, Drive
from qemud.hw.virtio.blk_features import (
    CONFIG_WCE_OFFSET,
    FEATURE_CONFIG_WCE,
    FEATURE_FLUSH,
    FEATURE_SCSI,
    configuration,
    offered,
)
from qemud.hw.virtio.device import STATUS_DRIVER_OK, VirtioDevice
from qemud.hw.virtio.queue import FEATURE_ANY_LAYOUT, MAX_SIZE, QueueError, check_element
from qemud.logs import trace, traced
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from typing import Any

    from qemud.block.disk import Disk
    from qemud.hw.virtio.queue import Element, VirtQueue
    from qemud.machine.dma import Lease, Segment

TYPE_IN = 0
TYPE_OUT = 1
TYPE_SCSI_CMD = 2  # legacy
TYPE_FLUSH = 4
TYPE_GET_ID = 8
TYPE_DISCARD = 11
TYPE_WRITE_ZEROES = 13
TYPE_BARRIER = 1 << 31  # legacy, and ignored

STATUS_OK, STATUS_IOERR, STATUS_UNSUPP = (bytes([n]) for n in range(3))

ID_LENGTH = 20
WRITE_ZEROES_UNMAP = 1
AUTO_QUEUES = 0xFFFF
MAX_QUEUES = 1024

BATCH = 64
"""How much is done in one go, so that the machine is not held up: each request counts one, and one for each 64 KiB."""

_HEADER = Struct("<IIQ")  # type, priority, sector
_RANGE = Struct("<QII")  # sector, sectors, flags
_SCSI_LENGTH = 16


class Request:
    """One request; `done` is what the block layer calls.

    `status` is the address of the status byte, `size` the number of bytes that the device may write, `lease` what is lent meanwhile.
    """

    __slots__ = ("_device", "element", "finished", "lease", "queue", "size", "status")

    lease: Lease

    def __init__(self, device: VirtioBlk, queue: VirtQueue, element: Element, status: int, size: int) -> None:
        self._device = device
        self.queue = queue
        self.element = element
        self.status = status
        self.size = size
        self.finished = False

    def done(self, error: int) -> None:
        """The block layer has done what it could; `error` is 0 or an errno."""
        self.finished = True
        lease = self.lease
        stale = lease.stale
        lease.release()
        if not stale:
            device = self._device
            device.flying.pop(self, None)
            device.finish(self, STATUS_IOERR if error else STATUS_OK)


class VirtioBlk(
    VirtioDevice,
    type_name="virtio-blk-device",
    options=VirtioBlkOptions,
    state=VirtioBlkState,
    links={"iothread": "iothread"},
    user_creatable=True,
):
    """See the module."""

    device_id: ClassVar[int] = 2
    options: VirtioBlkOptions
    state: VirtioBlkState
    disk: Disk

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.drive = Drive(self, self.options)
        self.flying: dict[Request, None] = {}
        """Requests that the block layer has not done at once."""
        self._batching = False
        self._sector_mask = self._sectors = 0
        self._queue_count = 1
        self._restored: list[VirtioBlkRequest] = []

    @property
    def client_path(self) -> str:
        """What clients call the disk: as they find it behind PCI, where the user's device has it as a child.

        libvirt looks for every virtio disk there, and in QEMU finds none that is in a slot.
        """
        in_slot = self.id is not None and self.bus is not None and self.bus.is_a("virtio-mmio-bus")
        return f"{self.path}/virtio-backend" if in_slot else ""

    def shown_option(self, name: str) -> Any:
        """As in QEMU, `drive` names what is there now, after snapshots, jobs and changes of the medium."""
        return self.drive.reference if name == "drive" else super().shown_option(name)

    # Life.

    async def claim(self, services: Any) -> None:
        """Take the drive."""
        drive = self.drive
        try:
            await drive.find(services)
            self._check_medium_and_queues()
            await drive.set_up()
            self._check_limits()
        except BaseException:
            await drive.release()
            raise
        drive.on_resize(self._resized)

    async def give_up(self) -> None:
        """Give the drive back."""
        await self.drive.release()

    def _check_medium_and_queues(self) -> None:
        if self.drive.backend.node is None:
            raise GenericError("Device needs media, but drive is empty")
        count, size = self.options.num_queues, self.options.queue_size
        if not count:
            raise GenericError("num-queues property must be larger than 0")
        if count != AUTO_QUEUES and count > MAX_QUEUES:
            raise GenericError(f"invalid num-queues property ({count}), must be no more than {MAX_QUEUES}")
        if size <= 2:
            raise GenericError(f"invalid queue-size property ({size}), must be > 2")
        if size & size - 1 or size > MAX_SIZE:
            raise GenericError(f"invalid queue-size property ({size}), must be a power of 2 (max {MAX_SIZE})")
        self._queue_count = 1 if count == AUTO_QUEUES else count

    def _check_limits(self) -> None:
        options = self.options
        for name, wanted, most in (
            ("max-discard-sectors", options.discard, options.max_discard_sectors),
            ("max-write-zeroes-sectors", options.write_zeroes, options.max_write_zeroes_sectors),
        ):
            if wanted and not 0 < most <= MAX_SECTORS:
                raise GenericError(f"invalid {name} property ({most}), must be between 1 and {MAX_SECTORS}")

    def realize(self) -> None:
        """Make the queues."""
        self.disk = self.drive.disk
        self._sector_mask = self.drive.logical // SECTOR - 1
        self._sectors = self.disk.size // SECTOR
        self.queue_sizes = (self.options.queue_size,) * self._queue_count
        self._retry = self.machine.clock.timer(self._begin_restored)
        super().realize()
        self.drive.in_use = True

    def unrealize(self) -> None:
        """Requests under way come to nothing."""
        self._retry.cancel()
        super().unrealize()
        self.disk.drop_parked()

    def reset_device(self) -> None:
        """Requests under way come to nothing, and the write cache is what the user has chosen."""
        self._retry.cancel()
        self._restored = []
        self.flying = {}
        self.disk.drop_parked()
        self._set_write_cache(on=self.drive.write_cache)

    # What the driver sees.

    def offer(self, *, modern: bool) -> int:
        """Older drivers need not know how requests are laid out, but then have to keep to the old way."""
        features = super().offer(modern=modern)
        return features if modern else features & ~FEATURE_ANY_LAYOUT | FEATURE_SCSI

    def features(self) -> int:
        """What the disk can do."""
        return offered(self.options, self.drive, self._queue_count)

    def config(self) -> bytes:
        """As in the base."""
        return configuration(self.options, self.drive, self._queue_count, write_cache=self.state.write_cache)

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver may turn the write cache off and on; all else is as it is."""
        if offset <= CONFIG_WCE_OFFSET < offset + len(data) and self.options.config_wce:
            self._set_write_cache(on=data[CONFIG_WCE_OFFSET - offset] != 0)

    def set_status(self, status: int) -> None:
        """A driver that knows neither flushes nor how to turn the cache off has none."""
        features = self.state.features
        if status & STATUS_DRIVER_OK and not features & FEATURE_CONFIG_WCE:
            self._set_write_cache(on=bool(features & FEATURE_FLUSH))

    def _set_write_cache(self, *, on: bool) -> None:
        self.state.write_cache = on
        self.drive.backend.enable_write_cache = on

    def _resized(self) -> None:
        """Loop: the medium has another size."""
        self.machine.mailboxes.post(self._tell_size)

    def _tell_size(self) -> None:
        if self.realized:
            self._sectors = self.disk.size // SECTOR
            self.config_changed()

    # Requests.

    def handle_queue(self, index: int) -> None:
        """Begin all requests, or as many as take no more than a moment."""
        queue = self.queues[index]
        if self._batching:
            return
        self._batching = True
        left = BATCH
        try:
            while (element := queue.pop()) is not None:
                left -= self._begin(queue, element)
                if left <= 0:
                    self.machine.mailboxes.post(self._go_on, self.dma.epoch, index)
                    break
        finally:
            self._batching = False
            queue.notify()

    def _go_on(self, epoch: int, index: int) -> None:
        if epoch == self.dma.epoch:
            self.serve(index)

    def finish(self, request: Request, status: bytes) -> None:
        """Give a request back to the driver."""
        if "virtio_blk_req_complete" in traced:
            trace("virtio_blk_req_complete", device=self.path, status=status[0])
        self.dma.write(request.status, status)
        request.queue.push(request.element, request.size)
        if not self._batching:
            request.queue.notify()

    def _begin(self, queue: VirtQueue, element: Element) -> int:
        """Begin a request; what it counts for the batch."""
        readable, writable = element.readable, element.writable
        if not readable or not writable:
            raise QueueError("virtio-blk missing headers")
        address, length = readable[0]
        if length == _HEADER.size:
            kind, _, sector = _HEADER.unpack(self.dma.view(address, length))
            readable = readable[1:]
        else:
            header, readable = self._take(readable, _HEADER.size)
            if len(header) != _HEADER.size:
                raise QueueError("virtio-blk request outhdr too short")
            kind, _, sector = _HEADER.unpack(header)
        address, length = writable[-1]
        size = sum([piece[1] for piece in writable])
        request = Request(self, queue, element, address + length - 1, size)
        writable = writable[:-1] if length == 1 else [*writable[:-1], (address, length - 1)]
        kind &= ~TYPE_BARRIER
        if kind == TYPE_IN:
            return self._transfer(request, sector, writable, write=False)
        if kind == TYPE_OUT:
            return self._transfer(request, sector, readable, write=True)
        self._other(request, kind, readable, writable)
        return 1

    def _transfer(self, request: Request, sector: int, data: list[Segment], *, write: bool) -> int:
        """Read or write."""
        length = sum([piece[1] for piece in data])
        if write and "virtio_blk_handle_write" in traced:
            trace("virtio_blk_handle_write", device=self.path, sector=sector, size=length)
        if not write and "virtio_blk_handle_read" in traced:
            trace("virtio_blk_handle_read", device=self.path, sector=sector, size=length)
        if not self._is_inside(sector, length):
            self.disk.invalid(WRITE if write else READ)
            self.finish(request, STATUS_IOERR)
            return 1
        request.lease = lease = self.dma.lend(data, write=not write)
        if write:
            self.disk.write(sector * SECTOR, lease.views, request.done, lease)
        else:
            self.disk.read(sector * SECTOR, lease.views, request.done, lease)
        if not request.finished:
            self.flying[request] = None
            return 1
        return 1 + (length >> 16)

    def _other(self, request: Request, kind: int, readable: list[Segment], writable: list[Segment]) -> None:
        """All requests that neither read nor write."""
        if kind in {TYPE_DISCARD, TYPE_WRITE_ZEROES}:
            self._clear(request, kind, readable)
            return
        # Not all drivers agree on the direction bit of those that have no data.
        kind &= ~TYPE_OUT
        if kind == TYPE_FLUSH:
            self._lend_status(request)
            self.disk.flush(request.done, request.lease)
        elif kind == TYPE_GET_ID:
            self._write_id(writable)
            self.finish(request, STATUS_OK)
        elif kind == TYPE_SCSI_CMD:
            self._refuse_scsi(request)
        else:
            self.finish(request, STATUS_UNSUPP)

    def _clear(self, request: Request, kind: int, readable: list[Segment]) -> None:
        """Discard a range, or have it read as zeroes."""
        if sum([piece[1] for piece in readable]) > _RANGE.size:
            self.finish(request, STATUS_UNSUPP)  # one range a request, as the configuration says
            return
        content, _ = self._take(readable, _RANGE.size)
        if len(content) != _RANGE.size:
            raise QueueError("virtio-blk discard/write_zeroes header too short")
        sector, count, flags = _RANGE.unpack(content)
        zeroes = kind == TYPE_WRITE_ZEROES
        most = self.options.max_write_zeroes_sectors if zeroes else self.options.max_discard_sectors
        if count > most or not self._is_inside(sector, count * SECTOR):
            refused = STATUS_IOERR
        elif flags & ~WRITE_ZEROES_UNMAP or (flags and not zeroes):
            refused = STATUS_UNSUPP
        else:
            self._lend_status(request)
            offset, length = sector * SECTOR, count * SECTOR
            if zeroes:
                self.disk.write_zeroes(offset, length, request.done, request.lease, unmap=bool(flags))
            else:
                self.disk.discard(offset, length, request.done, request.lease)
            return
        if zeroes:
            self.disk.invalid(WRITE)
        self.finish(request, refused)

    def _write_id(self, writable: list[Segment]) -> None:
        """The serial number, with a zero behind it if there is room."""
        serial = (self.options.serial or "").encode()
        room = min(ID_LENGTH, sum([piece[1] for piece in writable]))
        content = (serial + b"\0")[:room]
        for address, length in writable:
            self.dma.write(address, content[:length])
            content = content[length:]

    def _refuse_scsi(self, request: Request) -> None:
        """A SCSI command by the legacy interface: all of them fail, with an error that drivers look for."""
        element = request.element
        if len(element.readable) < 2 or len(element.writable) < 3:
            self.finish(request, STATUS_IOERR)
            return
        address, length = element.writable[-2]
        if length != _SCSI_LENGTH:
            self.finish(request, STATUS_IOERR)
            return
        self.dma.write(address, (255).to_bytes(4, "little"))
        self.finish(request, STATUS_UNSUPP)

    def _lend_status(self, request: Request) -> None:
        """Lend what a request without data has, so that it is waited for as others are."""
        request.lease = self.dma.lend([(request.status, 1)], write=False)
        self.flying[request] = None

    def _is_inside(self, sector: int, length: int) -> bool:
        """Whether a request is of whole blocks, on the disk, and not too large."""
        count = length // SECTOR
        return (
            count <= MAX_SECTORS
            and not sector & self._sector_mask
            and not length % self.drive.logical
            and sector + count <= self._sectors
        )

    def _take(self, pieces: list[Segment], count: int) -> tuple[bytes, list[Segment]]:
        """The first bytes of what the driver has spread over pieces in its own way, and the rest of the pieces."""
        found = b""
        for number, (address, length) in enumerate(pieces):
            wanted = min(count - len(found), length)
            found += self.dma.read(address, wanted)
            if len(found) == count:
                rest = [] if wanted == length else [(address + wanted, length - wanted)]
                return found, rest + pieces[number + 1 :]
        return found, []

    # State.

    def before_save(self) -> None:
        """All requests have ended, except those that wait for the user."""
        super().before_save()
        self.state.requests = [
            VirtioBlkRequest(queue=request.queue.index, element=request.element.save())
            for request in self.flying
        ] + self._restored

    def check_state(self, state: VirtioBlkState) -> None:  # type: ignore[override]  # its own struct, as everywhere
        """Refuse requests of queues that there are not."""
        super().check_state(state)
        for request in state.requests:
            if request.queue >= self._queue_count:
                raise GenericError(f"a request is of queue {request.queue}, there are {self._queue_count}")
            check_element(request.element, state.queues[request.queue])

    def after_load(self) -> None:
        """Requests that wait are tried again when the machine runs, and then the queues are looked at: a batch may have been cut short."""
        super().after_load()
        self.flying = {}
        self.disk.drop_parked()
        self._set_write_cache(on=self.state.write_cache)
        self._restored = list(self.state.requests)
        self._retry.arm(self.machine.clock.now())

    def _begin_restored(self) -> None:
        restored, self._restored = self._restored, []
        for saved in restored:
            self.attempt(self._begin_again, saved)
        for queue in self.queues:
            if queue.ready:
                self.serve(queue.index)

    def _begin_again(self, saved: VirtioBlkRequest) -> None:
        queue = self.queues[saved.queue]
        element = queue.load_element(saved.element)
        if element is not None:
            self._begin(queue, element)
