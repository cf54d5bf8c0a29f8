"""The machine with all its disks in one snapshot: inside of their images, by one name.

    await save(services, "before")                          # GenericError with QEMU's text
    await load(services, "before")
    await delete(services, "before")

The machine stops meanwhile, and goes on afterwards if it ran.  What it is doing stands still as a whole: its disks are held, so that
no request is under way, and its thread is frozen, so that nothing comes from outside.

Saving writes the state first, which nobody refers to yet, and then takes the snapshots.  Loading looks at everything before it changes
anything; what fails then leaves a machine as it was, but stopped.  What fails later leaves one that has to be reset.

Source of the order and of texts: QEMU 10.0, migration/savevm.c.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from qemud._generated.types.run_state import RunState
from qemud.block import whole as disks_of
from qemud.machine.mailbox import Closed
from qemud.machine.snapshot import apply, check_objects, check_value, memory_of, save_objects
from qemud.machine.vm import NEEDS_RESET
from qemud.migration import memory
from qemud.migration.still import still
from qemud.migration.stream import HEADER_SIZE, Header, Run, begin
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud._generated.types.snapshot import SavedMachine
    from qemud.block.driver import StateReader
    from qemud.machine.memory import Section
    from qemud.machine.services import Services
    from qemud.machine.vm import VirtualMachine
    from qemud.qom.object import Object

NAME_SIZE = 255
"""Bytes of a snapshot's name that count."""

_KEPT = frozenset({RunState.PRELAUNCH, RunState.RUNNING, RunState.PAUSED})
"""States that a machine has again when another state was loaded into it."""


class Found(NamedTuple):
    """A state that was read, and found to fit the machine."""

    value: SavedMachine
    objects: list[tuple[Object, Any]]
    sections: list[Section]
    runs: list[Run]
    position: int
    """Where its memory begins."""


def _check_idle(services: Services) -> None:
    """Raise GenericError while the machine leaves."""
    if services.has_migration:
        services.migration.check_idle()


def _name(tag: str) -> str:
    return tag.encode()[:NAME_SIZE].decode(errors="ignore")


