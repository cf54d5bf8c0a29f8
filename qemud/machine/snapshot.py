"""A whole machine by value: taken from one that is stopped, given to another like it, in this process or elsewhere.

    saved = await save_machine(vm, board)       # a Snapshot: `value` is JSON-able, `memory` is bytes
    await load_machine(other_vm, other_board, saved)
    await other_vm.cont()                       # goes on at the very instruction

What is saved: the state structs of all objects at and below the board (processors and devices), memory, virtual time, and what the machine
was doing.  What is not: what the outside has to be again (character devices, files), and what follows from the command line.  So the
other machine has to be made by the same options.

Loading looks at everything first: a refusal is one GenericError and leaves the machine as it was.  Memory that is all zeros takes
no space, neither in the snapshot nor in the machine it is loaded into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from qemud._generated.types.run_state import RunState
from qemud.machine.memory import SectionKind
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud._generated.types.snapshot import SavedMachine, SavedMemory
    from qemud.machine.memory import AddressSpace, Section
    from qemud.machine.vm import VirtualMachine
    from qemud.qom.object import Object

CHUNK = 1 << 20
"""Bytes that are copied at a time: well below 2 ms of the machine's time."""

_ZEROS = bytes(CHUNK)
_LATEST = (1 << 62) - 1
"""ns; a virtual time beyond that (146 years) would overflow the clocks of an engine."""


class Snapshot(NamedTuple):
    """`value`: a `SavedMachine` of the schema, as plain data.

    `memory`: for each region by name, its content by offset, in pieces of `CHUNK` bytes (the last may be shorter); those that are
    not there are zeros.
    """

    value: dict[str, Any]
    memory: dict[str, dict[int, bytes]]


async def save_machine(vm: VirtualMachine, board: Object) -> Snapshot:
    """All of a stopped machine. Raises GenericError for one that runs."""
    async with vm.transitions:
        _check_stopped(vm)
        value = await vm.mailboxes.call(save_objects, vm, board)
        memory: dict[str, dict[int, bytes]] = {}
        for section in memory_of(vm.memory):
            content = memory[section.name] = {}
            for offset in range(0, section.size, CHUNK):
                piece = await vm.mailboxes.call(_read, section, offset)
                if piece is not None:
                    content[offset] = piece
        return Snapshot(value, memory)


async def load_machine(vm: VirtualMachine, board: Object, saved: Snapshot) -> None:
    """Make a stopped machine what another one was; it stays stopped. Raises GenericError, and changes nothing, if it cannot."""
    async with vm.transitions:
        _check_stopped(vm)
        await _load(vm, board, saved)


async def _load(vm: VirtualMachine, board: Object, saved: Snapshot) -> None:
    value = check_value(vm, board, saved.value)
    _check_content(vm.memory, saved.memory)
    parsed = await check_objects(vm, board, value)

    # Nothing below can fail.
    for section in memory_of(vm.memory):
        content = saved.memory[section.name]
        for offset in range(0, section.size, CHUNK):
            await vm.mailboxes.call(_write, vm.memory, section, offset, content.get(offset))
    await vm.mailboxes.call(apply, vm, value, parsed)
    vm.state = RunState.PAUSED if value.status is RunState.RUNNING else value.status


def check_value(vm: VirtualMachine, board: Object, saved: object) -> SavedMachine:
    """What was saved of a machine like this one, as a struct; all but its objects is right.  GenericError."""
    from qemud.qapi.runtime.check import parse_type

    if not isinstance(saved, dict):
        raise GenericError("the saved machine is not an object")
    value: SavedMachine = parse_type("SavedMachine", saved)
    check_place(vm, board, value.machine, value.memory)
    if (value.icount is None) is not (vm.instruction_time is None):
        saved_does = value.icount is not None
        raise GenericError(
            f"the saved machine {'counts' if saved_does else 'does not count'} instructions, "
            f"this one {'does not' if saved_does else 'does'}"
        )
    if value.icount is not None and value.icount > _LATEST:
        raise GenericError(f"the saved machine's icount is {value.icount}, expected 0 to {_LATEST}")
    if value.clock > _LATEST:
        raise GenericError(f"the saved machine's clock is {value.clock}, expected 0 to {_LATEST}")
    return value


def check_place(vm: VirtualMachine, board: Object, machine: str, memory: list[SavedMemory]) -> None:
    """Raise GenericError unless this is such a machine, with all of that memory and no other."""
    here = type_of(board)
    if machine != here:
        raise GenericError(f"the saved machine is a {machine}, this one is a {here}")
    _check_memory(vm.memory, memory)


