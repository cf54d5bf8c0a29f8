"""Signals that end the process, and who sent them.

An event loop's signal handlers do not tell the sender, which libvirt's users look for in the log; so a thread of its own
waits for the signals and posts them to the loop.  They must be blocked before any other thread starts (`block`).
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that end the process cleanly."""


def block() -> None:
    """Keep the signals pending until `watch` takes them. Call it while there is one thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def watch(loop: asyncio.AbstractEventLoop, received: Callable[[int, int], None]) -> None:
    """Call `received(signal number, sender's pid or 0)` on the loop for each signal, from now on."""

    def wait() -> None:
        while True:
            info = signal.sigwaitinfo(ENDING)
            try:
                loop.call_soon_threadsafe(received, info.si_signo, info.si_pid)
            except RuntimeError:
                # The loop is closed: the process is ending as the sender wants.
                return

    threading.Thread(target=wait, name="signals", daemon=True).start()


def describe(number: int, pid: int) -> str:
    """What to log, in QEMU's words."""
    if pid == 0:
        return f"terminating on signal {number}"
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            name = file.read(4096).split(b"\0", 1)[0].decode(errors="replace")
    except OSError:
        name = ""
    return f"terminating on signal {number} from pid {pid} ({name or '<unknown process>'})"
