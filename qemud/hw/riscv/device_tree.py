"""The device tree of the `virt` board: what a guest learns of the machine.

The content is that of QEMU 10.0 for everything that exists here: same nodes, properties and phandles.  One property is added, so that
`dtc` reads the tree without a warning: `#address-cells` of the harts' interrupt controllers; for the same reason the ACLINT's timer is
named by the first address in its `reg`.

Source: Linux 6.12, Documentation/devicetree/bindings; what QEMU writes was read with `-machine dumpdtb`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from qemud.hw.boot.fdt import Node, cells, cells64, string, strings
from qemud.hw.misc.sifive_test import Finisher
from qemud.hw.riscv.layout import (
    CLINT,
    DRAM_BASE,
    FLASH,
    FW_CFG,
    NUM_SOURCES,
    PCIE_ECAM,
    PCIE_IRQ,
    PCIE_MMIO,
    PCIE_PIO,
    PLIC,
    RTC,
    RTC_IRQ,
    SSWI,
    TEST,
    TIMEBASE_FREQUENCY,
    UART0,
    UART0_CLOCK,
    UART0_IRQ,
    VIRTIO,
    VIRTIO_COUNT,
    VIRTIO_IRQ,
    pcie_high,
)
from qemud.hw.riscv.layout import MTIMER as MTIMER_OFFSET

if TYPE_CHECKING:
    from qemud.hw.riscv.layout import Range

_CPU, _INTC, _PLIC, _TEST = 1, 2, 3, 4
"""Phandles."""

_IRQ_S_SOFT, _IRQ_M_SOFT, _IRQ_M_TIMER, _IRQ_S_EXT, _IRQ_M_EXT = 1, 3, 7, 9, 11

_PCI_IO, _PCI_MEMORY_32, _PCI_MEMORY_64 = 1, 2, 3
"""Kinds of PCI addresses."""

_EXTENSION_ORDER = "imafdqcbvh"
"""In which the single-letter extensions are written; S and U are modes, not extensions."""
_MULTI_LETTER = ("zicntr", "zicsr", "zifencei", "zihpm", "svvptc")
"""The others that every hart has. Svvptc is what spares Linux a fence at each page fault: the engine keeps no invalid entries."""

SEED_SIZE = 32


def isa_extensions(misa: int) -> list[str]:
    """The extensions of a hart, from its misa register, in the order of an ISA string."""
    letters = [letter for letter in _EXTENSION_ORDER if misa >> (ord(letter) - ord("a")) & 1]
    return letters + list(_MULTI_LETTER)


class Dialect(NamedTuple):
    """What versions of the board have told in different ways; the newest by default."""

    isa_extensions: bool = True
    ndev: int = NUM_SOURCES - 1
    serial_alias: bool = True


NEWEST = Dialect()


def build_device_tree(*, ram_size: int, misa: int, aclint: bool, dialect: Dialect = NEWEST) -> Node:
    """The tree, without what depends on what is booted (see `set_boot`)."""
    root = Node("")
    root["#address-cells"] = cells(2)
    root["#size-cells"] = cells(2)
    root["compatible"] = string("riscv-virtio")
    root["model"] = string("riscv-virtio,qemu")
    _add_memory(root, ram_size)
    _add_cpus(root, misa, listed=dialect.isa_extensions)
    soc = root.child("soc")
    soc["#address-cells"] = cells(2)
    soc["#size-cells"] = cells(2)
    soc["compatible"] = string("simple-bus")
    soc["ranges"] = b""
    if aclint:
        _add_aclint(soc)
    else:
        _add_clint(soc)
    _add_plic(soc, dialect.ndev)
    # Linux looks for devices in the tree's order.  The first of them is in the last slot: so it is the first disk, as with QEMU.
    for number in reversed(range(VIRTIO_COUNT)):
        _add_virtio(soc, number)
    _add_pci(soc, ram_size)
    _add_reset(root, soc)
    flash = root.child(f"flash@{FLASH.base:x}")
    flash["compatible"] = string("cfi-flash")
    flash["reg"] = cells64(FLASH.base, FLASH.size, FLASH.base + FLASH.size, FLASH.size)
    flash["bank-width"] = cells(4)
    _device(root, "fw-cfg", FW_CFG, "qemu,fw-cfg-mmio")["dma-coherent"] = b""
    uart = _device(soc, "serial", UART0, "ns16550a")
    uart["clock-frequency"] = cells(UART0_CLOCK)
    _add_interrupt(uart, UART0_IRQ)
    _add_interrupt(_device(soc, "rtc", RTC, "google,goldfish-rtc"), RTC_IRQ)
    path = f"/soc/{uart.name}"
    if dialect.serial_alias:
        root.child("aliases")["serial0"] = string(path)
    chosen = root.child("chosen")
    chosen["stdout-path"] = string(path)
    chosen["rng-seed"] = bytes(SEED_SIZE)
    return root


def set_boot(root: Node, *, append: str | None, initrd: tuple[int, int] | None) -> None:
    """Tell of the kernel's command line and of the initial ramdisk (first and last address, the latter exclusive)."""
    chosen = root.child("chosen")
    if initrd is not None:
        chosen["linux,initrd-start"] = cells64(initrd[0])
        chosen["linux,initrd-end"] = cells64(initrd[1])
    if append:
        chosen["bootargs"] = string(append)


