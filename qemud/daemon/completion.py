"""Completion for shells: `qemud completion bash|zsh|fish` prints what a shell is to be told.

    eval "$(qemud completion bash)"             # ~/.bashrc
    eval "$(qemud completion zsh)"              # ~/.zshrc
    qemud completion fish | source              # ~/.config/fish/config.fish

The shell's part is a few lines: at each Tab it asks `qemud completion words LINE`, which answers from the schema, a word on a line with
its description behind a tab.  So completion always knows just what the installed version does.  Where nothing is answered, the shell
offers files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.daemon.accelerator import ACCELERATORS
from qemud.daemon.cmdline import OPTIONS
from qemud.daemon.ini import GROUPS
from qemud.logs import report, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = ("qemud", "qemud-system-riscv64")
USAGE = "usage: qemud completion bash|zsh|fish"

# What each kind of shell runs at a Tab. bash takes words apart at = and : and wants no more than what is behind the last of them.
SCRIPTS = {
    "bash": r"""_qemud() {
    local line=${COMP_LINE:0:COMP_POINT} word found kept
    word=${line##*[[:space:]]}
    kept=${word%"${word##*[=:]}"}
    COMPREPLY=()
    while IFS= read -r found; do
        found=${found%%$'\t'*}
        COMPREPLY+=("${found#"$kept"}")
    done < <(qemud completion words "$line" 2>/dev/null)
}
complete -o default -o nospace -F _qemud PROGRAMS
""",
    "zsh": r"""_qemud() {
    local -a found
    found=("${(@f)$(qemud completion words "$LBUFFER" 2>/dev/null)}")
    if [[ -n ${found[1]} ]]; then
        compadd -Q -S '' -- "${found[@]%%$'\t'*}"
    else
        _files
    fi
}
compdef _qemud PROGRAMS
""",
    "fish": r"""for program in PROGRAMS
    complete -c $program -a '(qemud completion words (commandline -cp) 2>/dev/null)'
end
""",
}

# Options whose first value is one of an enumeration, and the structs that hold the parameters behind it.
_CHOICES = {
    "accel": ("", ("TcgAccelOptions",)),
    "machine": ("MachineType", ("VirtMachineOptions",)),
    "device": ("DeviceDriver", ("LoaderOptions",)),
    "object": ("ObjectType", ()),
    "chardev": ("ChardevBackendKind", ("ChardevOptions",)),
    "d": ("LogItem", ()),
}
_WORDS = {
    "accel": tuple(sorted(ACCELERATORS)),
    "serial": ("none", "null", "stdio", "pty", "mon:stdio"),
    "monitor": ("none", "stdio"),
}
_ON_OFF = ("on", "off")


def main(words: list[str]) -> int:
    """`qemud completion …`; the result is the exit status."""
    match words:
        case [shell] if shell in SCRIPTS:
            tell(SCRIPTS[shell].replace("PROGRAMS", " ".join(PROGRAMS)))
            return 0
        case ["words", line]:
            tell("".join(f"{word}\t{text}\n" if text else f"{word}\n" for word, text in candidates(line)))
            return 0
    report(USAGE)
    return 2


def candidates(line: str) -> list[tuple[str, str]]:
    """What the last word of a line, perhaps empty, can become; each with its description, which may be empty."""
    before = line.split()
    last = before.pop() if line and not line[-1].isspace() else ""
    if not before:
        return []  # the program's own name
    return [found for found in _all(before, last) if found[0].startswith(last)]


def _all(before: list[str], last: str) -> Iterator[tuple[str, str]]:
    from qemud.daemon.main import COMMANDS

    if len(before) == 1 and "-system-" not in before[0]:
        yield from ((name, "") for name in COMMANDS)
    if len(before) > 1 and before[1] in COMMANDS:
        yield from ((name, "") for name in _OF_COMMANDS.get(before[1], ()) if len(before) == 2)
        return
    given = OPTIONS.get(before[-1].lstrip("-")) if len(before) > 1 and before[-1].startswith("-") else None
    if given is None or given.read is None:
        yield from _options("--" if last.startswith("--") else "-")
    elif given.key:
        yield from _values_of(before[-1].lstrip("-"))
    else:
        yield from _argument(given.alias or before[-1].lstrip("-"), last)


_OF_COMMANDS = {"config": ("check", "schema"), "completion": tuple(SCRIPTS), "double": ("--scenario",)}


def _options(dash: str) -> Iterator[tuple[str, str]]:
    from qemud._generated.properties import STRUCTS

    for row in STRUCTS["CommandLine"]:
        yield dash + row[0], row[5]


def _values_of(option: str) -> Iterator[tuple[str, str]]:
    """The values of an option that takes one of a few."""
    from qemud._generated.enums import ENUMS
    from qemud._generated.properties import STRUCTS

    for row in STRUCTS["CommandLine"]:
        if row[0] == option:
            yield from ENUMS.get(row[1], {}).items()


def _argument(option: str, last: str) -> Iterator[tuple[str, str]]:
    from qemud._generated.enums import ENUMS

    head, comma, part = last.rpartition(",")
    front = head + comma
    parameters = dict(_parameters(option, last.split(",", maxsplit=1)[0]))
    key, equals, _ = part.partition("=")
    if equals:
        type_ = parameters.get(key, ("", ""))[0]
        values = dict.fromkeys(_ON_OFF, "") if type_ == "bool" else ENUMS.get(type_, {})
        yield from ((f"{front}{key}={value}", text) for value, text in values.items())
        return
    if not comma:
        yield from _first(option, {name: type_ for name, (type_, _) in parameters.items()})
    if comma or option != "accel":  # which has none of its own: they are the engine's
        yield from ((f"{front}{name}=", text) for name, (_, text) in parameters.items())


def _first(option: str, types: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What an argument can begin with that has no key."""
    from qemud._generated.enums import ENUMS

    yield from ((word, "") for word in _WORDS.get(option, ()))
    if option == "cpu":
        from qemud.hw.boards import CPU_MODELS

        yield from ((name, "") for name in CPU_MODELS)
    implied = next((key for name, key in GROUPS.values() if name == option), "")
    enumeration = _CHOICES[option][0] if option in _CHOICES else types.get(implied, "")
    yield from ENUMS.get(enumeration, {}).items()


def _parameters(option: str, first: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """The parameters of an option: their types and descriptions, by name."""
    from qemud._generated.properties import STRUCTS

    if option == "object":
        from qemud.qom.types import types

        yield "id", ("str", "its name")
        for given in types.properties(first.removeprefix("qom-type=")):
            yield given.name, (given.type, given.description)
        return
    if option in _CHOICES:
        structs = _CHOICES[option][1]
        if option == "device":
            yield "id", ("str", "its name")
    else:
        structs = tuple(row[1].removesuffix("[]") for row in STRUCTS["CommandLine"] if row[0] == option)
    for struct in structs:
        for row in STRUCTS.get(struct, ()):
            yield row[0], (row[1], row[5])
