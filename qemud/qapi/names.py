"""How names on the wire become names in Python.

QAPI's names contain `-`, object types contain `.`, and either may be a Python keyword.  Every generator and the
run-time go through these functions, so that a name is spelled the same everywhere.

    member, argument, command   chardev-add        → chardev_add       from → from_
    enumeration value           guest-reset        → GUEST_RESET       1-bit → _1_BIT
    branch of a union           virtio-rng-device  → VirtioRngDevice
    schema module               run-state          → run_state
"""

from __future__ import annotations

import keyword


def python_name(wire: str) -> str:
    """The Python identifier for a member, argument or command.

    Downstream names (`__org.example_name`) lose their leading underscores, which Python would mangle.
    """
    name = wire.lstrip("_").replace("-", "_").replace(".", "_")
    if name[:1].isdigit():
        name = f"_{name}"
    return f"{name}_" if keyword.iskeyword(name) else name


def constant_name(wire: str) -> str:
    """The name of an enumeration's member."""
    name = wire.lstrip("_").replace("-", "_").replace(".", "_").upper()
    return f"_{name}" if name[:1].isdigit() else name


def class_name(wire: str) -> str:
    """The name of a type's class: the type's own name wherever Python allows it."""
    return python_name(wire)


def camel_case(wire: str) -> str:
    """A value of an enumeration as a part of a class's name; capitals inside a word stay."""
    words = wire.replace("-", " ").replace(".", " ").replace("_", " ").split()
    return "".join(word[:1].upper() + word[1:] for word in words)


def module_name(wire: str) -> str:
    """The Python module of a schema module."""
    return python_name(wire)
