"""`qemud`, `qemud-system-ARCH` and `python -m qemud`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; the result is the exit status."""
    from qemud.daemon.main import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
