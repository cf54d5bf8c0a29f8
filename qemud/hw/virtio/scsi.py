"""A SCSI host adapter: `virtio-scsi-device`.

Queue 0 is for task management, queue 1 for events, the others for commands:

    readable: address, tag, the command | data to write
    writable: response, status, sense data | data that was read

Devices come and go while the driver looks: an event tells it (transport reset), and so it is told of a disk with another size
(parameter change).  Events that find no buffer are missed, which the next one says.

Commands that failed where the user wants the machine stopped wait in the block layer (`qemud.block.disk`), and are saved with the
adapter; they begin again where they are loaded.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.6; limits, order and texts: QEMU 10.0, hw/scsi/virtio-scsi.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.scsi import VirtioScsiOptions, VirtioScsiRequest, VirtioScsiState
from qemud.hw.scsi.bus import ScsiBus, ScsiDevice, load_sense, save_sense
from qemud.hw.scsi.command import TYPE_DISK
from qemud.hw.scsi.request import Outcome, Request
from qemud.hw.scsi.sense import GOOD, REPORTED_LUNS_CHANGED
from qemud.hw.virtio.device import STATUS_DRIVER_OK, VirtioDevice
from qemud.hw.virtio.queue import FEATURE_ANY_LAYOUT, FEATURE_VERSION_1, MAX_SIZE, QueueError
from qemud.hw.virtio.scsi_tasks import (
    ABORTED,
    BAD_TARGET,
    FAILURE,
    OK,
    OVERRUN,
    RESET,
    Task,
    unit_number,
)
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from typing import Any

    from qemud.hw.scsi.sense import Sense
    from qemud.hw.virtio.queue import Element, VirtQueue
    from qemud.machine.dma import Segment

FEATURE_HOTPLUG = 1 << 1
FEATURE_CHANGE = 1 << 2

CONTROL, EVENT, FIRST = range(3)
"""Queues."""
AUTO_QUEUES = (1 << 32) - 1
QUEUES_MAX = 1024
BATCH = 64
"""Commands that are begun in one go, so that the machine is not held up; each counts one, and one for each 64 KiB."""

SENSE_SIZE, CDB_SIZE = 96, 32
_SENSE_LIMIT, _CDB_LIMIT = 65536, 256
_SEG_MAX = 128 - 2
_SENSE_OFFSET, _CDB_OFFSET = 20, 24

_CONFIG = Struct("<IIIIIIIHHI")
_COMMAND = Struct("<8sQBBB")  # address, tag, attribute, priority, reference number
_RESPONSE = Struct("<IIHBB")  # length of sense data, residual, qualifier, status, response
_TASK = Struct("<II8sQ")  # type, subtype, address, tag
_NOTIFICATION = Struct("<I8sI")  # type, address, events
_NOTIFICATION_ANSWER = Struct("<IB")
_EVENT = Struct("<I8sI")

_OUTCOMES = {
    Outcome.COMPLETE: OK,
    Outcome.OVERRUN: OVERRUN,
    Outcome.ABORTED: ABORTED,
    Outcome.RESET: RESET,
}

# Types of what comes by the control queue
TYPE_TASK, TYPE_QUERY, TYPE_SUBSCRIBE = range(3)

# Events
EVENTS_MISSED = 1 << 31
NO_EVENT, TRANSPORT_RESET, _ASYNC_NOTIFY, PARAM_CHANGE = range(4)
RESET_RESCAN, RESET_REMOVED = 1, 2

_WRONG_SIZE = "wrong size for virtio-scsi headers"


class ScsiCommand(Request):
    """A command of the driver's."""

    __slots__ = ("_adapter", "_epoch", "_response", "element", "queue")

    def __init__(
        self,
        adapter: VirtioScsi,
        queue: VirtQueue,
        element: Element,
        response: list[Segment],
        header: tuple[int, int, bytes, tuple[list[Segment], list[Segment]]],
    ) -> None:
        super().__init__(*header, (response[0][0], 1))
        self._adapter = adapter
        self._epoch = adapter.dma.epoch
        self._response = response
        self.queue = queue
        self.element = element

    def finished(self) -> None:
        """Tell the driver, if it still is the one that has sent it."""
        adapter = self._adapter
        if self._epoch == adapter.dma.epoch:
            adapter.flying.pop(self, None)
            adapter.attempt(self._answer)

    def _answer(self) -> None:
        residual = 0
        sense = b""
        if self.outcome is Outcome.COMPLETE:
            if self.status == GOOD:
                residual = max(self.room - self.transferred, 0)
            elif self.sense is not None:
                sense = self.sense.encode()
        self.respond(_OUTCOMES[self.outcome], residual, sense)

    def respond(self, response: int, residual: int = 0, sense: bytes = b"") -> None:
        """Give it back."""
        sense = sense[: self._adapter.state.sense_size]
        status = self.status if response == OK else GOOD
        content = _RESPONSE.pack(len(sense), residual & 0xFFFF_FFFF, 0, status, response) + sense
        size = _size(self._response) + _size(self.writable)
        self._adapter.give_back(self.queue, self.element, self._response, content, size)