async def check_objects(vm: VirtualMachine, board: Object, value: SavedMachine) -> list[tuple[Object, Any]]:
    """All objects, each with the state that it is to have.  GenericError."""
    from qemud.qom.state import check_tree

    records = {}
    for item in value.objects:
        if item.path in records:
            raise GenericError(f"saved state has '{item.path}' twice")
        records[item.path] = {"type": item.type, "version": item.version, "state": item.state}
    return await vm.mailboxes.call(check_tree, board, records)


def apply(vm: VirtualMachine, value: SavedMachine, parsed: list[tuple[Object, Any]]) -> None:
    """Give the machine the time and the objects' states that were found good.  Machine thread."""
    from qemud.qom.state import apply_tree

    if vm.instruction_time is not None and value.icount is not None:
        vm.instruction_time.instructions = value.icount
    vm.clock.load(value.clock)
    apply_tree(parsed)


def type_of(board: Object) -> str:
    """The board's type with its version: what `virt` means changes, what was saved does not."""
    return getattr(board, "version_type", "") or board.type_name


def _check_stopped(vm: VirtualMachine) -> None:
    if vm.running:
        raise GenericError("the machine runs; it has to be stopped to be saved or loaded")


def save_objects(vm: VirtualMachine, board: Object, status: RunState | None = None) -> dict[str, Any]:
    """All but the memory's content; `status` is what it was doing, if it was stopped to be saved. Machine thread."""
    from qemud._generated.types.snapshot import SavedMachine, SavedObject
    from qemud.qapi.runtime.wire import to_wire
    from qemud.qom.state import save_tree

    value: dict[str, Any] = to_wire(
        SavedMachine(
            machine=type_of(board),
            status=status or vm.state,
            clock=vm.clock.save(),
            icount=None if vm.instruction_time is None else vm.instruction_time.instructions,
            memory=describe_memory(vm.memory),
            objects=[SavedObject(path=path, **record) for path, record in save_tree(board).items()],
        )
    )
    return value


def memory_of(space: AddressSpace) -> list[Section]:
    """The regions whose content is saved, in the order of their addresses."""
    return [section for section in space if section.kind is not SectionKind.MMIO]


def describe_memory(space: AddressSpace) -> list[SavedMemory]:
    """These regions as values."""
    from qemud._generated.types.snapshot import SavedMemory

    return [
        SavedMemory(name=section.name, base=section.base, size=section.size) for section in memory_of(space)
    ]


def _check_memory(space: AddressSpace, listed: list[SavedMemory]) -> None:
    """Raise GenericError unless all regions, and no others, are there."""
    here = {section.name: section for section in memory_of(space)}
    for item in listed:
        section = here.pop(item.name, None)
        if section is None:
            raise GenericError(f"saved memory '{item.name}' is not in this machine, or is there twice")
        if (item.base, item.size) != (section.base, section.size):
            raise GenericError(
                f"saved memory '{item.name}' has {item.size:#x} bytes at {item.base:#x}, "
                f"here it has {section.size:#x} at {section.base:#x}"
            )
    if here:
        raise GenericError(f"saved memory has no '{next(iter(here))}', which this machine has")


def _check_content(space: AddressSpace, contents: dict[str, dict[int, bytes]]) -> None:
    """Raise GenericError unless all regions have a content that fits."""
    for section in memory_of(space):
        if section.name not in contents:
            raise GenericError(f"saved memory '{section.name}' has no content")
        for offset, piece in contents[section.name].items():
            if not 0 <= offset < section.size or offset % CHUNK:
                raise GenericError(f"saved memory '{section.name}' has a piece at {offset:#x}")
            if len(piece) != min(CHUNK, section.size - offset):
                raise GenericError(f"saved memory '{section.name}' has {len(piece)} bytes at {offset:#x}")


def _read(section: Section, offset: int) -> bytes | None:
    """A piece of memory; None for zeros."""
    piece = section.view(section.base + offset, min(CHUNK, section.size - offset)).tobytes()
    return None if piece == _ZEROS[: len(piece)] else piece


def _write(space: AddressSpace, section: Section, offset: int, piece: bytes | None) -> None:
    """Give memory its content; pages that have it already are not touched."""
    size = min(CHUNK, section.size - offset)
    view = section.view(section.base + offset, size)
    if view.tobytes() != (piece if piece is not None else _ZEROS[:size]):
        view[:] = piece if piece is not None else _ZEROS[:size]
        space.written(section.base + offset, size)
