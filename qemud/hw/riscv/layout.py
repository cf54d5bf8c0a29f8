"""Where things are on the `virt` board, and which interrupt is whose: QEMU 10.0's addresses and numbers."""

from __future__ import annotations

from typing import NamedTuple


class Range(NamedTuple):
    """A place in the address space."""

    base: int
    size: int


MROM = Range(0x1000, 0xF000)
TEST = Range(0x10_0000, 0x1000)
RTC = Range(0x10_1000, 0x1000)
CLINT = Range(0x200_0000, 0x1_0000)
MTIMER = 0x4000
"""Where in the CLINT the timer begins."""
SSWI = Range(0x2F0_0000, 0x4000)
PLIC = Range(0xC00_0000, 0x60_0000)
UART0 = Range(0x1000_0000, 0x100)
VIRTIO = Range(0x1000_1000, 0x1000)
"""The first of them; the others follow."""
PCIE_PIO = Range(0x300_0000, 0x1_0000)
FLASH = Range(0x2000_0000, 0x200_0000)
"""The first of two banks."""
FLASH_SECTOR = 256 << 10
PCIE_ECAM = Range(0x3000_0000, 0x1000_0000)
PCIE_MMIO = Range(0x4000_0000, 0x4000_0000)
FW_CFG = Range(0x1010_0000, 0x18)
DRAM_BASE = 0x8000_0000
PCIE_HIGH_SIZE = 16 << 30
"""The second stretch of memory for PCI registers lies at the next multiple of its size behind RAM."""

VIRTIO_COUNT = 8
VIRTIO_IRQ = 1
UART0_IRQ = 10
RTC_IRQ = 11
PCIE_IRQ = 32
"""The first of four."""

NUM_SOURCES = 96
NUM_PRIORITIES = 7
PLIC_PENDING = 0x1000
PLIC_ENABLE = 0x2000
PLIC_ENABLE_STRIDE = 0x80
PLIC_CONTEXT = 0x20_0000
PLIC_CONTEXT_STRIDE = 0x1000

TIMEBASE_FREQUENCY = 10_000_000
UART0_CLOCK = 3_686_400
"""What the guest is told; the baud rate that the UART counts from is in `qemud.hw.versions`."""


def pcie_high(ram_size: int) -> Range:
    """Where the second stretch of memory for PCI registers is, with this much RAM."""
    return Range(-(-(DRAM_BASE + ram_size) // PCIE_HIGH_SIZE) * PCIE_HIGH_SIZE, PCIE_HIGH_SIZE)
