"""`info pci`: what is on the PCI buses, in the layout of QEMU 10.0 (hw/pci/pci-hmp-cmds.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemud.monitor.hmp.shell import Shell

_UNMAPPED = -1


async def info(shell: Shell, _arguments: dict[str, Any]) -> None:
    """`info pci`."""
    for bus in await shell.qmp("query-pci"):
        for device in bus["devices"]:
            shell.print("".join(f"{line}\n" for line in _device(device)))


def _device(device: dict[str, Any]) -> Iterator[str]:
    ids, kind = device["id"], device["class_info"]
    yield f"  Bus {device['bus']:2}, device {device['slot']:3}, function {device['function']}:"
    yield (
        f"    {kind.get('desc') or 'Class ' + format(kind['class'], '04')}: "
        f"PCI device {ids['vendor']:04x}:{ids['device']:04x}"
    )
    if "subsystem" in ids:
        yield f"      PCI subsystem {ids['subsystem-vendor']:04x}:{ids['subsystem']:04x}"
    if "irq" in device:
        yield f"      IRQ {device['irq']}, pin {chr(ord('A') + device['irq_pin'] - 1)}"
    bridge = device.get("pci_bridge")
    if bridge is not None:
        yield from _bridge(bridge["bus"])
    for region in device["regions"]:
        yield f"      BAR{region['bar']}: {_region(region)}"
    yield f'      id "{device["qdev_id"]}"'
    if bridge is not None:
        for behind in bridge.get("devices", ()):
            yield from _device(behind)


def _bridge(bus: dict[str, Any]) -> Iterator[str]:
    yield f"      BUS {bus['number']}."
    yield f"      secondary bus {bus['secondary']}."
    yield f"      subordinate bus {bus['subordinate']}."
    for name, key, width in (
        ("IO", "io_range", 4),
        ("memory", "memory_range", 8),
        ("prefetchable memory", "prefetchable_range", 8),
    ):
        base, limit = bus[key]["base"], bus[key]["limit"]
        yield f"      {name} range [0x{base:0{width}x}, 0x{limit:0{width}x}]"


def _region(region: dict[str, Any]) -> str:
    first, last = region["address"], region["address"] + region["size"] - 1
    if region["type"] == "io":
        return "I/O (not mapped)" if first == _UNMAPPED else f"I/O at 0x{first:04x} [0x{last:04x}]"
    prefetch = " prefetchable" if region["prefetch"] else ""
    kind = f"{64 if region['mem_type_64'] else 32} bit{prefetch} memory"
    return f"{kind} (not mapped)" if first == _UNMAPPED else f"{kind} at 0x{first:08x} [0x{last:08x}]"
