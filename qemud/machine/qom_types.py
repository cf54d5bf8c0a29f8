"""The QOM types of this room, as data: see `qemud.qom.types`.  No class is imported here."""

from qemud.qom.types import TypeEntry

_BACKENDS = "qemud.machine.backends"

TYPES: tuple[TypeEntry, ...] = (
    TypeEntry(
        "memory-backend",
        "object",
        f"{_BACKENDS}:MemoryBackend",
        abstract=True,
        interfaces=("user-creatable",),
    ),
    TypeEntry(
        "memory-backend-ram",
        "memory-backend",
        f"{_BACKENDS}:MemoryBackendRam",
        options="MemoryBackendProperties",
    ),
    TypeEntry(
        "memory-backend-memfd",
        "memory-backend",
        f"{_BACKENDS}:MemoryBackendMemfd",
        options="MemoryBackendMemfdProperties",
    ),
    TypeEntry(
        "memory-backend-file",
        "memory-backend",
        f"{_BACKENDS}:MemoryBackendFile",
        options="MemoryBackendFileProperties",
    ),
    TypeEntry(
        "event-loop-base",
        "object",
        "qemud.machine.iothread:EventLoopBase",
        abstract=True,
        interfaces=("user-creatable",),
    ),
    TypeEntry("iothread", "event-loop-base", "qemud.machine.iothread:IoThread", options="IothreadProperties"),
    TypeEntry(
        "rng-backend",
        "object",
        "qemud.machine.rng:RngBackend",
        abstract=True,
        interfaces=("user-creatable",),
    ),
    TypeEntry("rng-builtin", "rng-backend", "qemud.machine.rng:RngBuiltin", options="RngProperties"),
    TypeEntry("rng-random", "rng-backend", "qemud.machine.rng:RngRandom", options="RngRandomProperties"),
    TypeEntry(
        "secret",
        "object",
        f"{_BACKENDS}:Secret",
        options="SecretProperties",
        interfaces=("user-creatable",),
    ),
)
