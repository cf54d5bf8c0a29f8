"""The commands of `option-parameters.json`, what the command line takes, and of `startup.json`, the phases of the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemud._generated.commands.option_parameters import OptionParametersCommands
from qemud._generated.commands.startup import StartupCommands
from qemud._generated.types.option_parameters import (
    CommandLineOptionInfo,
    CommandLineParameterInfo,
    CommandLineParameterType,
)
from qemud._generated.types.startup import MachinePhase, MachinePhaseStatus
from qemud.daemon.cmdline import OPTIONS
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from qemud.machine.services import Services

# Clients know these options by the names of QEMU's option groups.
_GROUPS = {"m": "memory", "smp": "smp-opts", "boot": "boot-opts"}
_KINDS = {
    "bool": CommandLineParameterType.BOOLEAN,
    "size": CommandLineParameterType.SIZE,
    **dict.fromkeys(
        ["int", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "number"],
        CommandLineParameterType.NUMBER,
    ),
}
# Options whose parameters depend on what they name: the first member of the struct says so already.
_OPEN = frozenset({"device", "object"})
_STRUCTS = {
    "machine": ("MachineProperties", "VirtMachineOptions"),
    "chardev": ("ChardevOptions",),
    "drive": ("DriveOptions",),
    "accel": (),
}
# An id is an option's own name, as in QEMU, and no parameter.
_ID = "id"


class OptionParametersHandlers(OptionParametersCommands):
    """Handlers of `option-parameters.json`."""

    def __init__(self, services: Services) -> None:
        del services

    async def query_command_line_options(self, *, option: str | None) -> list[CommandLineOptionInfo]:
        """`query-command-line-options`."""
        found = [info for info in _options() if option is None or info.option == option]
        if option is not None and not found:
            raise GenericError(f"invalid option name: {option}")
        return found


class StartupHandlers(StartupCommands):
    """Handlers of `startup.json`."""

    def __init__(self, services: Services) -> None:
        self._startup = services.startup

    async def query_machine_phase(self) -> MachinePhaseStatus:
        """`query-machine-phase`."""
        return MachinePhaseStatus(phase=MachinePhase(self._startup.phase))

    async def x_exit_preconfig(self) -> None:
        """`x-exit-preconfig`."""
        await self._startup.exit_preconfig()


def _options() -> list[CommandLineOptionInfo]:
    from qemud._generated.properties import STRUCTS

    found = []
    for row in STRUCTS["CommandLine"]:
        name, type_ = row[0], row[1].removesuffix("[]")
        if OPTIONS[name].read is None or OPTIONS[name].alias:
            continue
        if name in _STRUCTS:
            members: dict[str, Any] = {m[0]: m for struct in _STRUCTS[name] for m in STRUCTS[struct]}
        elif type_ in STRUCTS:
            members = {m[0]: m for m in STRUCTS[type_]}
        elif name in _OPEN:
            members = {}
        else:
            continue
        parameters = [
            CommandLineParameterInfo(
                name=member[0],
                type=_KINDS.get(member[1], CommandLineParameterType.STRING),
                help=member[5] or None,
                default=_text(member[4]) if member[3] else None,
            )
            for member in members.values()
            if member[0] != _ID
        ]
        found.append(CommandLineOptionInfo(option=_GROUPS.get(name, name), parameters=parameters))
    return found


def parameters_of(option: str) -> tuple[str, list[CommandLineParameterInfo]]:
    """The name of an option's group, and the parameters in it."""
    group = _GROUPS.get(option, option)
    return group, next(info.parameters for info in _options() if info.option == group)


def _text(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
