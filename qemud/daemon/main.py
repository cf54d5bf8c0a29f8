"""The process from its first line to its exit status.

In order: the command line is read; `-daemonize` forks, while there is one thread and no loop; then the loop runs, `startup`
builds what was asked for, and the process waits for its end: a client's `quit`, a signal, or the guest.

Whatever goes wrong before the machine is ready is one message on standard error, `PROGRAM: what`, and status 1.

QEMUD_DEBUG in the environment makes the loop and the mailboxes check who calls what, and for how long.
"""

from __future__ import annotations

import faulthandler
import os
from typing import TYPE_CHECKING

from qemud import __version__
from qemud.daemon import signals
from qemud.daemon.cmdline import HelpWanted, UsageError, parse
from qemud.daemon.process import Daemonizer, check_descriptors, end_anyway, open_standard_streams
from qemud.logs import Logger, items, log_stream, program_name, report, tell
from qemud.qapi.runtime.errors import QmpError

if TYPE_CHECKING:
    from qemud._generated.types.options import CommandLine

COMMANDS = {
    "completion": "qemud.daemon.completion:main",
    "config": "qemud.daemon.config:main",
    "demo": "qemud.demo.run:main",
    "double": "qemud.double.run:main",
}
"""Words that may stand in the first place instead of options, and who serves them."""

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK

log = Logger("daemon")


def run(words: list[str]) -> int:
    """Do what the command line says; the result is the exit status."""
    open_standard_streams()
    if words and words[0] in COMMANDS:
        from importlib import import_module

        module, _, function = COMMANDS[words[0]].partition(":")
        return int(getattr(import_module(module), function)(words[1:]))
    try:
        line = parse(words, report)
        target = target_of(program_name())
        if line.help:
            from qemud.daemon.help import help_text

            tell(help_text(program_name()))
            return 0
        if line.version:
            tell(version_text())
            return 0
        if _may_ask_for_help(words, line):
            from qemud.daemon.help import list_asked

            if (listing := list_asked(line)) is not None:
                tell(listing)
                return 0
        if line.d is not None and (unknown := log_items(line.d)):
            tell(unknown)
            return 1
        if line.add_fd:
            from qemud.machine.descriptors import inherit

            inherit([(given.fd or 0, given.set or 0, given.opaque) for given in line.add_fd])
        if line.writeconfig is not None:
            _write_config(line.writeconfig, words)
        if line.D is not None:
            from qemud.machine.descriptors import log_to_file

            log_to_file(line.D)
        if line.trace:
            from qemud.debug.trace import start

            start(line.trace, report)
        return _serve(line, target)
    except HelpWanted as wanted:
        from qemud.daemon.help import parameters

        tell(parameters(wanted.option))
        return 0
    except (UsageError, QmpError) as error:
        report(str(error))
    except OSError as error:
        # What the process itself needs and the system does not give: descriptors, threads, a standard output that takes help.
        report(error.strerror or str(error))
    except MemoryError:
        report("cannot allocate memory")
    return 1


def _may_ask_for_help(words: list[str], line: CommandLine) -> bool:
    """Whether to look closer: who asks for none is spared an import.  Files may ask; `-accel` that names no engine asks."""
    if line.config or line.readconfig or any(text != "tcg" for text in line.accel or ()):
        return True
    return any("help" in word or "?" in word for word in words)


def _write_config(path: str, words: list[str]) -> None:
    from qemud.daemon.cmdline import occurrences
    from qemud.daemon.ini import written

    text = written(occurrences(words))
    if path == "-":
        tell(text)
        return
    from qemud.machine.descriptors import close_file, open_file

    try:
        # Not blocking: a pipe that nobody reads is an error at once.
        fd = open_file(path, _WRITE)
        try:
            with open(fd, "w", encoding="utf-8", closefd=False) as file:
                file.write(text)
        finally:
            close_file(fd)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"-writeconfig {path}: {reason}") from None


def target_of(name: str) -> str:
    """The architecture that a program of this name emulates. Raises UsageError for one that is not built."""
    from qemud.qapi.targets import DEFAULT_TARGET, TARGETS

    _, found, target = name.rpartition("-system-")
    if not found:
        return DEFAULT_TARGET
    if target not in TARGETS:
        raise UsageError(f"cannot emulate '{target}', expected one of: {', '.join(TARGETS)}")
    return target


def version_text() -> str:
    """What `-version` prints: QEMU's line, since management tools parse it, and who this really is."""
    from qemud.monitor.version import QEMU_VERSION

    major, minor, micro = QEMU_VERSION
    return f"QEMU emulator version {major}.{minor}.{micro} (qemud {__version__})\n"


def log_items(text: str) -> str:
    """Log what `-d` asks for; the list of what there is when it asks for something else, else nothing."""
    from qemud._generated.types.options import LogItem
    from qemud.daemon.help import log_item_list

    known = {item.value for item in LogItem}
    asked = set(known) if text == "all" else set(text.split(","))
    if asked <= known:
        items.update(asked)
        return ""
    return log_item_list()


def _serve(line: CommandLine, target: str) -> int:
    daemonizer = Daemonizer()
    if line.daemonize:
        daemonizer.fork()  # before signals are blocked: the process that waits still ends by them
    signals.block()
    check_descriptors()
    if line.msg or line.name or line.overcommit:
        from qemud.daemon.host import prepare

        prepare(line)
    import uvloop

    from qemud.daemon.startup import serve

    # The engine is native code: should it die, its last words are where it was.
    faulthandler.enable(log_stream())

    async def serve_to_the_end() -> int:
        status = 1
        try:
            status = await serve(line, target, daemonizer)
        except (UsageError, QmpError) as error:
            report(str(error))
        finally:
            end_anyway(status)
        return status

    return uvloop.run(serve_to_the_end(), debug=bool(os.environ.get("QEMUD_DEBUG")))
