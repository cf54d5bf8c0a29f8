"""Who may do what with a block node at the same time.

Each user of a node says what it needs and what it lets the other users do.  Two users conflict when one needs what the other
does not share.  Sets of permissions are plain integers.

Source of rules and texts: QEMU 10.0, block.c and include/block/block-common.h.
"""

from __future__ import annotations

CONSISTENT_READ = 1
"""Reads give what was written: not needed by who only measures or overwrites."""
WRITE = 2
"""Change what the guest sees."""
WRITE_UNCHANGED = 4
"""Write what changes nothing that the guest sees, as copy-on-read does."""
RESIZE = 8
"""Change the size."""
ALL = CONSISTENT_READ | WRITE | WRITE_UNCHANGED | RESIZE

PASSED_THROUGH = CONSISTENT_READ | WRITE | WRITE_UNCHANGED | RESIZE
"""What a filter needs of its child when its own users need it."""

_NAMES = (
    (CONSISTENT_READ, "consistent read"),
    (WRITE, "write"),
    (WRITE_UNCHANGED, "write unchanged"),
    (RESIZE, "resize"),
)


def names(permissions: int) -> str:
    """A set of permissions for an error message."""
    return ", ".join(name for bit, name in _NAMES if permissions & bit)
