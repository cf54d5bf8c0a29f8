"""The targets that one installation serves, and what each defines for the schema's `if`.

The only list of targets: the generators make introspection for each, the daemon picks one by its program's name, and
the input check evaluates conditions for it at start-up.
"""

from __future__ import annotations

_COMMON = frozenset({"CONFIG_LINUX", "CONFIG_POSIX", "CONFIG_TCG"})

TARGETS: dict[str, frozenset[str]] = {
    "riscv64": _COMMON | {"TARGET_RISCV", "TARGET_RISCV64"},
}
"""Target name, as in `qemu-system-NAME`, to the names its schema conditions find defined."""

DEFAULT_TARGET = "riscv64"
