"""Logs: structlog, imported with the first record, since it takes longer than the rest of the start.

On a terminal records are for people, in colour unless NO_COLOR is set; otherwise each is one JSON object on a line, or, where
standard error is the journal (JOURNAL_STREAM), a line with its priority in front.  `-D FILE` takes the place of standard error.

    log = Logger("monitor")
    log.error("handler failed", command="stop")

Messages of QEMU's command line and warnings that clients read (`PROG: text`) are not records: `report` writes them.

What guests do wrong can come a million times a second and is logged only when `-d` asks for it:

    guest_error("plic", "write to a read-only register", offset=offset)

So are trace events (`qapi/trace.json`), behind a guard that costs next to nothing; `qemud.debug.trace` enables them:

    if "runstate_set" in traced:
        trace("runstate_set", old=old.value, new=new.value)
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

_JOURNAL_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


class _Configuration:
    """Where records go; changed once, by the command line."""

    stream: TextIO | None = None
    released: Callable[[int], object] | None = None
    configured = False
    prefix: Callable[[], str] | None = None


items: set[str] = set()
"""What `-d` asks for, names of the schema's `LogItem`."""


traced: set[str] = set()
"""The names of the trace events that are enabled; changed in place."""


def trace(event: str, **fields: object) -> None:
    """Write one record of a trace event; the caller has looked whether it is enabled.  Any thread."""
    Logger("trace").info(event, **fields)


def guest_error(room: str, event: str, **fields: object) -> None:
    """Log what no driver should do, where `-d guest_errors` is given."""
    if "guest_errors" in items:
        Logger(room).warning(event, **fields)


def unimplemented(room: str, event: str, **fields: object) -> None:
    """Log what the guest asks for and is not built, where `-d unimp` is given."""
    if "unimp" in items:
        Logger(room).warning(event, **fields)


def program_name() -> str:
    """How this program names itself in messages: the last part of its path."""
    return os.path.basename(sys.argv[0]) or "qemud"


def set_prefix(prefix: Callable[[], str]) -> None:
    """Put what `prefix` returns before every message of `report` (`-msg`)."""
    _Configuration.prefix = prefix


def report(text: str) -> None:
    """Write one message for whoever started the program, in QEMU's form. Nobody may be there to read it any more."""
    prefix = _Configuration.prefix
    with suppress(OSError):
        sys.stderr.write(f"{prefix() if prefix else ''}{sys.argv[0]}: {text}\n")
        sys.stderr.flush()


def tell(text: str) -> None:
    """Write to standard output what was asked for. Raises OSError.

    Not by `sys.stdout`, which keeps what it could not write, tries again when the process ends, and then complains by itself.
    """
    data = memoryview(text.encode(errors="surrogateescape"))
    while data:
        data = data[os.write(1, data) :]


def log_to(
    path: str,
    opener: Callable[[str, int], int] | None = None,
    released: Callable[[int], object] | None = None,
) -> None:
    """Write records to a file from now on. Raises GenericError.

    A FIFO must have a reader, which is not waited for, neither now nor when it does not read.  `opener` opens what is no name of
    a file; `released` is told the descriptor before that is closed.
    """
    from qemud.qapi.runtime.errors import GenericError

    try:
        stream = open(path, "a", encoding="utf-8", buffering=1, opener=opener or _open_unblocking)  # noqa: SIM115  stays open
    except OSError as error:
        raise GenericError(f"Error opening logfile {path}: {error.strerror}") from None
    except ValueError as error:  # a zero byte
        raise GenericError(f"Error opening logfile {path!r}: {error}") from None
    before, _Configuration.stream = _Configuration.stream, stream
    forget, _Configuration.released = _Configuration.released, released
    if before is not None:
        if forget is not None:
            forget(before.fileno())
        import faulthandler

        if faulthandler.is_enabled():  # it writes to a number, which closing sets free
            faulthandler.enable(stream)
        with suppress(OSError):
            before.close()


def _open_unblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def log_stream() -> TextIO:
    """Where records go."""
    return _Configuration.stream or sys.stderr


class Logger:
    """A named logger; makes structlog's on first use."""

    __slots__ = ("_bound", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._bound: Any = None

    def __getattr__(self, level: str) -> Any:
        """Structlog's method for the level: `debug`, `info`, `warning`, `error`, `exception`."""
        if self._bound is None:
            self._bound = _make(self._name)
        return getattr(self._bound, level)


def _make(name: str) -> Any:
    import structlog

    if not _Configuration.configured:
        _configure(structlog)
        _Configuration.configured = True
    return structlog.get_logger(room=name)


def _configure(structlog: Any) -> None:
    stream = log_stream()
    shared = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if stream.isatty():
        colors = "NO_COLOR" not in os.environ
        tail = [structlog.dev.ConsoleRenderer(colors=colors)]
    elif os.environ.get("JOURNAL_STREAM") and _Configuration.stream is None:
        tail = [structlog.processors.format_exc_info, _journal_line]
    else:
        tail = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *tail],
        logger_factory=lambda *_: _LineLogger(),
        cache_logger_on_first_use=True,
    )


class _LineLogger:
    """The end of structlog's chain. A full disk, or a reader that has gone, is no failure of whoever logs."""

    def msg(self, line: str) -> None:
        """Write a record to where records go now."""
        stream = log_stream()
        with suppress(OSError):
            stream.write(line + "\n")
            stream.flush()

    debug = info = warning = error = critical = exception = msg


def _journal_line(_logger: Any, _method: str, event: dict[str, Any]) -> str:
    """One line with its priority, as sd-daemon(3) has it; further lines of a traceback keep the priority."""
    priority = _JOURNAL_PRIORITY.get(event.pop("level", "info"), 6)
    event.pop("timestamp", None)
    trace = event.pop("exception", "")
    text = " ".join([event.pop("event", ""), *(f"{key}={value}" for key, value in event.items())])
    return "\n".join(f"<{priority}>{line}" for line in [text, *trace.splitlines()])
