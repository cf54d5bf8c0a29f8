"""The telnet protocol, as far as a serial console needs it: a sans-IO codec.

The server asks for a binary, unechoed, character-at-a-time session and takes whatever is answered.  Options are dropped from the
input, doubled IAC bytes become one, and a break is an event.

Source: RFC 854 (commands), RFC 856 (binary), RFC 857 (echo), RFC 858 (suppress go-ahead).
"""

from __future__ import annotations

from enum import IntEnum

IAC = 0xFF


class Command(IntEnum):
    """What may follow an IAC."""

    SE = 240
    NOP = 241
    BRK = 243
    SB = 250
    WILL = 251
    WONT = 252
    DO = 253
    DONT = 254


ECHO, SUPPRESS_GO_AHEAD, BINARY = 1, 3, 0

NEGOTIATION = bytes(
    [
        IAC,
        Command.WILL,
        ECHO,
        IAC,
        Command.WILL,
        SUPPRESS_GO_AHEAD,
        IAC,
        Command.WILL,
        BINARY,
        IAC,
        Command.DO,
        BINARY,
    ]
)
"""What a server sends first."""


class _State(IntEnum):
    DATA = 0
    COMMAND = 1  # an IAC was read
    OPTION = 2  # WILL, WONT, DO or DONT was read
    SUBNEGOTIATION = 3
    SUBNEGOTIATION_COMMAND = 4  # an IAC was read within it


def encode(data: bytes) -> bytes:
    """Data on its way to the terminal: an IAC is doubled."""
    return data.replace(b"\xff", b"\xff\xff") if IAC in data else data


class Decoder:
    """Input from the terminal, in any pieces."""

    def __init__(self) -> None:
        self._state = _State.DATA

    def feed(self, data: bytes) -> list[bytes | None]:
        """The data in it, in order; None stands for a break."""
        if self._state is _State.DATA and IAC not in data:
            return [data]
        parts: list[bytes | None] = []
        plain = bytearray()
        for byte in data:
            match self._state:
                case _State.DATA:
                    if byte == IAC:
                        self._state = _State.COMMAND
                    else:
                        plain.append(byte)
                case _State.COMMAND:
                    self._state = _State.DATA
                    if byte == IAC:
                        plain.append(byte)
                    elif byte in {Command.WILL, Command.WONT, Command.DO, Command.DONT}:
                        self._state = _State.OPTION
                    elif byte == Command.SB:
                        self._state = _State.SUBNEGOTIATION
                    elif byte == Command.BRK:
                        if plain:
                            parts.append(bytes(plain))
                            plain.clear()
                        parts.append(None)
                case _State.OPTION:
                    self._state = _State.DATA
                case _State.SUBNEGOTIATION:
                    if byte == IAC:
                        self._state = _State.SUBNEGOTIATION_COMMAND
                case _State.SUBNEGOTIATION_COMMAND:
                    self._state = _State.DATA if byte == Command.SE else _State.SUBNEGOTIATION
        if plain:
            parts.append(bytes(plain))
        return parts
