"""The QOM types of this room, as data: see `qemud.qom.types`.  No class is imported here."""

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
    TypeEntry("virtio-mmio-bus", "bus", "qemud.hw.virtio.mmio:VirtioMmioBus"),
)
