"""What the generated client is made on: who calls commands, and what an event is.

`qemud._generated.client` has a typed method for every command, written on `Caller`, and a class for every event, derived
from `Event`.  `qemud.client` brings them to life.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class Caller(ABC):
    """Whoever can call a command."""

    @abstractmethod
    async def _call(self, name: str, arguments: Mapping[str, Any] | object | None = None) -> Any:
        """Call a command; its typed result.

        `arguments` are typed values by their names on the wire, or the one struct of a boxed command.
        """


class Event:
    """An event.  One that the schema knows is of a class of its own, with the members of its data as attributes.

    - `event`: its name on the wire.
    - `timestamp`: when it happened, in seconds since 1970 by the server's clock.
    - `data`: its data as they came, empty if there were none.
    - `sequence`: its number, where the server numbers events, else None.
    """

    __slots__ = ("data", "event", "sequence", "timestamp")

    NAME: ClassVar[str] = ""
    """The name on the wire of the events of this class; empty for `Event` itself."""

    def __init__(self, event: str, timestamp: float, data: dict[str, Any], sequence: int | None) -> None:
        self.event = event
        self.timestamp = timestamp
        self.data = data
        self.sequence = sequence

    def __repr__(self) -> str:
        return f"<{self.event} {self.data}>"
