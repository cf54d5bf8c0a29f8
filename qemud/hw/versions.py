"""Versions of boards, as data: what each says of the properties of objects, whatever their type.

    overlay_of("virt-10.0")         -> (("serial-mm", "baudbase", 399193),)

A version says only what differs from the version that it is based on, and the first of them what differs from the schema's
defaults.  `query-machines` with `compat-props` shows the same, and a test checks every value against its
property's type.  A value stands below those of `-global` and of the user (`qemud.qom.properties.Provenance`).

To add a version: enter it here with what differs, and in `qapi/boards.json`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Overlay: TypeAlias = tuple[tuple[str, str, Any], ...]
"""Of each type, and what descends from it: a property and its value as in JSON.  What comes later is stronger."""

VERSIONS: dict[str, tuple[str | None, Overlay]] = {
    # The UART's divisor counts from a clock of 3.6864 MHz, written as a baud rate (QEMU 10.0, hw/riscv/virt.c).
    "virt-10.0": (None, (("serial-mm", "baudbase", 399_193),)),
}
"""The version that each is based on, and its own values."""


def overlay_of(name: str) -> Overlay:
    """All that a board of that full name says, the weakest first."""
    base, own = VERSIONS.get(name, (None, ()))
    return (overlay_of(base) if base is not None else ()) + own
