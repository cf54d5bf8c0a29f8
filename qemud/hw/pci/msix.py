"""Interrupt messages (MSI-X): a function interrupts by writing a number to an address that the guest has chosen.

The table and the pending bits are registers of the function, in a base address register of their own.  What receives a message is
memory: no interrupt controller of this board takes any, so that one addressed to anything but RAM is lost.

Source: PCI Local Bus Specification 3.0, section 6.8.2; layout of the registers: QEMU 10.0, hw/pci/msix.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.hw.pci.registers import CAP_MSIX
from qemud.machine.memory import MemoryFault
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.hw.pci.device import PciDevice

_ENTRY = 16
_VECTOR_CTRL = 12
_MASKED = 1
_CAP_SIZE = 12
_FLAGS = 2  # offset of the message control register
_ENABLE = 0x8000
_MASKALL = 0x4000
MAX_VECTORS = 2048
NO_VECTOR = 0xFFFF


class Msix:
    """A function's messages; made while the function is set up."""

    def __init__(self, device: PciDevice, vectors: int, bar: int) -> None:
        if not 0 < vectors <= MAX_VECTORS:
            raise GenericError("The number of MSI-X vectors is invalid")
        self._device = device
        self.vectors = vectors
        self.size = 4096
        self._pba = 2048
        if vectors * _ENTRY > self._pba:
            self._pba = -(-vectors * _ENTRY // 4096) * 4096
        pending_size = -(-vectors // 64) * 8
        while self.size < self._pba + pending_size:
            self.size *= 2
        self.table = bytearray(vectors * _ENTRY)
        self.pending = bytearray(pending_size)
        config = device.config
        self.offset = at = config.add_capability(CAP_MSIX, _CAP_SIZE)
        config.set16(at + _FLAGS, vectors - 1)
        config.set32(at + 4, bar)
        config.set32(at + 8, self._pba | bar)
        config.writable(at + _FLAGS, _ENABLE | _MASKALL, 2)
        device.add_bar(bar, self, self.size)
        self.reset()

    @property
    def enabled(self) -> bool:
        """Whether the guest wants messages instead of the pin."""
        return bool(self._device.config.get16(self.offset + _FLAGS) & _ENABLE)

    def reset(self) -> None:
        """As after power-on: all messages masked, none pending."""
        config = self._device.config
        config.change16(self.offset + _FLAGS, _ENABLE | _MASKALL, 0)
        self.table[:] = bytes(len(self.table))
        for vector in range(self.vectors):
            self.table[vector * _ENTRY + _VECTOR_CTRL] = _MASKED
        self.pending[:] = bytes(len(self.pending))

    def notify(self, vector: int) -> None:
        """Send a message, or note that it waits."""
        if vector >= self.vectors or not self.enabled:
            return
        if self._masked(vector):
            self.pending[vector >> 3] |= 1 << (vector & 7)
        else:
            self._send(vector)

    def config_written(self) -> None:
        """The guest has written the message control register: send what waits and is masked no longer."""
        if self.enabled and any(self.pending):
            for vector in range(self.vectors):
                self._send_pending(vector)

    # Registers.

    def read(self, offset: int, size: int) -> int:
        """A load from the table or from the pending bits."""
        if offset + size <= len(self.table):
            return int.from_bytes(self.table[offset : offset + size], "little")
        offset -= self._pba
        if offset >= 0 and offset + size <= len(self.pending):
            return int.from_bytes(self.pending[offset : offset + size], "little")
        return 0

    def write(self, offset: int, value: int, size: int) -> None:
        """A store to the table; the pending bits cannot be written."""
        if offset + size > len(self.table):
            return
        self.table[offset : offset + size] = value.to_bytes(size, "little")
        for vector in {offset // _ENTRY, (offset + size - 1) // _ENTRY}:
            control = vector * _ENTRY + _VECTOR_CTRL
            self.table[control : control + 4] = bytes((self.table[control] & _MASKED, 0, 0, 0))
            if self.enabled:
                self._send_pending(vector)

    def _masked(self, vector: int) -> bool:
        if self._device.config.get16(self.offset + _FLAGS) & _MASKALL:
            return True
        return bool(self.table[vector * _ENTRY + _VECTOR_CTRL] & _MASKED)

    def _send_pending(self, vector: int) -> None:
        bit = 1 << (vector & 7)
        if self.pending[vector >> 3] & bit and not self._masked(vector):
            self.pending[vector >> 3] &= ~bit
            self._send(vector)

    def _send(self, vector: int) -> None:
        device = self._device
        if not device.bus_master:
            return
        entry = self.table[vector * _ENTRY : (vector + 1) * _ENTRY]
        address = int.from_bytes(entry[:8], "little")
        try:
            device.machine.dma.write(address, entry[8:12])
        except MemoryFault:
            return

    # State.

    def problem(self, table: bytes, pending: bytes) -> str:
        """What is wrong with a saved state, or nothing."""
        if (len(table), len(pending)) != (len(self.table), len(self.pending)):
            return f"interrupt messages of {len(table)} and {len(pending)} bytes"
        return ""
