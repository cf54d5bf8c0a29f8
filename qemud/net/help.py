"""What `-netdev help`, `-nic help` and the human monitor's `netdev_add help` print."""

from __future__ import annotations

from qemud.qapi.runtime.qemuopts import HELP, split

_ORDER = ("socket", "stream", "dgram", "hubport", "tap", "user")
"""QEMU's."""


def kinds_help(text: str) -> str | None:
    """The kinds of backends, if a description asks for them."""
    parts = split(text)
    if not parts or parts[0].removeprefix("type=") not in HELP:
        return None
    return "Available netdev backend types:\n" + "".join(f"{kind}\n" for kind in _ORDER)
