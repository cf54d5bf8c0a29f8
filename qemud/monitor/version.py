"""What this program says it is; light, since the greeting needs it before anything else."""

from __future__ import annotations

from typing import Final

from qemud import __version__
from qemud.monitor.qmp.envelope import encode

QEMU_VERSION: Final = (10, 0, 2)
"""The version of QEMU whose interface this is: major, minor, micro."""

PACKAGE: Final = f"qemud {__version__}"
"""Which program has that interface."""


def version_text() -> bytes:
    """What query-version returns, as JSON text, for the greeting."""
    major, minor, micro = QEMU_VERSION
    return encode({"qemu": {"micro": micro, "minor": minor, "major": major}, "package": PACKAGE})
