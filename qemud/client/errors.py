"""What can go wrong between a client and its server.

What the server answers is `QmpError` (`qemud.qapi.runtime.errors`), a closed tree of its own; an error class that the schema does
not know comes as `GenericError`.  Everything else is a `ClientError`:

    ClientError
    ├── ConnectError      nobody listens there, or whoever does is no QMP server
    ├── ConnectionLost    the connection ended; whether a command under way was carried out is not known
    ├── ProtocolError     what came is not QMP; the connection is closed
    ├── UnexpectedReply   a result is not of the type that the schema says
    └── EventsLost        events are missing at this place of a stream; it goes on behind them

A limit of time that passed is Python's `TimeoutError`.
"""

from __future__ import annotations


class ClientError(Exception):
    """Any trouble that is not the server's answer."""


class ConnectError(ClientError):
    """There is no connection to begin with."""


class ConnectionLost(ClientError):
    """The connection ended, by whichever side."""


class ProtocolError(ClientError):
    """What came is not QMP."""


class UnexpectedReply(ClientError):
    """A result is not of the type that the schema says."""


class EventsLost(ClientError):
    """Events are missing from a stream; `count` of them, None where nobody knows."""

    def __init__(self, count: int | None, reason: str) -> None:
        super().__init__(f"{'some' if count is None else count} events were lost: {reason}")
        self.count = count