async def save(
    services: Services,
    tag: str | None,
    *,
    overwrite: bool = False,
    vmstate: str | None = None,
    devices: Sequence[str] | None = None,
) -> None:
    """Take a snapshot of the machine and of those disks, or of all; with a name of its own unless one is given.  GenericError."""
    _check_idle(services)
    graph, vm = services.block, services.vm
    now = time.time_ns()
    disks = disks_of.choose(graph, devices)
    disks_of.check_all(graph, disks)
    if tag is not None:
        name = _name(tag)
        if overwrite:
            await disks_of.delete_all(graph, disks, name)
        elif await disks_of.have(disks, name):
            raise GenericError(f"Snapshot '{name}' already exists in one or more devices")
    else:
        name = time.strftime("vm-%Y%m%d%H%M%S", time.localtime(now // 10**9))
    top = disks_of.state_disk(disks, vmstate)
    async with vm.held(RunState.SAVE_VM) as before:
        try:
            async with still(services):
                await _save(services, disks, name, now, top, before)
        finally:
            with contextlib.suppress(Closed):
                await vm.take_up(before)


async def _save(  # noqa: PLR0917 - all that it takes
    services: Services,
    disks: Sequence[disks_of.Disk],
    name: str,
    now: int,
    top: Any,
    status: RunState,
) -> None:
    vm = services.vm
    value = await vm.mailboxes.call(save_objects, vm, services.board, status)
    sections = memory_of(vm.memory)
    runs = await memory.find_runs(sections)
    beginning = begin(value, runs, [section.size for section in sections])
    try:
        writer = await disks_of.target_of(top).state_writer()
    except OSError:
        raise GenericError("Could not open VM state file") from None
    try:
        await memory.write(writer, beginning, sections, runs)
        await disks_of.take_all(services.block, disks, name, now, value["clock"], (top, writer))
    except (OSError, GenericError) as error:
        with contextlib.suppress(OSError):
            await writer.abort()
        if isinstance(error, OSError):
            raise GenericError(f"Error while writing VM state: {error.strerror}") from None
        raise


async def load(
    services: Services,
    tag: str,
    *,
    vmstate: str | None = None,
    devices: Sequence[str] | None = None,
) -> None:
    """Go back to a snapshot of the machine and of those disks, or of all; then run, if it ran before.

    GenericError, and then the machine stays stopped: as it was, or, where the text says so, to be reset.
    """
    _check_idle(services)
    vm = services.vm
    async with vm.held(RunState.RESTORE_VM) as before:
        found = await _load(services, _name(tag), vmstate, devices)
        saved = found.value.status
        if saved in NEEDS_RESET or saved is RunState.GUEST_PANICKED:
            after = saved  # there is nothing to go on with
        else:
            after = before if before in _KEPT else RunState.PAUSED
        await vm.take_up(after)


async def _load(services: Services, name: str, vmstate: str | None, devices: Sequence[str] | None) -> Found:
    graph, vm = services.block, services.vm
    disks = disks_of.choose(graph, devices)
    disks_of.check_all(graph, disks)
    if not await disks_of.have(disks, name):
        raise GenericError(f"Snapshot '{name}' does not exist in one or more devices")
    top = disks_of.state_disk(disks, vmstate)
    listed = await disks_of.snapshots(top) or []
    size = next((each.vm_state_size for each in listed if each.name == name), None)
    if size is None:
        raise GenericError("Snapshot can not be found")
    if not size:
        raise GenericError("This is a disk-only snapshot. Revert to it  offline using qemu-img")
    async with still(services):
        await disks_of.check_apply(graph, disks, name)
        try:
            reader = await disks_of.target_of(top).state_reader(name)
            found = await look(reader, vm, services.board)
        except OSError as error:
            raise GenericError(f"Error -{error.errno} while loading VM state: {error.strerror}") from None
        except GenericError as error:
            raise GenericError(f"Error -22 while loading VM state: {error}") from None
        try:
            await disks_of.apply_all(graph, disks, name)
            await memory.read(reader, found.position, found.sections, found.runs)
            await vm.mailboxes.call(_put, vm, found)
        except BaseException as error:
            # Some of it is what it was before, some is what was saved.
            vm.state = RunState.INTERNAL_ERROR
            if isinstance(error, OSError):
                raise GenericError(
                    f"Error -{error.errno} while loading VM state: {error.strerror}; the machine has to be reset"
                ) from None
            raise
    return found


def _put(vm: VirtualMachine, found: Found) -> None:
    """Machine thread: memory has its content."""
    for section in found.sections:
        vm.memory.written(section.base, section.size)
    apply(vm, found.value, found.objects)


async def look(reader: StateReader, vm: VirtualMachine, board: Object) -> Found:
    """Read a state but for its memory.  GenericError, when it does not fit the machine in every respect; OSError."""
    first = bytearray(HEADER_SIZE)
    await reader.readv(0, [memoryview(first)])
    header = Header.parse(bytes(first), reader.size)
    sections = memory_of(vm.memory)
    sizes = [section.size for section in sections]
    header.check_runs(sizes)
    body = bytearray(header.body_size)
    await reader.readv(HEADER_SIZE, [memoryview(body)])
    value = check_value(vm, board, header.parse_description(bytes(body)))
    if [item.name for item in value.memory] != [section.name for section in sections]:
        raise GenericError("saved memory is in another order")
    runs = header.parse_runs(bytes(body), sizes)
    return Found(value, await check_objects(vm, board, value), sections, runs, header.data)


async def delete(services: Services, tag: str, *, devices: Sequence[str] | None = None) -> None:
    """Delete a snapshot of those disks, or of all that have it.  GenericError."""
    graph = services.block
    disks = disks_of.choose(graph, devices)
    disks_of.check_all(graph, disks)
    await disks_of.delete_all(graph, disks, _name(tag))
