"""What firmware is told of the machine: named items of bytes, behind a few registers (`fw_cfg_mem`).

    fw_cfg.add(Item.UUID, bytes(16))                   one of the well-known items
    fw_cfg.add_file("opt/org.example/key", b"...")     one with a name, listed in the directory

The guest selects an item, and then reads it a byte after the other, or has it copied to memory at once (DMA).  Numbers in registers are
big-endian, those in items little-endian, those in the directory big-endian.

Items are there when the machine is made; the guest cannot change any.

Source: QEMU 10.0, docs/specs/fw_cfg.rst, and hw/nvram/fw_cfg.c for what happens at the edges.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from qemud._generated.types.nvram import FwCfgMemOptions, FwCfgMemState
from qemud.machine.memory import MemoryFault
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import SysBusDevice

if TYPE_CHECKING:
    from collections.abc import Mapping

SIGNATURE = b"QEMU"
DMA_SIGNATURE = b"QEMU CFG"
MAX_NAME = 55
"""Characters of a file's name at most."""

DATA_SIZE, CTL_SIZE, DMA_SIZE = 8, 2, 8
CTL_AT, DMA_AT = 8, 16

_FEATURE_TRADITIONAL, _FEATURE_DMA = 1, 2
_FILE_FIRST = 0x20
_NOTHING = 0xFFFF

_DMA_ERROR, _DMA_READ, _DMA_SKIP, _DMA_SELECT, _DMA_WRITE = 1, 2, 4, 8, 16
_DMA = struct.Struct(">IIQ")
_ENTRY = struct.Struct(">IHH56s")


class Item:
    """Keys of the well-known items."""

    SIGNATURE = 0x00
    ID = 0x01
    UUID = 0x02
    NOGRAPHIC = 0x04
    NB_CPUS = 0x05
    KERNEL_SIZE = 0x08
    INITRD_SIZE = 0x0B
    BOOT_MENU = 0x0E
    KERNEL_DATA = 0x11
    INITRD_DATA = 0x12
    CMDLINE_SIZE = 0x14
    CMDLINE_DATA = 0x15
    FILE_DIR = 0x19


class FwCfg(SysBusDevice, type_name="fw_cfg", abstract=True):
    """Whatever its registers are behind."""


