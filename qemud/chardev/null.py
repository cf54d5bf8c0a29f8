"""A chardev that gives nothing and takes everything."""

from __future__ import annotations

from qemud.chardev.stream import Chardev


class NullChardev(Chardev):
    """Output is thrown away; there is never input, and somebody is always there."""

    kind = "null"
