"""File descriptors instead of file names: sets of descriptors, and `/dev/fdset/N` for whoever opens a file.

A client that may open what this process may not passes descriptors (SCM_RIGHTS) and gathers them in numbered sets.  Wherever a
file name is taken, `/dev/fdset/N` then stands for set N: opening it duplicates the member that was opened as it is wanted
now, for reading, writing or both.

    fdsets.add(fd, number=2, opaque="disk")         # add-fd, -add-fd
    fd = open_file("/dev/fdset/2", os.O_RDONLY)     # or any other name; raises OSError
    close_file(fd)
    fdsets.remove(2)                                # remove-fd

A set lives while it has members or something opened through it is still open.  It does not care who added to it, nor whether
that client is still connected.

Descriptors belong to the process, so there is one `fdsets`.  Files are opened in pool threads, too: everything here may be
called from any thread.

Source: QEMU 10.0, monitor/fds.c and util/osdep.c, for rules and texts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from threading import Lock
from typing import NamedTuple

from qemud.logs import log_to
from qemud.qapi.runtime.errors import GenericError

PREFIX = "/dev/fdset/"

_INT_MAX = (1 << 31) - 1
_READ_SIZE = 1 << 20
_MATCHED = os.O_ACCMODE | os.O_DIRECT
"""What must be the same in a member and in how it is to be opened."""
_SETTABLE = os.O_APPEND | os.O_ASYNC | os.O_DIRECT | os.O_NOATIME | os.O_NONBLOCK
"""What F_SETFL can change."""


class FdsetError(OSError):
    """Nothing can be opened by a name of the form `/dev/fdset/N`; `reason` is QEMU's sentence on it."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, os.strerror(number))
        self.reason = reason


class Member(NamedTuple):
    """A descriptor in a set, and what its owner wrote on it."""

    fd: int
    opaque: str | None


