"""The board `virt`: QEMU's RISC-V machine, with its addresses and interrupt numbers, as far as its devices are built.

    harts ── soc0/harts[0]
    memory ─ mrom at 0x1000, RAM at 0x80000000
    timers ─ mswi0 and mtimer0, together a CLINT; with `aclint=on` also sswi0
    plic ─── sources 1 to 8 virtio-mmio[0] to [7], 10 uart0, 11 rtc, 32 to 35 pci
    pci ──── a PCI Express host bridge with the bus pcie.0
    fw_cfg ─ what firmware is told
    sbi ──── the built-in firmware, when no other is given

See `qemud.hw.boards` for how it is made and used.
"""

from __future__ import annotations

from types import new_class
from typing import TYPE_CHECKING, Any, TypeVar

from qemud._generated.types.hw_riscv import (
    RiscvAclintMtimerOptions,
    RiscvAclintSwiOptions,
    RiscvHartArrayOptions,
    SerialMmOptions,
    SifivePlicOptions,
    VirtMachineOptions,
)
from qemud._generated.types.pci import GpexPcihostOptions
from qemud._generated.types.pflash import CfiPflash01Options
from qemud.hw.block.pflash_cfi01 import CfiPflash01
from qemud.hw.boot.image import read_image
from qemud.hw.char.ns16550a import Ns16550a
from qemud.hw.intc.clint import AclintMtimer, AclintSwi
from qemud.hw.intc.plic import SifivePlic
from qemud.hw.misc.sifive_test import SifiveTest
from qemud.hw.nvram.fw_cfg import CTL_AT, DMA_AT, FwCfgMem, Item
from qemud.hw.pci.gpex import GpexHost
from qemud.hw.qom_types import TYPES
from qemud.hw.riscv import layout
from qemud.hw.riscv.boot import Boot
from qemud.hw.riscv.device_tree import NEWEST, Dialect, build_device_tree
from qemud.hw.riscv.hart import MIP_MEIP, MIP_MSIP, MIP_MTIP, MIP_SEIP, MIP_SSIP, HartArray
from qemud.hw.riscv.sbi.firmware import Firmware
from qemud.hw.rtc.goldfish import GoldfishRtc
from qemud.hw.virtio.mmio import VirtioMmio
from qemud.machine.irq import Irq
from qemud.machine.memory import RamBlock
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.device import Device, SysBusDevice
from qemud.qom.machine import Machine
from qemud.qom.properties import Provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qemud.chardev.stream import Chardev
    from qemud.hw.boot.fdt import Node
    from qemud.qom.object import Object

_Device = TypeVar("_Device", bound=SysBusDevice)

RAM_NAME = "riscv_virt_board.ram"
_CSR_MISA = 0x301


class BootLoader(Device, type_name="riscv-boot-loader"):
    """Carries out the board's boot plan at every reset."""

    def __init__(self, boot: Boot, firmware: Firmware | None) -> None:
        super().__init__()
        self.boot = boot
        self.firmware = firmware

    def contents(self) -> list[tuple[int, int, str]]:
        """What it puts into memory: address, size and name of each part."""
        return [*self.boot.plan.contents(), (self.boot.fdt_address, len(self.boot.device_tree), "fdt")]

    def reset_hold(self) -> None:
        """Fill memory and, with the built-in firmware, put the hart to the kernel's beginning."""
        self.boot.write(self.machine.memory)
        if self.firmware is not None and self.boot.entry is not None:
            self.firmware.start(self.boot.entry, self.boot.fdt_address)


