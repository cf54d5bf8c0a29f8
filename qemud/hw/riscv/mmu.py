"""The guest's virtual addresses, as a debugger sees them: no access bits are set, no permission is asked for.

    translate(vcpu, vm.memory, 0xffffffff80000000)    -> (physical address, bytes to the end of the page), or None

Source: RISC-V privileged architecture, version 20240411, sections 12.3 to 12.6 (Sv32 is not for 64-bit harts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.machine.memory import ADDRESS_SPACE_END, MemoryFault, SectionKind

if TYPE_CHECKING:
    from qemud.machine.memory import AddressSpace
    from qemud.machine.vcpu import Vcpu

CSR_SATP = 0x180
PAGE_SHIFT = 12
M_MODE = 3

_LEVELS = {8: 3, 9: 4, 10: 5}  # satp.MODE: Sv39, Sv48, Sv57
_PTE_V = 1
_PTE_RWX = 0xE
_PTE_PPN_BITS = 44


def translate(vcpu: Vcpu, memory: AddressSpace, address: int) -> tuple[int, int] | None:
    """Where a virtual address of the processor's present mode leads, and how far that holds; None where nowhere."""
    satp = vcpu.csr(CSR_SATP)
    levels = _LEVELS.get(satp >> 60)
    if vcpu.mode == M_MODE or levels is None:
        return address, ADDRESS_SPACE_END - address
    virtual_bits = PAGE_SHIFT + 9 * levels
    # The bits above must all equal the highest one that is translated.
    high = address >> (virtual_bits - 1)
    if high not in {0, (1 << (64 - virtual_bits + 1)) - 1}:
        return None
    table = (satp & (1 << _PTE_PPN_BITS) - 1) << PAGE_SHIFT
    for level in reversed(range(levels)):
        shift = PAGE_SHIFT + 9 * level
        entry = _entry(memory, table + 8 * (address >> shift & 0x1FF))
        if entry is None or not entry & _PTE_V:
            return None
        base = (entry >> 10 & (1 << _PTE_PPN_BITS) - 1) << PAGE_SHIFT
        if entry & _PTE_RWX:
            offset = address & (1 << shift) - 1
            if base & (1 << shift) - 1:
                return None  # a superpage that is not aligned
            return base | offset, (1 << shift) - offset
        table = base
    return None


def _entry(memory: AddressSpace, address: int) -> int | None:
    """A page table entry; only from RAM, so that looking has no effect."""
    section = memory.find(address)
    if section is None or section.kind is SectionKind.MMIO:
        return None
    try:
        return int.from_bytes(memory.read_physical(address, 8), "little")
    except MemoryFault:
        return None
