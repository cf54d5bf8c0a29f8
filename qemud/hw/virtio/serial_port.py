"""Ports of `virtio-serial-device`: `virtserialport` for programs, `virtconsole` for a terminal; see `console.py`.

A port has two queues: the guest leaves room for what it receives, and writes.  At the other end is a character device.

**Back-pressure.**  The guest's buffers are written out as far as the character device takes it; the rest waits in them, and so does the
program that wrote it.  Input is taken from the character device only while a program has the port open, and not more than
`WINDOW` bytes ahead of the room that the guest leaves.

A kernel that writes to a console waits with everything else held up.  So that a terminal that nobody reads does not stop the
guest, what a console cannot get rid of for `PATIENCE` is thrown away, and so is all that follows, until somebody reads again.

**Stopped machines.**  What comes while time stands still changes nothing that a guest can see; it is seen to when the machine runs.

Texts and order of the checks: QEMU 10.0, hw/char/virtio-serial-bus.c and hw/char/virtio-console.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from qemud._generated.types.virtio_console import VirtSerialPortOptions, VirtSerialPortState
from qemud.chardev.stream import ChardevEvent
from qemud.hw.virtio.queue import QueueError
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Bus, Device

if TYPE_CHECKING:
    from qemud._generated.types.virtio import VirtQueueElement
    from qemud.chardev.frontend import Frontend
    from qemud.hw.virtio.console import VirtioSerial
    from qemud.hw.virtio.queue import Element, VirtQueue
    from qemud.machine.clock import Timer

ANY = (1 << 32) - 1
"""A number that the user leaves open."""
WINDOW = 16384
"""Bytes of input that are held for the guest at most."""
PATIENCE = 100_000_000
"""For how long a console waits for its character device, ns of virtual time."""
_CHUNK = 16384


class VirtioSerialBus(Bus, type_name="virtio-serial-bus"):
    """Where ports plug in."""

    hotpluggable = True

    def __init__(self, bus_name: str, serial: VirtioSerial) -> None:
        super().__init__(bus_name)
        self.serial = serial

    def plugged(self, device: Device) -> None:
        """A port is there: the guest is told."""
        assert isinstance(device, VirtSerialPort)
        device.plugged()
        self.serial.port_came(device)


class VirtioSerialPort(Device, type_name="virtio-serial-port", abstract=True, bus_type="virtio-serial-bus"):
    """Any port."""


class VirtSerialPort(
    VirtioSerialPort,
    type_name="virtserialport",
    options=VirtSerialPortOptions,
    state=VirtSerialPortState,
    user_creatable=True,
):
    """A port for programs.  `number` is its place, `serial` the device that has it."""

    is_console: ClassVar[bool] = False
    options: VirtSerialPortOptions
    state: VirtSerialPortState
    serial: VirtioSerial
    _resume: Timer
    _patience: Timer

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.number = 0
        self.plugged_in = False
        self.frontend: Frontend | None = None
        self._services: Any = None
        self._element: Element | None = None
        self._restored: VirtQueueElement | None = None
        self._host_here = False
        self._granted = 0  # what the character device may still send
        self._given_up = False  # whether output is thrown away until the character device takes some

    # Life.

    async def claim(self, services: Any) -> None:
        """Take the character device."""
        self._services = services
        name = self.options.chardev
        if name is None:
            return
        chardev = services.chardevs.get(name)
        where = f"Property '{self.type_name}.chardev'"
        if chardev is None:
            raise GenericError(f"{where} can't find value '{name}'")
        from qemud.chardev.frontend import Frontend

        try:
            self.frontend = Frontend(
                chardev,
                services.vm.mailboxes,
                receive=self._receive,
                event=self._happened,
                on_writable=self._resume_output,
                is_open=self.is_console,
            )
        except GenericError as error:
            raise GenericError(f"{where} can't take value '{name}': {error}") from None

    async def give_up(self) -> None:
        """Give it back."""
        frontend, self.frontend = self.frontend, None
        if frontend is not None:
            frontend.close()

    def realize(self) -> None:
        """Find a place."""
        bus = self.bus
        assert isinstance(bus, VirtioSerialBus)
        self.serial = serial = bus.serial
        self._resume = self.machine.clock.timer(self._go_on)
        self._patience = self.machine.clock.timer(self._give_way)
        self.number = self.options.nr = self._find_number(serial)
        serial.ports[self.number] = self
        self._host_here = self.state.host_connected = self.is_console and self.frontend is not None

    def _find_number(self, serial: VirtioSerial) -> int:
        wanted, name = self.options.nr, self.options.name
        if wanted in serial.ports:
            raise GenericError(f"virtio-serial-bus: A port already exists at id {wanted}")
        if name is not None and serial.has_port_named(name, self):
            raise GenericError(f"virtio-serial-bus: A port already exists by name {name}")
        most = serial.options.max_ports
        if wanted == ANY:
            # The first place is kept for a console, which drivers from before there were several ports look for there.
            if self.is_console and 0 not in serial.ports:
                wanted = 0
            else:
                # There they are counted in words of 32 bits, so that which of the two errors comes depends on that.
                places = range(1, -(-most // 32) * 32)
                wanted = next((n for n in places if n not in serial.ports), ANY)
                if wanted == ANY:
                    raise GenericError("virtio-serial-bus: Maximum port limit for this device reached")
        if wanted >= most:
            raise GenericError(f"virtio-serial-bus: Out-of-range port id specified, max. allowed: {most - 1}")
        if not wanted and not self.is_console:
            raise GenericError(
                "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward compatibility."
            )
        return wanted

    def unrealize(self) -> None:
        """Leave the place; the guest is told."""
        self._resume.cancel()
        self._patience.cancel()
        self._element = None
        serial = self.serial
        if serial.realized and self.plugged_in:
            serial.attempt(serial.port_goes, self)
        del serial.ports[self.number]
        if self.frontend is not None:
            self.frontend.close()

    def plugged(self) -> None:
        """The guest is about to be told of the port; when it has found it, it is told who is at the other end."""
        self.plugged_in = True
        self.state.host_connected = self._host_here

    # The guest.

    @property
    def _input(self) -> VirtQueue:
        return self.serial.queues[self.serial.input_of(self.number)]

    @property
    def _output(self) -> VirtQueue:
        return self.serial.queues[self.serial.output_of(self.number)]

    def set_guest_connected(self, *, connected: bool) -> None:
        """A program in the guest has opened or closed the port."""
        self.state.guest_connected = connected
        if self.frontend is not None and not self.is_console:
            self.frontend.set_open(connected)
        if self.id is not None:
            self.machine.mailboxes.send(self._tell_clients, self.id, connected)
        if connected:
            self.take_in()

    def _tell_clients(self, name: str, is_open: bool) -> None:
        from qemud._generated.events.virtio_console import vserport_change

        vserport_change(self._services.emit, id=name, open=is_open)

    def guest_gone(self) -> None:
        """The guest begins anew: what it was about to write is no more."""
        self._forget_output()
        self._patience.cancel()
        if self.state.guest_connected:
            self.set_guest_connected(connected=False)

    # Input.

    def take_in(self) -> None:
        """Give the guest what there is, as far as it has left room; then let more come.  QueueError, MemoryFault."""
        state = self.state
        if not state.guest_connected or not state.host_connected or not self.serial.has_driver:
            return
        queue = self._input
        inbox = state.inbox
        pushed = False
        while inbox and (element := queue.pop()) is not None:
            data = bytes(inbox[: sum(length for _, length in element.writable)])
            if not data:
                raise QueueError("a buffer for input has no room")
            done = 0
            for address, length in element.writable:
                self.serial.dma.write(address, data[done : done + length])
                done += min(length, len(data) - done)
            del inbox[: len(data)]
            queue.push(element, len(data))
            pushed = True
        if pushed:
            queue.notify()
        self._grant()

    def _grant(self) -> None:
        more = WINDOW - len(self.state.inbox) - self._granted
        if more > 0 and self.frontend is not None:
            self._granted += more
            self.frontend.grant(more)

    def _receive(self, data: bytes) -> None:
        """Bytes from outside, at most as many as were granted."""
        self._granted -= len(data)
        self.state.inbox.extend(data)
        self._see_to_it()

    def _happened(self, event: ChardevEvent) -> None:
        """Somebody has come to the other end, or has gone; to a console that makes no difference."""
        if not self.is_console and event in {ChardevEvent.OPENED, ChardevEvent.CLOSED}:
            self._host_here = event is ChardevEvent.OPENED
            self._see_to_it()

    def _see_to_it(self) -> None:
        if not self.realized or not self.plugged_in:
            return
        if self.machine.clock.running:
            self._go_on()
        else:
            self._resume.arm(self.machine.clock.now())

    def _go_on(self) -> None:
        """The machine runs: do what came, and what waits."""
        state = self.state
        serial = self.serial
        if state.host_connected and not self._host_here:
            serial.attempt(self.take_in)  # what was sent before is still for the guest
        if state.host_connected is not self._host_here:
            state.host_connected = self._host_here
            if not self._host_here:
                self._forget_output()
                serial.attempt(self._discard_output)
            serial.attempt(serial.tell_open, self)
        serial.attempt(self.take_in)
        serial.attempt(self.write_out)

    # Output.

    def write_out(self) -> None:
        """Write what the guest has to say, as far as the other end takes it.  QueueError, MemoryFault."""
        queue = self._output
        if not queue.ready:
            return
        if self._restored is not None:
            self._element, self._restored = queue.load_element(self._restored), None
        frontend = self.frontend
        if frontend is None or not self.state.host_connected:
            self._forget_output()
            self._discard_output()
            return
        if self._given_up:
            self._given_up = not frontend.writable
            if self._given_up:
                self._discard_output()
                return
        given_back = False
        while frontend.writable:
            element = self._element
            if element is None:
                self._element = element = queue.pop()
                self.state.piece = self.state.offset = 0
            if element is None:
                break
            if self._write_some(element, frontend):
                self._element = None
                queue.push(element, 0)
                given_back = True
        if given_back:
            queue.notify()
        if self.is_console:
            self._be_patient(waiting=not frontend.writable)

    def _write_some(self, element: Element, frontend: Frontend) -> bool:
        """Write a buffer until the other end takes no more; whether all of it is written."""
        state = self.state
        while state.piece < len(element.readable):
            if not frontend.writable:
                return False
            address, length = element.readable[state.piece]
            count = min(length - state.offset, _CHUNK)
            frontend.write(self.serial.dma.read(address + state.offset, count))
            state.offset += count
            if state.offset >= length:
                state.piece += 1
                state.offset = 0
        return True

    def _be_patient(self, *, waiting: bool) -> None:
        if not waiting:
            self._patience.cancel()
        elif self._patience.deadline is None:
            self._patience.arm(self.machine.clock.now() + PATIENCE)

    def _give_way(self) -> None:
        """Nobody reads the terminal: let the guest go on."""
        frontend = self.frontend
        if frontend is not None and not frontend.writable:
            self._given_up = True
            element, self._element = self._element, None
            if element is not None:
                self.serial.attempt(self._output.push, element, 0)
        self.serial.attempt(self.write_out)

    def _resume_output(self) -> None:
        """The other end takes more."""
        self._see_to_it()

    def _forget_output(self) -> None:
        element, self._element, self._restored = self._element, None, None
        if element is not None:
            self._output.drop(element)

    def discard_output(self) -> None:
        """The port goes: what the guest has written is for nobody."""
        self._forget_output()
        self._discard_output()

    def _discard_output(self) -> None:
        queue = self._output
        pushed = False
        while (element := queue.pop()) is not None:
            queue.push(element, 0)
            pushed = True
        if pushed:
            queue.notify()

    # State.

    def before_save(self) -> None:
        """The buffer that is not written out yet."""
        self.state.element = self._restored if self._element is None else self._element.save()

    def check_state(self, state: VirtSerialPortState) -> None:
        """Refuse more input than ever is held."""
        # What was granted before the state was loaded may come behind what was in it.
        if len(state.inbox) > 2 * WINDOW:
            raise GenericError(f"'inbox' has {len(state.inbox)} bytes, expected at most {2 * WINDOW}")

    def after_load(self) -> None:
        """Go on when the machine runs; by then the queues are there, too."""
        self._element = None
        self._restored, self.state.element = self.state.element, None
        self._patience.cancel()
        if self.frontend is not None and not self.is_console:
            self.frontend.set_open(self.state.guest_connected)
        self._resume.arm(self.machine.clock.now())


class VirtConsole(
    VirtSerialPort,
    type_name="virtconsole",
    options=VirtSerialPortOptions,
    state=VirtSerialPortState,
    user_creatable=True,
):
    """A port for a terminal."""

    is_console = True
