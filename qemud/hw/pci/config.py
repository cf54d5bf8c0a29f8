"""Configuration space: the bytes of a function, which of them the guest can write, and the lists of capabilities.

    space = ConfigSpace(CONFIG_SIZE)
    space.set16(Reg.VENDOR_ID, 0x1AF4)
    at = space.add_capability(CAP_PM, 8)
    space.writable(at + 4, 0x3, 2)
    space.write(Reg.COMMAND, 0x6, 2)        the guest: changes only what it may

Source: PCI Local Bus Specification 3.0, section 6.7 (capabilities); PCI Express Base Specification 5.0, section 7.6.3 (extended ones).
"""

from __future__ import annotations

from qemud.hw.pci.registers import (
    CONFIG_SIZE,
    EXTENDED_SIZE,
    STATUS_CAP_LIST,
    Reg,
)
from qemud.qapi.runtime.errors import GenericError

_HEADER_SIZE = 0x40


class ConfigSpace:
    """See the module.

    `data` is what is read; `write_mask` and `clear_mask` are the bits that the guest sets, and those that it clears by writing ones.
    `kept` are the bits that the function itself does not change either.
    """

    __slots__ = ("_last", "_used", "clear_mask", "data", "kept", "size", "write_mask")

    def __init__(self, size: int) -> None:
        assert size in {CONFIG_SIZE, EXTENDED_SIZE}
        self.size = size
        self.data = bytearray(size)
        self.write_mask = bytearray(size)
        self.clear_mask = bytearray(size)
        self.kept = bytearray(b"\xff") * size
        self._used = bytearray(b"\1" * _HEADER_SIZE + bytes(CONFIG_SIZE - _HEADER_SIZE))
        self._last = 0  # the extended capability that was added last

    def get(self, offset: int, size: int) -> int:
        """The register of `size` bytes at `offset`."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    def get16(self, offset: int) -> int:
        """A register of 16 bits."""
        data = self.data
        return data[offset] | data[offset + 1] << 8

    def get32(self, offset: int) -> int:
        """A register of 32 bits."""
        return int.from_bytes(self.data[offset : offset + 4], "little")

    def set(self, offset: int, value: int, size: int) -> None:
        """Give a register a value, whatever the guest may write."""
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def set16(self, offset: int, value: int) -> None:
        """A register of 16 bits."""
        self.set(offset, value, 2)

    def set32(self, offset: int, value: int) -> None:
        """A register of 32 bits."""
        self.set(offset, value, 4)

    def change16(self, offset: int, clear: int, put: int) -> int:
        """Clear bits, then set bits, of a register of 16 bits; what it was before."""
        old = self.get16(offset)
        self.set16(offset, old & ~clear | put)
        return old

    def writable(self, offset: int, mask: int, size: int) -> None:
        """Let the guest write these bits, and no others, of a register."""
        self.write_mask[offset : offset + size] = mask.to_bytes(size, "little")

    def write_1_to_clear(self, offset: int, mask: int, size: int) -> None:
        """Let the guest clear these bits, and no others, of a register."""
        self.clear_mask[offset : offset + size] = mask.to_bytes(size, "little")

    def changes(self, offset: int, mask: int, size: int) -> None:
        """The function itself changes these bits of a register."""
        value = int.from_bytes(self.kept[offset : offset + size], "little") & ~mask
        self.kept[offset : offset + size] = value.to_bytes(size, "little")

    def write(self, offset: int, value: int, size: int) -> None:
        """A store of the guest; the range lies inside."""
        data, writable, clears = self.data, self.write_mask, self.clear_mask
        for index in range(offset, offset + size):
            byte = value & 0xFF
            mask = writable[index]
            data[index] = (data[index] & ~mask | byte & mask) & ~(byte & clears[index])
            value >>= 8

    # Capabilities.

    def add_capability(self, number: int, size: int, at: int = 0) -> int:
        """Put a capability in front of the list, at `at` or where there is room; where it is.  Raises GenericError."""
        offset = at or self._room(size)
        end = offset + size
        if not offset or end > CONFIG_SIZE or any(self._used[offset:end]):
            raise GenericError(f"no room for PCI capability {number:#x} in the configuration space")
        self._used[offset:end] = b"\1" * size
        data = self.data
        data[offset] = number
        data[offset + 1] = data[Reg.CAPABILITY_LIST]
        data[Reg.CAPABILITY_LIST] = offset
        self.set16(Reg.STATUS, self.get16(Reg.STATUS) | STATUS_CAP_LIST)
        return offset

    def _room(self, size: int) -> int:
        """The first place that is free, at a multiple of 4; 0 for none."""
        for offset in range(_HEADER_SIZE, CONFIG_SIZE - size + 1, 4):
            if not any(self._used[offset : offset + size]):
                return offset
        return 0

    def add_extended(self, number: int, version: int, at: int, size: int) -> int:
        """Put an extended capability at the end of the list, at `at`."""
        assert CONFIG_SIZE <= at <= self.size - size
        self.set32(at, number | version << 16)
        if self._last:
            header = self.get32(self._last)
            self.set32(self._last, header & 0xF_FFFF | at << 20)
        self._last = at
        return at

    # State.

    def problem(self, saved: bytes) -> str:
        """What is wrong with a saved content, or nothing: no function of this making can have it."""
        if len(saved) != self.size:
            return f"a configuration space of {len(saved)} bytes, here it has {self.size}"
        for offset, (was, now) in enumerate(zip(saved, self.data, strict=True)):
            free = self.write_mask[offset] | self.clear_mask[offset] | ~self.kept[offset]
            if (was ^ now) & ~free & 0xFF:
                return f"byte {offset:#x} of the configuration space is {was:#04x}, here it is {now:#04x}"
        return ""
