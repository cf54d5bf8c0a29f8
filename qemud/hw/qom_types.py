"""The QOM types of this room, as data: see `qemud.qom.types`.  No class is imported here."""

from qemud.hw.versions import VERSIONS
from qemud.hw.virtio.functions import entries as functions
from qemud.qom.types import TypeEntry

TYPES: tuple[TypeEntry, ...] = (
    TypeEntry(
        "loader",
        "device",
        "qemud.hw.core.generic_loader:GenericLoader",
        options="LoaderOptions",
        user_creatable=True,
    ),
    TypeEntry("goldfish_rtc", "sys-bus-device", "qemud.hw.rtc.goldfish:GoldfishRtc"),
    TypeEntry(
        "riscv.aclint.mtimer",
        "sys-bus-device",
        "qemud.hw.intc.clint:AclintMtimer",
        options="RiscvAclintMtimerOptions",
    ),
    TypeEntry(
        "riscv.aclint.swi",
        "sys-bus-device",
        "qemud.hw.intc.clint:AclintSwi",
        options="RiscvAclintSwiOptions",
    ),
    TypeEntry(
        "riscv.sifive.plic", "sys-bus-device", "qemud.hw.intc.plic:SifivePlic", options="SifivePlicOptions"
    ),
    TypeEntry("riscv.sifive.test", "sys-bus-device", "qemud.hw.misc.sifive_test:SifiveTest"),
    TypeEntry("serial-mm", "sys-bus-device", "qemud.hw.char.ns16550a:Ns16550a", options="SerialMmOptions"),
    TypeEntry(
        "virtio-mmio", "sys-bus-device", "qemud.hw.virtio.mmio:VirtioMmio", options="VirtioMmioOptions"
    ),
    TypeEntry("virtio-bus", "bus", "qemud.hw.virtio.device:VirtioBus", abstract=True),
    TypeEntry("virtio-mmio-bus", "virtio-bus", "qemud.hw.virtio.mmio:VirtioMmioBus"),
    TypeEntry(
        "virtio-device",
        "device",
        "qemud.hw.virtio.device:VirtioDevice",
        abstract=True,
        options="VirtioDeviceOptions",
    ),
    TypeEntry(
        "virtio-balloon-device",
        "virtio-device",
        "qemud.hw.virtio.balloon:VirtioBalloon",
        options="VirtioBalloonOptions",
        status="VirtioBalloonStatus",
        links=(("iothread", "iothread"),),
        user_creatable=True,
    ),
    TypeEntry(
        "virtio-blk-device",
        "virtio-device",
        "qemud.hw.virtio.blk:VirtioBlk",
        options="VirtioBlkOptions",
        links=(("iothread", "iothread"),),
        user_creatable=True,
    ),
    TypeEntry(
        "virtio-net-device",
        "virtio-device",
        "qemud.hw.virtio.net:VirtioNet",
        options="VirtioNetOptions",
        user_creatable=True,
    ),
    TypeEntry(
        "virtio-rng-device",
        "virtio-device",
        "qemud.hw.virtio.rng:VirtioRng",
        options="VirtioRngOptions",
        links=(("rng", "rng-backend"),),
        user_creatable=True,
    ),
    TypeEntry("virtio-scsi-common", "virtio-device", "qemud.hw.virtio.scsi:VirtioScsiCommon", abstract=True),
    TypeEntry(
        "virtio-scsi-device",
        "virtio-scsi-common",
        "qemud.hw.virtio.scsi:VirtioScsi",
        options="VirtioScsiOptions",
        links=(("iothread", "iothread"),),
        user_creatable=True,
    ),
    TypeEntry(
        "virtio-serial-device",
        "virtio-device",
        "qemud.hw.virtio.console:VirtioSerial",
        options="VirtioSerialOptions",
        user_creatable=True,
    ),
    TypeEntry("virtio-serial-bus", "bus", "qemud.hw.virtio.serial_port:VirtioSerialBus"),
    TypeEntry("virtio-serial-port", "device", "qemud.hw.virtio.serial_port:VirtioSerialPort", abstract=True),
    TypeEntry(
        "virtserialport",
        "virtio-serial-port",
        "qemud.hw.virtio.serial_port:VirtSerialPort",
        options="VirtSerialPortOptions",
        user_creatable=True,
    ),
    TypeEntry(
        "virtconsole",
        "virtserialport",
        "qemud.hw.virtio.serial_port:VirtConsole",
        options="VirtSerialPortOptions",
        user_creatable=True,
    ),
    TypeEntry("SCSI", "bus", "qemud.hw.scsi.bus:ScsiBus"),
    TypeEntry("scsi-device", "device", "qemud.hw.scsi.bus:ScsiDevice", abstract=True),
    TypeEntry("scsi-disk-base", "scsi-device", "qemud.hw.scsi.disk:ScsiDisk", abstract=True),
    TypeEntry(
        "scsi-hd", "scsi-disk-base", "qemud.hw.scsi.disk:ScsiHd", options="ScsiHdOptions", user_creatable=True
    ),
    TypeEntry(
        "scsi-cd", "scsi-disk-base", "qemud.hw.scsi.disk:ScsiCd", options="ScsiCdOptions", user_creatable=True
    ),
    TypeEntry(
        "cfi.pflash01",
        "sys-bus-device",
        "qemud.hw.block.pflash_cfi01:CfiPflash01",
        options="CfiPflash01Options",
    ),
    TypeEntry("fw_cfg", "sys-bus-device", "qemud.hw.nvram.fw_cfg:FwCfg", abstract=True),
    TypeEntry("fw_cfg_mem", "fw_cfg", "qemud.hw.nvram.fw_cfg:FwCfgMem", options="FwCfgMemOptions"),
    TypeEntry("PCI", "bus", "qemud.hw.pci.bus:PciBus"),
    TypeEntry("PCIE", "PCI", "qemud.hw.pci.bus:PcieBus"),
    TypeEntry("pci-host-bridge", "sys-bus-device", "qemud.hw.pci.gpex:PciHostBridge", abstract=True),
    TypeEntry("pcie-host-bridge", "pci-host-bridge", "qemud.hw.pci.gpex:PcieHostBridge", abstract=True),
    TypeEntry(
        "gpex-pcihost",
        "pcie-host-bridge",
        "qemud.hw.pci.gpex:GpexHost",
        options="GpexPcihostOptions",
    ),
    TypeEntry(
        "pci-device",
        "device",
        "qemud.hw.pci.device:PciDevice",
        abstract=True,
        options="PciDeviceOptions",
        status="PciDeviceStatus",
    ),
    TypeEntry("gpex-root", "pci-device", "qemud.hw.pci.gpex:GpexRoot"),
    TypeEntry("base-pci-bridge", "pci-device", "qemud.hw.pci.bridge:PciBridge", abstract=True),
    TypeEntry(
        "pcie-pci-bridge",
        "base-pci-bridge",
        "qemud.hw.pci.pci_bridges:PciePciBridge",
        user_creatable=True,
    ),
    TypeEntry(
        "pci-bridge",
        "base-pci-bridge",
        "qemud.hw.pci.pci_bridges:PciBridgeDev",
        options="PciBridgeDevOptions",
        user_creatable=True,
    ),
    TypeEntry("pcie-port", "base-pci-bridge", "qemud.hw.pci.root_port:PciePort", abstract=True),
    TypeEntry("pcie-slot", "pcie-port", "qemud.hw.pci.root_port:PcieSlot", abstract=True),
    TypeEntry("pcie-root-port-base", "pcie-slot", "qemud.hw.pci.root_port:PcieRootPortBase", abstract=True),
    TypeEntry(
        "pcie-root-port",
        "pcie-root-port-base",
        "qemud.hw.pci.root_port:PcieRootPort",
        options="PcieRootPortOptions",
        user_creatable=True,
    ),
    *functions(),
    TypeEntry("cpu", "device", "qemud.hw.riscv.hart:Cpu", abstract=True),
    TypeEntry("riscv-cpu", "cpu", "qemud.hw.riscv.hart:RiscvCpu", abstract=True),
    TypeEntry("rv64-riscv-cpu", "riscv-cpu", "qemud.hw.riscv.hart:Rv64Cpu"),
    TypeEntry("max-riscv-cpu", "riscv-cpu", "qemud.hw.riscv.hart:MaxCpu"),
    TypeEntry(
        "riscv.hart_array", "sys-bus-device", "qemud.hw.riscv.hart:HartArray", options="RiscvHartArrayOptions"
    ),
    TypeEntry("riscv-boot-loader", "device", "qemud.hw.riscv.virt:BootLoader"),
    TypeEntry("riscv-sbi", "device", "qemud.hw.riscv.sbi.firmware:Firmware"),
    TypeEntry(
        "none-machine",
        "machine",
        "qemud.hw.none:NoneMachine",
        options="MachineProperties",
        links=(("memory-backend", "memory-backend"),),
    ),
    TypeEntry(
        "virt-machine",
        "machine",
        "qemud.hw.riscv.virt:VirtMachine",
        options="VirtMachineOptions",
        links=(("memory-backend", "memory-backend"),),
    ),
    *(
        TypeEntry(
            f"{name}-machine",
            "virt-machine",
            f"qemud.hw.riscv.virt:{name.title().replace('-', '').replace('.', '')}",
            options="VirtMachineOptions",
            links=(("memory-backend", "memory-backend"),),
        )
        for name in VERSIONS
    ),
)