def renew_seeds(root: Node) -> None:
    """Give every node that has a seed for random numbers a new one, of the same size."""
    for _, node in root.walk():
        for name in ("rng-seed", "kaslr-seed"):
            if name in node:
                node[name] = os.urandom(len(node[name]))


def _device(parent: Node, name: str, at: Range, *compatible: str) -> Node:
    node = parent.child(f"{name}@{at.base:x}")
    node["compatible"] = strings(*compatible)
    node["reg"] = cells64(at.base, at.size)
    return node


def _add_interrupt(node: Node, number: int) -> None:
    node["interrupt-parent"] = cells(_PLIC)
    node["interrupts"] = cells(number)


def _add_memory(root: Node, ram_size: int) -> None:
    node = root.child(f"memory@{DRAM_BASE:x}")
    node["device_type"] = string("memory")
    node["reg"] = cells64(DRAM_BASE, ram_size)


def _add_cpus(root: Node, misa: int, *, listed: bool) -> None:
    cpus = root.child("cpus")
    cpus["#address-cells"] = cells(1)
    cpus["#size-cells"] = cells(0)
    cpus["timebase-frequency"] = cells(TIMEBASE_FREQUENCY)
    cpu = cpus.child("cpu@0")
    extensions = isa_extensions(misa)
    letters = "".join(name for name in extensions if len(name) == 1)
    words = [name for name in extensions if len(name) > 1]
    cpu["phandle"] = cells(_CPU)
    cpu["device_type"] = string("cpu")
    cpu["reg"] = cells(0)
    cpu["status"] = string("okay")
    cpu["compatible"] = string("riscv")
    if listed:
        cpu["riscv,isa-base"] = string("rv64i")
        cpu["riscv,isa-extensions"] = strings(*extensions)
    cpu["riscv,isa"] = string("_".join([f"rv64{letters}", *words]))
    cpu["mmu-type"] = string("riscv,sv57")
    intc = cpu.child("interrupt-controller")
    intc["#address-cells"] = cells(0)
    intc["#interrupt-cells"] = cells(1)
    intc["interrupt-controller"] = b""
    intc["compatible"] = string("riscv,cpu-intc")
    intc["phandle"] = cells(_INTC)
    cpus.child("cpu-map").child("cluster0").child("core0")["cpu"] = cells(_CPU)