class VirtMachine(
    Machine,
    type_name="virt-machine",
    options=VirtMachineOptions,
    links={"memory-backend": "memory-backend"},
):
    """See the module.  `ram_size`, `cpu_type` and `serials` are set before `bring_up`."""

    options: VirtMachineOptions
    ram_size: int = 128 << 20
    cpu_type: str = "rv64-riscv-cpu"
    serials: list[Chardev | None]
    uuid: bytes = bytes(16)
    firmware_items: dict[str, bytes]
    """What the user tells firmware, by name."""

    def __init__(
        self, options: VirtMachineOptions | None = None, *, creator: Provenance = Provenance.USER
    ) -> None:
        super().__init__(options, creator=creator)
        self.serials = []
        self.firmware_items = {}
        self.ram: RamBlock | None = None
        self._boot: Boot | None = None
        self.flash = [self._make_flash(bank) for bank in range(2)]

    @property
    def device_tree(self) -> bytes | None:
        """The blob that the guest was given."""
        return self._boot.device_tree if self._boot is not None else None

    def _make_flash(self, bank: int) -> CfiPflash01:
        name = f"virt.flash{bank}"
        options = CfiPflash01Options(
            name=name,
            num_blocks=layout.FLASH.size // layout.FLASH_SECTOR,
            sector_length=layout.FLASH_SECTOR,
            width=4,
            device_width=2,
            id0=0x89,
            id1=0x18,
        )
        return self.add_child(name, CfiPflash01(options, executable=bank == 0))

    async def claim(self, services: Any) -> None:
        """Take the drives of the banks of flash memory, from the options, or from `-drive if=pflash`."""
        from qemud.block.drive import find_drive

        for bank, flash in enumerate(self.flash):
            given = self.options.pflash1 if bank else self.options.pflash0
            drive = find_drive(services.block, "pflash", 0, bank)
            if drive is not None and given:
                raise GenericError("clashes with -machine")
            flash.options.drive = drive.name if drive is not None else given
            await flash.claim(services)

    async def settled(self) -> None:
        """Wait until what was programmed into flash memory is in its drives."""
        for flash in self.flash:
            await flash.settled()

    def build(self) -> None:
        """Memory, harts, interrupt controllers, devices, and what is to be booted."""
        vm = self.machine
        self.ram = self._main_memory()
        vm.memory.add_ram(RAM_NAME, layout.DRAM_BASE, self.ram)
        mrom = RamBlock("riscv_virt_board.mrom", layout.MROM.size)
        vm.memory.add_ram(mrom.name, layout.MROM.base, mrom, readonly=True)
        self._add_harts()
        self._add_timers()
        self._add_plic()
        self._add_fw_cfg()
        self._add_devices()
        self._add_flash()
        self._add_boot()

    def take_down(self) -> None:
        """Unrealize all, and close the files of the boot plan."""
        super().take_down()
        if self._boot is not None:
            self._boot.close()
            self._boot = None

    def legacy_paths(self) -> Mapping[str, Object]:
        """The paths at which clients of QEMU know the devices, which depend on the order of their creation there."""
        order: list[Object] = [self.mswi, self.mtimer]
        if self.sswi is not None:
            order.append(self.sswi)
        order += [self.plic, self.test, *self.virtio, self.pci]
        paths = {f"/machine/unattached/device[{number}]": device for number, device in enumerate(order)}
        # Behind the PCI host comes a platform bus, which is not built.
        last = len(order) + 1
        paths[f"/machine/unattached/device[{last}]"] = self.uart
        paths[f"/machine/unattached/device[{last + 1}]"] = self.rtc
        return paths

    def _main_memory(self) -> RamBlock:
        """A memory backend's block, or one of its own."""
        asked = self.options.memory.size if self.options.memory is not None else None
        backend = self.memory_backend(RAM_NAME, asked)
        if backend is None:
            return RamBlock(RAM_NAME, self.ram_size)
        block: RamBlock = backend.take()
        self.ram_size = block.size
        return block

    def _add_harts(self) -> None:
        options = RiscvHartArrayOptions(cpu_type=self.cpu_type, resetvec=layout.MROM.base)
        self.soc0 = self._add("soc0", HartArray(options))
        self.hart = self.soc0.harts[0]

    def _add_timers(self) -> None:
        swi = AclintSwi(RiscvAclintSwiOptions())
        swi.connect(0, self.hart.interrupt(MIP_MSIP))
        self.mswi = self._add("mswi0", swi, layout.CLINT.base)
        mtimer = AclintMtimer(RiscvAclintMtimerOptions(timebase_freq=layout.TIMEBASE_FREQUENCY))
        mtimer.connect(0, self.hart.interrupt(MIP_MTIP))
        self.mtimer = self._add("mtimer0", mtimer, layout.CLINT.base + layout.MTIMER)
        self.sswi: AclintSwi | None = None
        if self.options.aclint:
            sswi = AclintSwi(RiscvAclintSwiOptions(sswi=1))
            sswi.connect(0, self.hart.interrupt(MIP_SSIP))
            self.sswi = self._add("sswi0", sswi, layout.SSWI.base)

    def _add_plic(self) -> None:
        plic = SifivePlic(
            SifivePlicOptions(
                hart_config="MS",
                num_sources=layout.NUM_SOURCES,
                num_priorities=layout.NUM_PRIORITIES,
                pending_base=layout.PLIC_PENDING,
                enable_base=layout.PLIC_ENABLE,
                enable_stride=layout.PLIC_ENABLE_STRIDE,
                context_base=layout.PLIC_CONTEXT,
                context_stride=layout.PLIC_CONTEXT_STRIDE,
                aperture_size=layout.PLIC.size,
            )
        )
        plic.connect(0, self.hart.interrupt(MIP_MEIP))
        plic.connect(1, self.hart.interrupt(MIP_SEIP))
        self.plic = self._add("plic", plic, layout.PLIC.base)

    def _add_devices(self) -> None:
        self.test = self._add("test", SifiveTest(), layout.TEST.base)
        self.virtio = []
        for number in range(layout.VIRTIO_COUNT):
            slot = VirtioMmio(number=number)
            slot.connect(0, Irq(self.plic.set_source, layout.VIRTIO_IRQ + number))
            base = layout.VIRTIO.base + number * layout.VIRTIO.size
            self.virtio.append(self._add(f"virtio-mmio[{number}]", slot, base))
        self.pci = self._add_pci()
        self.uart = self._add_uart()
        rtc = GoldfishRtc()
        rtc.connect(0, Irq(self.plic.set_source, layout.RTC_IRQ))
        self.rtc = self._add("rtc", rtc, layout.RTC.base)

    def _add_pci(self) -> GpexHost:
        high = layout.pcie_high(self.ram_size)
        host = GpexHost(
            GpexPcihostOptions(
                x_ecam_base=layout.PCIE_ECAM.base,
                x_ecam_size=layout.PCIE_ECAM.size,
                x_pio_base=layout.PCIE_PIO.base,
                x_pio_size=layout.PCIE_PIO.size,
                x_below_4g_mmio_base=layout.PCIE_MMIO.base,
                x_below_4g_mmio_size=layout.PCIE_MMIO.size,
                x_above_4g_mmio_base=high.base,
                x_above_4g_mmio_size=high.size,
            )
        )
        for line in range(len(host.irqs)):
            host.connect(line, Irq(self.plic.set_source, layout.PCIE_IRQ + line))
        return self._add("pci", host)

    def _add_uart(self) -> Ns16550a:
        chardev = self.serials[0] if self.serials else None
        options = SerialMmOptions()
        uart = Ns16550a(options)
        if chardev is not None:
            from qemud.chardev.frontend import Frontend

            options.chardev = chardev.label
            uart.line = Frontend(
                chardev,
                self.machine.mailboxes,
                receive=uart.receive,
                event=uart.on_event,
                on_writable=uart.on_writable,
            )
        uart.connect(0, Irq(self.plic.set_source, layout.UART0_IRQ))
        return self._add("uart0", uart, layout.UART0.base)

    def _add_fw_cfg(self) -> None:
        self.fw_cfg = fw_cfg = FwCfgMem()
        fw_cfg.add(Item.UUID, self.uuid)
        fw_cfg.add(Item.NOGRAPHIC, (1).to_bytes(2, "little"))
        fw_cfg.add(Item.NB_CPUS, (1).to_bytes(2, "little"))
        fw_cfg.add(Item.BOOT_MENU, bytes(2))
        for name, content in self.firmware_items.items():
            fw_cfg.add_file(name, content)
        if self.flash[0].has_drive:
            self._offer_kernel(fw_cfg)
        self._add("fw_cfg", fw_cfg)
        for index, offset in enumerate((0, CTL_AT, DMA_AT)):
            fw_cfg.map(index, layout.FW_CFG.base + offset)

    def _offer_kernel(self, fw_cfg: FwCfgMem) -> None:
        """What is in flash memory finds the kernel among what it is told."""
        options = self.options
        if options.kernel is None:
            return
        kernel = read_image(options.kernel, "kernel", limit=self.ram_size)
        initrd = b"" if options.initrd is None else read_image(options.initrd, "ramdisk", limit=self.ram_size)
        command_line = (options.append or "").encode() + b"\0"
        for size_key, key, content in (
            (Item.KERNEL_SIZE, Item.KERNEL_DATA, kernel),
            (Item.INITRD_SIZE, Item.INITRD_DATA, initrd),
            (Item.CMDLINE_SIZE, Item.CMDLINE_DATA, command_line),
        ):
            fw_cfg.add(size_key, len(content).to_bytes(4, "little"))
            fw_cfg.add(key, content)

    def _add_flash(self) -> None:
        for bank, flash in enumerate(self.flash):
            flash.bring_up(self.machine, self.sysbus)
            flash.place(layout.FLASH.base + bank * layout.FLASH.size)

    def _add_boot(self) -> None:
        flash = layout.FLASH.base if self.flash[0].has_drive else None
        self._boot = Boot(self.options, self.ram_size, self._device_tree, flash=flash)
        firmware = None
        if self.options.firmware in {None, "default"}:
            firmware = self.add_child("sbi", Firmware(self.hart.vcpu, self.mtimer, self.uart))
            firmware.bring_up(self.machine)
        loader = self.add_child("boot-loader", BootLoader(self._boot, firmware))
        loader.bring_up(self.machine)
        self._boot.plan.check(self.machine.memory)

    def _device_tree(self) -> Node:
        return build_device_tree(
            ram_size=self.ram_size,
            misa=self.hart.vcpu.csr(_CSR_MISA),
            aclint=self.options.aclint,
            dialect=self._dialect(),
        )

    def _dialect(self) -> Dialect:
        options = self.options
        listed, ndev, alias = options.x_fdt_isa_extensions, options.x_fdt_ndev, options.x_fdt_serial_alias
        return Dialect(
            isa_extensions=NEWEST.isa_extensions if listed is None else listed,
            ndev=NEWEST.ndev if ndev is None else ndev,
            serial_alias=NEWEST.serial_alias if alias is None else alias,
        )

    def _add(self, name: str, device: _Device, base: int | None = None) -> _Device:
        """Give a device its place in the tree and in the address space, and bring it up."""
        self.add_child(name, device)
        device.bring_up(self.machine, self.sysbus)
        if base is not None:
            device.map(0, base)
        return device


def _define_versions() -> None:
    """A type for each version: management tools look for one of the machine's full name."""
    for entry in TYPES:
        if entry.parent == VirtMachine.type_name:
            name = entry.location.rpartition(":")[2]
            keywords = {
                "type_name": entry.name,
                "options": VirtMachineOptions,
                "links": {"memory-backend": "memory-backend"},
            }
            globals()[name] = new_class(
                name, (VirtMachine,), keywords, lambda namespace: namespace.update(__module__=__name__)
            )


_define_versions()
