"""A chardev with several users: a serial port and a monitor on one terminal, for one.

All may write.  Input goes to the user that has the focus; the one that started last has it first.  Ctrl-A begins a command:

    Ctrl-A h  this list        Ctrl-A x  end the emulator      Ctrl-A c  give the focus to the next user
    Ctrl-A b  send a break     Ctrl-A t  time stamps on/off    Ctrl-A Ctrl-A  send Ctrl-A

Commands work while the user with the focus takes no input, as long as what was typed for it fits into a small buffer.

Source: QEMU 10.0, chardev/char-mux.c.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from qemud.chardev.stream import Chardev, ChardevEvent, Port
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.chardev.log import Log

ESCAPE = 0x01
MAX_PORTS = 4
BUFFER_SIZE = 4096
"""How many bytes wait for each user."""

_HELP = (
    ("h", "print this help"),
    ("x", "exit emulator"),
    ("t", "toggle console timestamps"),
    ("b", "send break (magic sysrq)"),
    ("c", "switch between console and monitor"),
)


class MuxChardev(Chardev):
    """A chardev for up to four users, on top of another one."""

    kind = "mux"

    def __init__(
        self, label: str, base: Chardev, log: Log | None = None, *, end: Callable[[], object]
    ) -> None:
        """`end` ends the emulator, for Ctrl-A x.  GenericError: the other chardev has a user."""
        super().__init__(label, log)
        self.base = base
        self._end = end
        self._below = base.attach()
        self._ports: list[Port] = []
        self._waiting: dict[Port, deque[bytes]] = {}
        self._focus: Port | None = None
        self._escaped = False
        self._stamps_since: float | None = None
        self._line_starts = True

    async def open(self) -> None:
        """Follow the chardev below."""
        self._below.start(
            self._typed, self._below_happened, self.output_drained, credit=BUFFER_SIZE, is_open=False
        )

    def close(self) -> None:
        """As in the base; the chardev below is free."""
        self._below.detach()
        super().close()

    # -- users -------------------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """As in the base."""
        return bool(self._ports)

    @property
    def frontend_open(self) -> bool:
        """As in the base, of the user that has the focus."""
        return self._focus is not None and self._focus.is_open

    def attach(self) -> Port:
        """As in the base, several times."""
        with self._attaching:
            if len(self._ports) >= MAX_PORTS:
                raise GenericError(
                    f"too many uses of multiplexed chardev '{self.label}' (maximum is {MAX_PORTS})"
                )
            port = Port(self)
            self._ports.append(port)
            return port

    def port_started(self, port: Port) -> None:
        """As in the base."""
        self._waiting[port] = deque()
        self._below.set_open(True)
        self.focus(port)
        if self.is_open:
            port.notify(ChardevEvent.OPENED)

    def port_detached(self, port: Port) -> None:
        """As in the base; the focus goes to another user."""
        if port in self._ports:
            self._ports.remove(port)
        self._waiting.pop(port, None)
        if self._focus is port:
            self._focus = None
            started = [other for other in self._ports if other in self._waiting]
            if started:
                self.focus(started[-1])
        self._take_more()

    def focus(self, port: Port) -> None:
        """As in the base."""
        if self._focus is port:
            return
        if self._focus is not None:
            self._focus.notify(ChardevEvent.MUX_OUT)
        self._focus = port
        port.notify(ChardevEvent.MUX_IN)
        self._take_more()

    @property
    def is_behind(self) -> bool:
        """As in the base, of the chardev below."""
        return self.base.is_behind

    def take_fds(self) -> list[int]:
        """As in the base."""
        return self._below.take_fds()

    # -- output ------------------------------------------------------------------------------------------------------

    def transmit(self, data: bytes) -> None:
        """As in the base, with time stamps if they are wanted."""
        if self._stamps_since is None:
            self._below.write(data)
            return
        lines = data.split(b"\n")
        stamped = bytearray()
        for index, line in enumerate(lines):
            if self._line_starts and (line or index < len(lines) - 1):
                stamped += self._stamp()
                self._line_starts = False
            stamped += line
            if index < len(lines) - 1:
                stamped += b"\n"
                self._line_starts = True
        self._below.write(bytes(stamped))

    def gather(self) -> None:
        """As in the base, all of them."""
        for port in list(self._ports):
            port.gather()

    @property
    def pending(self) -> int:
        """As in the base."""
        return self._below.pending

    def output_drained(self) -> None:
        """As in the base, for every user."""
        super().output_drained()
        for port in list(self._ports):
            port.drained()

    def _stamp(self) -> bytes:
        """The time since the stamps were switched on."""
        assert self._stamps_since is not None
        milliseconds = int((time.monotonic() - self._stamps_since) * 1000)
        seconds, milliseconds = divmod(milliseconds, 1000)
        return b"[%02d:%02d:%02d.%03d] " % (seconds // 3600, seconds // 60 % 60, seconds % 60, milliseconds)

    # -- input -------------------------------------------------------------------------------------------------------

    def happened(self, event: ChardevEvent) -> None:
        """As in the base: a break is for the user with the focus, the rest for all."""
        if event is ChardevEvent.BREAK:
            if self._focus is not None:
                self._focus.notify(event)
            return
        for port in [port for port in self._ports if port in self._waiting]:
            port.notify(event)

    def input_wanted(self, port: Port) -> None:
        """As in the base."""
        self._deliver(port)

    def input_unwanted(self, port: Port) -> None:
        """As in the base: what comes for this user waits."""

    def _below_happened(self, event: ChardevEvent) -> None:
        """The chardev below was opened, closed or sent a break."""
        if event is ChardevEvent.BREAK:
            self.happened(event)
        elif event in {ChardevEvent.OPENED, ChardevEvent.CLOSED}:
            self._escaped = False
            self.set_open(event is ChardevEvent.OPENED)

    def _typed(self, data: bytes) -> None:
        """Input from below: do the commands in it, pass the rest on."""
        start = 0
        if self._escaped:
            self._command(data[0])
            start = 1
        while (escape := data.find(ESCAPE, start)) >= 0:
            self._pass(data[start:escape])
            if escape + 1 == len(data):
                self._escaped = True
                start = len(data)
                break
            self._command(data[escape + 1])
            start = escape + 2
        self._pass(data[start:])
        self._take_more()

    def _pass(self, data: bytes) -> None:
        """Input for the user that has the focus."""
        if data and self._focus is not None:
            self._waiting[self._focus].append(data)
            self._deliver(self._focus)

    def _deliver(self, port: Port) -> None:
        """Give a user what waits for it, as far as it takes it."""
        waiting = self._waiting.get(port)
        if waiting is None:
            return
        while waiting and (allowance := port.allowance) > 0:
            data = waiting.popleft()
            if len(data) > allowance:
                waiting.appendleft(data[allowance:])
                data = data[:allowance]
            port.deliver(data)
        self._take_more()

    def _take_more(self) -> None:
        """Let the chardev below deliver what there is room for."""
        waiting = () if self._focus is None else self._waiting.get(self._focus, ())
        room = BUFFER_SIZE - sum(map(len, waiting))
        if (more := room - self._below.allowance) > 0:
            self._below.grant(more)

    # -- commands ----------------------------------------------------------------------------------------------------

    def _command(self, key: int) -> None:
        """Do what the key after Ctrl-A means; most keys mean nothing."""
        self._escaped = False
        match key:
            case 0x01:
                self._pass(b"\x01")
            case 0x3F | 0x68:  # ? h
                self._say(
                    "".join(f"C-a {letter}    {text}\n\r" for letter, text in _HELP)
                    + "C-a C-a  sends C-a\n\r"
                )
            case 0x78:  # x
                self._below.write(b"QEMU: Terminated\n\r")
                self._end()
            case 0x62:  # b
                self.happened(ChardevEvent.BREAK)
            case 0x74:  # t
                self._stamps_since = time.monotonic() if self._stamps_since is None else None
                self._line_starts = False
            case 0x63:  # c
                self._next_user()
            case _:
                pass

    def _next_user(self) -> None:
        """Move the focus on, in the order of attachment."""
        started = [port for port in self._ports if port in self._waiting]
        if len(started) < 2:
            self._say("There is nothing else on this terminal.\n\r")
        else:
            at = started.index(self._focus) if self._focus in started else -1
            self.focus(started[(at + 1) % len(started)])

    def _say(self, text: str) -> None:
        """Tell the person at the terminal."""
        self._below.write(b"\n\r" + text.encode())
