"""A network card: `virtio-net-device`.

    queue 0: buffers for frames from the network      header | frame, over several buffers if the driver has agreed
    queue 1: frames to the network                    header | frame
    queue 2: commands of the driver (`net_control.py`)

With `mq`, there is a pair like the first two (`net_pair.py`) for each queue of the backend, for a driver that has agreed; commands come last.
A driver begins with one pair, and asks for more by a command.

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
from qemud.hw.virtio.net_pair import HEADER_LENGTH, LONG_HEADER, Pair
from qemud.hw.virtio.queue import FEATURE_VERSION_1, MAX_SIZE
from qemud.net.client import join
from qemud.net.mac import LENGTH as MAC_LENGTH
from qemud.net.mac import parse as parse_mac
from qemud.net.mac import show as show_mac
from qemud.net.nic import Nic
from qemud.net.offload import Offload
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Device

if TYPE_CHECKING:
    from qemud._generated.types.net import RxFilterInfo
    from qemud.net.registry import Networks

STATUS_LINK_UP = 1
STATUS_ANNOUNCE = 2

RX, TX, CTRL = range(3)
"""The queues of a driver that has one pair."""
_RX_SMALLEST = 256
_TX_SIZE = 256
_CTRL_SIZE = 64

_MOST_QUEUES = 1024

_CONFIG = Struct("<6sHHHIB")
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
        self._mac = bytes(MAC_LENGTH)
        self.header_length = HEADER_LENGTH
        """Of the header before each frame, in bytes, as the driver has agreed to it."""
        self.pairs = [Pair(self, 0)]
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
        self._make_pairs(len(backend.queues) if backend is not None else 1)
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
        for pair in self.pairs:
            pair.nic = Nic(
                self,
                pair,
                services.vm.mailboxes,
                model=owner.type_name,
                name=owner.id or networks.name_for(owner.type_name, pair.index),
                mac=mac,
            )
        join([pair.nic for pair in self.pairs])
        for pair in self.pairs[1:]:
            pair.nic.info = ""  # the first one's is for all
        self.nic = self.pairs[0].nic
        self._services = services
        networks.plug(self.nic, options.netdev)
        self._networks = networks

    def _make_pairs(self, count: int) -> None:
        """As many as the backend has queues; its driver may use all of them with `mq` only.  The transport has to know how many."""
        if 2 * count + 1 > _MOST_QUEUES:
            raise GenericError(
                f"Invalid number of queue pairs (= {count}), "
                f"must be a positive integer less than {(_MOST_QUEUES - 1) // 2}."
            )
        self.pairs = [Pair(self, index) for index in range(count)]
        self.queue_sizes = self._sizes(count)

    def _sizes(self, pairs: int) -> tuple[int, ...]:
        return (self.options.rx_queue_size, _TX_SIZE) * pairs + (_CTRL_SIZE,)

    def sizes_for(self, features: int) -> tuple[int, ...]:
        """One pair, unless the driver has agreed to more."""
        return self.queue_sizes if features & bits.FEATURE_MQ else self._sizes(1)

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
        self.queue_sizes = self._sizes(len(self.pairs))
        super().realize()
        self.machine.on_resume.append(self._resume)

    def unrealize(self) -> None:
        """What is under way is lost."""
        self.machine.on_resume.remove(self._resume)
        super().unrealize()
        self._begin_anew()

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
        self.control.refresh()
        self.nic.mac_changed(self._mac)
        self.nic.takes(Offload())
        self.nic.uses_queues(1)
        self._begin_anew()

    def _begin_anew(self) -> None:
        for pair in self.pairs:
            pair.begin_anew()

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
            len(self.pairs),
            options.host_mtu,
            options.speed & 0xFFFF_FFFF,
            _DUPLEX[options.duplex],
        )
        if options.speed >= 0 or options.duplex is not None:
            return content
        if options.host_mtu:
            return content[:12]
        if options.mq:
            return content[:10]
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
        self.header_length = LONG_HEADER if mergeable else HEADER_LENGTH
        if not features & bits.FEATURE_MQ:
            self.use_pairs(1)
        self.state.all_vlans = not features & bits.FEATURE_CTRL_VLAN
        self.set_offloads(features & bits.GUEST_OFFLOADS)

    def use_pairs(self, count: int) -> None:
        """The driver uses so many pairs of queues from now on."""
        self.state.queue_pairs = count
        self.nic.uses_queues(count)
        # What waits there comes after the command that has asked for it.
        self.machine.mailboxes.post(self._go_on, self.dma.epoch)

    def _go_on(self, epoch: int) -> None:
        if epoch == self.dma.epoch:
            self._resume()

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
        for pair in self.pairs:
            pair.serve()

    def handle_queue(self, index: int) -> None:
        """Frames to send, buffers for frames, or commands."""
        if index == len(self.queues) - 1:
            self.control.handle(self.queues[index])
            return
        number, out = divmod(index, 2)
        pair = self.pairs[number]
        if out:
            pair.send()
        else:
            pair.receive()

    # -- the nic's card ---------------------------------------------------------------------------------------------

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
        most = len(self.pairs) if state.features & bits.FEATURE_MQ else 1
        if not 1 <= state.queue_pairs <= most:
            raise GenericError(
                f"virtio-net: curr_queue_pairs {state.queue_pairs:x} > max_queue_pairs {most:x}"
                if state.queue_pairs
                else "virtio-net: no queue pairs are in use"
            )
        self.control.check_state(state)

    def after_load(self) -> None:
        """Take frames as the driver has chosen; the cable is as it is here."""
        offloads, all_vlans = self.state.offloads, self.state.all_vlans
        super().after_load()
        self.state.offloads, self.state.all_vlans = offloads, all_vlans
        self._tell_offloads()
        self.nic.uses_queues(self.state.queue_pairs)
        self.control.refresh()
        self.nic.mac_changed(bytes.fromhex(self.state.mac))
        self._begin_anew()