class _Set:
    """One set: its members, the newest first, and what was opened through it and is open."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.opened: set[int] = set()


class FdSets:
    """All sets of descriptors, by number."""

    def __init__(self) -> None:
        self._sets: dict[int, _Set] = {}
        self._lock = Lock()

    def add(self, fd: int, number: int | None = None, opaque: str | None = None) -> int:
        """Put a descriptor, which is the set's from now on, into a set; the set's number.

        Without a number it is the lowest that is free.  GenericError: the number is negative; the descriptor stays the
        caller's then.
        """
        with self._lock:
            if number is None:
                number = 0
                while number in self._sets:
                    number += 1
            elif number < 0:
                raise GenericError("Parameter 'fdset-id' expects a non-negative value")
            self._sets.setdefault(number, _Set()).members.insert(0, Member(fd, opaque))
            return number

    def remove(self, number: int, fd: int | None = None) -> None:
        """Close and forget one member of a set, or all of them.  GenericError: there is no such set or member."""
        with self._lock:
            found = self._sets.get(number)
            gone = [each for each in found.members if fd in {None, each.fd}] if found is not None else []
            if found is None or (fd is not None and not gone):
                name = f"fdset-id:{number}" if fd is None else f"fdset-id:{number}, fd:{fd}"
                raise GenericError(f"File descriptor named '{name}' not found")
            found.members = [each for each in found.members if each not in gone]
            self._forget_if_empty(number)
        for each in gone:
            os.close(each.fd)

    def members(self) -> dict[int, list[Member]]:
        """The members of each set, in the order they were added; sets by number, the highest first, as QEMU lists them."""
        with self._lock:
            return {number: self._sets[number].members[::-1] for number in sorted(self._sets, reverse=True)}

    def open(self, name: str, flags: int) -> int:
        """Open what a name that begins with `/dev/fdset/` stands for.  Raises FdsetError."""
        digits = name.removeprefix(PREFIX)
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and int(digits) <= _INT_MAX):
            raise FdsetError(errno.EINVAL, f"Could not parse fdset {name}")
        number = int(digits)
        with self._lock:
            found = self._sets.get(number)
            if found is None:
                raise FdsetError(errno.ENOENT, f"Failed to find fdset {PREFIX}{number}")
            fd = _duplicate(_matching(found.members, flags), flags)
            found.opened.add(fd)
            return fd

    def forget(self, fd: int) -> None:
        """A descriptor is about to be closed, which may have been opened through a set."""
        with self._lock:
            for number, each in self._sets.items():
                if fd in each.opened:
                    each.opened.remove(fd)
                    self._forget_if_empty(number)
                    return

    def _forget_if_empty(self, number: int) -> None:
        found = self._sets[number]
        if not found.members and not found.opened:
            del self._sets[number]


fdsets = FdSets()
"""The sets of this process."""


def inherit(given: list[tuple[int, int, str | None]]) -> None:
    """Put descriptors that the process was started with into sets: number, set and opaque text of each.  GenericError."""
    for fd, number, opaque in given:
        try:
            copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        except OSError as error:
            raise GenericError(f"error duplicating fd: {error.strerror}") from None
        fdsets.add(copy, number, opaque)
    for fd in {fd for fd, _, _ in given}:
        os.close(fd)


def open_file(name: str, flags: int, mode: int = 0o666) -> int:
    """open(2), close-on-exec, for every name that a user gives.

    Raises OSError, of the kind `FdsetError` where a set of descriptors was named; also for a name with a zero byte.
    """
    if name.startswith(PREFIX):
        return fdsets.open(name, flags)
    try:
        return os.open(name, flags | os.O_CLOEXEC, mode)
    except ValueError:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None


def log_to_file(path: str) -> None:
    """`qemud.logs.log_to`, for names of sets, too.  GenericError: the file cannot be opened."""
    if names_fdset(path):
        log_to(path, lambda name, flags: fdsets.open(name, flags | os.O_NONBLOCK), fdsets.forget)
    else:
        log_to(path)


def close_file(fd: int) -> None:
    """close(2) for what `open_file` opened."""
    fdsets.forget(fd)
    os.close(fd)


def read_from_start(fd: int, limit: int) -> bytes:
    """The first bytes of a file, `limit` at most, wherever its owner has read or written to.  Raises OSError.

    A pipe has no beginning: it is read from where it is.
    """
    parts: list[bytes] = []
    done = 0
    regular = stat.S_ISREG(os.fstat(fd).st_mode)
    while done < limit:
        size = min(limit - done, _READ_SIZE)
        part = os.pread(fd, size, done) if regular else os.read(fd, size)
        if not part:
            break
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def names_fdset(name: str) -> bool:
    """Whether a file name stands for a set of descriptors: there is nothing in the file system by that name."""
    return name.startswith(PREFIX)


def _matching(members: list[Member], flags: int) -> int:
    """The newest member that was opened as `flags` say."""
    for member in members:
        try:
            opened = fcntl.fcntl(member.fd, fcntl.F_GETFL)
        except OSError as error:
            raise FdsetError(
                error.errno or errno.EBADF, f"Failed to read file status flags for fd={member.fd}"
            ) from None
        if opened & _MATCHED == flags & _MATCHED:
            return member.fd
    raise FdsetError(errno.EACCES, f"Failed to find file descriptor with matching flags=0x{flags:x}")


def _duplicate(member: int, flags: int) -> int:
    """A duplicate that is as open(2) would have made it."""
    fd = -1
    try:
        fd = fcntl.fcntl(member, fcntl.F_DUPFD_CLOEXEC, 0)
        _set_up(fd, flags)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise FdsetError(
            error.errno or errno.EINVAL, f"Failed to dup() given file descriptor fd={member}"
        ) from None
    return fd


def _set_up(fd: int, flags: int) -> None:
    """Give a descriptor the flags that open(2) would have given it, and empty the file if that would have."""
    opened = fcntl.fcntl(fd, fcntl.F_GETFL)
    if opened & os.O_SYNC != flags & os.O_SYNC:
        raise OSError(errno.EINVAL, "O_SYNC cannot be changed")
    fcntl.fcntl(fd, fcntl.F_SETFL, opened & ~_SETTABLE | flags & _SETTABLE)
    create = os.O_CREAT | os.O_EXCL
    if (flags & os.O_TRUNC or flags & create == create) and stat.S_ISREG(os.fstat(fd).st_mode):
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)  # the position is shared with whoever passed the descriptor
