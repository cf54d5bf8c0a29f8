"""The composition tree: who owns whom, and how clients name things.

    /                     the root
    ├── machine           the board; its devices below it, under stable names
    │   ├── peripheral        devices that a user named
    │   ├── peripheral-anon   devices that a user added without a name
    │   └── unattached        what has no better place
    ├── objects           backends of object-add
    └── chardevs          character devices

A path is absolute (`/machine/peripheral/net0`) or partial (`net0`): a partial path is looked for below every object and must
fit one place only.  Links are followed.  Where QEMU's names for board devices are accidents of the order of creation
(`/machine/unattached/device[14]`), a board tells the tree the old path as an alias.

The tree belongs to the event loop.  Source of the rules: QEMU 10.0, qom/object.c, object_resolve_path_type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.runtime.errors import DeviceNotFound, GenericError
from qemud.qom.object import Container, Object, Root

if TYPE_CHECKING:
    from collections.abc import Sequence


class AmbiguousPathError(Exception):
    """A partial path fits more than one object."""


class Tree:
    """The tree with the places that always exist.  The machine comes with `set_machine`."""

    def __init__(self) -> None:
        self.root = Root()
        self.objects = self.root.add_child("objects", Container())
        self.chardevs = self.root.add_child("chardevs", Container())
        self._aliases: dict[tuple[str, ...], Object] = {}

    @property
    def machine(self) -> Object | None:
        """The board, once there is one."""
        return self.root.children.get("machine")

    def set_machine(self, machine: Object) -> None:
        """Put the board in its place."""
        self.root.add_child("machine", machine)
        self.root.overlay = getattr(machine, "overlay", ())

    def add_alias(self, path: str, target: Object) -> None:
        """Let the absolute `path` lead to `target` as well; what has that path by right comes first."""
        self._aliases[_parts(path)] = target

    def find(self, path: str, type_name: str = "object") -> Object | None:
        """The object that `path` names, or None.  Raises AmbiguousPathError."""
        found = resolve(self.root, path, type_name)
        if found is None and path.startswith("/"):
            found = self._find_alias(_parts(path))
            if found is not None and not found.is_a(type_name):
                return None
        return found

    def _find_alias(self, parts: tuple[str, ...]) -> Object | None:
        """An object by an old path: the longest alias that the path begins with, and on from there."""
        for end in range(len(parts), 0, -1):
            target = self._aliases.get(parts[:end])
            if target is not None and target.path:
                return descend(target, parts[end:])
        return None

    def get(self, path: str) -> Object:
        """The object that `path` names.  Raises DeviceNotFound, or GenericError when it is ambiguous."""
        try:
            found = self.find(path)
        except AmbiguousPathError:
            raise GenericError(f"Path '{path}' is ambiguous") from None
        if found is None:
            raise DeviceNotFound(f"Device '{path}' not found")
        return found


def resolve(root: Object, path: str, type_name: str = "object") -> Object | None:
    """The object of type `type_name` that `path` names below `root`, or None.  Raises AmbiguousPathError."""
    parts = _parts(path)
    if path.startswith("/"):
        found = descend(root, parts)
        return found if found is not None and found.is_a(type_name) else None
    if not path.strip("/"):
        # QEMU looks for the empty path below every object and finds all of them.
        return _only(list(root.walk()), type_name)
    return _only([end for start in root.walk() if (end := descend(start, parts)) is not None], type_name)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def descend(start: Object, parts: Sequence[str]) -> Object | None:
    """Follow the components of a path from `start`, or None where they lead nowhere."""
    node: Object | None = start
    for part in parts:
        assert node is not None
        node = node.step(part)
        if node is None:
            return None
    return node


def _only(found: list[Object], type_name: str) -> Object | None:
    fitting = [candidate for candidate in found if candidate.is_a(type_name)]
    if len(fitting) > 1:
        raise AmbiguousPathError
    return fitting[0] if fitting else None
