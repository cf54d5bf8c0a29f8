"""A network card: `virtio-net-device`.

    queue 0: buffers for frames from the network      header | frame, over several buffers if the driver has agreed
    queue 1: frames to the network                    header | frame
    queue 2: commands of the driver (`net_control.py`)

Frames are copied, and their buffers given back at once: nothing of the guest's memory is lent.  They travel in batches, and the driver
is interrupted once for each.  What may leave without checksums, or larger than the network's frames, depends on the backend:
only what it takes is offered (`qemud.net.offload`).

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.1; limits and texts: QEMU 10.0, hw/net/virtio-net.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, ClassVar

from qemud._generated.types.virtio_net import VirtioNetOptions, VirtioNetState
from qemud.hw.virtio import net_features as bits
from qemud.hw.virtio.device import STATUS_DRIVER_OK, VirtioDevice
from qemud.hw.virtio.net_control import Control, hexed
from qemud.hw.virtio.queue import FEATURE_VERSION_1, MAX_SIZE, QueueError
from qemud.net.mac import LENGTH as MAC_LENGTH
from qemud.net.mac import parse as parse_mac
from qemud.net.mac import show as show_mac
from qemud.net.nic import Nic
from qemud.net.offload import (
    GSO_ECN,
    GSO_NONE,
    HEADER,
    NEEDS_CSUM,
    Offload,
)
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Device

if TYPE_CHECKING:
    from qemud._generated.types.net import RxFilterInfo
    from qemud.hw.virtio.queue import Element, VirtQueue
    from qemud.machine.dma import Segment
    from qemud.net.client import Frame, Frames
    from qemud.net.registry import Networks

STATUS_LINK_UP = 1
STATUS_ANNOUNCE = 2

RX, TX, CTRL = range(3)
_RX_SMALLEST = 256
_TX_SIZE = 256
_CTRL_SIZE = 64

_HEADER_LENGTH = 10
_LONG_HEADER = 12  # with the number of buffers
_NO_HEADER = bytes(_HEADER_LENGTH)
LARGEST = 65550 + 14
"""The largest frame that is taken from a driver, in bytes."""
_SMALLEST = 14
BATCH = 256
"""How many frames leave in one go, so that the machine is not held up."""

_CONFIG = Struct("<6sHHHIB")
_ONE_BUFFER = b"\x01\x00"
_COUNT = Struct("<H")
_SPEED_UNKNOWN = -1
_DUPLEX = {"half": 0, "full": 1, None: 0xFF}


class VirtioNet(
    VirtioDevice,
    type_name="virtio-net-device",
    options=VirtioNetOptions,
    state=VirtioNetState,
    user_creatable=True,
):
    """See the module."""

    device_id: ClassVar[int] = 1
    options: VirtioNetOptions
    state: VirtioNetState
    nic: Nic

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._networks: Networks | None = None
        self._backend = Offload()
        self._mac = _NO_HEADER[:MAC_LENGTH]
        self._header_length = _HEADER_LENGTH
        self._is_stalled = False
        self._is_sending = False
        self.control = Control(self)

    # -- life, in the loop ------------------------------------------------------------------------------------------

    async def claim(self, services: Any) -> None:
        """Take the backend and an address."""
        networks: Networks = services.net
        options = self.options
        backend = None
        if options.netdev is not None:
            backend = networks.free_netdev(VirtioNet.type_name, options.netdev)
        mac = b""
        if options.mac is not None:
            try:
                mac = parse_mac(options.mac, least=2)
            except ValueError:
                raise GenericError(
                    f"Property '{VirtioNet.type_name}.mac' doesn't take value '{options.mac}'"
                ) from None
        self._check()
        if not any(mac):
            mac = networks.macs.choose()
        else:
            networks.macs.take(mac)
        self._mac = mac
        options.mac = show_mac(mac)
        self._backend = backend.offload if backend is not None else Offload()
        owner = self._owner
        if owner is not self:
            owner.options.mac = options.mac
        self.nic = Nic(
            self,
            services.vm.mailboxes,
            model=owner.type_name,
            name=owner.id or networks.name_for(owner.type_name),
            mac=mac,
        )
        self._services = services
        networks.plug(self.nic, options.netdev)
        self._networks = networks

    def _check(self) -> None:
        options = self.options
        if options.duplex not in _DUPLEX:
            raise GenericError("'duplex' must be 'half' or 'full'")
        if options.speed < _SPEED_UNKNOWN:
            raise GenericError("'speed' must be between 0 and INT_MAX")
        size = options.rx_queue_size
        if not _RX_SMALLEST <= size <= MAX_SIZE or size & size - 1:
            raise GenericError(
                f"Invalid rx_queue_size (= {size}), must be a power of 2 between {_RX_SMALLEST} and {MAX_SIZE}."
            )
        if options.tx_queue_size != _TX_SIZE:
            raise GenericError(
                f"Invalid tx_queue_size (= {options.tx_queue_size}), "
                f"must be a power of 2 between {_TX_SIZE} and {_TX_SIZE}"
            )

    async def give_up(self) -> None:
        """Give them back."""
        networks, self._networks = self._networks, None
        if networks is not None:
            networks.unplug(self.nic)
            networks.macs.give_back(self._mac)

    def filter_changed(self) -> None:
        """Machine thread: the driver has changed which frames it takes; tell, unless nobody has asked since the last time."""
        nic = self.nic
        if nic.tells_filter:
            nic.tells_filter = False
            self.machine.mailboxes.send(self._tell_filter_changed)

    def _tell_filter_changed(self) -> None:
        from qemud._generated.events.net import nic_rx_filter_changed

        nic_rx_filter_changed(self._services.emit, name=self._owner.id, path=self.path)

    @property
    def _owner(self) -> Any:
        """What the user has made: the card, or the function that it is behind."""
        parent = self.parent
        return parent if isinstance(parent, Device) else self

    # -- life, in the machine thread --------------------------------------------------------------------------------

    def realize(self) -> None:
        """Make the queues."""
        self.queue_sizes = (self.options.rx_queue_size, _TX_SIZE, _CTRL_SIZE)
        super().realize()
        self.machine.on_resume.append(self._resume)

    def unrealize(self) -> None:
        """What is under way is lost."""
        self.machine.on_resume.remove(self._resume)
        super().unrealize()
        self.nic.drop_arrived()

    def reset_device(self) -> None:
        """As after power-on; the cable stays as it is."""
        old = self.state
        self.state = VirtioNetState(
            status=old.status,
            features=old.features,
            generation=old.generation,
            broken=old.broken,
            link_up=old.link_up,
            mac=hexed(self._mac),
        )
        self._is_stalled = False
        self.control.refresh()
        self.nic.mac_changed(self._mac)
        self.nic.takes(Offload())
        self.nic.drop_arrived()

    def offered(self, *, legacy: bool) -> int:
        """Only drivers of the legacy interface are told of large frames in general."""
        features = super().offered(legacy=legacy)
        return features if legacy else features & ~bits.FEATURE_GSO

    def features(self) -> int:
        """What the card, and the backend, can do."""
        return bits.features_of(self.options, self._backend)

    def config(self) -> bytes:
        """The layout is that of the standard's `virtio_net_config`, as far as the features need it."""
        options, state = self.options, self.state
        status = state.link_up * STATUS_LINK_UP | state.announce * STATUS_ANNOUNCE
        content = _CONFIG.pack(
            bytes.fromhex(state.mac),
            status,
            1,
            options.host_mtu,
            options.speed & 0xFFFF_FFFF,
            _DUPLEX[options.duplex],
        )
        if options.speed >= 0 or options.duplex is not None:
            return content
        if options.host_mtu:
            return content[:12]
        return content[: 8 if options.status else MAC_LENGTH]

    def write_config(self, offset: int, data: bytes) -> None:
        """Drivers from before there were commands write the address here."""
        if self.state.features & (bits.FEATURE_CTRL_MAC_ADDR | FEATURE_VERSION_1) or offset >= MAC_LENGTH:
            return
        mac = bytearray(bytes.fromhex(self.state.mac))
        mac[offset : offset + len(data)] = data
        self.control.set_mac(bytes(mac[:MAC_LENGTH]))

    def set_features(self, features: int) -> None:
        """The driver has taken these."""
        mergeable = features & (bits.FEATURE_MRG_RXBUF | FEATURE_VERSION_1)
        self._header_length = _LONG_HEADER if mergeable else _HEADER_LENGTH
        self.state.all_vlans = not features & bits.FEATURE_CTRL_VLAN
        self.set_offloads(features & bits.GUEST_OFFLOADS)

    def set_offloads(self, wanted: int) -> None:
        """The driver takes frames of these kinds from now on."""
        self.state.offloads = wanted if wanted & bits.FEATURE_GUEST_CSUM else 0
        self._tell_offloads()

    def _tell_offloads(self) -> None:
        self.nic.takes(bits.offload_of(self.state.offloads))

    def set_status(self, status: int) -> None:
        """Buffers may have been put there before."""
        if status & STATUS_DRIVER_OK:
            self._resume()

    def reset_queue(self, index: int) -> None:
        """Nothing of a queue is under way."""

    def _resume(self) -> None:
        self.serve(TX)
        self.serve(RX)

    @property
    def _works(self) -> bool:
        return bool(self.state.status & STATUS_DRIVER_OK) and self.machine.clock.running

    def handle_queue(self, index: int) -> None:
        """Frames to send, buffers for frames, or commands."""
        if index == TX:
            self._send()
        elif index == RX:
            self._receive()
        else:
            self.control.handle(self.queues[index])

    # -- the nic's card ---------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Frames have arrived."""
        self.serve(RX)

    def go_on(self) -> None:
        """There is room on the way out again."""
        self._is_stalled = False
        self.serve(TX)

    def cable_changed(self, *, up: bool) -> None:
        """The cable is plugged in, or out."""
        if up is not self.state.link_up:
            self.state.link_up = up
            if self.realized and self.options.status:
                self.config_changed()

    def query_filter(self, name: str) -> RxFilterInfo:
        """Which frames it takes."""
        return self.control.query(name)

    def announce_itself(self) -> None:
        """Have the driver tell the network of its addresses."""
        wanted = bits.FEATURE_GUEST_ANNOUNCE | bits.FEATURE_CTRL_VQ
        if self.realized and self.state.features & wanted == wanted:
            self.state.announce = True
            self.config_changed()

    # -- to the network ---------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send what the driver has put there, as long as there is room."""
        if self._is_stalled or self._is_sending or not self._works:
            return
        self._is_sending = True
        queue, nic = self.queues[TX], self.nic
        frames: Frames = []
        try:
            for _ in range(BATCH):
                element = queue.pop()
                if element is None:
                    break
                frame = self._frame(element)
                if frame is not None:
                    frames.append(frame)
                queue.push(element, 0)
            else:
                self.machine.mailboxes.post(self._go_on_sending, self.dma.epoch)
        finally:
            self._is_sending = False
            if frames:
                nic.transmit(frames)
            queue.notify()
        if not nic.has_room_out:
            self._is_stalled = True
            nic.want_room()

    def _go_on_sending(self, epoch: int) -> None:
        if epoch == self.dma.epoch:
            self.serve(TX)

    def _frame(self, element: Element) -> Frame | None:
        """The frame in a buffer; None for what no network takes.  QueueError."""
        pieces = element.readable
        if not pieces or element.writable:
            raise QueueError("virtio-net header not in first element")
        length = self._header_length
        total = sum([piece[1] for piece in pieces]) - length
        if total < 0:
            raise QueueError("virtio-net header incorrect")
        if not _SMALLEST <= total <= LARGEST:
            return None
        view = self.dma.view
        address, size = pieces[0]
        if size >= length:
            first = view(address, size)
            header = bytes(first[:_HEADER_LENGTH])
            if len(pieces) == 1:
                frame = bytes(first[length:])
            elif len(pieces) == 2 and size == length:
                frame = bytes(view(*pieces[1]))
            else:
                frame = b"".join([first[length:], *[view(*piece) for piece in pieces[1:]]])
        else:
            whole = b"".join([view(*piece) for piece in pieces])
            header, frame = whole[:_HEADER_LENGTH], whole[length:]
        if header == _NO_HEADER or not self.state.features & bits.FEATURE_CSUM:
            return b"", frame
        return self._checked(header, frame)

    def _checked(self, header: bytes, frame: bytes) -> Frame | None:
        """A frame that wants more than to be sent, if it makes sense."""
        flags, gso, _, size, start, offset = HEADER.unpack(header)
        flags &= NEEDS_CSUM
        if flags and start + offset + 2 > len(frame):
            return None
        if gso != GSO_NONE:
            wanted = bits.GSO_FEATURES.get(gso & ~GSO_ECN)
            if wanted is None or not self.state.features & wanted[0] or not size or not flags:
                return None
        elif not flags:
            return b"", frame
        return header, frame

    # -- from the network -------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Put what has arrived into the driver's buffers, as long as there are any."""
        nic = self.nic
        arrived = nic.arrived
        if not arrived or not self._works:
            return
        queue = self.queues[RX]
        written: list[Segment] = []
        wants = self.control.wants
        try:
            while arrived:
                header, frame = arrived[0]
                if wants(frame) and not self._put(queue, header, frame, written):
                    break
                nic.taken()
        finally:
            if written:
                self.dma.dma.all_written(written)
                queue.notify()

    def _put(self, queue: VirtQueue, header: bytes, frame: bytes, written: list[Segment]) -> bool:
        """One frame; False if there are no buffers for it."""
        if header and not self._may_have(header):
            return True
        header = header if header and self.state.offloads & bits.FEATURE_GUEST_CSUM else _NO_HEADER
        content = b"".join((header, _ONE_BUFFER if self._header_length == _LONG_HEADER else b"", frame))
        left = len(content)
        mergeable = bool(self.state.features & bits.FEATURE_MRG_RXBUF)
        taken: list[tuple[Element, int]] = []
        while left > 0:
            element = queue.pop()
            if element is None:
                _give_back(queue, taken)
                return False
            if not element.writable or element.readable:
                raise QueueError("virtio-net receive queue contains no in buffers")
            room = sum([piece[1] for piece in element.writable])
            if not mergeable and room < left:
                queue.unpop(element)
                return True  # it would have been larger than the driver's network has them: lost
            taken.append((element, min(room, left)))
            left -= room
        if not taken[0][1] >= self._header_length:
            raise QueueError("virtio-net receive buffer too small for the header")
        if len(taken) > 1:
            count = _COUNT.pack(len(taken))
            content = b"".join((content[:_HEADER_LENGTH], count, content[_LONG_HEADER:]))
        self._fill(queue, content, taken, written)
        return True

    def _fill(
        self, queue: VirtQueue, content: bytes, taken: list[tuple[Element, int]], written: list[Segment]
    ) -> None:
        """Spread the content over the buffers."""
        view = self.dma.view
        rest = memoryview(content)
        for element, size in taken:
            left = size
            for address, length in element.writable:
                count = min(length, left)
                if not count:
                    break
                view(address, count)[:] = rest[:count]
                written.append((address, count))
                rest = rest[count:]
                left -= count
            queue.push(element, size)

    def _may_have(self, header: bytes) -> bool:
        """Whether the driver takes a frame with that header; it may have changed its mind while the frame came."""
        gso = header[1] & ~GSO_ECN
        if gso == GSO_NONE:
            return bool(self.state.offloads & bits.FEATURE_GUEST_CSUM) or not header[0] & NEEDS_CSUM
        needed = bits.GSO_FEATURES.get(gso)
        return needed is not None and bool(self.state.offloads & needed[1])

    # -- state ------------------------------------------------------------------------------------------------------

    def check_state(self, state: VirtioNetState) -> None:  # type: ignore[override]  # its own struct, as everywhere
        """Refuse what no card can be in."""
        super().check_state(state)
        for text in (state.mac, *state.unicast, *state.multicast):
            try:
                fits = len(bytes.fromhex(text)) == MAC_LENGTH
            except ValueError:
                fits = False
            if not fits:
                raise GenericError(f"'{text}' is no Ethernet address")
        self.control.check_state(state)

    def after_load(self) -> None:
        """Take frames as the driver has chosen; the cable is as it is here."""
        offloads, all_vlans = self.state.offloads, self.state.all_vlans
        super().after_load()
        self.state.offloads, self.state.all_vlans = offloads, all_vlans
        self._is_stalled = False
        self._tell_offloads()
        self.control.refresh()
        self.nic.mac_changed(bytes.fromhex(self.state.mac))
        self.nic.drop_arrived()


def _give_back(queue: VirtQueue, taken: list[tuple[Element, int]]) -> None:
    for element, _ in reversed(taken):
        queue.unpop(element)
