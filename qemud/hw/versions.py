"""Versions of boards, as data: what each says of the properties of objects, whatever their type.

    overlay_of("virt-9.2")          -> (("serial-mm", "baudbase", 399193), …, ("virt-machine", "x-fdt-serial-alias", False))

A version says only what differs from the version that it is based on, and the first of them what differs from the schema's
defaults.  `query-machines` with `compat-props` shows the same, and a test checks every value against its
property's type.  A value stands below those of `-global` and of the user (`qemud.qom.properties.Provenance`).

QEMU's RISC-V boards have no versions: a guest meets whatever the emulator of the day has.  A version here is the board as
that release of QEMU had it, in what guests can tell; the steps were read in its releases and seen in the device trees that 7.2 and
10.0 write.  Before 7.2 the board lacks devices that are always there now.

To add a version: enter it here with what differs, and in `qapi/boards.json`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Overlay: TypeAlias = tuple[tuple[str, str, Any], ...]
"""Of each type, and what descends from it: a property and its value as in JSON.  What comes later is stronger."""

VERSIONS: dict[str, tuple[str | None, Overlay]] = {
    "virt-10.0": (
        None,
        (
            # The UART's divisor counts from a clock of 3.6864 MHz, written as a baud rate (QEMU 10.0, hw/riscv/virt.c).
            ("serial-mm", "baudbase", 399_193),
            ("virt-machine", "x-fdt-isa-extensions", True),
            ("virt-machine", "x-fdt-ndev", 95),
            ("virt-machine", "x-fdt-serial-alias", True),
        ),
    ),
    # 10.0 was the first to name the console in /aliases, which decides on the number in ttyS0.
    "virt-9.2": ("virt-10.0", (("virt-machine", "x-fdt-serial-alias", False),)),
    "virt-9.1": ("virt-9.2", ()),
    "virt-9.0": ("virt-9.1", ()),
    # 9.0 was the first to list the extensions one by one; until then there was riscv,isa alone.
    "virt-8.2": ("virt-9.0", (("virt-machine", "x-fdt-isa-extensions", False),)),
    "virt-8.1": ("virt-8.2", ()),
    "virt-8.0": ("virt-8.1", ()),
    # Until 8.0 the interrupt controller's source 0, which does not exist, was counted.
    "virt-7.2": ("virt-8.0", (("virt-machine", "x-fdt-ndev", 96),)),
}
"""The version that each is based on, and its own values; the newest of a family is first."""

NEWEST = {"virt": "virt-10.0"}
"""Which version the name of a family means."""


def overlay_of(name: str) -> Overlay:
    """All that a board of that name says, be it a version's or a family's, the weakest first."""
    base, own = VERSIONS.get(NEWEST.get(name, name), (None, ()))
    return (overlay_of(base) if base is not None else ()) + own
