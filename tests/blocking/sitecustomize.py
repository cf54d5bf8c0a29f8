"""Tells of calls that block the event loop; Python imports this at start-up when its folder is on PYTHONPATH.

The interpreter announces most of its blocking calls as audit events. One that comes while the thread runs an event loop is
written to standard error with its stack, after the words ``BLOCKING CALL``; the fixture that started the program fails the
test. No clock is involved, so a slow machine makes no difference.
"""

import fcntl
import functools
import sys
import time
import traceback
from asyncio import _get_running_loop
from typing import Any

_EVENTS = frozenset(
    (
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
        "socket.getnameinfo",
        "subprocess.Popen",
        "os.system",
        "os.posix_spawn",
        "os.fork",
    )
)


def _blocks(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "socket.connect":
        return bool(arguments[0].gettimeout() != 0)
    if event == "fcntl.flock":
        return not arguments[1] & fcntl.LOCK_NB
    return event in _EVENTS


def _tell(event: str, arguments: tuple[Any, ...]) -> None:
    stack = "".join(traceback.format_stack(limit=12)[:-2])
    sys.stderr.write(f"BLOCKING CALL in the event loop: {event} {arguments!r}\n{stack}")
    sys.stderr.flush()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _get_running_loop() is not None and _blocks(event, arguments):
        _tell(event, arguments)


@functools.wraps(time.sleep)
def _sleep(seconds: float) -> None:
    """`time.sleep` as it is, but announced; Python does that itself from 3.13 on."""
    if _get_running_loop() is not None:
        _tell("time.sleep", (seconds,))
    _real_sleep(seconds)


_real_sleep = time.sleep
time.sleep = _sleep  # type: ignore[assignment]
sys.addaudithook(_hook)
