"""What `-machine` and the options that are short for its properties come to, and the machine that is made of it.

    options = machine_options(line)                 # -machine, -smp, -m, -kernel, … in one struct of the schema
    machine = create_machine(services, options)
    await build_machine(services, machine, "virt", line, accel=accel, serials=serials)

Source of the texts: QEMU 10.0, system/vl.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from qemud.daemon.cmdline import UsageError, at
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemud._generated.types.accel import TcgAccelOptions
    from qemud._generated.types.boards import MachineOptions
    from qemud._generated.types.icount import IcountOptions
    from qemud._generated.types.options import CommandLine
    from qemud.chardev.stream import Chardev
    from qemud.machine.services import Services
    from qemud.machine.vm import Actions

DEFAULT_MACHINE = "virt"

# Members of `MachineProperties` that options of their own stand for.
_SHORT = ("kernel", "initrd", "append", "dtb")


def machine_options(line: CommandLine) -> MachineOptions:
    """All that was said of the machine, checked against the schema. Raises UsageError or GenericError."""
    from qemud._generated.types.boards import MachineType
    from qemud.qapi.runtime.check import parse_type
    from qemud.qapi.runtime.keyval import parse_keyval, parse_keyval_type

    if line.machine is not None and line.machine.startswith("{"):
        values = _from_json(line.machine)
    else:
        with at("machine", line.machine):
            values = dict(parse_keyval(line.machine or DEFAULT_MACHINE, "type"))
    kind = values.setdefault("type", DEFAULT_MACHINE)
    if not isinstance(kind, str):
        with at("machine", line.machine):
            raise GenericError("Parameter 'type' expects a string")
    if kind not in {item.value for item in MachineType}:
        raise unsupported(kind)
    parse = parse_type if line.machine is not None and line.machine.startswith("{") else parse_keyval_type
    options: Any = parse("MachineOptions", _known(kind, values))
    for name in _SHORT:
        if (given := getattr(line, name)) is not None:
            setattr(options, name, given)
    if line.bios is not None:
        options.firmware = line.bios
    if line.smp is not None:
        options.smp = line.smp
    if line.m is not None:
        from qemud._generated.types.machine import MemorySizeConfiguration

        options.memory = MemorySizeConfiguration(size=line.m.size, max_size=line.m.maxmem, slots=line.m.slots)
    check_options(options)
    if options.usb:
        raise UsageError(f"machine '{kind}' has no USB controller: usb=on was given, usb=off was expected")
    return cast("MachineOptions", options)


def unsupported(name: str) -> UsageError:
    """The error on a kind of machine that there is not."""
    return UsageError(f'unsupported machine type: "{name}"\nUse -machine help to list supported machines')


def board_name(options: MachineOptions) -> str:
    """The full name of the board that is asked for, with its version."""
    from qemud.hw.versions import NEWEST

    name: str = cast("Any", options).type.value
    return NEWEST.get(name, name)


def check_options(options: Any) -> None:
    """What no property can tell alone. Raises UsageError."""
    for name in ("initrd", "append"):
        if getattr(options, name) is not None and options.kernel is None:
            raise UsageError(f"-{name} only allowed with -kernel option")
    _check_memory(options)


def _from_json(text: str) -> dict[str, Any]:
    from qemud.monitor.qmp.framing import parse_option

    with at("machine", text):
        return parse_option(text)


def _known(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values, unless one is no property of the machine: QEMU names the QOM type then."""
    from qemud._generated.types import boards

    leaf = next(leaf for leaf in boards.MachineOptions.__subclasses__() if leaf.type.value == kind)
    known = {"type", *leaf.__struct_encode_fields__}
    for name in values:
        if name not in known:
            raise UsageError(f"Property '{kind}-machine.{name}' not found")
    return values


def _check_memory(options: Any) -> None:
    memory = options.memory
    if memory is None:
        return
    size, maximum, slots = memory.size or 0, memory.max_size, memory.slots or 0
    if maximum is None:
        if slots:
            raise UsageError("slots specified but no max-size")
        return
    if maximum < size:
        raise UsageError(
            "invalid value of maxmem: maximum memory size "
            f"({maximum:#x}) must be at least the initial memory size ({size:#x})"
        )
    if maximum > size or slots:
        raise UsageError(
            f"memory hot-plug is not supported: maxmem {maximum:#x} was given, the initial size {size:#x} was expected"
        )


def set_actions(actions: Actions, line: CommandLine) -> None:
    """What a reset, a shutdown, a crash and silence are to do, as far as the command line says."""
    from qemud._generated.types.run_state import RebootAction, ShutdownAction

    if line.no_reboot:
        actions.reboot = RebootAction.SHUTDOWN
    if line.no_shutdown:
        actions.shutdown = ShutdownAction.PAUSE
    if line.action is not None:
        given = line.action
        actions.set(given.reboot, given.shutdown, given.panic, given.watchdog)


