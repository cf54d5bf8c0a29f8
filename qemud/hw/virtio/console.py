"""Serial ports for the guest: `virtio-serial-device`, the bus of `virtserialport` and `virtconsole` (`serial_port.py`).

Queues 2 and 3 are for messages about ports: which there are, what they are called, who has opened them.  A driver that knows only of one
port has that, number 0, a console.  Messages that find no room wait for it.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.3; texts and order: QEMU 10.0, hw/char/virtio-serial-bus.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, ClassVar

from qemud._generated.types.virtio_console import (
    VirtioSerialMessage,
    VirtioSerialOptions,
    VirtioSerialState,
)
from qemud.hw.virtio.device import STATUS_DRIVER_OK, VirtioDevice
from qemud.hw.virtio.queue import QueueError
from qemud.hw.virtio.serial_port import VirtioSerialBus, VirtSerialPort
from qemud.logs import guest_error
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from typing import Any

FEATURE_MULTIPORT = 1 << 1
FEATURE_EMERG_WRITE = 1 << 2

CONTROL_INPUT, CONTROL_OUTPUT = 2, 3

DEVICE_READY, PORT_ADD, PORT_REMOVE, PORT_READY, CONSOLE_PORT, _RESIZE, PORT_OPEN, PORT_NAME = range(8)

_PORT_QUEUE_SIZE = 128
_CONTROL_QUEUE_SIZE = 32
_QUEUES_MAX = 1024
_MOST_MESSAGES = 1024
"""That wait: more than that a driver makes only who asks again and again without listening."""

_CONFIG = Struct("<HHII")
_EMERGENCY_OFFSET = 8
_MESSAGE = Struct("<IHH")


class VirtioSerial(
    VirtioDevice,
    type_name="virtio-serial-device",
    options=VirtioSerialOptions,
    state=VirtioSerialState,
    user_creatable=True,
):
    """See the module.  `ports` are by number; `serial_bus` is there while the device is realized."""

    device_id: ClassVar[int] = 3
    options: VirtioSerialOptions
    state: VirtioSerialState
    serial_bus: VirtioSerialBus

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.ports: dict[int, VirtSerialPort] = {}

    # Life.

    def realize(self) -> None:
        """Make the queues and the bus."""
        count = self.options.max_ports
        if not count:
            raise GenericError("Maximum number of serial ports not specified")
        most = _QUEUES_MAX // 2 - 1
        if count > most:
            raise GenericError(f"maximum ports supported: {most}")
        port = (_PORT_QUEUE_SIZE, _PORT_QUEUE_SIZE)
        self.queue_sizes = (*port, _CONTROL_QUEUE_SIZE, _CONTROL_QUEUE_SIZE, *port * (count - 1))
        bus = VirtioSerialBus(self.name_for_bus(VirtioSerialBus, "virtio-serial-bus"), self)
        with self.with_bus(bus) as self.serial_bus:
            super().realize()

    def unrealize(self) -> None:
        """The bus goes with it."""
        super().unrealize()
        self.abandon(self.serial_bus.name)

    def reset_device(self) -> None:
        """The guest begins anew."""
        self.state.messages = []
        for port in self.ports.values():
            port.guest_gone()

    def has_port_named(self, name: str, besides: VirtSerialPort) -> bool:
        """Whether there is a port of that name, on whichever device."""
        return any(
            isinstance(node, VirtSerialPort)
            and node is not besides
            and node.bus is not None
            and node.options.name == name
            for node in self.root.walk()
        )

    # What the driver sees.

    @staticmethod
    def input_of(number: int) -> int:
        """The queue by which a port's input comes."""
        return 2 * number + 2 if number else 0

    @staticmethod
    def output_of(number: int) -> int:
        """The queue by which its output goes."""
        return 2 * number + 3 if number else 1

    @property
    def has_driver(self) -> bool:
        """Whether the driver is at work."""
        return bool(self.state.status & STATUS_DRIVER_OK) and not self.state.broken

    def features(self) -> int:
        """Several ports, and characters without a driver."""
        options = self.options
        return (FEATURE_MULTIPORT if options.max_ports > 1 else 0) | (
            FEATURE_EMERG_WRITE if options.emergency_write else 0
        )

    def config(self) -> bytes:
        """The layout is that of the standard's `virtio_console_config`; nobody knows the size of a terminal."""
        content = _CONFIG.pack(0, 0, self.options.max_ports, 0)
        return content if self.options.emergency_write else content[:_EMERGENCY_OFFSET]

    def write_config(self, offset: int, data: bytes) -> None:
        """A character in an emergency: the driver's first word."""
        letter = data[_EMERGENCY_OFFSET - offset :] if offset <= _EMERGENCY_OFFSET else b""
        if any(letter) and self.options.emergency_write:
            consoles = [port for port in self.ports.values() if port.is_console and port.state.host_connected]
            if consoles and consoles[0].frontend is not None and consoles[0].frontend.writable:
                consoles[0].frontend.write(letter[:1])

    def set_status(self, status: int) -> None:
        """A driver that knows of one port does not say that it has opened it."""
        if not status & STATUS_DRIVER_OK:
            for port in self.ports.values():
                port.guest_gone()
        elif not self.state.features & FEATURE_MULTIPORT and (port_0 := self.ports.get(0)) is not None:
            port_0.state.guest_connected = True
            self.attempt(port_0.take_in)

    # Queues.

    def handle_queue(self, index: int) -> None:
        """The driver has left room, or written something."""
        if index == CONTROL_INPUT:
            self._send_messages()
        elif index == CONTROL_OUTPUT:
            self._take_messages()
        else:
            number = 0 if index <= 1 else index // 2 - 1
            port = self.ports.get(number)
            if index & 1 == 0:
                if port is not None:
                    port.take_in()
            elif port is not None:
                port.write_out()
            else:
                self._discard(index)

    def _discard(self, index: int) -> None:
        queue = self.queues[index]
        while (element := queue.pop()) is not None:
            queue.push(element, 0)
        queue.notify()

    # Messages.

    def _send(self, number: int, event: int, value: int = 1, text: str | None = None) -> None:
        """Tell the driver something about a port."""
        if not self.queues[CONTROL_INPUT].ready or not self.has_driver:
            return
        messages = self.state.messages
        if len(messages) < _MOST_MESSAGES:
            messages.append(VirtioSerialMessage(id=number, event=event, value=value, text=text))
            self._send_messages()

    def _send_messages(self) -> None:
        queue, messages = self.queues[CONTROL_INPUT], self.state.messages
        pushed = False
        while messages and (element := queue.pop()) is not None:
            message = messages.pop(0)
            content = _MESSAGE.pack(message.id, message.event, message.value)
            if message.text is not None:
                content += message.text.encode() + b"\0"
            if sum(length for _, length in element.writable) < _MESSAGE.size:
                raise QueueError("a buffer for messages has no room for one")
            done = 0
            for address, length in element.writable:
                part = content[done : done + length]
                self.dma.write(address, part)
                done += len(part)
            queue.push(element, done)
            pushed = True
        if pushed:
            queue.notify()

    def _take_messages(self) -> None:
        queue = self.queues[CONTROL_OUTPUT]
        while (element := queue.pop()) is not None:
            content = b""
            for address, length in element.readable:
                content += self.dma.read(address, min(length, _MESSAGE.size - len(content)))
            if len(content) == _MESSAGE.size:
                self._take_message(*_MESSAGE.unpack(content))
            queue.push(element, 0)
        queue.notify()

    def _take_message(self, number: int, event: int, value: int) -> None:
        if event == DEVICE_READY:
            if not value:
                self._complain("Guest failure in adding device", "")
                return
            for each in self.ports.values():
                self._send(each.number, PORT_ADD)
            return
        port = self.ports.get(number)
        if port is None:
            self._complain("Unexpected port id", f" {number}")
        elif event == PORT_READY:
            if not value:
                self._complain("Guest failure in adding port", f" {number}")
                return
            if port.is_console:
                self._send(number, CONSOLE_PORT)
            if port.options.name is not None:
                self._send(number, PORT_NAME, text=port.options.name)
            if port.state.host_connected:
                self._send(number, PORT_OPEN)
        elif event == PORT_OPEN:
            port.set_guest_connected(connected=bool(value))

    def _complain(self, what: str, more: str) -> None:
        guest_error(
            "virtio-serial-bus", f"{what}{more} for device {self.serial_bus.bus_name}", device=self.path
        )

    # Ports.

    def tell_open(self, port: VirtSerialPort) -> None:
        """Somebody has come to a port's other end, or has gone."""
        self._send(port.number, PORT_OPEN, int(port.state.host_connected))

    def port_came(self, port: VirtSerialPort) -> None:
        """A port has been plugged in."""
        self.attempt(self._send, port.number, PORT_ADD)
        self.config_changed()

    def port_goes(self, port: VirtSerialPort) -> None:
        """A port is about to be taken out."""
        port.discard_output()
        self._send(port.number, PORT_REMOVE)

    # State.

    def check_state(self, state: VirtioSerialState) -> None:  # type: ignore[override]  # its own struct, as everywhere
        """Refuse more messages than ever wait."""
        super().check_state(state)
        if len(state.messages) > _MOST_MESSAGES:
            raise GenericError(f"{len(state.messages)} messages wait, expected at most {_MOST_MESSAGES}")
