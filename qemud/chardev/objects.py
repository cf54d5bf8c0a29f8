"""Character devices in the composition tree: an object below `/chardevs` for each, of a type named after its kind.

    chardevs.watch(*tree_hooks(tree))

The objects only show what the character devices are; they do nothing.  Types are QEMU's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.types.char import ChardevSocketStatus
from qemud.qom.object import Object

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud.chardev.stream import Chardev
    from qemud.qom.tree import Tree


class ChardevObject(Object, type_name="chardev", abstract=True):
    """Any character device."""

    def __init__(self, chardev: Chardev) -> None:
        super().__init__()
        self.chardev = chardev
        self.id = chardev.label
        self.in_use = True


class ChardevFd(ChardevObject, type_name="chardev-fd", abstract=True):
    """One that is nothing but descriptors."""


class ChardevFile(ChardevFd, type_name="chardev-file"):
    """A file."""


class ChardevPipe(ChardevFd, type_name="chardev-pipe"):
    """A named pipe, or two."""


class ChardevStdio(ChardevFd, type_name="chardev-stdio"):
    """Standard input and output."""


class ChardevMux(ChardevObject, type_name="chardev-mux"):
    """Several users of one character device."""


class ChardevNull(ChardevObject, type_name="chardev-null"):
    """Nothing."""


class ChardevPty(ChardevObject, type_name="chardev-pty"):
    """A pseudo-terminal."""


class ChardevRingbuf(ChardevObject, type_name="chardev-ringbuf"):
    """The latest output, kept in memory."""


class ChardevSocket(ChardevObject, type_name="chardev-socket", status=ChardevSocketStatus):
    """A socket, of a server or a client."""

    def status(self) -> ChardevSocketStatus:
        """What can be read of it."""
        socket: Any = self.chardev
        return ChardevSocketStatus(connected=socket.is_connected)


_CLASSES: dict[str, type[ChardevObject]] = {
    "file": ChardevFile,
    "mux": ChardevMux,
    "null": ChardevNull,
    "pipe": ChardevPipe,
    "pty": ChardevPty,
    "ringbuf": ChardevRingbuf,
    "socket": ChardevSocket,
    "stdio": ChardevStdio,
}


def tree_hooks(tree: Tree) -> tuple[Callable[[Chardev], None], Callable[[Chardev], None]]:
    """What the registry calls when it has a new character device, and when it has one no longer."""

    def added(chardev: Chardev) -> None:
        # A name that `/chardevs` has as a property cannot be a child's; such a device is not shown.
        if chardev.label != "type":
            tree.chardevs.add_child(chardev.label, _CLASSES[chardev.kind](chardev))

    def removed(chardev: Chardev) -> None:
        shown = tree.chardevs.children.get(chardev.label)
        if shown is not None:
            shown.unparent()

    return added, removed
