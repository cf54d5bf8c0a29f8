"""`-machine memory-backend=ID`: whose memory the machine's is, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qemud._generated.types.machine import MachineProperties, MemorySizeConfiguration
from qemud.hw.none import NoneMachine
from qemud.machine.memory import AddressSpace
from qemud.qapi.runtime.check import parse_type
from qemud.qapi.runtime.errors import GenericError
from qemud.qom.tree import Tree
from qemud.qom.userobjects import add_object, remove_object


class Vm:
    def __init__(self) -> None:
        self.memory = AddressSpace()


def build(backend: str | None, size: int | None, **objects: dict[str, Any]) -> tuple[Tree, NoneMachine]:
    """An empty machine, after these objects were made."""
    tree = Tree()
    for name, options in objects.items():
        typed = parse_type("ObjectOptions", {"id": name, **options})
        asyncio.run(add_object(tree, typed))
    memory = MemorySizeConfiguration(size=size) if size is not None else None
    board = NoneMachine(MachineProperties(memory_backend=backend, memory=memory))
    board.ram_size = size or 0
    tree.set_machine(board)
    board.bring_up(Vm())
    return tree, board


RAM = {"qom-type": "memory-backend-ram", "size": 1 << 20}
SECRET = {"qom-type": "secret", "data": "x"}


@pytest.mark.parametrize("size", [None, 1 << 20])
def test_a_backend_is_the_machines_memory(size: int | None) -> None:
    tree, board = build("m", size, m=RAM)
    assert board.ram_size == 1 << 20
    assert board.get_property("memory-backend") == "/objects/m"
    assert tree.get("/machine/memory-backend") is tree.get("/objects/m")
    board.machine.memory.write_physical(0, b"hello")
    assert bytes(tree.get("/objects/m").block.view[:5]) == b"hello"  # type: ignore[attr-defined]
    with pytest.raises(GenericError, match="object 'm' is in use"):
        remove_object(tree, "m")


def test_without_one_the_board_makes_its_own() -> None:
    _, board = build(None, 8192)
    assert board.get_property("memory-backend") == ""
    assert board.machine.memory.read_physical(8191, 1) == b"\0"


@pytest.mark.parametrize(
    ("backend", "size", "objects", "text"),
    [
        ("nope", None, {}, "Memory backend 'nope' not found"),
        ("s", None, {"s": SECRET}, "Memory backend 's' not found"),
        ("m", 4096, {"m": RAM}, "Machine memory size does not match the size of the memory backend"),
        (
            None,
            4096,
            {"ram": SECRET},
            (
                "object's id 'ram' is reserved for the default RAM backend, "
                "it can't be used for any other purposes"
            ),
        ),
    ],
)
def test_refusals(
    backend: str | None, size: int | None, objects: dict[str, dict[str, Any]], text: str
) -> None:
    with pytest.raises(GenericError) as caught:
        build(backend, size, **objects)
    assert str(caught.value) == text
