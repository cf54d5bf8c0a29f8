"""What a hart meets outside RAM: the registers of devices, and nothing.

    core.set_registers(outside_ram(space))

An access to nothing is a fault of the instruction that made it; `-d guest_errors` tells of it too, since a driver that probes
an address may well survive the fault in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from qemud.logs import guest_error
from qemud.machine.memory import MemoryFault, SectionKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.machine.memory import AddressSpace

    Stretch = tuple[int, int, Callable[[int, int], int], Callable[[int, int, int], None]]
    """First address, one past the last, and who answers loads (offset, size) and stores (offset, value, size)."""

_END = (1 << 64) - 1
"""Numbers have 64 bits below: the very last address is in no stretch, which is a fault as well."""


def outside_ram(space: AddressSpace) -> list[Stretch]:
    """Every stretch between pieces of RAM and ROM, in order."""
    found: list[Stretch] = []
    position = 0
    for section in space:
        _add_hole(found, position, section.base)
        if section.kind is SectionKind.MMIO:
            found.append((section.base, min(section.end, _END), section.cpu_read, section.cpu_write))
        position = section.end
    _add_hole(found, position, _END)
    return found


def _add_hole(found: list[Stretch], base: int, end: int) -> None:
    if base < end:
        hole = _Hole(base)
        found.append((base, end, hole.load, hole.store))


class _Hole:
    """Nothing."""

    __slots__ = ("_base",)

    def __init__(self, base: int) -> None:
        self._base = base

    def load(self, offset: int, size: int) -> NoReturn:
        """An access fault."""
        address = self._base + offset
        guest_error("memory", "load from nothing", address=f"{address:#x}", size=size)
        raise MemoryFault(address, write=False)

    def store(self, offset: int, value: int, size: int) -> NoReturn:
        """An access fault."""
        address = self._base + offset
        guest_error("memory", "store to nothing", address=f"{address:#x}", size=size, value=f"{value:#x}")
        raise MemoryFault(address, write=True)
