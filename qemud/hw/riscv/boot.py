"""What is in memory before the first instruction, and where that is: kernel, initial ramdisk, firmware, device tree, reset vector.

Ways to begin:

- no firmware given (or `default`): the built-in one starts the kernel in S-mode, at the address its header asks for; without a kernel
  the hart waits for ever;
- `-bios FILE`: the hart begins in M-mode at the reset vector, which jumps to the firmware with a0 the hart's id, a1 the device tree, a2
  OpenSBI's `fw_dynamic` structure; the kernel lies at the next 2 MiB behind the firmware;
- `-bios none`: the same, but the reset vector jumps to the beginning of RAM, where the kernel is;
- with something in flash memory that is what runs in place of a kernel, or, with `-bios none`, in place of firmware.

Source: QEMU 10.0, hw/riscv/boot.c, for places and error texts; OpenSBI 1.5, docs/firmware/fw_dynamic.md.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from qemud.hw.boot.fdt import FdtError, Node, flatten, unflatten
from qemud.hw.boot.image import BootPlan, Loaded, LoadError, Part, load_firmware, load_initrd, load_kernel
from qemud.hw.riscv.device_tree import renew_seeds, set_boot
from qemud.hw.riscv.layout import DRAM_BASE, MROM
from qemud.machine.descriptors import close_file, open_file, read_from_start
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.machine import MachineProperties
    from qemud.machine.memory import AddressSpace

_2MIB = 2 << 20
_512MIB = 512 << 20
_MAX_DTB = 16 << 20

_FW_DYNAMIC_MAGIC = 0x4942_534F
_FW_DYNAMIC_VERSION = 2
_FW_DYNAMIC_NEXT_S = 1

_RESET_VECTOR = (
    0x0000_0297,  #     auipc t0, 0
    0x0282_8613,  #     addi  a2, t0, 40       the fw_dynamic structure
    0xF140_2573,  #     csrr  a0, mhartid
    0x0202_B583,  #     ld    a1, 32(t0)       the device tree
    0x0182_B283,  #     ld    t0, 24(t0)       where to go
    0x0002_8067,  #     jr    t0
)
_VECTOR = struct.Struct("<6I2Q6Q")
"""The code, where it goes and where the device tree is, and the fw_dynamic structure."""

_PARKED = (
    0x1050_0073,  # 1:  wfi
    0xFFDF_F06F,  #     j     1b
)


class Boot:
    """The plan for one machine: made when it is built, carried out at every reset.

    `entry` is where the built-in firmware starts the kernel; None when the hart begins at the reset vector.
    """

    def __init__(
        self,
        options: MachineProperties,
        ram_size: int,
        make_tree: Callable[[], Node],
        *,
        flash: int | None = None,
    ) -> None:
        self.plan = BootPlan()
        self.entry: int | None = None
        self._ram_end = DRAM_BASE + ram_size
        self._ram_size = ram_size
        self._flash = flash
        try:
            self.tree = _read_tree(options.dtb) if options.dtb is not None else make_tree()
            self._load(options)
        except BaseException:
            self.plan.close()
            raise

    @property
    def device_tree(self) -> bytes:
        """The blob as the guest got it last."""
        return self._blob

    def write(self, memory: AddressSpace) -> None:
        """Fill memory; seeds for random numbers are new each time."""
        renew_seeds(self.tree)
        self._blob = flatten(self.tree)
        self.plan.write(memory)
        memory.write_physical(self.fdt_address, self._blob)

    def close(self) -> None:
        """Close the files."""
        self.plan.close()

    def _load(self, options: MachineProperties) -> None:
        if options.initrd is not None and options.kernel is None:
            raise GenericError("-initrd only allowed with -kernel option")
        if options.append and options.kernel is None:
            raise GenericError("-append only allowed with -kernel option")
        firmware = self._load_firmware(options.firmware)
        kernel = None
        initrd = None
        if self._flash is not None:
            # What is in there finds the kernel, by itself or in what firmware is told.
            set_boot(self.tree, append=None, initrd=None)
            if options.firmware in {None, "default"}:
                self.entry = self._flash
            self._place_device_tree(None)
            self.plan.add([self._reset_vector(options.firmware, firmware, None)])
            return
        if options.kernel is not None:
            built_in = options.firmware in {None, "default"}
            behind = (
                DRAM_BASE + _2MIB if built_in else _align_up(firmware.high if firmware else DRAM_BASE, _2MIB)
            )
            kernel = load_kernel(
                options.kernel,
                default_address=behind,
                image_base=DRAM_BASE if built_in else None,
                limit=self._ram_size,
            )
            self.plan.add(kernel.parts)
            if built_in:
                self.entry = kernel.low
            if options.initrd is not None:
                initrd = self._load_initrd(options.initrd, kernel)
        set_boot(
            self.tree, append=options.append, initrd=(initrd.low, initrd.high) if initrd is not None else None
        )
        self._place_device_tree(initrd or kernel)
        self.plan.add([self._reset_vector(options.firmware, firmware, kernel)])

    def _load_firmware(self, name: str | None) -> Loaded | None:
        if name in {None, "default", "none"}:
            return None
        assert name is not None
        firmware = load_firmware(name, default_address=DRAM_BASE, limit=self._ram_size)
        self.plan.add(firmware.parts)
        return firmware

    def _load_initrd(self, path: str, kernel: Loaded) -> Loaded:
        """Half the RAM behind the kernel's beginning, at most 512 MiB, but never upon the kernel."""
        address = max(kernel.low + min(self._ram_size // 2, _512MIB), _align_up(kernel.high, _2MIB))
        room = self._ram_end - address
        if room <= 0:
            raise LoadError(f"could not load ramdisk '{path}'", f"no memory for it at {address:#x}")
        initrd = load_initrd(path, address=address, limit=room)
        self.plan.add(initrd.parts)
        return initrd

    def _place_device_tree(self, before: Loaded | None) -> None:
        """As high in RAM as it goes."""
        self._blob = flatten(self.tree)
        self.fdt_address = (self._ram_end - len(self._blob)) // _2MIB * _2MIB
        if self.fdt_address < max(DRAM_BASE, before.high if before is not None else 0):
            raise GenericError("No enough memory to place DTB after kernel/initrd")

    def _reset_vector(self, name: str | None, firmware: Loaded | None, kernel: Loaded | None) -> Part:
        """What lies at the reset vector."""
        parked = b""
        start = firmware.entry if firmware is not None else DRAM_BASE
        following = kernel.low if kernel is not None else 0
        if self._flash is not None:
            following = self._flash
            if name == "none":
                start = self._flash
        if name in {None, "default"}:
            # Nothing is in memory to go to; the built-in firmware puts the hart to a kernel itself, at every reset.
            parked = struct.pack("<2I", *_PARKED)
            start = MROM.base + _VECTOR.size
        fw_dynamic = (
            _FW_DYNAMIC_MAGIC,
            _FW_DYNAMIC_VERSION,
            following,
            _FW_DYNAMIC_NEXT_S,
            0,
            0,
        )
        code = _VECTOR.pack(*_RESET_VECTOR, start, self.fdt_address, *fw_dynamic)
        return Part("reset vector", MROM.base, code + parked)


def _read_tree(path: str) -> Node:
    try:
        fd = open_file(path, os.O_RDONLY)
        try:
            blob = read_from_start(fd, _MAX_DTB + 1)
        finally:
            close_file(fd)
    except OSError as error:
        raise LoadError(
            f"Unable to get size of device tree file '{path}'", f"{path}: {error.strerror}"
        ) from None
    if len(blob) > _MAX_DTB:
        raise GenericError(f"Device tree file '{path}' has more than {_MAX_DTB} bytes")
    try:
        return unflatten(blob)
    except FdtError as error:
        raise GenericError(f"Device tree file '{os.fsdecode(path)}' is no device tree: {error}") from None


def _align_up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
