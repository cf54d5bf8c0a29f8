"""Which trace events are enabled: `-trace` and the commands of `trace.json`.

    enable("runstate_*")
    enable("runstate_set", on=False)

Source of the rules and texts: QEMU 10.0, trace/control.c and trace/qmp.c.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from qemud._generated.commands.trace import TraceCommands
from qemud._generated.types.trace import TraceEventInfo, TraceEventName, TraceEventState
from qemud.logs import traced
from qemud.machine.descriptors import close_file, log_to_file, open_file, read_from_start
from qemud.qapi.runtime.errors import GenericError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qemud._generated.types.options import TraceOptions

_LONGEST = 1 << 20  # bytes of a file of events

NAMES = tuple(event.value for event in TraceEventName)


def matching(pattern: str) -> list[str]:
    """The events that a name or a pattern means; none for a name that is unknown."""
    if "*" not in pattern:  # what makes a pattern in QEMU, too
        return [pattern] if pattern in NAMES else []
    escaped = pattern.replace("[", "[[]")
    return [name for name in NAMES if fnmatchcase(name, escaped)]


def enable(pattern: str, *, on: bool = True) -> None:
    """Trace the events that `pattern` means, or do so no longer."""
    (traced.update if on else traced.difference_update)(matching(pattern))


def is_known(line: str) -> bool:
    """Whether `-trace LINE` makes sense: it names an event or is a pattern, perhaps with a minus in front."""
    pattern = line.removeprefix("-")
    return "*" in pattern or pattern in NAMES


def start(options: list[TraceOptions], warn: Callable[[str], None]) -> None:
    """Do what each `-trace` says.  GenericError: a file cannot be read or made."""
    for given in options:
        if given.enable is not None:
            _enable_line(given.enable)
        if given.events is not None:
            _enable_file(given.events, warn)
        if given.file is not None:
            log_to_file(given.file)


def _enable_line(line: str) -> None:
    pattern = line.removeprefix("-")
    enable(pattern, on=pattern == line)


def _enable_file(path: str, warn: Callable[[str], None]) -> None:
    """A pattern on each line; empty ones and comments (`#`) are skipped."""
    try:
        fd = open_file(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.set_blocking(fd, True)  # from here on: a pipe that nobody writes to is empty
            lines = read_from_start(fd, _LONGEST).decode(errors="replace").splitlines()
        finally:
            close_file(fd)
    except OSError as error:
        raise GenericError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            if not is_known(line):
                warn(f"{path}:{number}: warning: trace event '{line.removeprefix('-')}' does not exist")
            _enable_line(line)


def event_list() -> str:
    """What `-trace help` prints."""
    return "".join(f"{name}\n" for name in NAMES)


class TraceHandlers(TraceCommands):
    """Handlers of `trace.json`."""

    def __init__(self, services: object) -> None:
        del services

    async def trace_event_get_state(self, *, name: str) -> list[TraceEventInfo]:
        """`trace-event-get-state`."""
        return [
            TraceEventInfo(
                name=TraceEventName(found),
                state=TraceEventState.ENABLED if found in traced else TraceEventState.DISABLED,
            )
            for found in _known(name)
        ]

    async def trace_event_set_state(self, *, name: str, enable: bool, ignore_unavailable: bool) -> None:
        """`trace-event-set-state`."""
        del ignore_unavailable  # all are available
        (traced.update if enable else traced.difference_update)(_known(name))


def _known(pattern: str) -> list[str]:
    found = matching(pattern)
    if not found and "*" not in pattern:
        raise GenericError(f'unknown event "{pattern}"')
    return found
