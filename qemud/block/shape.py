"""What shapes the graph can have: which node can be a child of which.

Source of rules and texts: QEMU 10.0, block.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.block.node import BlockNode
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qemud.block.node import User

MAX_DEPTH = 200
"""How many nodes may be one below the other: each request goes through all of them."""


class InactiveChildError(GenericError):
    """An active node would have a child that another process has."""


def descendants(node: BlockNode) -> Iterator[BlockNode]:
    """A node and all below it, each once."""
    seen: dict[int, BlockNode] = {}
    stack = [node]
    while stack:
        each = stack.pop()
        if id(each) not in seen:
            seen[id(each)] = each
            yield each
            stack.extend(each.children.values())


def check_child(parent: User, name: str, node: BlockNode) -> None:
    """Raise GenericError when a node cannot be a child of another.

    It would be below itself, or so deep that requests could not go through all of it, or another process has it and not its parent.
    """
    if not isinstance(parent, BlockNode):
        return
    if any(each is parent for each in descendants(node)):
        raise GenericError(
            f"Making '{node.node_name}' a {name} child of '{parent.node_name}' would create a cycle"
        )
    if node.inactive and not parent.inactive:
        shown = parent.file_shown if name == "file" else name
        raise InactiveChildError(
            f"Inactive '{node.node_name}' can't be a {shown} child of active '{parent.node_name}'"
        )
    above = _longest(parent, lambda each: [e.user for e in each.parents if isinstance(e.user, BlockNode)])
    if above + _longest(node, lambda each: list(each.children.values())) > MAX_DEPTH:
        raise GenericError(
            f"Making '{node.node_name}' a {name} child of '{parent.node_name}' would make the graph deeper than {MAX_DEPTH}"
        )


def _longest(node: BlockNode, step: Callable[[BlockNode], list[BlockNode]]) -> int:
    """How many nodes the longest path from a node on has."""
    lengths: dict[int, int] = {}
    stack = [node]
    while stack:
        each = stack[-1]
        after = step(each)
        waiting = [other for other in after if id(other) not in lengths]
        if waiting:
            stack += waiting
            continue
        stack.pop()
        lengths[id(each)] = 1 + max((lengths[id(other)] for other in after), default=0)
    return lengths[id(node)]
