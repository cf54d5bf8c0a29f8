"""What a client has passed over its monitor's socket (SCM_RIGHTS): descriptors that wait for a command, and those with a name.

    passed = PassedDescriptors(expected=lambda: bool(queue))
    passed.keep(port.take_fds())
    ...
    current.set(passed)                 # in the context of a command of that client
    fd = current.get().take()           # getfd, add-fd
    passed.drop()                       # the monitor goes

Every kind of monitor has one.  Names are a monitor's, not a client's: they outlive the connection that they came by, as in QEMU.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class PassedDescriptors:
    """See the module.  `expected` says whether commands wait that what has come before may be for."""

    __slots__ = ("_expected", "named", "waiting")

    def __init__(self, expected: Callable[[], bool]) -> None:
        self._expected = expected
        self.waiting: list[int] = []
        self.named: dict[str, int] = {}

    def keep(self, descriptors: list[int]) -> None:
        """Keep what came with the last bytes, until a command takes it; what came before and is still here is closed.

        Unless commands wait: the descriptors may be theirs.
        """
        kept = self.waiting if self._expected() else []
        for descriptor in self.waiting[len(kept) :]:
            os.close(descriptor)
        self.waiting = kept + descriptors

    def take(self) -> int | None:
        """The oldest descriptor that the client has sent and no command has taken; the caller owns it then."""
        return self.waiting.pop(0) if self.waiting else None

    def close_waiting(self) -> None:
        """The client goes: close what no command has taken."""
        while self.waiting:
            os.close(self.waiting.pop())

    def drop(self) -> None:
        """Close all descriptors, named ones too: the monitor goes."""
        self.close_waiting()
        while self.named:
            os.close(self.named.popitem()[1])


current: ContextVar[PassedDescriptors] = ContextVar("current_passed_descriptors")
"""What the client of the running command has passed; unset where no monitor runs it."""
