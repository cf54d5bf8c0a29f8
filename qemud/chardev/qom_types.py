"""The QOM types of this room, as data: see `qemud.qom.types`.  No class is imported here."""

from qemud.qom.types import TypeEntry

_OBJECTS = "qemud.chardev.objects"

TYPES: tuple[TypeEntry, ...] = (
    TypeEntry("chardev", "object", f"{_OBJECTS}:ChardevObject", abstract=True),
    TypeEntry("chardev-fd", "chardev", f"{_OBJECTS}:ChardevFd", abstract=True),
    TypeEntry("chardev-file", "chardev-fd", f"{_OBJECTS}:ChardevFile"),
    TypeEntry("chardev-pipe", "chardev-fd", f"{_OBJECTS}:ChardevPipe"),
    TypeEntry("chardev-stdio", "chardev-fd", f"{_OBJECTS}:ChardevStdio"),
    TypeEntry("chardev-mux", "chardev", f"{_OBJECTS}:ChardevMux"),
    TypeEntry("chardev-null", "chardev", f"{_OBJECTS}:ChardevNull"),
    TypeEntry("chardev-pty", "chardev", f"{_OBJECTS}:ChardevPty"),
    TypeEntry("chardev-ringbuf", "chardev", f"{_OBJECTS}:ChardevRingbuf"),
    TypeEntry("chardev-socket", "chardev", f"{_OBJECTS}:ChardevSocket", status="ChardevSocketStatus"),
)