class FwCfgMem(FwCfg, type_name="fw_cfg_mem", options=FwCfgMemOptions, state=FwCfgMemState):
    """See the module."""

    options: FwCfgMemOptions
    state: FwCfgMemState

    def __init__(self, options: FwCfgMemOptions | None = None) -> None:
        super().__init__(options)
        self._items: dict[int, bytes] = {}
        self._files: dict[str, bytes] = {}
        self._control = Control(self)
        self._dma = DmaRegister(self)

    @property
    def files(self) -> Mapping[str, bytes]:
        """The items with names."""
        return self._files

    def add(self, key: int, content: bytes) -> None:
        """A well-known item."""
        self._items[key] = content

    def add_file(self, name: str, content: bytes) -> None:
        """An item with a name.  GenericError: one is there of that name, or there is no room in the directory."""
        if name in self._files:
            raise GenericError(f"duplicate fw_cfg file name: {name}")
        if len(self._files) >= self.options.x_file_slots:
            raise GenericError(f"no room for the fw_cfg file '{name}', there are {self.options.x_file_slots}")
        self._files[name] = content

    def realize(self) -> None:
        """List the files, in the order of their names, and claim the registers."""
        features = _FEATURE_TRADITIONAL | (_FEATURE_DMA if self.options.dma_enabled else 0)
        self.add(Item.SIGNATURE, SIGNATURE)
        self.add(Item.ID, features.to_bytes(4, "little"))
        directory = bytearray(len(self._files).to_bytes(4, "big"))
        for number, name in enumerate(sorted(self._files)):
            content = self._files[name]
            directory += _ENTRY.pack(len(content), _FILE_FIRST + number, 0, name.encode())
            self.add(_FILE_FIRST + number, content)
        self.add(Item.FILE_DIR, bytes(directory))
        self.mmio.clear()
        self.init_mmio("fwcfg.data", DATA_SIZE, max_access=8)
        self.init_mmio("fwcfg.ctl", CTL_SIZE, self._control, min_access=2, max_access=2)
        if self.options.dma_enabled:
            self.init_mmio("fwcfg.dma", DMA_SIZE, self._dma, max_access=8)

    def reset_enter(self) -> None:
        """The first item is selected."""
        self.state = FwCfgMemState()

    # Registers.

    def select(self, key: int) -> None:
        """Begin at the beginning of an item."""
        self.state.key = key
        self.state.offset = 0

    def _item(self) -> bytes:
        return self._items.get(self.state.key, b"")

    def read(self, offset: int, size: int) -> int:
        """The next bytes of the item, the first one lowest; zeros behind its end."""
        if offset:
            return 0
        state = self.state
        content = self._item()[state.offset : state.offset + size]
        state.offset += len(content)
        return int.from_bytes(content, "little")

    def write(self, offset: int, value: int, size: int) -> None:
        """Items cannot be changed."""

    def transfer(self, address: int) -> None:
        """Do what the structure at `address` says, and note there that it is done."""
        dma = self.machine.dma
        try:
            control, length, target = _DMA.unpack(dma.read(address, _DMA.size))
        except MemoryFault:
            self._finish(address, _DMA_ERROR)
            return
        if control & _DMA_SELECT:
            self.select(control >> 16)
        problem = 0
        if control & _DMA_READ:
            problem = self._copy(target, length)
        elif control & _DMA_WRITE:
            problem = _DMA_ERROR if length else 0
        elif control & _DMA_SKIP:
            self.state.offset = min(self.state.offset + length, len(self._item()))
        self._finish(address, problem)

    def _copy(self, target: int, length: int) -> int:
        """Copy the next bytes into memory, with zeros behind the item's end; the error bit, if there is no memory."""
        state, dma = self.state, self.machine.dma
        content = self._item()[state.offset : state.offset + length]
        try:
            dma.pieces(target, length)
            if content:
                dma.write(target, content)
            for start, size in dma.pieces(target + len(content), length - len(content)):
                dma.view(start, size)[:] = bytes(size)
                dma.written(start, size)
        except MemoryFault:
            return _DMA_ERROR
        state.offset += len(content)
        return 0

    def _finish(self, address: int, control: int) -> None:
        try:
            self.machine.dma.write(address, control.to_bytes(4, "big"))
        except MemoryFault:
            return


class Control:
    """The register that selects an item."""

    def __init__(self, device: FwCfgMem) -> None:
        self._device = device

    def read(self, offset: int, size: int) -> int:
        """It cannot be read."""
        del offset, size
        return 0

    def write(self, offset: int, value: int, size: int) -> None:
        """Select an item."""
        del offset
        self._device.select(int.from_bytes(value.to_bytes(size, "little"), "big"))


class DmaRegister:
    """The address of the structure that says what to copy; writing its lower half begins."""

    def __init__(self, device: FwCfgMem) -> None:
        self._device = device

    def read(self, offset: int, size: int) -> int:
        """A signature."""
        return int.from_bytes(DMA_SIGNATURE[offset : offset + size], "little")

    def write(self, offset: int, value: int, size: int) -> None:
        """One half or all of the address."""
        state = self._device.state
        number = int.from_bytes(value.to_bytes(size, "little"), "big")
        if size == 4 and offset == 0:
            state.dma_address = number << 32
        elif (size == 4 and offset == 4) or size == 8:
            address = number if size == 8 else state.dma_address | number
            state.dma_address = 0
            self._device.transfer(address)


def check_name(name: str) -> None:
    """Raise GenericError for a name that is too long for the directory."""
    if len(name.encode()) > MAX_NAME:
        raise GenericError(f"name too long (max. {MAX_NAME} char)")
