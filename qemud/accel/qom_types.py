"""The QOM types of this room, as data: see `qemud.qom.types`.  No class is imported here."""

from qemud.qom.types import TypeEntry

TYPES: tuple[TypeEntry, ...] = (
    TypeEntry("accel", "object", "qemud.accel.objects:Accel", abstract=True),
    TypeEntry("tcg-accel", "accel", "qemud.accel.objects:TcgAccel", options="TcgAccelOptions"),
)
