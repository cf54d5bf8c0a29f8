"""Windows: stretches of the board's address space behind which PCI addresses are.

A window asks who answers at an address, and passes loads and stores on.  Nobody answers where the guest has mapped nothing: loads read
as all ones there, stores do nothing.  Where the guest has mapped two functions at one address, the one with the lower number answers.

Who answers where is worked out at the first access after anything has changed, not when it changes: guests change base addresses
in many small steps, most of which mean nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from qemud.hw.pci.bridge import PciBridge
from qemud.machine.memory import MemoryFault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.hw.pci.bus import PciBus
    from qemud.hw.pci.device import BarOps
    from qemud.hw.pci.gpex import GpexHost

    Range = tuple[int, int]
    """First address, and one past the last."""


class Route(NamedTuple):
    """Who answers from `base` to `end`; its own registers begin at `origin`."""

    base: int
    end: int
    ops: BarOps
    origin: int


class Window:
    """PCI addresses from `base` on, of ports with `io`, else of memory; see the module."""

    def __init__(self, host: GpexHost, base: int, size: int, *, io: bool, start: int) -> None:
        self._host = host
        self._base = base
        self._end = base + size
        self._start = start
        self._io = io
        self._routes: list[Route] = []
        self._bases: list[int] = []
        self.stale = True

    def read(self, offset: int, size: int) -> int:
        """A load of the processor."""
        if size == 8:
            return self.read(offset, 4) | self.read(offset + 4, 4) << 32
        address = self._base + offset
        route = self._find(address, size)
        if route is None:
            if not self._host.options.allow_unmapped_accesses:
                raise MemoryFault(self._start + offset, write=False)
            return (1 << 8 * size) - 1
        return route.ops.read(address - route.origin, size)

    def write(self, offset: int, value: int, size: int) -> None:
        """A store of the processor."""
        if size == 8:
            self.write(offset, value & 0xFFFF_FFFF, 4)
            self.write(offset + 4, value >> 32, 4)
            return
        address = self._base + offset
        route = self._find(address, size)
        if route is not None:
            route.ops.write(address - route.origin, value, size)
        elif not self._host.options.allow_unmapped_accesses:
            raise MemoryFault(self._start + offset, write=True)

    def _find(self, address: int, size: int) -> Route | None:
        if self.stale:
            self._build()
        index = bisect_right(self._bases, address) - 1
        if index >= 0:
            route = self._routes[index]
            if address + size <= route.end:
                return route
        return None

    def _build(self) -> None:
        self.stale = False
        found: list[Route] = []
        for route in _routes(self._host.pci_bus, [(self._base, self._end)], io=self._io):
            _insert(found, route)
        found.sort()
        self._routes = found
        self._bases = [route.base for route in found]


def _routes(bus: PciBus, ranges: list[Range], *, io: bool) -> Iterator[Route]:
    """Who answers on a bus, and behind its bridges, as far as these addresses get there."""
    if not ranges:
        return
    for function in bus.functions():
        for bar, address in function.mapped():
            if bar.io == io:
                for base, end in _overlap(ranges, (address, address + bar.size)):
                    yield Route(base, end, bar.ops, address)
        if isinstance(function, PciBridge) and function.awake:
            inner = [part for passed in function.passed(io=io) for part in _overlap(ranges, passed)]
            yield from _routes(function.secondary, inner, io=io)


def _overlap(ranges: list[Range], other: Range) -> list[Range]:
    """What of the ranges lies in the other one."""
    parts = [(max(base, other[0]), min(end, other[1])) for base, end in ranges]
    return [(base, end) for base, end in parts if base < end]


def _insert(found: list[Route], route: Route) -> None:
    """Add what of a route is not taken yet."""
    parts = [(route.base, route.end)]
    for other in found:
        parts = [
            piece
            for base, end in parts
            for piece in ((base, min(end, other.base)), (max(base, other.end), end))
            if piece[0] < piece[1]
        ]
    found.extend(route._replace(base=base, end=end) for base, end in parts)
