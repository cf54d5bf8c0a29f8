"""A typed asyncio client of QMP, for qemud and for QEMU.

    from qemud.client import Client
    from qemud.client.events import ShutdownEvent
    from qemud.client.types import RunState

    async with Client.connect("unix:/run/vm.qmp", reconnect=True) as qmp:
        with qmp.events(ShutdownEvent) as shutdowns:
            status = await qmp.query_status()
            if status.status is RunState.PAUSED:
                await qmp.cont()
            async for event in shutdowns:
                print(event.reason)

Every command of the schema is a method with typed arguments and a typed result; every event has a class.  What the schema does not know
goes through `execute`, by name.  The client takes what newer servers add (`qemud.client.decode`) and sends only what it was told to
(`qemud.client.encode`), so that it works with QEMU too, as far as the commands are there.

    client      the client, its events and its coming back
    streams     events for whoever waits for them
    link        one connection
    messages    bytes → messages
    transport   the socket
    errors      what can go wrong

Nothing of it is part of the daemon.
"""

from __future__ import annotations

from qemud.client.client import Client, Reconnect
from qemud.client.errors import (
    ClientError,
    ConnectError,
    ConnectionLost,
    EventsLost,
    ProtocolError,
    UnexpectedReply,
)
from qemud.client.streams import EventStream
from qemud.qapi.runtime.calls import Event
from qemud.qapi.runtime.errors import (
    CommandNotFound,
    DeviceNotActive,
    DeviceNotFound,
    GenericError,
    KVMMissingCap,
    QmpError,
)

__all__ = [
    "Client",
    "ClientError",
    "CommandNotFound",
    "ConnectError",
    "ConnectionLost",
    "DeviceNotActive",
    "DeviceNotFound",
    "Event",
    "EventStream",
    "EventsLost",
    "GenericError",
    "KVMMissingCap",
    "ProtocolError",
    "QmpError",
    "Reconnect",
    "UnexpectedReply",
]
