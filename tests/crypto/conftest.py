"""Objects below `/objects`, as object-add makes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from qemud.qapi.runtime.check import parse_type
from qemud.qom.tree import Tree
from qemud.qom.userobjects import add_object

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def tree() -> Tree:
    return Tree()


@pytest.fixture
def add(tree: Tree) -> Callable[..., Any]:
    """`add("authz-simple", identity="x")` makes an object with the id "o"."""

    def make(kind: str, /, name: str = "o", **options: Any) -> Any:
        wire = {key.replace("_", "-"): value for key, value in options.items()}
        return asyncio.run(
            add_object(tree, parse_type("ObjectOptions", {"qom-type": kind, "id": name, **wire}))
        )

    return make