def create_machine(services: Services, options: MachineOptions, values: Any = None) -> Any:
    """The board as an object in its place in the tree: its properties can be read and set, nothing is built.

    `values` is the struct with its properties, those of `options` by default.
    """
    from qemud.hw.boards import find_board, make_machine
    from qemud.qom.types import types
    from qemud.qom.userobjects import struct_from

    board = find_board(cast("Any", options).type.value)
    assert board is not None  # the schema's enumeration and the boards are held to each other
    cls = types.find(board.qom_type)
    assert cls is not None
    machine = make_machine(board, values or struct_from(cls.options_type, options))
    services.tree.set_machine(machine)
    machine.apply_overlay()
    return machine


async def build_machine(
    services: Services,
    machine: Any,
    name: str,
    line: CommandLine,
    *,
    accel: TcgAccelOptions,
    serials: Sequence[Chardev | None],
) -> None:
    """Bring up the board called `name`, with its processors. Raises UsageError or GenericError."""
    import mmap

    from qemud._generated.types.machine import SMPConfiguration
    from qemud.daemon.host import name_threads, rtc_offset
    from qemud.hw.boards import find_board
    from qemud.machine.smp import smp_topology
    from qemud.qom.device import reset_tree

    vm, options, board = services.vm, machine.options, find_board(name)
    assert board is not None
    topology = smp_topology(options.smp or SMPConfiguration(), name, board.max_cpus)
    if line.cpu is not None or board.default_cpu_type is not None:
        chosen = cpu_type(line.cpu, board.default_cpu_type or "")
    vm.rtc_offset = rtc_offset(line.rtc)
    size = options.memory.size if options.memory is not None else None
    if size or board.default_cpu_type is not None:
        machine.ram_size = size or board.default_ram_size
    machine.serials = list(serials)
    machine.uuid = bytes.fromhex(services.uuid.replace("-", ""))
    if line.fw_cfg:
        from qemud.daemon.firmware import add_items

        add_items(machine, line.fw_cfg)
    if board.default_cpu_type is not None:
        machine.cpu_type = chosen
        await _make_processors(services, topology.cpus, accel.tb_size << 20, line.icount)
    await _make_memory(services, machine, board.default_ram_id)
    await machine.claim(services)
    await vm.mailboxes.call(machine.bring_up, vm)
    if not options.dump_guest_core and machine.ram is not None:
        machine.ram.mapping.madvise(mmap.MADV_DONTDUMP)
    name_threads(line, {vm.executor.thread_id: "CPU 0/TCG" if vm.vcpus else "machine"})
    services.board = machine
    vm.reset_devices = lambda: reset_tree(machine)
    for path, target in machine.legacy_paths().items():
        services.tree.add_alias(path, target)


async def _make_memory(services: Services, machine: Any, name: str | None) -> None:
    """Make a memory backend for the board's memory, as `object-add` would, unless the user names one or has taken the name."""
    objects = services.tree.objects
    if name is None or not machine.ram_size or machine.option("memory-backend") or objects.step(name):
        return
    from qemud._generated.types.backends import MemoryBackendProperties
    from qemud.machine.backends import MemoryBackendRam
    from qemud.qom.properties import Provenance

    memory = MemoryBackendRam(MemoryBackendProperties(size=machine.ram_size), creator=Provenance.MACHINE)
    memory.id = name
    objects.add_child(name, memory)
    try:
        await memory.complete()
    except BaseException:
        memory.unparent()
        raise
    memory.in_use = True
    machine.default_memory = memory


async def _make_processors(
    services: Services, count: int, code_size: int, icount: IcountOptions | None
) -> None:
    vm = services.vm
    from qemud.accel import create_vcpu

    shift = None
    if icount is not None:
        from qemud.daemon.icount import shift_of, start

        shift = shift_of(icount)
    for index in range(count):
        vcpu = await vm.mailboxes.call(
            lambda index=index: create_vcpu(vm.memory, index=index, code_size=code_size, shift=shift)
        )
        vm.vcpus.append(vcpu)
        await vm.mailboxes.call(vm.executor.attach, vcpu)
    if icount is not None:
        await vm.mailboxes.call(start, vm, icount)


def cpu_type(model: str | None, default: str) -> str:
    """The QOM type that `-cpu` names, its properties checked. Raises UsageError."""
    from qemud.hw.boards import CPU_MODELS
    from qemud.qom.types import types

    if model is None:
        return default
    if not model:
        raise UsageError("-cpu option cannot be empty")
    name, _, properties = model.partition(",")
    if name not in CPU_MODELS:
        raise UsageError(f"unable to find CPU model '{name}'")
    found = f"{name}-riscv-cpu"
    known = {given.name for given in types.properties(found)}
    for given in filter(None, properties.split(",")):
        key, equals, value = given.partition("=")
        if not equals:
            raise UsageError(f"Expected key=value format, found {given}.")
        if key not in known:
            raise UsageError(f"can't apply global {found}.{key}={value}: Property '{found}.{key}' not found")
    return found
