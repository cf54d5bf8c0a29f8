"""Identifiers: what a client may call an object.

Source: QEMU 10.0, util/id.c.
"""

from __future__ import annotations

from qemud.qapi.runtime.errors import GenericError


def is_identifier(name: str) -> bool:
    """Whether `name` consists of ASCII letters, digits, '-', '.' and '_' and begins with a letter."""
    return (
        name.isascii()
        and name[:1].isalpha()
        and all(character.isalnum() or character in "-._" for character in name)
    )


def check_id(name: str) -> None:
    """Raise GenericError unless `name` is an identifier."""
    if not is_identifier(name):
        raise GenericError("Parameter 'id' expects an identifier")
