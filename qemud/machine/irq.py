"""Interrupt lines: wires between a device's output and an interrupt controller's input.

A line carries a level and remembers nothing: whoever listens (PLIC, hart) keeps the level of each of its inputs,
which is then part of its saved state.  A device calls `set` as often as it likes; sinks must take the same level
twice without effect.

    line = Irq(plic.set_source, 10)
    line.raise_()
    line.set(0)

Lines belong to the machine thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _ignore(_n: int, _level: int) -> None:
    """What an unconnected line does."""


class Irq:
    """One line: calls `handler(n, level)` on every `set`, level being 0 or 1."""

    __slots__ = ("_handler", "n")

    def __init__(self, handler: Callable[[int, int], None], n: int) -> None:
        self._handler = handler
        self.n = n

    @classmethod
    def nc(cls) -> Irq:
        """A line that leads nowhere: what a device's output is until somebody connects it."""
        return cls(_ignore, 0)

    @property
    def connected(self) -> bool:
        """Whether anybody listens."""
        return self._handler is not _ignore

    def set(self, level: int) -> None:
        """Drive the line to `level` (0, or anything else for 1)."""
        self._handler(self.n, 1 if level else 0)

    def raise_(self) -> None:
        """Drive the line high."""
        self._handler(self.n, 1)

    def lower(self) -> None:
        """Drive the line low."""
        self._handler(self.n, 0)

    def pulse(self) -> None:
        """High and low again: an edge."""
        self._handler(self.n, 1)
        self._handler(self.n, 0)
