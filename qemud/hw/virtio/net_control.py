"""The commands of a network card's driver, and which frames the card takes after them.

    writable: acknowledgement, one byte
    readable: class, command, and what the command needs

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.1.6.5; limits, texts and details: QEMU 10.0, hw/net/virtio-net.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from qemud._generated.types.net import RxFilterInfo, RxState
from qemud.hw.virtio.net_features import FEATURE_CTRL_GUEST_OFFLOADS, FEATURE_MQ, GUEST_OFFLOADS
from qemud.hw.virtio.queue import QueueError
from qemud.net.mac import LENGTH, show
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.virtio_net import VirtioNetState
    from qemud.hw.virtio.net import VirtioNet
    from qemud.hw.virtio.queue import Element, VirtQueue

CLASS_RX, CLASS_MAC, CLASS_VLAN, CLASS_ANNOUNCE, CLASS_MQ, CLASS_GUEST_OFFLOADS = range(6)
_RX_COMMANDS = ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast")
MAC_TABLE_SET, MAC_ADDR_SET = range(2)
VLAN_ADD, VLAN_DEL = range(2)
ANNOUNCE_ACK = 0
MQ_VQ_PAIRS_SET = 0
GUEST_OFFLOADS_SET = 0

OK, ERR = b"\0", b"\1"
MAC_TABLE_ENTRIES = 64
MAX_VLAN = 4096
_LARGEST = 64 << 10
_U16 = Struct("<H")
_U32 = Struct("<I")
_U64 = Struct("<Q")
_VLAN_TYPE = b"\x81\x00"
_VLAN_END = 18
_BROADCAST = b"\xff" * LENGTH


def hexed(address: bytes) -> str:
    """An address as the state has it."""
    return address.hex()


class Control:
    """See the module.  `refresh` is called whenever the device's state is another one."""

    def __init__(self, device: VirtioNet) -> None:
        self._device = device
        self.refresh()

    def refresh(self) -> None:
        """Look at the state anew."""
        state = self._device.state
        self._mac = bytes.fromhex(state.mac)
        self._unicast = frozenset(map(bytes.fromhex, state.unicast))
        self._multicast = frozenset(map(bytes.fromhex, state.multicast))
        self._vlans = frozenset(state.vlans)

    # -- frames -----------------------------------------------------------------------------------------------------

    def wants(self, frame: bytes) -> bool:
        """Whether the card takes a frame."""
        state = self._device.state
        if state.promisc:
            return True
        if (
            not state.all_vlans
            and frame[12:14] == _VLAN_TYPE
            and (len(frame) < _VLAN_END or int.from_bytes(frame[14:16], "big") & 0xFFF not in self._vlans)
        ):
            return False
        to = frame[:LENGTH]
        if to == self._mac:
            return not state.nouni
        if to[0] & 1:
            if to == _BROADCAST:
                return not state.nobcast
            if state.nomulti:
                return False
            return state.allmulti or state.multicast_overflow or to in self._multicast
        if state.nouni:
            return False
        return state.alluni or state.unicast_overflow or to in self._unicast

    def query(self, name: str) -> RxFilterInfo:
        """What `query-rx-filter` tells; further changes are told of from now on."""
        device = self._device
        state = device.state
        device.nic.tells_filter = True

        def which(none: bool, every: bool) -> RxState:
            return RxState.NONE if none else RxState.ALL if every else RxState.NORMAL

        vlans = sorted(state.vlans)
        if state.all_vlans and state.features:
            vlans = list(range(MAX_VLAN))
        return RxFilterInfo(
            name=name,
            promiscuous=state.promisc,
            multicast=which(state.nomulti, state.allmulti),
            unicast=which(state.nouni, state.alluni),
            vlan=which(not vlans and not state.all_vlans, state.all_vlans),
            broadcast_allowed=not state.nobcast,
            multicast_overflow=state.multicast_overflow,
            unicast_overflow=state.unicast_overflow,
            main_mac=show(self._mac),
            vlan_table=vlans[::-1],
            unicast_table=[show(bytes.fromhex(each)) for each in reversed(state.unicast)],
            multicast_table=[show(bytes.fromhex(each)) for each in reversed(state.multicast)],
        )

    def set_mac(self, mac: bytes) -> None:
        """The card has another address."""
        self._device.state.mac = hexed(mac)
        self.refresh()
        self._device.nic.mac_changed(mac)
        self._device.filter_changed()

    # -- commands ---------------------------------------------------------------------------------------------------

    def handle(self, queue: VirtQueue) -> None:
        """All commands that are there.  QueueError."""
        while (element := queue.pop()) is not None:
            answer = self._answer(element)
            self._device.dma.write(element.writable[0][0], answer)
            queue.push(element, 1)
            queue.notify()

    def _answer(self, element: Element) -> bytes:
        pieces = element.readable
        length = sum([piece[1] for piece in pieces])
        if not element.writable or length < 2:
            raise QueueError("virtio-net ctrl missing headers")
        if length > _LARGEST:
            return ERR
        read = self._device.dma.read
        content = b"".join([read(*piece) for piece in pieces])
        kind, command, data = content[0], content[1], content[2:]
        # What the driver has not agreed to is an error, as is what nobody knows.
        if kind == CLASS_RX:
            done = self._rx(command, data)
        elif kind == CLASS_MAC:
            done = self._addresses(command, data)
        elif kind == CLASS_VLAN:
            done = self._vlan(command, data)
        elif kind == CLASS_ANNOUNCE:
            done = self._announced(command)
        elif kind == CLASS_MQ:
            done = self._pairs(command, data)
        elif kind == CLASS_GUEST_OFFLOADS:
            done = self._offloads(command, data)
        else:
            done = False
        return OK if done else ERR

    def _has(self, feature: int) -> bool:
        return bool(self._device.state.features & feature)

    def _rx(self, command: int, data: bytes) -> bool:
        if not data or command >= len(_RX_COMMANDS):
            return False
        setattr(self._device.state, _RX_COMMANDS[command], data[0] != 0)
        self._device.filter_changed()
        return True

    def _addresses(self, command: int, data: bytes) -> bool:
        if command == MAC_ADDR_SET:
            if len(data) != LENGTH:
                return False
            self.set_mac(data)
            return True
        if command != MAC_TABLE_SET:
            return False
        unicast, data, has_first = _table(data)
        multicast, data, has_second = _table(data)
        if not has_first or not has_second or data:
            return False
        state = self._device.state
        state.unicast_overflow = len(unicast) > MAC_TABLE_ENTRIES
        state.unicast = [] if state.unicast_overflow else [hexed(each) for each in unicast]
        state.multicast_overflow = len(multicast) + len(state.unicast) > MAC_TABLE_ENTRIES
        state.multicast = [] if state.multicast_overflow else [hexed(each) for each in multicast]
        self.refresh()
        self._device.filter_changed()
        return True

    def _vlan(self, command: int, data: bytes) -> bool:
        if len(data) != _U16.size:
            return False
        (number,) = _U16.unpack(data)
        state = self._device.state
        if number >= MAX_VLAN or command not in {VLAN_ADD, VLAN_DEL}:
            return False
        vlans = set(state.vlans)
        if command == VLAN_ADD:
            vlans.add(number)
        else:
            vlans.discard(number)
        state.vlans = sorted(vlans)
        self.refresh()
        self._device.filter_changed()
        return True

    def _announced(self, command: int) -> bool:
        state = self._device.state
        if command != ANNOUNCE_ACK or not state.announce:
            return False
        state.announce = False
        return True

    def _pairs(self, command: int, data: bytes) -> bool:
        if not self._has(FEATURE_MQ) or command != MQ_VQ_PAIRS_SET or len(data) < _U16.size:
            return False
        (count,) = _U16.unpack_from(data)
        if not 1 <= count <= len(self._device.pairs):
            return False
        self._device.use_pairs(count)
        return True

    def _offloads(self, command: int, data: bytes) -> bool:
        if not self._has(FEATURE_CTRL_GUEST_OFFLOADS) or command != GUEST_OFFLOADS_SET:
            return False
        if len(data) != _U64.size:
            return False
        (bits,) = _U64.unpack(data)
        if bits & ~(self._device.state.features & GUEST_OFFLOADS):
            return False
        self._device.set_offloads(bits)
        return True

    @staticmethod
    def check_state(state: VirtioNetState) -> None:
        """Refuse tables that no command could have made."""
        if len(state.unicast) + len(state.multicast) > MAC_TABLE_ENTRIES:
            raise GenericError(f"the tables have more than {MAC_TABLE_ENTRIES} addresses")
        if any(number >= MAX_VLAN for number in state.vlans):
            raise GenericError(f"a VLAN has a number above {MAX_VLAN - 1}")


def _table(data: bytes) -> tuple[list[bytes], bytes, bool]:
    """The addresses of a table, what follows it, and whether there was one."""
    if len(data) < _U32.size:
        return [], b"", False
    (count,) = _U32.unpack_from(data)
    end = _U32.size + LENGTH * count
    if end > len(data):
        return [], b"", False
    addresses = [data[at : at + LENGTH] for at in range(_U32.size, end, LENGTH)]
    return addresses, data[end:], True
