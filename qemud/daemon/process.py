"""Standard streams, going to the background, and the pid file.

`Daemonizer.fork` must be called while there is one thread and no event loop: it returns in the grandchild, detached from the
terminal, while the first process waits.  `ready` lets the first process end with status 0; ending without it makes the first
process end with status 1, after whatever was written to standard error.

`PidFile` is locked for as long as the process lives: a second emulator with the same file is refused.

Source: QEMU 10.0, os-posix.c and util/oslib-posix.c (qemu_write_pidfile).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import sys
import threading
from contextlib import suppress

from qemud.qapi.runtime.errors import GenericError

_READY = b"\0"

_LOOP_DESCRIPTORS = 16
"""What an event loop, its pipes and its signals take, and some."""

END_TIMEOUT = 2.0
"""Seconds from the end of everything that was built to the end of the process."""


def open_standard_streams() -> None:
    """Make good for a starter that closed standard input, output or error.

    Otherwise whatever is opened first would get their descriptors, and messages would go there.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  stays open


def end_anyway(status: int) -> None:
    """Everything is undone: end within `END_TIMEOUT`, whatever threads are still caught in.

    The interpreter waits for the threads of pools, and one that writes into a pipe whose reader does not read never ends.
    """
    timer = threading.Timer(END_TIMEOUT, os._exit, (status,))
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:  # no thread is to be had, and ending the pool would take one
        os._exit(status)


def check_descriptors() -> None:
    """Raise OSError when there are not even the descriptors of an event loop to be had: libuv aborts then."""
    taken: list[int] = []
    try:
        for _ in range(_LOOP_DESCRIPTORS):
            taken.append(os.dup(2))  # noqa: PERF401  those taken so far are given back
    finally:
        for fd in taken:
            os.close(fd)


class Daemonizer:
    """One trip to the background."""

    def __init__(self) -> None:
        self._pipe = -1

    def fork(self) -> None:
        """Return in the process that stays; the one that was started waits for `ready` and ends."""
        reader, writer = os.pipe()
        if os.fork():
            os.close(writer)
            try:
                status = 0 if os.read(reader, 1) == _READY else 1
            except OSError:
                status = 1
            os._exit(status)
        os.close(reader)
        self._pipe = writer
        os.setsid()
        # A session leader could get a terminal again; its child cannot.
        if os.fork():
            os._exit(0)
        os.umask(0o027)

    def ready(self) -> None:
        """Everything listens: leave the directory and the terminal, and let the first process end."""
        if self._pipe < 0:
            return
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        if null > 2:
            os.close(null)
        os.write(self._pipe, _READY)
        os.close(self._pipe)
        self._pipe = -1


class PidFile:
    """The file that holds this process's id while it lives."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self._fd = self._create(path)
        self._owner = os.getpid()

    def remove(self) -> None:
        """Take the file away, unless this is a child of the process that made it."""
        if self._fd >= 0 and self._owner == os.getpid():
            try:
                os.unlink(self.path)
            except OSError:
                # Somebody was faster; there is nothing left to take away.
                return
            finally:
                os.close(self._fd)
                self._fd = -1

    @staticmethod
    def _create(path: str) -> int:
        while True:
            try:
                # Not blocking, for a FIFO that nobody reads would be waited for without end.
                fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
            except OSError as error:
                raise GenericError(
                    f"cannot create PID file: Could not create '{path}': {error.strerror}"
                ) from None
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                # It will be taken away at the end, and root can take away even /dev/null.
                os.close(fd)
                raise GenericError(f"cannot create PID file: '{path}' is not a regular file")
            try:
                # struct flock of Linux: type, whence, start, length, pid.
                fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
                same = os.stat(path).st_ino == os.fstat(fd).st_ino
            except FileNotFoundError:
                same = False
            except OSError as error:
                os.close(fd)
                raise GenericError(
                    f"cannot create PID file: Cannot lock pid file: {error.strerror}"
                ) from None
            if same:
                break
            # Between opening and locking, somebody else took the file away or made it anew.
            os.close(fd)
        try:
            os.ftruncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())
        except OSError as error:
            with suppress(OSError):
                os.unlink(path)
            os.close(fd)
            raise GenericError(
                f"cannot create PID file: Failed to write pid file: {error.strerror}"
            ) from None
        return fd
