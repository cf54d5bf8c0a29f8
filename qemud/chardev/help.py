"""What `-chardev help` and the human monitor's `chardev-add help` print."""

from __future__ import annotations

from qemud._generated.enums import ENUMS
from qemud.qapi.runtime.qemuopts import HELP


def kinds_help(kind: str) -> str | None:
    """The kinds of character devices, if that is what stands in the place of one."""
    if kind not in HELP:
        return None
    return "Available chardev backend types:\n" + "".join(
        f"  {name}\n" for name in ENUMS["ChardevBackendKind"]
    )
