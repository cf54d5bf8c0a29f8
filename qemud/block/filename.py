"""Names of images: what they say of protocols, and where relative ones begin.

Source: QEMU 10.0, block.c (path_has_protocol, path_combine and their users), for rules and texts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qemud.block.node import BlockNode


def has_protocol(name: str) -> bool:
    """Whether a name begins with a protocol, as in `nbd:host:10809`: a colon before any slash."""
    end = min((index for index in (name.find(":"), name.find("/")) if index >= 0), default=-1)
    return end >= 0 and name[end] == ":"


def combine(base: str, name: str) -> str:
    """A name that is relative to the image `base`."""
    if os.path.isabs(name) or has_protocol(name):
        return name
    if has_protocol(base):
        protocol, _, rest = base.partition(":")
        directory, slash, _ = rest.rpartition("/")
        return f"{protocol}:{directory}{slash}{name}"
    directory, slash, _ = base.rpartition("/")
    return f"{directory}{slash}{name}"


def absolute_name(node: BlockNode, name: str) -> str | None:
    """A name in the image of a node, as it would be opened; None when it is relative to nobody knows what."""
    if os.path.isabs(name) or has_protocol(name):
        return name
    while "file" in node.children:
        node = node.file
    base = node.exact_filename()
    if base is None:
        return None
    return combine(base, name)
