"""The loader: a number or a file put into guest memory at every reset, and perhaps a processor that begins there.

    -device loader,addr=0x80000000,data=0x8e,data-len=4
    -device loader,file=u-boot.bin,addr=0x80200000,force-raw=on
    -device loader,file=program.elf,cpu-num=0

A file that is an ELF program goes where it says, anything else to `addr`.  What does not lie in RAM is refused when the device is
made.  Behaviour and texts are those of QEMU 10.0, hw/core/generic-loader.c; U-Boot images and Intel hex files are not recognised
and are copied as they are.
"""

from __future__ import annotations

from typing import Literal

from qemud._generated.types.qdev import LoaderOptions
from qemud.hw.boot.image import BootPlan, Loaded, LoadError, Part, load_firmware, load_initrd
from qemud.machine.memory import SectionKind
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Device

_NO_CPU = 0xFFFF_FFFF
_MAX_DATA = 8


class GenericLoader(Device, type_name="loader", options=LoaderOptions, user_creatable=True):
    """See the module."""

    options: LoaderOptions

    def realize(self) -> None:
        """Read the options, and the file; refuse what cannot be put into this machine's memory."""
        self._check_options()
        options = self.options
        if options.cpu_num != _NO_CPU and options.cpu_num >= len(self.machine.vcpus):
            raise GenericError(f"Specified boot CPU#{options.cpu_num} is nonexistent")
        plan = BootPlan()
        entry = options.addr
        if options.file is not None:
            loaded = self._load(options.file)
            plan.add(loaded.parts)
            entry = loaded.entry
        elif options.data_len:
            plan.add([Part(self.type_name, options.addr, self._data())])
        try:
            plan.check(self.machine.memory)
        except GenericError:
            plan.close()
            raise
        self._plan = plan
        self._entry = entry

    def contents(self) -> list[tuple[int, int, str]]:
        """What it puts into memory: address, size and name of each part."""
        return self._plan.contents()

    def unrealize(self) -> None:
        """Forget the file."""
        self._plan.close()

    def reset_exit(self) -> None:
        """Put everything in its place, now that all other devices are reset."""
        self._plan.write(self.machine.memory)
        options = self.options
        if options.cpu_num != _NO_CPU and not options.data_len:
            self.machine.vcpus[options.cpu_num].pc = self._entry

    def _check_options(self) -> None:
        """Refuse combinations that mean nothing."""
        options = self.options
        if options.data or options.data_len or options.data_be:
            if options.file is not None:
                raise GenericError("Specifying a file is not supported when loading memory values")
            if options.force_raw:
                raise GenericError("Specifying force-raw is not supported when loading memory values")
            if not options.data_len:
                raise GenericError("Both data and data-len must be specified")
            if options.data_len > _MAX_DATA:
                raise GenericError("data-len cannot be greater then 8 bytes")
        elif options.file is None and not options.force_raw:
            if not options.addr:
                raise GenericError("please include valid arguments")
            if options.cpu_num == _NO_CPU:
                raise GenericError("cpu_num must be specified when setting a program counter")

    def _data(self) -> bytes:
        """The number in the order of its bytes in memory; the first `data-len` of them."""
        order: Literal["big", "little"] = "big" if self.options.data_be else "little"
        return self.options.data.to_bytes(_MAX_DATA, order)[: self.options.data_len]

    def _load(self, path: str) -> Loaded:
        limit = sum(section.size for section in self.machine.memory if section.kind is SectionKind.RAM)
        address = self.options.addr
        try:
            if self.options.force_raw:
                return load_initrd(path, address=address, limit=limit)
            return load_firmware(path, default_address=address, limit=limit)
        except LoadError:
            raise GenericError(f"Cannot load specified image {path}") from None
