"""QAPI's rules for names: what a name may look like, by what it names.

Source: QEMU 10.0, docs/devel/qapi-code-gen, "Naming rules and reserved names", "Downstream extensions".
"""

from __future__ import annotations

import re
from collections.abc import Callable

# A downstream prefix, the experimental prefix, and the stem that the rules of case are about.
_NAME = re.compile(r"(?:__[a-z0-9.-]+_)?(?:x-)?([a-z][a-z0-9_-]*)", re.IGNORECASE | re.ASCII)
_QOM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CAMEL_CASE = re.compile(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")
_UPPER = re.compile(r"[A-Z]")
_LOWER_OR_HYPHEN = re.compile(r"[a-z-]")
_NOT_IN_IDENTIFIER = re.compile(r"[^A-Za-z0-9_]")

Fail = Callable[[str], Exception]


def folded(name: str) -> str:
    """`name` as C would see it: names that differ only in `-`, `.` and `_` clash."""
    return _NOT_IN_IDENTIFIER.sub("_", name)


def check_name(name: str, source: str, fail: Fail) -> str:
    """The stem of `name`; `fail` makes the error when it is none.  `source` says what the name belongs to."""
    match = _NAME.fullmatch(name)
    # `q_` is the generators' own.
    if not match or folded(name).startswith("q_"):
        raise fail(f"{source} has an invalid name")
    return match.group(1)


def check_upper(name: str, source: str, fail: Fail) -> None:
    """An event's name."""
    if _LOWER_OR_HYPHEN.search(check_name(name, source, fail)):
        raise fail(f"name of {source} must not use lowercase or '-'")


def check_lower(
    name: str, source: str, fail: Fail, *, allow_upper: bool = False, allow_underscore: bool = False
) -> None:
    """The name of a command, member or feature."""
    stem = check_name(name, source, fail)
    if (not allow_upper and _UPPER.search(stem)) or (not allow_underscore and "_" in stem):
        raise fail(f"name of {source} must not use uppercase or '_'")


def check_type(name: str, kind: str, fail: Fail) -> None:
    """The name of a type of the given kind."""
    if not _CAMEL_CASE.fullmatch(check_name(name, kind, fail)):
        raise fail(f"name of {kind} must use CamelCase")
    if name.endswith("List"):
        raise fail(f"{kind} name should not end in 'List'")


def check_qom(name: str, source: str, fail: Fail) -> None:
    """A member's name under pragma `qom-name-exceptions`: whatever QOM can call a type or property."""
    if not _QOM_NAME.fullmatch(name) or folded(name).startswith("q_"):
        raise fail(f"{source} has an invalid name")


def is_reserved(name: str) -> bool:
    """Whether a member may not be called `name`, because generated code uses it."""
    name = folded(name)
    return name == "u" or name.startswith("has_")
