"""How the service manager meets the daemon: readiness, status, watchdog and passed sockets.

`Notifier` sends state to the socket in NOTIFY_SOCKET and does nothing where there is none.  `passed_sockets` gives the
descriptors of socket activation by name.  The watchdog is fed from the loop, and only while the machine thread answers.

Source: systemd, sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket

FIRST_FD = 3
"""SD_LISTEN_FDS_START: where passed descriptors begin."""


class Notifier:
    """The line to the service manager."""

    def __init__(self, environ: dict[str, str] | os._Environ[str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None

    def send(self, *assignments: str) -> None:
        """Tell `KEY=value` assignments. A manager that is gone is no reason to fail."""
        if not self._address:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError:
            return


def watchdog_interval(environ: dict[str, str] | os._Environ[str] = os.environ) -> float | None:
    """Seconds between two signs of life that the manager wants, half of its limit, or None when it wants none."""
    usec = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not usec.isdigit():
        return None
    return int(usec) / 2_000_000 or None


def passed_sockets(environ: dict[str, str] | os._Environ[str] = os.environ) -> dict[str, int]:
    """Descriptors passed by socket activation, by name; ones with no name are `unknown`, as systemd has it.

    A second one of the same name gets `#2` behind it, and so on. They are made close-on-exec.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    sockets: dict[str, int] = {}
    for index in range(int(count)):
        fd = FIRST_FD + index
        os.set_inheritable(fd, False)
        name = names[index] if index < len(names) and names[index] else "unknown"
        unique, n = name, 1
        while unique in sockets:
            n += 1
            unique = f"{name}#{n}"
        sockets[unique] = fd
    return sockets
