"""`qemud demo`: boot the embedded guest in this terminal.

The words behind it are qemud's own options, so `qemud demo -qmp unix:/tmp/qmp,server=on,wait=off` gives it a monitor as well.
"""

from __future__ import annotations

from qemud.demo import DEMO_GUEST


def main(words: list[str]) -> int:
    """Run the emulator with the embedded guest; the result is its exit status."""
    from qemud.daemon.main import run

    return run(["-machine", "virt", "-nographic", "-kernel", str(DEMO_GUEST), *words])
