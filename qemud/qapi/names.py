"""How names on the wire become names in Python.

QAPI's names contain `-`, object types contain `.`, and either may be a Python keyword.  The front end, every generator and
the run-time go through these functions, so that a name is spelled the same everywhere.  The front end refuses a schema in
which two names of one scope come out the same.

    member, argument, command   chardev-add        → chardev_add       from → from_
    enumeration value           guest-reset        → GUEST_RESET       1-bit → _1_BIT
    branch of a union           virtio-rng-device  → VirtioRngDevice
    event                       DEVICE_DELETED     → device_deleted
    schema module               run-state          → run_state
"""

from __future__ import annotations

import keyword

# Keywords, and `self`, the first parameter of every handler.
_TAKEN = frozenset((*keyword.kwlist, "self"))

# What every event has (`qemud.qapi.runtime.calls.Event`).
_EVENT_ATTRIBUTES = frozenset(("data", "event", "sequence", "timestamp"))


def _underscored(wire: str) -> str:
    """`wire` with `_` for each character that no identifier of ASCII has."""
    return "".join(character if character.isascii() and character.isalnum() else "_" for character in wire)


def _identifier(wire: str) -> str:
    """`wire` with `_` for what Python has no room for.

    Downstream names (`__org.example_name`) lose their leading underscores, which Python would mangle.
    """
    name = _underscored(wire).lstrip("_")
    return f"_{name}" if not name or name[0].isdigit() else name


def python_name(wire: str) -> str:
    """The Python identifier for a member, argument or command."""
    name = _identifier(wire)
    # With any number of `_` behind, so that no two names become one.
    return f"{name}_" if name.rstrip("_") in _TAKEN else name


def constant_name(wire: str) -> str:
    """The name of an enumeration's member."""
    name = _identifier(wire).upper()
    # `enum` keeps names such as `_1_` for itself.
    return f"V{name}" if name.startswith("_") and name.endswith("_") else name


def class_name(wire: str) -> str:
    """The name of a type's class: the type's own name wherever Python allows it."""
    return python_name(wire)


def camel_case(wire: str) -> str:
    """A value of an enumeration as a part of a class's name; capitals inside a word stay."""
    words = _underscored(wire).split("_")
    return "".join(word[:1].upper() + word[1:] for word in words)


def event_function_name(wire: str) -> str:
    """The name of the function that emits an event."""
    return python_name(wire.lower())


def module_name(wire: str) -> str:
    """The Python module of a schema module."""
    return python_name(wire)


def event_class_name(wire: str) -> str:
    """The name of an event's class: SHUTDOWN is a `ShutdownEvent`."""
    return f"{camel_case(wire.lower())}Event"


def event_attribute(member: str) -> str:
    """The attribute of an event that has the member of that Python name of its data."""
    name = python_name(member)
    return f"{name}_" if name in _EVENT_ATTRIBUTES else name
