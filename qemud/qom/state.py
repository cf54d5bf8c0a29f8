"""Saving by value: what a tree of objects knows, as plain data, and back.

An object whose type is bound to a state struct keeps its live state in `.state`, an instance of it.  Saving writes that struct
down, with its version; loading checks every value against the schema, lets each object judge what the schema cannot say, and only
then changes anything, so that a refused load leaves the tree as it was.

    saved = save_tree(board)           {"/machine/uart0": {"type": "serial-mm", "version": 1, "state": {…}}, …}
    load_tree(other_board, saved)      raises GenericError with a sentence on the first thing that does not fit

Classes take part through three hooks: `before_save` brings `.state` up to date with what lives elsewhere (an engine's
registers), `check_state` refuses values no device can be in, and `after_load` does what follows from the state (lines, timers).
All of it runs on the machine thread, which stands still meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qemud.qom.object import Object

SavedTree = dict[str, dict[str, Any]]


def save_tree(root: Object) -> SavedTree:
    """The state of all objects at and below `root`, by path."""
    saved: SavedTree = {}
    for node in root.walk():
        if node.state_type is not None:
            saved[node.path] = {
                "type": node.type_name,
                "version": version_of(node),
                "state": node.save(),
            }
    return saved


def load_tree(root: Object, saved: Mapping[str, Any]) -> None:
    """Give all objects at and below `root` the state in `saved`; GenericError, and no change, if anything does not fit."""
    apply_tree(check_tree(root, saved))


def check_tree(root: Object, saved: Mapping[str, Any]) -> list[tuple[Object, Any]]:
    """The objects at and below `root`, each with its state from `saved`; GenericError if anything does not fit."""
    nodes = {node.path: node for node in root.walk() if node.state_type is not None}
    for path in saved:
        if path not in nodes:
            raise GenericError(f"saved state has '{path}', which this machine has not")
    parsed: list[tuple[Object, Any]] = []
    for path, node in nodes.items():
        record = saved.get(path)
        if record is None:
            raise GenericError(f"saved state has no '{path}', which this machine has")
        parsed.append((node, _parse(path, node, record)))
    return parsed


def apply_tree(parsed: list[tuple[Object, Any]]) -> None:
    """Give objects the states that `check_tree` found good."""
    for node, state in parsed:
        node.state = state
    for node, _ in parsed:
        node.after_load()


def version_of(node: Object) -> int:
    """The version of the struct that the object's state is saved in."""
    version: int = getattr(node.state_type, "__state_version__", 1)
    return version


def parse_state(node: Object, value: Any) -> Any:
    """A state struct from plain data, checked against the schema and by the object itself."""
    from qemud.qapi.runtime.check import parse_type

    assert node.state_type is not None
    if not isinstance(value, dict):
        raise GenericError("the state is not an object")
    state = parse_type(node.state_type.__name__, value)
    node.check_state(state)
    return state


def _parse(path: str, node: Object, record: Any) -> Any:
    if not isinstance(record, dict) or record.keys() != {"type", "version", "state"}:
        raise GenericError(f"saved state of '{path}' is not an object with type, version and state")
    if record["type"] != node.type_name:
        raise GenericError(f"saved state of '{path}' is of a {record['type']}, here it is a {node.type_name}")
    version = record["version"]
    if isinstance(version, bool) or version != version_of(node):
        raise GenericError(
            f"saved state of '{path}' ({node.type_name}) has version {version}, "
            f"version {version_of(node)} is expected"
        )
    try:
        return parse_state(node, record["state"])
    except GenericError as error:
        raise GenericError(f"saved state of '{path}' ({node.type_name}): {error}") from None
