"""The QOM types of this room, as data: see `qemud.qom.types`.  No class is imported here."""

from qemud.qom.types import TypeEntry

TYPES: tuple[TypeEntry, ...] = (
    TypeEntry(
        "throttle-group",
        "object",
        "qemud.block.objects:ThrottleGroup",
        options="ThrottleGroupProperties",
        interfaces=("user-creatable",),
    ),
)