class VirtioScsiCommon(VirtioDevice, type_name="virtio-scsi-common", abstract=True):
    """Any SCSI host adapter, wherever its targets are."""


class VirtioScsi(
    VirtioScsiCommon,
    type_name="virtio-scsi-device",
    options=VirtioScsiOptions,
    state=VirtioScsiState,
    links={"iothread": "iothread"},
    user_creatable=True,
):
    """See the module.  `scsi_bus` is there while the adapter is realized."""

    device_id: ClassVar[int] = 8
    options: VirtioScsiOptions
    state: VirtioScsiState
    scsi_bus: ScsiBus

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.flying: dict[ScsiCommand, None] = {}
        """Commands that have not ended at once."""
        self._batching = False
        self._restored: list[VirtioScsiRequest] = []

    # Life.

    def realize(self) -> None:
        """Make the queues and the bus."""
        options = self.options
        count = 1 if options.num_queues == AUTO_QUEUES else options.num_queues
        if not 0 < count <= QUEUES_MAX - FIRST:
            raise GenericError(
                f"Invalid number of queues (= {count}), "
                f"must be a positive integer less than {QUEUES_MAX - FIRST}."
            )
        size = options.virtqueue_size
        if size <= 2:
            raise GenericError(f"invalid virtqueue_size property (= {size}), must be > 2")
        if size > MAX_SIZE:
            raise GenericError(f"invalid virtqueue_size property (= {size}), must be at most {MAX_SIZE}")
        options.num_queues = count
        self.queue_sizes = (size,) * (count + FIRST)
        self._retry = self.machine.clock.timer(self._begin_restored)
        bus = ScsiBus(self.name_for_bus(ScsiBus, "scsi"), self)
        with self.with_bus(bus) as self.scsi_bus:
            super().realize()

    def unrealize(self) -> None:
        """The bus goes with it; commands under way come to nothing."""
        self._retry.cancel()
        super().unrealize()
        self.abandon(self.scsi_bus.name)

    def reset_device(self) -> None:
        """All devices begin anew; commands under way come to nothing."""
        self._retry.cancel()
        self._restored = []
        self.flying = {}
        for unit in self.scsi_bus.units():
            if unit.realized:
                unit.reset()
        state = self.state
        state.sense_size, state.cdb_size = SENSE_SIZE, CDB_SIZE
        state.events_dropped = False

    def wait_for_leases(self) -> None:
        """The driver waits for the devices' requests, too."""
        super().wait_for_leases()
        executor = self.machine.executor
        for unit in self.scsi_bus.units():
            if unit.realized and unit.dma.count:
                executor.hold()
                unit.dma.when_returned(executor.let_go)

    # What the driver sees.

    def features(self) -> int:
        """Events that it can be told of."""
        options = self.options
        return (FEATURE_HOTPLUG if options.hotplug else 0) | (FEATURE_CHANGE if options.param_change else 0)

    def config(self) -> bytes:
        """The layout is that of the standard's `virtio_scsi_config`."""
        options, state, bus = self.options, self.state, self.scsi_bus
        return _CONFIG.pack(
            options.num_queues,
            options.virtqueue_size - 2 if options.seg_max_adjust else _SEG_MAX,
            options.max_sectors,
            options.cmd_per_lun,
            _EVENT.size,
            state.sense_size,
            state.cdb_size,
            bus.max_channel,
            bus.max_target,
            bus.max_lun,
        )

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver chooses the lengths of sense data and of commands."""
        content = bytearray(self.config())
        content[offset : offset + len(data)] = data
        sense = int.from_bytes(content[_SENSE_OFFSET : _SENSE_OFFSET + 4], "little")
        cdb = int.from_bytes(content[_CDB_OFFSET : _CDB_OFFSET + 4], "little")
        if sense >= _SENSE_LIMIT or cdb >= _CDB_LIMIT:
            raise QueueError("bad data written to virtio-scsi configuration space")
        self.state.sense_size, self.state.cdb_size = sense, cdb

    # Queues.

    def handle_queue(self, index: int) -> None:
        """Serve all that is there, or as much as takes no more than a moment."""
        if index == EVENT:
            if self.state.events_dropped:
                self._send_event(NO_EVENT)
            return
        queue = self.queues[index]
        if self._batching:
            return
        self._batching = True
        left = BATCH
        try:
            while (element := queue.pop()) is not None:
                if index == CONTROL:
                    self._control(queue, element)
                    left -= 1
                else:
                    left -= self._command(queue, element)
                if left <= 0:
                    self.machine.mailboxes.post(self._go_on, self.dma.epoch, index)
                    break
        finally:
            self._batching = False
            queue.notify()

    def _go_on(self, epoch: int, index: int) -> None:
        if epoch == self.dma.epoch:
            self.serve(index)

    def give_back(
        self, queue: VirtQueue, element: Element, where: list[Segment], content: bytes, size: int
    ) -> None:
        """Answer a request."""
        self._store(where, content)
        queue.push(element, size)
        if not self._batching:
            queue.notify()

    def _store(self, where: list[Segment], content: bytes) -> None:
        done = 0
        for address, length in where:
            part = content[done : done + length]
            if not part:
                break
            self.dma.write(address, part)
            done += len(part)

    def _divide(self, pieces: list[Segment], size: int) -> tuple[list[Segment], list[Segment]]:
        """The header's pieces, which have `size` bytes or more, and those of the data.  QueueError."""
        if _size(pieces) < size:
            raise QueueError(_WRONG_SIZE)
        if not self.state.features & (FEATURE_VERSION_1 | FEATURE_ANY_LAYOUT):
            # A driver from before the standard: the first piece is the header, whatever its size.
            return (pieces[:1], pieces[1:]) if pieces[0][1] >= size else _cut(pieces, size)
        return _cut(pieces, size)

    def _read(self, pieces: list[Segment], size: int) -> bytes:
        return b"".join([self.dma.read(*piece) for piece in _cut(pieces, size)[0]])

    # Commands.

    def _command(self, queue: VirtQueue, element: Element) -> int:
        """Begin a command; what it counts for the batch."""
        state = self.state
        size = _COMMAND.size + state.cdb_size
        head, readable = self._divide(element.readable, size)
        response, writable = self._divide(element.writable, _RESPONSE.size + state.sense_size)
        header = self._read(head, size)
        address, tag, _, _, _ = _COMMAND.unpack_from(header)
        lun = unit_number(address)
        both = bool(readable and writable)
        command = ScsiCommand(
            self,
            queue,
            element,
            response,
            (tag, lun, header[_COMMAND.size :], (readable, [] if both else writable)),
        )
        if both:
            command.respond(FAILURE)
            return 1
        unit = self.find_unit(address)
        if unit is None:
            command.respond(BAD_TARGET)
            return 1
        unit.submit(command)
        if not command.ended:
            self.flying[command] = None
            return 1
        return 1 + (command.transferred >> 16)

    def find_unit(self, address: bytes) -> ScsiDevice | None:
        """The device, or another one of its target."""
        if address[0] != 1 or (address[2] and not 0x40 <= address[2] < 0x80):
            return None
        return self.scsi_bus.find(address[1], unit_number(address))

    # Task management.

    def _control(self, queue: VirtQueue, element: Element) -> None:
        kind = int.from_bytes(self._read(self._divide(element.readable, 4)[0], 4), "little")
        if kind == TYPE_TASK:
            head, _ = self._divide(element.readable, _TASK.size)
            where, _ = self._divide(element.writable, 1)
            _, subtype, address, tag = _TASK.unpack(self._read(head, _TASK.size))
            Task(self, queue, element, where).run(subtype, address, tag)
        elif kind in {TYPE_QUERY, TYPE_SUBSCRIBE}:
            self._divide(element.readable, _NOTIFICATION.size)
            where, _ = self._divide(element.writable, _NOTIFICATION_ANSWER.size)
            self.give_back(queue, element, where, _NOTIFICATION_ANSWER.pack(0, OK), _size(where))
        else:
            self.give_back(queue, element, element.writable[:0], b"", 0)

    # Events.

    def _send_event(self, event: int, reason: int = 0, unit: ScsiDevice | None = None) -> None:
        """Tell the driver, or note that it has missed something."""
        state = self.state
        if not state.status & STATUS_DRIVER_OK or state.broken:
            return
        queue = self.queues[EVENT]
        element = queue.pop()
        if element is None:
            state.events_dropped = True
            return
        if state.events_dropped:
            event |= EVENTS_MISSED
            state.events_dropped = False
        where, _ = self._divide(element.writable, _EVENT.size)
        address = bytes(8)
        if unit is not None:
            high = unit.lun >> 8 | 0x40 if unit.lun >= 256 else 0
            address = bytes((1, unit.target, high, unit.lun & 0xFF, 0, 0, 0, 0))
        self.give_back(queue, element, where, _EVENT.pack(event, address, reason), _EVENT.size)

    def device_came(self, device: ScsiDevice) -> None:
        """A device has been plugged in."""
        self._tell(device, RESET_RESCAN)

    def device_went(self, device: ScsiDevice) -> None:
        """A device has been taken out."""
        self._tell(device, RESET_REMOVED)

    def _tell(self, device: ScsiDevice, reason: int) -> None:
        if self.state.features & FEATURE_HOTPLUG:
            self.attempt(self._send_event, TRANSPORT_RESET, reason, device)
            self.scsi_bus.set_unit_attention(REPORTED_LUNS_CHANGED)

    def device_changed(self, device: ScsiDevice, sense: Sense) -> None:
        """A disk has another size; drives are asked by their drivers now and then."""
        if self.state.features & FEATURE_CHANGE and device.kind == TYPE_DISK:
            self.attempt(self._send_event, PARAM_CHANGE, sense.asc | sense.ascq << 8, device)

    # State.

    def before_save(self) -> None:
        """All commands have ended, except those that wait for the user."""
        super().before_save()
        state, attention = self.state, self.scsi_bus.unit_attention
        state.unit_attention = None if attention is None else save_sense(attention)
        state.requests = [
            VirtioScsiRequest(queue=command.queue.index, element=command.element.save())
            for command in self.flying
        ] + self._restored

    def check_state(self, state: VirtioScsiState) -> None:  # type: ignore[override]  # its own struct, as everywhere
        """Refuse lengths that no driver can choose, and commands of queues that there are not."""
        super().check_state(state)
        if state.sense_size >= _SENSE_LIMIT or state.cdb_size >= _CDB_LIMIT:
            raise GenericError(f"sense data of {state.sense_size} bytes, commands of {state.cdb_size}")
        for request in state.requests:
            if not FIRST <= request.queue < len(self.queues):
                raise GenericError(f"a command is of queue {request.queue}, there are {len(self.queues)}")

    def after_load(self) -> None:
        """Commands that wait are begun again when the machine runs, and then the queues are looked at: a batch may have been cut short."""
        super().after_load()
        self.flying = {}
        self.scsi_bus.unit_attention = load_sense(self.state.unit_attention)
        self._restored = list(self.state.requests)
        self._retry.arm(self.machine.clock.now())

    def _begin_restored(self) -> None:
        restored, self._restored = self._restored, []
        for saved in restored:
            self.attempt(self._begin_again, saved)
        for queue in self.queues:
            if queue.ready:
                self.serve(queue.index)

    def _begin_again(self, saved: VirtioScsiRequest) -> None:
        queue = self.queues[saved.queue]
        element = queue.load_element(saved.element)
        if element is not None:
            self._command(queue, element)


def _size(pieces: list[Segment]) -> int:
    return sum([piece[1] for piece in pieces])


def _cut(pieces: list[Segment], size: int) -> tuple[list[Segment], list[Segment]]:
    """The pieces of the first `size` bytes, and the others; empty ones are dropped."""
    for number, (address, length) in enumerate(pieces):
        if size == length:
            return pieces[: number + 1], [piece for piece in pieces[number + 1 :] if piece[1]]
        if size < length:
            rest = [piece for piece in pieces[number + 1 :] if piece[1]]
            return [*pieces[:number], (address, size)], [(address + size, length - size), *rest]
        size -= length
    return pieces, []