def _add_clint(soc: Node) -> None:
    node = _device(soc, "clint", CLINT, "sifive,clint0", "riscv,clint0")
    node["interrupts-extended"] = cells(_INTC, _IRQ_M_SOFT, _INTC, _IRQ_M_TIMER)


def _add_aclint(soc: Node) -> None:
    for name, at, size, irq in (
        ("mswi", CLINT.base, 0x4000, _IRQ_M_SOFT),
        ("sswi", SSWI.base, SSWI.size, _IRQ_S_SOFT),
    ):
        node = soc.child(f"{name}@{at:x}")
        node["compatible"] = string(f"riscv,aclint-{name}")
        node["reg"] = cells64(at, size)
        node["interrupts-extended"] = cells(_INTC, irq)
        node["interrupt-controller"] = b""
        node["#interrupt-cells"] = cells(0)
        node["#address-cells"] = cells(0)
    base = CLINT.base + MTIMER_OFFSET
    mtime = 0x7FF8
    node = soc.child(f"mtimer@{base + mtime:x}")
    node["compatible"] = string("riscv,aclint-mtimer")
    node["reg"] = cells64(base + mtime, CLINT.size - MTIMER_OFFSET - mtime, base, mtime)
    node["interrupts-extended"] = cells(_INTC, _IRQ_M_TIMER)


def _add_plic(soc: Node, ndev: int) -> None:
    node = _device(soc, "plic", PLIC, "sifive,plic-1.0.0", "riscv,plic0")
    node["phandle"] = cells(_PLIC)
    node["#address-cells"] = cells(0)
    node["#interrupt-cells"] = cells(1)
    node["interrupt-controller"] = b""
    node["interrupts-extended"] = cells(_INTC, _IRQ_M_EXT, _INTC, _IRQ_S_EXT)
    node["riscv,ndev"] = cells(ndev)


def _add_virtio(soc: Node, number: int) -> None:
    at = VIRTIO._replace(base=VIRTIO.base + number * VIRTIO.size)
    _add_interrupt(_device(soc, "virtio_mmio", at, "virtio,mmio"), VIRTIO_IRQ + number)


def _add_pci(soc: Node, ram_size: int) -> None:
    node = _device(soc, "pci", PCIE_ECAM, "pci-host-ecam-generic")
    node["device_type"] = string("pci")
    node["#address-cells"] = cells(3)
    node["#size-cells"] = cells(2)
    node["#interrupt-cells"] = cells(1)
    node["linux,pci-domain"] = cells(0)
    node["bus-range"] = cells(0, (PCIE_ECAM.size >> 20) - 1)
    node["dma-coherent"] = b""
    high = pcie_high(ram_size)
    # For each kind of address: its kind, the first address on the bus, where that is, and how many there are.
    node["ranges"] = b"".join(
        cells(kind << 24) + cells64(address, at.base, at.size)
        for kind, address, at in (
            (_PCI_IO, 0, PCIE_PIO),
            (_PCI_MEMORY_32, PCIE_MMIO.base, PCIE_MMIO),
            (_PCI_MEMORY_64, high.base, high),
        )
    )
    # Device numbers count modulo 4: which line a pin (from 1) of such a device is.
    node["interrupt-map"] = b"".join(
        cells(slot << 11, 0, 0, pin + 1, _PLIC, PCIE_IRQ + (pin + slot) % 4)
        for slot in range(4)
        for pin in range(4)
    )
    node["interrupt-map-mask"] = cells(3 << 11, 0, 0, 7)


def _add_reset(root: Node, soc: Node) -> None:
    test = _device(soc, "test", TEST, "sifive,test1", "sifive,test0", "syscon")
    test["phandle"] = cells(_TEST)
    for name, value in (("poweroff", Finisher.PASS), ("reboot", Finisher.RESET)):
        node = root.child(name)
        node["compatible"] = string(f"syscon-{name}")
        node["regmap"] = cells(_TEST)
        node["offset"] = cells(0)
        node["value"] = cells(value)
