"""What the command tells about itself: `-help`, and the lists that `-machine help`, `-device help` and their like ask for.

All of it is the schema's: names, parameters and descriptions are read from the generated table of properties, which is
imported only here, when somebody asks.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from qemud import __version__
from qemud.daemon.accelerator import ACCELERATORS, asks_for_list
from qemud.daemon.cmdline import OPTIONS, at
from qemud.qapi.runtime.qemuopts import HELP, split

if TYPE_CHECKING:
    from qemud._generated.types.options import CommandLine

_KINDS = {"string": "str", "boolean": "bool (on/off)", "number": "num", "size": "size"}
_INDENT = 16
_WIDTH = 96


def help_text(program: str) -> str:
    """The list of all options, as `-help` prints it."""
    from qemud._generated.properties import STRUCTS

    lines = [
        f"qemud {__version__}: a machine emulator that is driven by QMP",
        f"usage: {program} [options]",
        "       qemud demo",
        "       qemud double -qmp ADDRESS [--scenario FILE]",
        "",
    ]
    for row in STRUCTS["CommandLine"]:
        name, type_, description = row[0], row[1], row[5]
        head = f"-{name}"
        if OPTIONS[name].read is not None:
            parameters = STRUCTS.get(type_.removesuffix("[]"))
            head += " " + (",".join(f"{p[0]}=…" for p in parameters) if parameters else "ARGUMENT")
        body = textwrap.wrap(description, _WIDTH - _INDENT)
        if len(head) < _INDENT:
            lines.append(head.ljust(_INDENT) + (body.pop(0) if body else ""))
        else:
            lines.append(head)
        lines.extend(" " * _INDENT + text for text in body)
    return "\n".join(lines) + "\n"


def list_asked(line: CommandLine) -> str | None:
    """The list that an option's argument `help` asks for, or None when none does."""
    if line.machine is not None and (listing := _machine_help(line.machine)) is not None:
        return listing
    if line.cpu in HELP:
        return _cpus()
    if line.accel and any(map(asks_for_list, line.accel)):
        return "Accelerators supported in QEMU binary:\n" + "".join(
            f"{name}\n" for name in sorted(ACCELERATORS)
        )
    if line.d in HELP:
        return log_item_list()
    if line.trace and any(given.enable in HELP for given in line.trace):
        from qemud.debug.trace import event_list

        return event_list()
    for text in line.chardev or ():
        if (listing := _chardev_help(text)) is not None:
            return listing
    for text in (*(line.netdev or ()), *(line.nic or ())):
        from qemud.net.help import kinds_help

        if (listing := kinds_help(text)) is not None:
            return listing
    return _of_types(line) if line.object or line.device else None


def _of_types(line: CommandLine) -> str | None:
    from qemud.qom.help import device_help, object_help

    for option, texts, told in (("object", line.object, object_help), ("device", line.device, device_help)):
        for text in texts or ():
            with at(option, text):
                if (asked := told(text)) is not None:
                    return asked
    return None


def parameters(option: str) -> str:
    """What an option with parameters of its own takes, in the shape of QEMU's lists."""
    from qemud._generated.enums import ENUMS
    from qemud.daemon.commands import parameters_of

    if option == "display":
        return "Available display backend types:\n" + "".join(f"{name}\n" for name in ENUMS["DisplayType"])
    if option == "audiodev":
        return "Available audio drivers:\n" + "".join(f"{name}\n" for name in ENUMS["AudiodevDriver"])
    group, found = parameters_of(option)
    lines = []
    for given in found:
        line = f"  {given.name}=<{_KINDS[given.type.value]}>"
        lines.append(f"{line:<24} - {given.help}" if given.help else line)
    return "\n".join([f"{group} options:", *sorted(lines)]) + "\n"


def _chardev_help(text: str) -> str | None:
    if HELP.isdisjoint(part.removeprefix("backend=") for part in split(text)):
        return None
    from qemud.chardev.help import kinds_help
    from qemud.qom.help import asked

    kind, wanted = asked(text, "backend")
    return kinds_help(kind) or (parameters("chardev") if wanted else None)


def _machine_help(text: str) -> str | None:
    if HELP.isdisjoint(split(text)) or text.startswith("{"):
        return None
    if text in HELP:
        return _machines()
    from qemud.daemon.machine import unsupported
    from qemud.hw.boards import find_board
    from qemud.qom.help import asked, options_of

    name, wanted = asked(text, "type")
    if not wanted:
        return None
    board = find_board(name)
    if board is None:
        raise unsupported(name)
    return options_of(board.qom_type)


def _machines() -> str:
    from qemud.hw.boards import BOARDS

    rows = []
    for board in BOARDS:
        alias = f" (alias of {board.name})" if board.alias else ""
        if board.alias:
            rows.append((board.alias, f"{board.description}{alias}"))
        rows.append((board.name, board.description + (" (default)" if board.is_default else "")))
    return "Supported machines are:\n" + "".join(f"{name:<20} {text}\n" for name, text in sorted(rows))


def _cpus() -> str:
    from qemud.hw.boards import CPU_MODELS

    return "Available CPUs:\n" + "".join(f"  {name}\n" for name in sorted(CPU_MODELS))


def log_item_list() -> str:
    """What `-d` takes, as `-d help` prints it."""
    from qemud._generated.enums import ENUMS

    return "Log items (comma separated):\n" + "".join(
        f"{name:<15} {text}\n" for name, text in ENUMS["LogItem"].items()
    )
