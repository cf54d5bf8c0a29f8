"""What this process is to its host: its names, its share of memory, the form of its messages, and the time of day it starts from.

    prepare(line)                    before the loop runs: -name process=, -overcommit, -msg
    name_threads(line, {tid: "CPU 0/TCG"})
    rtc_offset(line.rtc)             ns to add to the host's clock

Source of names and texts: QEMU 10.0, util/oslib-posix.c, system/rtc.c, util/error-report.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud import logs
from qemud.daemon.cmdline import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qemud._generated.types.options import CommandLine, MessageOptions, RtcOptions

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_COMM_LENGTH = 15  # bytes of a thread's name that Linux keeps


def prepare(line: CommandLine) -> None:
    """Do what has to be done once, early. Raises UsageError."""
    if line.msg is not None:
        _set_message_form(line.msg, line.name.guest if line.name else None)
    if line.name is not None and line.name.process is not None:
        _set_name("self", line.name.process)
    if line.overcommit is not None:
        _lock_memory(line.overcommit.mem_lock.value)


def name_threads(line: CommandLine, names: Mapping[int, str]) -> None:
    """Name threads by their kernel ids, where `-name debug-threads=on` asks for that."""
    if line.name is not None and line.name.debug_threads:
        for thread_id, name in names.items():
            _set_name(f"self/task/{thread_id}", name)


def rtc_offset(rtc: RtcOptions | None) -> int:
    """What to add to the host's clock for the machine's, in ns. Raises UsageError."""
    if rtc is None or rtc.base == "utc":
        return 0
    import time
    from datetime import UTC, datetime

    if rtc.base == "localtime":
        return time.localtime().tm_gmtoff * 1_000_000_000
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"):
        try:
            start = datetime.strptime(rtc.base, form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return int(start.timestamp()) * 1_000_000_000 - time.time_ns()
    raise UsageError("invalid datetime format\nvalid formats: '2006-06-17T16:01:21' or '2006-06-17'")


def _set_message_form(options: MessageOptions, guest: str | None) -> None:
    def prefix() -> str:
        text = ""
        if options.timestamp:
            from datetime import UTC, datetime

            text = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ")
        if options.guest_name and guest is not None:
            text += f"{guest} "
        return text

    logs.set_prefix(prefix)


def _set_name(place: str, name: str) -> None:
    try:
        with open(f"/proc/{place}/comm", "wb") as file:
            file.write(name.encode()[:_COMM_LENGTH])
    except OSError:
        # A name is for people who look at processes; that it cannot be set is no reason to fail.
        return


def _lock_memory(mode: str) -> None:
    if mode == "off":
        return
    import ctypes
    import os

    flags = _MCL_CURRENT | _MCL_FUTURE | (_MCL_ONFAULT if mode == "on-fault" else 0)
    if ctypes.CDLL(None, use_errno=True).mlockall(flags):
        raise UsageError(f"mlockall: {os.strerror(ctypes.get_errno())}\nlocking memory failed")
