"""`qemud`, `qemud-system-ARCH` and `python -m qemud`."""

from __future__ import annotations

import gc
import signal
import sys
from typing import Any, cast


def main() -> int:
    """Run the command; the result is the exit status."""
    # Until the daemon watches for signals they end it, as any program.  Python's own way, KeyboardInterrupt, shows a traceback,
    # and is lost where it happens to be raised in a callback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Classes and functions that are being imported are no garbage, and looking for some takes as long as a tenth of the start.
    # `qemud.daemon.startup` looks again when the machine is there.
    gc.disable()
    import_msgspec()
    from qemud.daemon.main import run

    return run(sys.argv[1:])


def import_msgspec() -> None:
    """Import msgspec without `typing_extensions`, which it takes where there is one, for two names that `typing` has; 3 ms."""
    if "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = cast("Any", None)  # an import of it fails
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules["typing_extensions"]


if __name__ == "__main__":
    sys.exit(main())
